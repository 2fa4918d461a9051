"""Tails of latencies, and attainment under other targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from pages import plain
from records import CLASSES, Job, build, large_record

from superinfer.errors import ConfigError
from superinfer.lab import load_run, plot_latency_tail, plot_slo_scale
from superinfer.lab.notebooks.run_sources import plot_data_of
from superinfer.lab.pictures.tails import attainment_by_scale
from superinfer.request import SLO


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    record = large_record(requests=600, steps=6000, mean_tokens=30)
    return [plain(root / name, record) for name in ("vllm", "fcfs")]


def lines(axes: Axes) -> list[Any]:
    FigureCanvasAgg(axes.figure).draw()  # type: ignore[arg-type]
    return [line for line in axes.lines if line.get_drawstyle() == "steps-post"]


@pytest.mark.parametrize("metric", ["ttft", "e2el"])
def test_a_line_crosses_one_per_cent_at_p99(metric: str, folders: list[Path]) -> None:
    run = load_run(folders[0])
    axes = plot_latency_tail(folders, metric, slo_class="chat")
    x, above = (np.asarray(values) for values in lines(axes)[0].get_data())
    rows = run.requests[run.requests["class"] == "chat"]
    for at in (x[1], run.summary["classes"]["chat"][f"p99_{metric}_ms"]):
        shown = above[np.searchsorted(x, at, side="right") - 1]
        assert shown == pytest.approx((rows[f"{metric}_ms"] > at).mean())
    assert axes.get_yscale() == "log"
    assert "1 % (P99)" in [label.get_text() for label in axes.get_yticklabels()]


def test_one_run_has_a_tail_per_class_and_its_targets(folders: list[Path]) -> None:
    axes = plot_latency_tail(folders[0])
    assert [line.get_label() for line in lines(axes)] == ["batch", "chat", "code"]
    targets = {float(line.get_xdata()[0]) for line in axes.lines if line.get_linestyle() == ":"}
    assert targets == {500.0, 1000.0}
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()].count("target") == 1


@pytest.mark.parametrize("slo_class", [None, "chat", "code", "batch"])
def test_at_one_it_is_the_attainment(slo_class: str | None, folders: list[Path]) -> None:
    run = load_run(folders[0])
    group = run.summary["classes"][slo_class] if slo_class else run.summary
    factors, share = attainment_by_scale(plot_data_of(run), slo_class)["vllm"]
    assert (np.diff(factors) >= 0).all()
    assert (np.diff(share) >= 0).all()
    at = np.searchsorted(factors, 1 + 1e-9, side="right") - 1
    assert share[at] == pytest.approx(group["slo_attainment"])
    assert group["slo_attainment"] > 0


def test_scales_by_hand(tmp_path: Path) -> None:
    """Targets of 1 s TTFT: waits of half, once and three times it, and one that never came."""
    slo = SLO(ttft_s=1.0)
    jobs = [Job(0, 10, 1, wait, wait, slo=slo) for wait in (0.5, 1.0, 3.0)]
    jobs.append(Job(0, 10, 0, slo=slo, state="rejected"))
    jobs.append(Job(0, 10, 1, 9.0, 9.0, slo=SLO(), group="free"))
    run = plain(tmp_path / "r", build(jobs, []))
    ((factors, share),) = attainment_by_scale(plot_data_of(run)).values()
    assert factors == pytest.approx([0, 0.5, 1, 3, 10])
    assert share == pytest.approx([0, 0.25, 0.5, 0.75, 0.75])
    axes = plot_slo_scale({"a": run, "b": run})
    assert len(lines(axes)) == 2
    assert "multiple" in axes.get_xlabel()


def test_without_targets_it_says_so(tmp_path: Path) -> None:
    run = plain(tmp_path / "r", build([Job(0, 10, 1, 1.0, 1.0, slo=SLO())], []))
    axes = plot_slo_scale(run)
    assert [text.get_text() for text in axes.texts] == ["no request has a service-level objective"]
    none = plain(tmp_path / "none", build([], []))
    for plot in (plot_slo_scale, plot_latency_tail):
        lines(plot(none))


def test_a_class_that_is_not_there(folders: list[Path]) -> None:
    for plot in (plot_slo_scale, plot_latency_tail):
        with pytest.raises(ConfigError, match="expected a class of batch, chat, code, got 'chta'"):
            plot(folders, slo_class="chta")
    assert {name.name for name in CLASSES} == {"batch", "chat", "code"}
