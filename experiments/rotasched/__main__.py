"""Run the study and write `summary.json`, `results.md` and a picture.

What has been run is kept in `runs/rotasched`, so a study that was stopped goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.measures import Numbers
from experiments.options import study_options
from experiments.reading import exit_code_of
from experiments.record import SIMULATED, made_by, write_result
from experiments.rotasched.measures import measured
from experiments.rotasched.plot import write_picture
from experiments.rotasched.settings import (
    ARMS,
    LINK_KV_TOKENS,
    LINK_MODEL,
    LINK_RATE_PER_S,
    LINKS_GB_PER_S,
    MAX_STALL_S,
    SWEEPS,
    VARIANT_MODEL,
    VARIANT_RATE_PER_S,
    VARIANTS,
    config_of,
)
from experiments.rotasched.table import page
from experiments.scenarios.bench import Bench, say
from superinfer.lab.config import Config

RESULTS = SIMULATED / "rotasched"
CACHE = Path("runs") / "rotasched"
VERSION = 1
"""Of the form of `summary.json`."""


def main() -> int:
    """Run all parts and write the files."""
    options = study_options(
        "rotasched", "Reproduce the shape of RotaSched's results.", RESULTS, 3
    ).parse_args()
    bench = Bench(CACHE, options.workers)
    seeds = range(options.seeds)
    parts = {
        "sweeps": {sweep.model: _sweep(bench, seeds, sweep.model) for sweep in SWEEPS},
        "links": _links(bench, seeds, MAX_STALL_S),
        "links_no_stall": _links(bench, seeds, 0.0),
        "variants": _variants(bench, seeds),
    }
    command = f"python -m experiments.rotasched --seeds {options.seeds}"
    write(options.out, parts, made_by(command, seeds=options.seeds))
    say(f"results in {options.out}")
    return 0


def write(out: Path, parts: Mapping[str, Any], rests_on: Mapping[str, Any]) -> None:
    """The files of the result."""
    summary = {"version": VERSION, "made_by": rests_on, **parts}
    write_picture(write_result(out, summary, page), out)


def _sweep(bench: Bench, seeds: range, model: str) -> Numbers:
    """All arms of a model at all its rates."""
    rates = next(sweep.rates_per_s for sweep in SWEEPS if sweep.model == model)
    configs = {
        f"{name} at {rate:g}": config_of(arm, model, rate)
        for name, arm in ARMS.items()
        for rate in rates
    }
    found = _measured(bench, configs, seeds, model)
    points = {name: [found[f"{name} at {rate:g}"] for rate in rates] for name in ARMS}
    return {"rates_per_s": list(rates), "arms": points}


def _links(bench: Bench, seeds: range, max_stall_s: float) -> Numbers:
    """All arms with little memory, over links of several speeds."""
    configs = {
        f"{name} at {link:g}": config_of(
            arm,
            LINK_MODEL,
            LINK_RATE_PER_S,
            kv_tokens=LINK_KV_TOKENS,
            link_gb_per_s=link,
            max_stall_s=max_stall_s,
        )
        for name, arm in ARMS.items()
        for link in LINKS_GB_PER_S
    }
    found = _measured(bench, configs, seeds, "links")
    points = {name: [found[f"{name} at {link:g}"] for link in LINKS_GB_PER_S] for name in ARMS}
    return {
        "model": LINK_MODEL,
        "rate_per_s": LINK_RATE_PER_S,
        "kv_tokens": LINK_KV_TOKENS,
        "max_stall_s": max_stall_s or None,
        "gb_per_s": list(LINKS_GB_PER_S),
        "arms": points,
    }


def _variants(bench: Bench, seeds: range) -> Numbers:
    """The rival with one part changed at a time."""
    configs = {
        name: config_of(arm, VARIANT_MODEL, VARIANT_RATE_PER_S) for name, arm in VARIANTS.items()
    }
    found = _measured(bench, configs, seeds, "variants")
    return {"model": VARIANT_MODEL, "rate_per_s": VARIANT_RATE_PER_S, "arms": found}


def _measured(
    bench: Bench, configs: Mapping[str, Config], seeds: range, what: str
) -> dict[str, dict[str, Numbers]]:
    runs = bench.runs(configs, seeds, what)
    return {name: measured(each) for name, each in runs.items()}


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
