"""`sglang`: SGLang of three releases (see `scheduler.py` for sources and what is left out)."""

from superinfer.schedulers.sglang.scheduler import SglangScheduler

__all__ = ["SglangScheduler"]
