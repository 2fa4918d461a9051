"""Run the study and write `summary.json`, `results.md` and pictures.

What has been run is kept in `runs/scenarios`, so a study that was stopped goes on from there. With
`--only`, the other parts of an earlier `summary.json` in the same folder stay as they are.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments.scenarios.bench import CACHE, Bench, say
from experiments.scenarios.comparison import Part, compare_setting
from experiments.scenarios.extras import without_slo, wrong_slo
from experiments.scenarios.plot import write_pictures
from experiments.scenarios.settings import SETTINGS, Extent, full_extent, quick_extent
from experiments.scenarios.table import page
from superinfer.errors import SuperInferError
from superinfer.lab.content import code_hash
from superinfer.lab.results import replacing, summary_json

RESULTS = Path(__file__).parents[1] / "results" / "simulated" / "scenarios"
QUICK_RESULTS = Path("runs") / "scenarios-quick"
PROFILE = "a100-80g_llama-3.1-70b_tp4"
VERSION = 2
"""Of the form of `summary.json`."""
PARTS = (*SETTINGS, "no-slo", "wrong-slo")


def main() -> int:
    """Run the parts that are asked for; 1 if one of them failed."""
    options = _options()
    extent = (quick_extent if options.quick else full_extent)(options.seeds)
    out = options.out or (QUICK_RESULTS if options.quick else RESULTS)
    bench = Bench(CACHE, options.workers)
    before, found, failed = bench.stored, _earlier(out), False
    for name in options.only:
        try:
            part = _runner(name)(bench, extent)
        except SuperInferError as error:
            say(f"error: {name}: {error}")
            failed = True
            continue
        found[name] = part | {"made_by": _made_by(options)}
        _write(out, {name: found[name] for name in PARTS if name in found}, _made_by(options))
    say(f"{bench.stored - before} runs were made; results in {out}")
    return int(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.scenarios",
        description="Decide whether the rotating scheduler is worth having.",
    )
    parser.add_argument("--out", type=Path, help=f"folder for the results (default {_shown()})")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two seeds and few points")
    parser.add_argument("--only", type=_parts, default=PARTS, help=f"of {','.join(PARTS)}")
    parser.add_argument("--workers", type=int, default=0, help="processes (0: one per core)")
    return parser.parse_args()


def _shown() -> str:
    return RESULTS.relative_to(Path(__file__).parents[2]).as_posix()


def _parts(text: str) -> tuple[str, ...]:
    wanted = text.split(",")
    if unknown := [name for name in wanted if name not in PARTS]:
        expected = f"expected some of {', '.join(PARTS)}, got {unknown[0]!r}"
        raise argparse.ArgumentTypeError(expected)
    return tuple(name for name in PARTS if name in wanted)


def _runner(name: str) -> Callable[[Bench, Extent], Part]:
    if name == "no-slo":
        return without_slo
    if name == "wrong-slo":
        return wrong_slo
    return lambda bench, extent: compare_setting(bench, SETTINGS[name], extent)


def _made_by(options: argparse.Namespace) -> dict[str, Any]:
    """What a part's numbers rest on."""
    quick = " --quick" if options.quick else ""
    names = ("superinfer", "numpy", "simpy")
    return {
        "command": f"python -m experiments.scenarios --seeds {options.seeds}{quick}",
        "quick": options.quick,
        "versions": {
            **{name: version(name) for name in names},
            "Python": platform.python_version(),
        },
        "source": code_hash(("superinfer", "sim", "traces"))[:12],
        "profile": PROFILE,
    }


def _earlier(out: Path) -> dict[str, Any]:
    """The parts of an earlier summary in the folder, if it has the form of this version."""
    if not (out / "summary.json").is_file():
        return {}
    summary = json.loads((out / "summary.json").read_text())
    parts: dict[str, Any] = summary["parts"] if summary["version"] == VERSION else {}
    return parts


def _write(out: Path, parts: dict[str, Any], made_by: dict[str, Any]) -> None:
    """The files of the result, from what is known so far."""
    stale = [name for name, part in parts.items() if part["made_by"] != made_by]
    summary = {
        "version": VERSION,
        "kind": "simulated",
        "made_by": made_by | {"stale": stale},
        "parts": parts,
    }
    text = summary_json(summary)
    for name, content in (("summary.json", text + "\n"), ("results.md", page(json.loads(text)))):
        with replacing(out / name) as staged:
            staged.write_text(content, encoding="utf-8")
    write_pictures(json.loads(text), out)


if __name__ == "__main__":
    raise SystemExit(main())
