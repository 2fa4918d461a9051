"""Reports for tests: result folders to make them of, and a strict reader of their HTML."""

from __future__ import annotations

import io
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from records import Job
from rich.console import Console

from superinfer.lab.pictures.data import PlotData
from superinfer.lab.results import Run, load_run, write_run
from superinfer.lab.studies.differences import Difference
from superinfer.lab.studies.intervals import Interval
from superinfer.metrics import RunMetrics, Window
from superinfer.records.run import RunRecord
from superinfer.request import SLO

RUN = {
    "simulated": True,
    "run": {"trace": "day.jsonl", "scheduler": "vllm", "model": "m-8b", "device": "a100", "tp": 2},
    "versions": {"superinfer": "9.9.9"},
}
TRUST = {
    "profile": "a100_m-8b",
    "source": "kernels of somebody",
    "extrapolated_share": 0.25,
    "family_error": 0.08,
    "host_overhead_origin": "assumed",
}
EMPTY = frozenset(("br", "meta", "link", "img", "input"))


class Page(HTMLParser):
    """What the tests need to know of a page; fails where a tag is left open or closed twice."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[key] for key in ("href", "src") if found.get(key)]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in EMPTY:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.texts).split())


def stored(folder: Path, record: RunRecord, window: Window | None = None, **run: Any) -> Path:
    metrics = RunMetrics(record, window)
    settings = {**RUN, "run": {**RUN["run"], **run}}  # type: ignore[dict-item]
    load = {"window_s": [window.start_s, window.end_s]} if window else None
    summary = metrics.summary({"run": settings, "trust": TRUST, "load": load})
    return write_run(folder, metrics, summary, {"run": settings["run"]})


def text(renderable: object, width: int = 80) -> str:
    """What rich prints of something on a terminal of so many columns."""
    shown = io.StringIO()
    Console(file=shown, width=width).print(renderable)
    return shown.getvalue()


def plain(folder: Path, record: RunRecord) -> Path:
    """A result folder that says nothing of how the run was configured."""
    metrics = RunMetrics(record)
    return write_run(folder, metrics, metrics.summary(), {})


def kept(record: RunRecord, window: Window | None = None, name: str = "run") -> Run:
    """A stored run that was read as a whole; its folder is gone."""
    metrics = RunMetrics(record, window)
    load = {"window_s": [window.start_s, window.end_s]} if window else None
    with TemporaryDirectory() as root:
        folder = write_run(Path(root) / "r", metrics, metrics.summary({"load": load}), {})
        run = load_run(folder)
        PlotData.of_run(run)
    run.folder = Path(name)
    return run


def loaded(record: RunRecord, window: Window | None = None) -> PlotData:
    return PlotData.of_run(kept(record, window))


Bounds = partial(Interval, method="paired t", size=5)


def compared(
    metric: str,
    value: float,
    reference_value: float,
    interval: Interval | None,
    arm: str = "other",
    by_seed: tuple[float, ...] = (1.0,),
) -> Difference:
    """What `superinfer.lab.studies.differences` gives, by hand."""
    return Difference(metric, arm, "", value, reference_value, interval, by_seed)


STEPS = [2.0, 3.0, 9.0, 10.0]
TTFT = SLO(ttft_s=0.5)
HURT = [
    Job(0, 10, 1, 1.0, 1.0, slo=TTFT, group="a", scheduled_s=0.5),  # x2
    Job(0, 20, 1, 4.0, 4.0, slo=TTFT, group="a", tenant="t", scheduled_s=3, preemptions=1),  # x8
    Job(0, 30, 1, 0.25, 0.25, slo=TTFT, group="a", scheduled_s=0.1),  # met
    Job(0, 40, 5, 1.0, 10.0, [(0, 4, 1.0)], slo=SLO(e2el_s=2.0), group="b", scheduled_s=1.0),  # x5
    Job(0, 50, 0, finish_s=0, state="rejected", slo=TTFT, group="a"),
    Job(1, 60, 4, 3, 6, [(0, 3, 1.0)], slo=SLO(min_tokens_per_s=4), group="d", scheduled_s=1),  # x5
    Job(0, 70, 1, 1.0, 1.0, slo=SLO(ttft_s=0.9), group="c", scheduled_s=0),
    Job(0, 70, 1, 1.0, 1.0, slo=SLO(ttft_s=0.8), group="c", scheduled_s=0),
]  # fmt: skip
