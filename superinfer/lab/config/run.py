"""The `[run]` section of a configuration."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from superinfer.errors import ConfigError
from superinfer.lab.config.values import convert_setting
from superinfer.settings import shown_value, unknown

# Upper bounds keep every product of settings far from what a 64-bit integer or a float can hold.
Count = Annotated[int, Meta(ge=0, le=2**40)]
Tokens = Annotated[int, Meta(ge=0, le=2**30)]
RATE_SCALES = 1e-6, 1e6
"""The smallest and the largest."""


class RunConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The `[run]` section: everything about a run that is not a policy's own parameter."""

    trace: str = ""
    """Path of a trace or of a specification, or the name of a bundled specification."""
    scheduler: str = "rotating"
    """Name, or `package.module:Class`."""
    memory: str = "lru"
    """Memory policy, by name or as `package.module:Class`."""
    model: str = "llama-3.1-8b"
    """Preset name, or path of a Hugging Face `config.json`."""
    routing_skew: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """Of a model with experts, with roofline costs: how much its router prefers some of them
    (`superinfer.costs.experts`); 0: not at all."""
    device: str = "a100-80g"
    """Preset name, or path of a TOML file of nominal figures."""
    replicas: Annotated[int, Meta(ge=1, le=4096)] = 1
    """Engines of this kind, each on `tp` devices of its own, behind the router."""
    router: str = "least_loaded"
    """Name, or `package.module:Class`; takes part from two replicas on."""
    slow_replicas: dict[str, Annotated[float, Meta(ge=0.01, le=100)]] = msgspec.field(
        default_factory=dict
    )
    """Number of a replica, from 0 on, to how many times as long its steps take, in the simulator.
    What its scheduler predicts stays as it is, unless `learn_step_times` corrects it."""
    tp: Annotated[int, Meta(ge=1, le=2**20)] = 1
    """Tensor parallelism: GPUs of a replica."""
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    """Of what a specification draws. Replaying a trace draws nothing at random."""
    costs: str = "auto"
    """`auto`, `roofline`, `calibrated`, or the path of a profile. The scheduler `flexgen` puts its
    streaming around it, and takes `flexgen` for the roofline."""
    believed_costs: str = ""
    """What schedulers predict with, where that is not what steps take in the simulator: as `costs`;
    empty: the same. On a device `costs` is what they predict with."""
    learn_step_times: bool | None = None
    """Correct predicted step times by what steps took (`superinfer.costs.learned`); absent: on a
    device that no profile was measured on, and in no simulation."""
    as_released: bool = False
    """Take `memory`, `prefix_caching` and `lag` from the release that the scheduler models, where
    they are not given (`superinfer.lab.config.released`)."""
    lag: Annotated[int, Meta(ge=0, le=1)] = 0
    """1: plan the next step while the current one runs."""
    prefix_caching: bool = False
    """Whether prompts find the blocks of equal beginnings."""
    block_tokens: Annotated[int, Meta(ge=0, le=2**14)] = 0
    """0: what the scheduler's system uses."""
    kv_blocks: Count = 0
    """Exact number of device blocks; 0: what the file of a profile says was measured, else what
    weights and the activations of the scheduler's largest step leave (docs/formats.md)."""
    gpu_memory_utilization: Annotated[float, Meta(gt=0, le=1)] = 0.9
    """Share of device memory for weights, activations and KV blocks. `tensorrt_llm` has a setting
    of its own instead, the share of what weights and activations leave free."""
    host_memory_gib: Annotated[float, Meta(ge=0, le=2**20)] = 4.0
    """Host memory for swapped KV cache, per GPU (vLLM's default is 4 GiB)."""
    max_model_len: Tokens = 0
    """Of a prompt and its answer, which ends there; 0: the model's own."""
    host_step_ms: Annotated[float, Meta(ge=0, le=1e6)] | None = None
    """Host time before each step; absent: the cost model's."""
    host_link_gb_per_s: Annotated[float, Meta(ge=0.001, le=1e6)] | None = None
    """Copies to and from host memory per GPU, each way, in 1e9 bytes/s; absent: the device's."""
    links_per_bridge: Annotated[int, Meta(ge=1, le=2**20)] = 1
    """GPUs of a replica whose links to the host share a bridge, such as a PCIe switch: all copy at
    once, each with its part of the bandwidth. A divisor of `tp`."""
    host_per_sequence_us: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    """Host time before each step for each sequence in it; absent: the cost model's."""
    concurrency: Count = 0
    """Closed loop: so many requests (closed sessions) are under way; 0: open loop."""
    sessions: Literal["open", "closed"] = "open"
    """closed: a later turn comes its think time (`delay_ms`) after the end of the one before."""
    backlog: dict[str, Annotated[int, Meta(ge=1, le=2**30)]] = msgspec.field(default_factory=dict)
    """Class to the number of its requests that always wait, whatever their times in the trace."""
    in_flight: dict[str, Annotated[int, Meta(ge=1, le=2**30)]] = msgspec.field(default_factory=dict)
    """Class to the number of its requests that are under way, whatever their times in the trace."""
    duration_s: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    """Cut the run off at the first step that ends so late; 0: run to the end."""
    window_s: list[Annotated[float, Meta(ge=0, le=1e12)]] = msgspec.field(default_factory=list)
    """[from, to): measure only what happens there; empty: the whole run."""
    dial: dict[str, float] = msgspec.field(default_factory=dict)
    """Weights of `cost`, `speed` and `quality`, from which settings follow that are not given
    (`superinfer.lab.config.dial`); empty: no dial."""
    rate_scale: Annotated[float, Meta(ge=RATE_SCALES[0], le=RATE_SCALES[1])] = 1.0
    """Arrival rate as a multiple of the trace's."""
    burstiness: Annotated[float, Meta(ge=0, le=1e3)] = 1.0
    """How far the gaps between arrivals lie from their mean, as a multiple of the trace's; 0: all
    are equal."""
    slo_scale: Annotated[float, Meta(ge=1e-3, le=1e3)] = 1.0
    """Targets of the requests as a multiple of what they are: 2 allows twice as long."""
    limit: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    """Use only the first so many requests; 0: all."""
    spread: bool = False
    """Distribute requests that share a stamp."""
    skip_bad: bool = False
    """Leave bad lines of a trace out, and say how many."""
    hash_block_size: Annotated[int, Meta(ge=0, le=10_000_000)] = 0
    """Tokens per hash id of records of a trace without this field; 0: 512, as Mooncake's."""
    time_unit: Literal["ms", "s"] = "ms"
    """Of `timestamp` in a trace of JSON lines."""
    without_slo: bool = False
    """Take every target away from the requests."""

    @property
    def policies(self) -> dict[str, str]:
        """Who decides in each replica, by section."""
        return {"scheduler": self.scheduler, "memory": self.memory}

    @property
    def slowdowns(self) -> dict[int, float]:
        """`slow_replicas` by numbers."""
        return {int(number): slowdown for number, slowdown in self.slow_replicas.items()}


def run_config(table: Mapping[str, Any]) -> RunConfig:
    """The section from its table; ConfigError for a key, a value, a window or bridges that cannot
    be.
    """
    hints = typing.get_type_hints(RunConfig, include_extras=True)
    for key in table:
        if key not in hints:
            raise ConfigError(unknown(f"run.{key}", key, hints, "known are"))
    run = RunConfig(**{key: convert_setting(f"run.{key}", table[key], hints[key]) for key in table})
    if run.window_s and not (len(run.window_s) == 2 and run.window_s[0] < run.window_s[1]):
        raise ConfigError(f"run.window_s: expected [from, to), got {shown_value(run.window_s)}")
    if run.window_s and run.duration_s and run.window_s[1] > run.duration_s:
        raise ConfigError(f"run.window_s: expected an end within run.duration_s {run.duration_s}")
    _check_slow_replicas(run)
    if run.tp % run.links_per_bridge:
        expected = f"a divisor of run.tp {run.tp}"
        raise ConfigError(f"run.links_per_bridge: expected {expected}, got {run.links_per_bridge}")
    return run


def _check_slow_replicas(run: RunConfig) -> None:
    numbers = [str(number) for number in range(run.replicas)]
    for key in run.slow_replicas:
        if key not in numbers:
            last = numbers[-1]
            known = f"a replica from 0 to {last}" if last != "0" else "replica 0"
            expected = f"expected {known} (run.replicas {run.replicas})"
            raise ConfigError(f"run.slow_replicas.{key}: {expected}")
