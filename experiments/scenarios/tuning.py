"""How rivals (vLLM, both engines; SGLang; TensorRT-LLM; EDF) are tuned, and where that is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import tomli_w

from experiments.scenarios.arms import (
    ARMS,
    CHUNKED,
    EDF,
    PREFILL_FIRST,
    SGLANG,
    TENSORRT_LLM,
    TUNED,
    VLLM_V1,
    Arm,
)
from experiments.scenarios.measures import ATTAINMENT, BATCH
from experiments.scenarios.settings import Setting, config_of
from experiments.studykit.reading import fields_of, read_toml
from experiments.studykit.run_cache import RunCache
from superinfer.errors import ConfigError
from superinfer.lab.numbers import mean_number
from superinfer.lab.results import Run
from superinfer.outputs import replacing

TUNED_FILE = Path(__file__).parents[1] / "tuned.toml"
SEEDS = (100, 101, 102, 103, 104)
"""No comparison uses them."""
FINALISTS = 2
"""Ways of running a system that are tried on all seeds; the others on the first alone."""
_HEAD = """\
# Settings of the tuned arms, by setting of the study. `python -m experiments.scenarios.tune` writes
# this file. Each is the best of a grid at the chat rate of the comparison: most chat attainment (in
# whole points), then most batch tokens/s; all candidates on the first seed, the best two on all.
# Simulated.
"""


def vllm_grid(
    budgets: Sequence[int] = (256, 384, 512, 1024, 2048), most_seqs: Sequence[int] = (128, 256)
) -> Iterator[Arm]:
    """Ways of running vLLM v0.6.0."""
    modes = [(CHUNKED, (f"scheduler.max_num_batched_tokens={tokens}",)) for tokens in budgets]
    for (mode, given), seqs, way in product(
        [*modes, (PREFILL_FIRST, ())], most_seqs, ("recompute", "swap")
    ):
        settings = (*given, f"scheduler.max_num_seqs={seqs}", f"scheduler.preemption={way}")
        yield ARMS[mode].with_settings("", *settings)


def vllm_v1_grid() -> Iterator[Arm]:
    """Ways of running vLLM V1, with priorities or without."""
    budgets = (256, 384, 512, 1024, 2048)
    for tokens, seqs, policy in product(budgets, (128, 256), ("fcfs", "priority")):
        yield ARMS[VLLM_V1].with_settings(
            "",
            f"scheduler.max_num_batched_tokens={tokens}",
            f"scheduler.max_num_seqs={seqs}",
            f"scheduler.policy={policy}",
        )


def sglang_grid(
    chunks: Sequence[int] = (256, 384, 512, 2048, 8192), conservative: Sequence[float] = (0.3, 1.0)
) -> Iterator[Arm]:
    """Ways of running SGLang v0.4.6."""
    for tokens, mixed, ratio, policy in product(
        chunks, ("false", "true"), conservative, ("fcfs", "lpm")
    ):
        yield ARMS[SGLANG].with_settings(
            "",
            f"scheduler.chunked_prefill_tokens={tokens}",
            f"scheduler.mixed_chunk={mixed}",
            f"scheduler.schedule_conservativeness={ratio}",
            f"scheduler.policy={policy}",
        )


def tensorrt_llm_grid(
    budgets: Sequence[int] = (256, 384, 512, 2048, 8192), most_seqs: Sequence[int] = (128, 256)
) -> Iterator[Arm]:
    """Ways of running TensorRT-LLM. Whole prompts take a budget for the longest of them."""
    chunked = [(f"scheduler.max_num_tokens={n}", "first_come_first_served") for n in budgets]
    whole = [("scheduler.max_num_tokens=16384", "off")]
    for (tokens, chunking), seqs, capacity in product(
        [*chunked, *whole], most_seqs, ("guaranteed_no_evict", "max_utilization")
    ):
        yield ARMS[TENSORRT_LLM].with_settings(
            "",
            tokens,
            f"scheduler.context_chunking={chunking}",
            f"scheduler.max_batch_size={seqs}",
            f"scheduler.capacity_policy={capacity}",
        )


def edf_grid() -> Iterator[Arm]:
    """Ways of running the classic order: the simplest that knows deadlines."""
    budgets = (256, 384, 512, 2048)
    for tokens, preempts, way in product(budgets, ("true", "false"), ("recompute", "swap")):
        yield ARMS[EDF].with_settings(
            "",
            f"scheduler.max_num_batched_tokens={tokens}",
            f"scheduler.preempts={preempts}",
            f"memory.preemption={way}",
        )


Reached = tuple[float, float]
"""Attainment, and tokens/s of what counts."""
Grids = Mapping[str, Sequence[Arm]]
GRIDS: Grids = {
    "vllm-tuned": list(vllm_grid()),
    "vllm-v1-tuned": list(vllm_v1_grid()),
    "sglang-tuned": list(sglang_grid()),
    "tensorrt-llm-tuned": list(tensorrt_llm_grid()),
    "edf-tuned": list(edf_grid()),
}
"""By tuned arm, the candidates."""


@dataclass(slots=True, frozen=True)
class Choice:
    """The best way found, and what it reached on the tuning seeds."""

    arm: Arm
    chat_attainment: float
    batch_tokens_per_s: float


def tune(
    cache: RunCache,
    setting: Setting,
    rate_per_s: float,
    grid: Sequence[Arm],
    seeds: Sequence[int] = SEEDS,
) -> Choice:
    """The candidate with the highest chat attainment, then the most batch tokens."""

    def tried(arms: Sequence[Arm], some: Sequence[int]) -> list[Reached]:
        configs = {
            str(place): config_of(setting, arm, rate_per_s) for place, arm in enumerate(arms)
        }
        runs = cache.runs(configs, some, f"{setting.name}: tuning {grid[0].scheduler}")
        return [(_mean(runs[name], ATTAINMENT), _mean(runs[name], BATCH)) for name in configs]

    arm, (attainment, tokens_per_s) = best_of(grid, tried, seeds)
    return Choice(arm, attainment, tokens_per_s)


def best_of(
    grid: Sequence[Arm],
    tried: Callable[[Sequence[Arm], Sequence[int]], Sequence[Reached]],
    seeds: Sequence[int],
) -> tuple[Arm, Reached]:
    """The candidate that reached the highest attainment (in whole points), then the most tokens:
    all are tried on the first seed, the best two on all. And what it reached.
    """

    def ranked(arms: Sequence[Arm], some: Sequence[int]) -> list[tuple[Arm, Reached]]:
        pairs = zip(arms, tried(arms, some), strict=True)
        return sorted(pairs, key=lambda pair: (round(pair[1][0], 2), pair[1][1]), reverse=True)

    finalists = [arm for arm, _ in ranked(grid, seeds[:1])[:FINALISTS]]
    return ranked(finalists, seeds)[0]


def write_tuned(path: Path, setting: str, rate_per_s: float, choices: Mapping[str, Choice]) -> None:
    """Put the choices for one setting into the file; all others stay."""
    tables = read_toml(path) if path.exists() else {}
    known = {name: table for name, table in tables.get(setting, {}).items() if name in TUNED}
    tables[setting] = {
        "chat_requests_per_s": round(rate_per_s, 6),
        "seeds": list(SEEDS),
        **known,
        **{name: _table(choice) for name, choice in choices.items()},
    }
    write_tables(path, _HEAD, tables)


def write_tables(path: Path, head: str, tables: Mapping[str, Any]) -> None:
    """A file of tuned arms: a comment, then a table for each setting."""
    with replacing(path) as staged:
        staged.write_text(head + "\n" + tomli_w.dumps(dict(sorted(tables.items()))))


def tuned_arms(setting: str, path: Path = TUNED_FILE) -> dict[str, Arm]:
    """The tuned arms of a setting; ConfigError if it was never tuned."""
    return arms_in(path, setting, TUNED, "python -m experiments.scenarios.tune")


def arms_in(path: Path, section: str, names: Iterable[str], command: str) -> dict[str, Arm]:
    """The tuned arms of a section of a file that `command` writes; ConfigError for one that is not
    there or is damaged.
    """
    found = (read_toml(path) if path.exists() else {}).get(section, {})
    if not all(name in found for name in names):
        raise ConfigError(f"{path.name} has nothing for {section}: run `{command}`")
    with fields_of(path):
        return {
            name: Arm(TUNED[name], found[name]["scheduler"], tuple(found[name]["settings"]))
            for name in names
        }


# -- inside ---------------------------------------------------------------------------------------


def _mean(runs: list[Run], key: str) -> float:
    return mean_number([run.summary for run in runs], key) or 0.0


def _table(choice: Choice) -> dict[str, object]:
    return {
        "scheduler": choice.arm.scheduler,
        "settings": list(choice.arm.settings),
        "chat_attainment": round(choice.chat_attainment, 4),
        "batch_tokens_per_s": round(choice.batch_tokens_per_s, 1),
    }
