"""`rotating`: time slices by slack, with rotation to host memory for who is urgent.

The design is ours (docs/scheduler.md): a multi-level queue with skip-join (FastServe, arXiv
2305.05920) ordered by slack, promotion when the time that is needed exceeds the slack that is
left, chunked prefill beside all decodes (Sarathi-Serve, arXiv 2403.02310) with chunks sized by the
tightest pace, relegation of first tokens that will be late (QoServe, arXiv 2503.22562), admission
by predicted peak memory (LightLLM, arXiv 2507.10150) and Virtual Token Counters between tenants
(arXiv 2401.00588).
"""

from superinfer.schedulers.rotating.scheduler import RotatingScheduler

__all__ = ["RotatingScheduler"]
