"""Whether a module can be imported, without doing so."""

from __future__ import annotations

import importlib.util


def exists(module: str) -> bool:
    """True if there is a module of this name."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package that it would lie in
        return False
