"""Reports as HTML: one file that needs no network, for one run or for several side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from superinfer.lab.results import Run, load_run
from superinfer.lab.studies.differences import Difference
from superinfer.outputs import replacing

REPORT_HTML = "report.html"


def write_report(source: Run | Path | str) -> Path:
    """Write `report.html` into the folder of a result, whole or not at all, and return its path.

    The same folder gives the same bytes. Raises InputError where a result file is missing or bad.
    """
    from superinfer.lab.report.run_page import run_page

    run = source if isinstance(source, Run) else load_run(source)
    return _write(run.folder / REPORT_HTML, run_page(run))


def write_pages(folder: Path) -> None:
    """Write the pictures and the report of a result folder into it."""
    from superinfer.lab.pictures.figures import write_plots

    run = load_run(folder)
    write_plots(run, folder)
    write_report(run)


def write_compare_report(
    runs: Sequence[tuple[str, Path]], path: Path, differences: Iterable[Difference] = ()
) -> Path:
    """Write the comparison of several runs of one trace, given as name and result folder.

    The first run is the reference. `differences` are what
    `superinfer.lab.studies.differences.differences` finds: they replace the values of single runs
    and bring confidence intervals with them. Raises InputError where a result file is missing or
    bad, and ConfigError for fewer than two runs, a name that comes twice, or differences of another
    run.
    """
    from superinfer.lab.report.compare_page import compare_page

    path = Path(path)
    loaded = [(name, load_run(folder)) for name, folder in runs]
    return _write(path, compare_page(loaded, path, differences))


def _write(path: Path, document: str) -> Path:
    with replacing(path) as staged:
        staged.write_text(document, encoding="utf-8", errors="replace", newline="\n")
    return path
