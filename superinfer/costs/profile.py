"""A profile: what calibration measures and the calibrated cost model computes from.

It is for one device, model and tensor-parallel degree. Everything is in seconds and bytes. Its file
is read and written in `profile_file.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from superinfer.costs.devices import Link
from superinfer.costs.graphs import Graphs

PARTLY_FITTED = "partly fitted"
"""Of a host whose `chunked_s` was fitted to a run, while the rest is assumed."""
ORIGINS = ("measured", "published", "assumed", PARTLY_FITTED)
OPTIONAL_HOST_TIMES = ("launch_s", "chunked_s", "next_chunk_s", "between_s")
HOST_TIMES = ("step_s", "per_sequence_s", *OPTIONAL_HOST_TIMES)
"""Fields of `HostCost` that are times; the optional ones are 0 where a profile does not say."""

# Axes that each kernel is measured over. `seconds` are per layer where a kernel belongs to one.
AXES: Mapping[str, tuple[str, ...]] = {
    **{f"gemm_{part}": ("tokens",) for part in ("qkv", "o", "gate_up", "down", "lm_head")},
    **dict.fromkeys(("norm", "rope_write", "activation", "embed"), ("tokens",)),
    **dict.fromkeys(("moe_route", "moe_gemm"), ("tokens",)),
    "attention_prefill": ("chunk_tokens", "context_tokens"),
    **{f"attention_decode_{bits}": ("sequences", "context_tokens") for bits in (16, 8, 4)},
    "attention_mixed_16": ("sequences", "context_tokens"),
    "attention_idle": ("sequence_tokens",),
    **dict.fromkeys(("attention_uneven", "attention_busy"), ("sequences",)),
    "cross_attention": ("sequences", "context_tokens"),
    "sample": ("sequences",),
    "all_reduce": ("bytes",),
    **dict.fromkeys(("requantise_8", "requantise_4", "block_copy"), ("bytes",)),
}

# Coefficients of each named smooth model; `calibrated.py` states the formulas.
MODELS: Mapping[str, tuple[str, ...]] = {
    "linear": ("base_s", "per_unit_s"),
    "causal_linear": (
        "floor_s",
        "per_sequence_s",
        "per_token_s",
        "per_pair_s",
        "per_key_s",
    ),
}


def decode_kernel(kv_dtype: str) -> str:
    """The kernel of decode attention over a cache of this dtype; empty is that of the profile."""
    return f"attention_decode_{8 if kv_dtype else 16}"


@dataclass(frozen=True, slots=True)
class Kernel:
    """Seconds of one kernel: a table over `axes`, or a named model with coefficients."""

    axes: dict[str, tuple[float, ...]]
    seconds: tuple[Any, ...] | None = None
    model: str | None = None
    coefficients: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostCost:
    """Host seconds before a step: `step_s + per_sequence_s * sequences`, and where it is from."""

    step_s: float
    per_sequence_s: float
    origin: str = "assumed"
    launch_s: float = 0.0
    """A step with chunks of prompts takes at least so long: its kernels are launched one by one,
    while steps of decodes alone are replayed from a graph. 0: launching is never what takes long.
    """
    chunked_s: float = 0.0
    """The device waits so long in each step with chunks of prompts, also where hosts plan ahead."""
    next_chunk_s: float = 0.0
    """Each chunk but a step's first takes so much more than its kernels: a CPU computes them one
    after the other."""
    between_s: float = 0.0
    """Where steps are queued ahead (lag 1), a device takes so long between one and the next: inputs
    have to reach it, and tokens to leave it. It counts for every step then, also for the few that
    follow an idle device or a copy."""

    def seconds(self, sequences: int) -> float:
        """Host seconds of one step over `sequences` requests."""
        return self.step_s + self.per_sequence_s * sequences


@dataclass(frozen=True, slots=True)
class Profile:
    """A whole profile; `range` holds measured bounds where they are not the table's ends."""

    device: str
    model: str
    tp: int
    kernels: dict[str, Kernel]
    links: dict[str, Link]
    host: HostCost
    dtype: str = "bf16"
    graphs: Graphs | None = None
    """Of the executor that was measured, if it replays its steps from graphs."""
    weight_dtype: str = ""
    """Of the matrices of the layers, where that is another; `fp8` or `fp8_block`."""
    kv_dtype: str = ""
    """Of the cache, likewise; `fp8` makes `attention_decode_8` the attention of every step."""
    memory: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    range: dict[str, Any] = field(default_factory=dict)
    assumed: dict[str, str] = field(default_factory=dict)
    """Kernels whose shape lies outside what was measured, each with what stands in for it."""
    sources: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    yardstick: dict[str, Any] = field(default_factory=dict)
    """Of times that are no wall time: the reference of a CPU's steady clock, `yardstick_s`, and how
    its samples lay about it (`executor/clocks/timers.py`)."""
    made_s: float = 0.0
    path: str = ""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What a reader of its file should know."""
    sha256: str = field(default="", compare=False)
    """Of the bytes of its file; empty for one that was not read from a file."""
