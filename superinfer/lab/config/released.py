"""What the releases that schedulers model ship with, in `[run]`, where ours has other defaults.

`vllm`, v0.6.0 (`vllm/engine/arg_utils.py`): no prefix caching; outputs of a step are handled beside
the next one. `vllm_v1`, 0.33.0 (`vllm/config/`): prefix caching and asynchronous scheduling; it
needs `lag = 0` with `memory.offload`. `sglang`, v0.4.6 (`server_args.py`): the radix cache and,
since v0.4, the overlapped scheduler. `tensorrt_llm`, 1.0 (its documentation of KV cache reuse and
of the overlap scheduler): both are on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from superinfer.lab.config.run import RunConfig

_OVERLAPPED: Final = {"prefix_caching": True, "lag": 1}
RELEASED: Final[Mapping[str, Mapping[str, Any]]] = {
    "vllm": {"memory": "lru", "prefix_caching": False, "lag": 1},
    "vllm_v1": {"memory": "vllm_v1", **_OVERLAPPED},
    "tensorrt_llm": {"memory": "retention", **_OVERLAPPED},
    "sglang": {"memory": "radix", **_OVERLAPPED},
}
"""By scheduler. The others follow a paper or are ours."""
_OLD: Final = {"vllm": "v0.6.0 of 2024; vllm_v1 is 0.33.0"}
"""Names that many will take for the latest release."""
_BEFORE_OVERLAP: Final = ("sglang", "0.3.2")


def released(scheduler: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What the release of a scheduler with these parameters ships with; empty where none is known.

    SGLang's overlapped scheduler came with v0.4.
    """
    settings = dict(RELEASED.get(scheduler, {}))
    if (scheduler, parameters.get("version")) == _BEFORE_OVERLAP:
        settings["lag"] = 0
    return settings


def without_release(run: RunConfig) -> list[str]:
    """A line for a note, where a run is to be as a release and none is known, or an old one."""
    if run.as_released and run.scheduler in _OLD:
        return [f"run.as_released: {run.scheduler} is {_OLD[run.scheduler]}"]
    if not run.as_released or run.scheduler in RELEASED:
        return []
    return [f"run.as_released sets nothing: releases are known of {', '.join(RELEASED)} alone"]
