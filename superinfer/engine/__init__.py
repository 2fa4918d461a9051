"""The one place where the state of requests and blocks changes: `Engine`, and its parts.

A driver uses `EngineConfig` and what is in `engine.py`; the other modules are for the engine alone.
"""

from superinfer.engine.config import EngineConfig
from superinfer.engine.engine import Engine

__all__ = ["Engine", "EngineConfig"]
