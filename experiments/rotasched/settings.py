"""What is compared: models and their rates, arms, links, and variants of the rival."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.scenarios.arms import Arm
from experiments.studykit.kv_memory import fitting_tokens, with_kv_tokens
from superinfer.lab.config import Config, load_config

SPEC = Path(__file__).with_name("sharegpt.toml")
DEVICE = "gh200-144g"
HOST_MEMORY_GIB = 280.0
"""For rotated caches: about what the mirror of the device memory leaves, for the smallest model, of
the 400 GiB of the paper's runs.
"""
TTFT_S, TIGHT_TTFT_S, TBT_S = 5.0, 1.0, 0.1
"""The paper's targets are unknown."""
MAX_STALL_S = 5.0
"""Longest pause between tokens, which only `rotating` asks for."""
BUDGET_BLOCKS = 2400

DEFAULT, TUNED, REPO, VLT, ROTATING = "vllm", "vllm-1024", "lvf_repo", "lvf_vlt", "rotating"


_REPO = Arm(f"RotaSched, public code, budget {BUDGET_BLOCKS}", "rotasched")
_VLT = Arm("RotaSched, lag rebuilt, alpha 1", "rotasched", ('scheduler.variant="lvf_vlt"',))
ARMS: Mapping[str, Arm] = {
    DEFAULT: Arm("vLLM v0.6.0, prefill first, 256 seqs", "vllm", ("scheduler.chunked=false",)),
    TUNED: Arm(
        "vLLM v0.6.0, chunked 2048, 1024 seqs",
        "vllm",
        (
            "scheduler.chunked=true",
            "scheduler.max_num_seqs=1024",
            "scheduler.max_num_batched_tokens=2048",
        ),
    ),
    REPO: _REPO,
    VLT: _VLT.with_settings("RotaSched, lag rebuilt, alpha 0.5", "scheduler.alpha=0.5"),
    ROTATING: Arm("rotating (ours), 1024 seqs", "rotating", ("scheduler.max_num_seqs=1024",)),
}
VARIANTS: Mapping[str, Arm] = {
    REPO: _REPO,
    "budget 300": _REPO.with_settings("budget 300", "scheduler.budget_blocks=300"),
    "budget 0": _REPO.with_settings("budget 0 (by force only)", "scheduler.budget_blocks=0"),
    "no eager copies": _REPO.with_settings("no eager copies", "scheduler.eager=false"),
    "layer first": _REPO.with_settings("layer first", 'scheduler.layout="layer_first"'),
    "half duplex": _REPO.with_settings(
        "one direction at a time, before the step", "scheduler.full_duplex=false"
    ),
    "alpha 1": _VLT,
    VLT: ARMS[VLT],
}


@dataclass(slots=True, frozen=True)
class Sweep:
    """A model and the rates at which it is asked."""

    model: str
    rates_per_s: tuple[float, ...]


SWEEPS = (
    Sweep("qwen2.5-32b", (20, 30, 40, 50)),
    Sweep("mixtral-8x7b", (20, 40, 60, 80)),
    Sweep("llama-3-8b", (60, 80, 100, 120)),
)
"""From where everybody keeps up to where nobody does, on this device. The paper's rates, of a real
one: 5 to 20 requests/s, for the smallest model 35 to 60.
"""
LINKS_GB_PER_S = (25.0, 50.0, 375.0)
"""PCIe 4 and 5 as copies reach them, and NVLink-C2C."""
LINK_MODEL, LINK_KV_TOKENS, LINK_RATE_PER_S = "qwen2.5-32b", 56_000, 15.0
"""Little memory and short steps: where rotation pays. From 18 requests/s on nobody keeps up."""
VARIANT_MODEL, VARIANT_RATE_PER_S = "qwen2.5-32b", 40.0


def config_of(
    arm: Arm,
    model: str,
    rate_per_s: float,
    *,
    kv_tokens: int = 0,
    link_gb_per_s: float | None = None,
    max_stall_s: float = MAX_STALL_S,
) -> Config:
    """The run of an arm. `kv_tokens`: size of the KV memory, whatever the block size; 0: what fits.
    `max_stall_s` 0: the class states no longest pause.
    """
    given = [
        f"run.model={model}",
        f"run.device={DEVICE}",
        "run.lag=1",
        f"run.host_memory_gib={HOST_MEMORY_GIB}",
        f"workload.clients.sharegpt.rate_per_s={float(rate_per_s)!r}",
        f"classes.sharegpt.ttft_ms={1e3 * TTFT_S}",
        f"classes.sharegpt.tpot_ms={1e3 * TBT_S}",
        "classes.sharegpt.max_tokens=8192",
        *arm.settings,
    ]
    if max_stall_s:
        given.append(f"classes.sharegpt.max_stall_ms={1e3 * max_stall_s}")
    if link_gb_per_s is not None:
        given.append(f"run.host_link_gb_per_s={link_gb_per_s}")
    config = load_config(None, given, trace=str(SPEC), scheduler=arm.scheduler)
    machine = (f"run.model={model}", f"run.device={DEVICE}", "run.block_tokens=16")
    return with_kv_tokens(config, kv_tokens or fitting_tokens(*machine))
