"""Run the study and write `summary.json`, `results.md` and a picture.

What has been run is kept in `runs/consolidation`, so a study that was stopped goes on from there.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from experiments.consolidation.measures import capacity, keeps, of_batch, of_chat, of_shared
from experiments.consolidation.plot import write_picture
from experiments.consolidation.settings import (
    BATCH,
    BATCH_USE,
    CHAT,
    CHAT_USE,
    FULL,
    OTHER_ROUTERS,
    SMALL,
    Size,
    saturated,
    separate,
    shared,
)
from experiments.consolidation.table import page
from experiments.studykit.options import at_least, study_options
from experiments.studykit.reading import exit_code_of
from experiments.studykit.record import SIMULATED, made_by, write_result
from experiments.studykit.run_cache import RunCache
from superinfer.lab.cli.terminal import say
from superinfer.lab.results import Run
from superinfer.lab.studies.bisect import Fewest

RESULTS = SIMULATED / "consolidation"
CACHE = Path("runs") / "consolidation"
PROFILE = "a100-80g_llama-3.1-8b_tp1"
VERSION = 1
"""Of the form of `summary.json`."""


def main() -> int:
    """Measure both clusters, look for the smallest shared one, and write the files."""
    about = "One cluster for chat and batch work instead of two."
    parser = study_options("consolidation", about, RESULTS, 0)
    parser.add_argument("--full", action="store_true", help="the size of the article: 32 GPUs")
    parser.add_argument(
        "--gpus", type=at_least(2), help="GPUs of both separate clusters, an even number"
    )
    options = parser.parse_args()
    size = FULL if options.full else SMALL
    gpus, seeds = options.gpus or size.gpus, options.seeds or size.seeds
    if gpus % 2:
        parser.error(f"--gpus: expected an even number, got {gpus}")
    size = replace(size, gpus=gpus, seeds=seeds)
    found = study(RunCache(CACHE, options.workers), size)
    full = " --full" if options.full else ""
    command = f"python -m experiments.consolidation{full} --gpus {gpus} --seeds {seeds}"
    write(options.out, {"made_by": made_by(command, profile=PROFILE), **found})
    say(f"results in {options.out}")
    return 0


def write(out: Path, found: dict[str, Any]) -> None:
    """The files of the result."""
    write_picture(write_result(out, {"version": VERSION, **found}, page), out)


def study(cache: RunCache, size: Size) -> dict[str, Any]:
    """Every number of the study."""
    full = _run(cache, size, {name: saturated(name) for name in (CHAT, BATCH)}, "saturated")
    capacities = {name: capacity(runs, name) for name, runs in full.items()}
    rates = {
        CHAT: CHAT_USE * capacities[CHAT] * size.each,
        BATCH: BATCH_USE * capacities[BATCH] * size.each,
    }
    alone = {name: separate(size, name, rate) for name, rate in rates.items()}
    two = _run(cache, size, alone, "separate clusters")
    rows, answer = _smallest(cache, size, rates[CHAT], two[BATCH])
    routers = {}
    if answer is not None:
        others = {name: shared(size, rates[CHAT], answer, name) for name in OTHER_ROUTERS}
        runs = _run(cache, size, others, "other routers")
        routers = {name: of_shared(each, two[BATCH]) for name, each in runs.items()}
    return {
        "size": asdict(size),
        "config": _config(size, rates[CHAT], answer or size.gpus),
        "capacity_per_s": capacities,
        "rate_per_s": rates,
        "separate": {CHAT: of_chat(two[CHAT]), BATCH: of_batch(two[BATCH])},
        "shared": rows,
        "answer": answer,
        "claimed": size.claimed,
        "routers": routers,
    }


# -- inside ---------------------------------------------------------------------------------------


def _config(size: Size, chat_per_s: float, gpus: int) -> dict[str, Any]:
    """The settings of a shared cluster, wherever this checkout is."""
    found = shared(size, chat_per_s, gpus).resolved()
    found["run"]["trace"] = f"experiments/consolidation/{Path(found['run']['trace']).name}"
    return found


def _run(cache: RunCache, size: Size, configs: dict[str, Any], what: str) -> dict[str, list[Run]]:
    return cache.runs(configs, range(size.seeds), what)


def _smallest(
    cache: RunCache, size: Size, chat_per_s: float, batch: list[Run]
) -> tuple[list[dict[str, Any]], int | None]:
    """All shared clusters that were tried, and the smallest that is large enough."""
    rows: dict[int, dict[str, Any]] = {}

    def row(gpus: int) -> dict[str, Any]:
        if gpus not in rows:
            config = shared(size, chat_per_s, gpus)
            runs = _run(cache, size, {"shared": config}, f"shared, {gpus} GPUs")["shared"]
            rows[gpus] = of_shared(runs, batch)
        return rows[gpus]

    search = Fewest(size.gpus, size.claimed)
    while (gpus := search.wanted) is not None:
        search.tell(keeps(row(gpus)))
    return list(rows.values()), search.found


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
