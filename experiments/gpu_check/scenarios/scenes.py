"""What is run on the device and simulated afterwards: workloads, how short memory is, policies.

All are for Llama-3.1-8B. Rates are those that an H200 can just bear (chosen in the simulator by its
profile); on a card that moves fewer bytes per second they are smaller by that.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.gpu_check.calibrate import profile_path
from experiments.gpu_check.checks import Context
from experiments.gpu_check.small import tiny_config
from superinfer.costs.profile_file import load_profile
from superinfer.errors import InputError

HERE = Path("experiments/gpu_check")
"""Where specifications are, from the root of the checkout: what ran on one machine is simulated
again on others.
"""
H200_BYTES_PER_S = 4.24e12
"""A large copy there, bytes read and written; rates are chosen for it."""
PRESSURE = "pressure"
"""The scene whose runs are named by their policies alone."""
ARMS: dict[str, tuple[str, ...]] = {
    "vllm": ("--scheduler", "vllm"),
    "rotating": ("--scheduler", "rotating"),
    "ours": (
        *("--scheduler", "rotating", "--memory", "slo_aware"),
        *("--set", "classes.batch.min_kv_bits=4"),
    ),
}
"""`ours` has both subsystems: who is served when, and what becomes of whose memory."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One workload on one amount of KV memory."""

    trace: str
    """A file or a specification; empty: `--trace`."""
    kv_blocks: int
    """Of 32 tokens."""
    limit: int = 0
    """Requests at the most; 0: all."""
    rate_scale: float = 1.0
    arms: tuple[str, ...] = ("vllm", "rotating")
    settings: tuple[str, ...] = ()
    scaled: bool = True
    """Rates go with what the card moves."""
    host_memory_gib: float = 4.0


SCENES: dict[str, Scene] = {
    "m": Scene(f"{HERE}/scenario-m.toml", 1000, arms=("vllm", "ours", "rotating")),
    "c": Scene(f"{HERE}/scenario-c.toml", 8000),
    "real": Scene(
        "",
        1000,
        limit=160,
        rate_scale=6.0,
        settings=("classes.default.ttft_ms=1000", "classes.default.tpot_ms=100"),
    ),
    PRESSURE: Scene(
        "traces/samples/mixed.jsonl",
        1800,
        limit=120,
        rate_scale=4.0,
        scaled=False,
        host_memory_gib=8.0,
    ),
}
TINY = {"m": 3, "c": 3, "real": 4, PRESSURE: 6}
"""Requests where the code alone is tried, on a CPU."""


def run_name(scene: str, arm: str) -> str:
    """Of a check, and of the folder of its run."""
    return arm if scene == PRESSURE else f"{scene}-{arm}"


def run_names(scene: str) -> dict[str, str]:
    """Arms of a scene, and the names of their runs."""
    return {arm: run_name(scene, arm) for arm in SCENES[scene].arms}


def arguments(context: Context, scene: str, arm: str) -> list[str]:
    """Of `superinfer-exec run`."""
    chosen = SCENES[scene]
    model, longest = context.options["model"] or "llama-3.1-8b", 16384
    if context.tiny:
        chosen = replace(chosen, limit=TINY[scene], kv_blocks=400, host_memory_gib=0.2)
        model, longest = tiny_config(context), 4096
    rate = chosen.rate_scale * (card_scale(context) if chosen.scaled else 1.0)
    settings = [
        f"run.host_memory_gib={chosen.host_memory_gib}",
        "scheduler.max_num_seqs=64",
        *chosen.settings,
        *costs(context),
    ]
    return [
        *(trace(context, scene), *ARMS[arm], "--model", model, "--device", context.device),
        *("--random-weights", "--kv-blocks", str(chosen.kv_blocks), "--block-tokens", "32"),
        *(("--limit", str(chosen.limit)) if chosen.limit else ()),
        *("--rate-scale", f"{rate:g}", "--lag", "1", "--max-model-len", str(longest)),
        *(part for setting in settings for part in ("--set", setting)),
        "--as-fast-as-possible",
    ]


def trace(context: Context, scene: str) -> str:
    """The trace of a scene; InputError where the real one is not there."""
    named = SCENES[scene].trace
    if named:
        return named
    path: Path = context.options["trace"]
    if not path.is_file():
        hint = "no such trace; experiments.gpu_check.pack cuts one, --trace names another"
        raise InputError(hint, file=str(path))
    return str(path)


def costs(context: Context) -> list[str]:
    """The profile of this device for the schedulers' predictions, where it is there."""
    path = profile_path(context)
    return [f"run.costs={json.dumps(str(path))}"] if path.is_file() else []


def card_scale(context: Context) -> float:
    """How fast the card's memory is against the one that rates were chosen for; at most 1."""
    path = profile_path(context)
    if context.tiny or not path.is_file():
        return 1.0
    copied = float(load_profile(path).memory.get("copy_bytes_per_s", H200_BYTES_PER_S))
    return round(min(1.0, copied / H200_BYTES_PER_S), 2)
