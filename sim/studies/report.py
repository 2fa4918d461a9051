"""`superinfer-sim report`: the pages and pictures of results that are there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sim.commands import check_folder
from sim.notices.after import say_of_letters
from sim.studies.compare import compared, write_compare_pages
from superinfer.errors import ConfigError
from superinfer.lab.cli.terminal import say
from superinfer.lab.notebooks.comparison import COMPARISON, load_comparison
from superinfer.lab.notebooks.run_sources import named_runs
from superinfer.lab.report import write_pages
from superinfer.lab.results import SUMMARY, Run, default_folder, load_run


def report_command(folders: Sequence[Path], out: Path | None) -> int:
    """Draw what lies in one folder of `run` or `compare` into it, or a comparison of the runs in
    several into `out`; returns the exit code.

    Raises InputError for a folder without results, ConfigError for an `out` that is none.
    """
    if len(folders) > 1:
        return _told(_beside_each_other(folders, out))
    if out is not None:
        raise ConfigError("--out: expected two or more results to compare; one has its own folder")
    (folder,) = folders
    draw = _comparison_again if (folder / COMPARISON).exists() else _run_again
    return _told(draw(folder))


# -- inside ---------------------------------------------------------------------------------------


def _told(folder: Path) -> int:
    say(f"report in {folder}")
    return 0


def _run_again(folder: Path) -> Path:
    from superinfer.lab.pictures.figures import write_requests_plot
    from superinfer.lab.timelines.timeline import TIMELINE_JSON

    write_pages(folder)
    say_of_letters(load_run(folder).summary)
    if (folder / TIMELINE_JSON).exists():
        write_requests_plot(folder / TIMELINE_JSON)
    return folder


def _comparison_again(folder: Path) -> Path:
    arms = load_comparison(folder)
    for run in (run for each in arms.values() for run in each):
        write_pages(run.folder)
    _compare(arms, folder)
    return folder


def _beside_each_other(folders: Sequence[Path], out: Path | None) -> Path:
    arms = {name: [run] for name, run in named_runs(folders).items()}
    first = next(iter(arms.values()))[0]
    out = out or default_folder(_trace_of(first), "report")
    check_folder(out)
    if (out / SUMMARY).exists():
        raise ConfigError(f"--out: expected a folder of its own, got the result {out}")
    out.mkdir(parents=True, exist_ok=True)
    _compare(arms, out)
    return out


def _trace_of(run: Run) -> str:
    """The name of its trace, as far as its summary says."""
    settings = (run.summary.get("run") or {}).get("run") or {}
    return settings.get("trace") or ""


def _compare(arms: Mapping[str, Sequence[Run]], out: Path) -> None:
    write_compare_pages(arms, compared(arms), out)
    say_of_letters(*(run.summary for each in arms.values() for run in each), arms=arms)
