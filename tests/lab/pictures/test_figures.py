"""Pictures: every one is drawn, also of runs with nothing to show, and no text is cut off."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from copy import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from pages import kept, plain
from records import Job, build, large_record, wave

import superinfer.lab
from superinfer.errors import ConfigError, InputError
from superinfer.lab.notebooks import api
from superinfer.lab.pictures import figures
from superinfer.lab.pictures.data import PlotData
from superinfer.lab.pictures.figures import (
    attainment_figure,
    compare_figure,
    latency_figure,
    queue_and_kv_figure,
    rotations_figure,
    write_compare_plot,
    write_plots,
    write_requests_plot,
)
from superinfer.lab.pictures.parts import dumbbells, share_bars
from superinfer.lab.results import Run, load_run, write_run
from superinfer.metrics import RunMetrics
from superinfer.records.run import RunRecord
from superinfer.request import DEFAULT_CLASS, SLO

PICTURES = ["latency_cdf.png", "slo_attainment.png", "queue_and_kv.png"]
ROTATIONS = "rotations.png"
PNG = b"\x89PNG\r\n\x1a\n"


def data(record: RunRecord, name: str = "run") -> Run:
    return kept(record, name=name)


@pytest.fixture(scope="module")
def usual() -> Run:
    return data(large_record(requests=300, steps=4000, mean_tokens=40))


def changed(run: Run, **fields: Any) -> Run:
    made = copy(run)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def with_timeline(run: Run, **columns: Any) -> Run:
    """The run with other columns in its timeline; None leaves one out."""
    table = {**run.columns("timeline"), **columns}
    timeline = {name: column for name, column in table.items() if column is not None}
    return changed(run, _stored={**run._stored, "timeline": timeline})


def rejected(slo: SLO = DEFAULT_CLASS.slo) -> RunRecord:
    return build([Job(0, 10, 0, finish_s=0, state="rejected", slo=slo)] * 3, [])


def texts(figure: Figure) -> list[str]:
    """All text; fails if something drawn lies outside the picture."""
    FigureCanvasAgg(figure).draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0) > -0.01
    assert max(drawn.x1 - width, drawn.y1 - height) < 0.01
    return [item.get_text() for item in figure.findobj(Text) if item.get_visible()]


@pytest.mark.parametrize(
    "draw", [latency_figure, attainment_figure, queue_and_kv_figure, rotations_figure]
)
def test_the_folder_of_a_run_is_as_good_as_the_run(
    draw: Callable[[Any], Figure], tmp_path: Path
) -> None:
    folder = plain(tmp_path / "run", large_record(requests=60, steps=2000, mean_tokens=20))
    shown = texts(draw(load_run(folder)))
    assert texts(draw(folder)) == texts(draw(str(folder))) == shown
    with pytest.raises(ConfigError, match=r"^expected a run, or the path of its folder, got int$"):
        draw(3)


def test_latency_names_classes_units_and_targets(usual: Run) -> None:
    figure = latency_figure(usual)
    shown = texts(figure)
    assert {"chat", "batch", "code", "ms", "share of tokens"} <= set(shown)
    assert "target (TPOT for tokens)" in shown
    assert "run: latency" in shown
    targets = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert {500.0, 1000.0} <= {float(x) for x in targets}


def test_latency_axis_is_logarithmic_only_where_it_spans_decades() -> None:
    def scale(first: float) -> str:
        jobs = [Job(0, 10, 1, t, t) for t in (first, 1.0)]
        return latency_figure(data(build(jobs, []))).axes[0].get_xscale()

    assert scale(0.5) == "linear"
    assert scale(0.001) == "log"


def test_cdf_of_a_stored_run_reaches_one(usual: Run) -> None:
    for axes in latency_figure(usual).axes:
        curves = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
        assert len(curves) == 3
        assert all(max(line.get_ydata()) == pytest.approx(1.0) for line in curves)


def test_classes_differ_without_colour(usual: Run) -> None:
    curves = [line for line in latency_figure(usual).axes[0].lines if len(line.get_xdata()) > 2]
    assert len({str(line.get_linestyle()) for line in curves}) == 3


def test_attainment_bars(usual: Run) -> None:
    figure = attainment_figure(usual)
    shown = texts(figure)
    assert {"all", "chat", "batch", "code", "all targets", "TTFT", "TPOT", "none"} <= set(shown)
    assert len({bar.get_hatch() for bar in figure.axes[0].patches}) == 4


def test_a_class_without_targets_is_marked_once() -> None:
    jobs = [Job(0, 10, 2, 1, 2, group=name, slo=slo) for name, slo in (("a", SLO(1)), ("b", SLO()))]
    shown = texts(attainment_figure(data(build(jobs, []))))
    assert shown.count("no targets") == 1
    assert "none" not in shown


def test_memory_that_nothing_is_kept_in_has_no_place_in_the_legend(usual: Run) -> None:
    zero = dict.fromkeys(("cached_blocks", "host_blocks"), np.zeros(2000, np.int64))
    bare = with_timeline(usual, **zero)
    assert not {"kept for reuse", "host"} & set(texts(queue_and_kv_figure(bare)))


def test_queue_and_memory(usual: Run) -> None:
    figure = queue_and_kv_figure(usual)
    shown = set(texts(figure))
    assert {"waiting", "running", "in use", "kept for reuse", "host", "device capacity"} <= shown
    assert {"requests", "KV memory (GiB)", "time (s)"} <= shown
    assert figure.axes[1].lines[-1].get_ydata()[0] == pytest.approx(100 / 16)


@pytest.mark.parametrize(
    "record",
    [
        build([], []),
        rejected(),
        rejected(SLO(ttft_s=1)),
        build([Job(0, 10, 1, 0, 0, scheduled_s=0)], [], timeline=wave(1)),
    ],
    ids=["empty", "rejected", "rejected-with-slo", "one-at-zero"],
)
def test_nothing_to_show_does_not_crash(record: RunRecord, tmp_path: Path) -> None:
    paths = write_plots(data(record, name=""), tmp_path)
    judged = data(record).summary["slo_attainment"] is not None
    left_out = set() if judged else {"slo_attainment.png"}
    assert [path.name for path in paths] == [name for name in PICTURES if name not in left_out]
    for draw in (latency_figure, attainment_figure, queue_and_kv_figure):
        texts(draw(data(record)))


def test_pictures_say_what_is_missing() -> None:
    empty = data(rejected())
    assert "no request has a service-level objective" in texts(attainment_figure(empty))
    assert "no samples of the replica's state" in texts(queue_and_kv_figure(empty))
    assert texts(latency_figure(empty)).count("no values") == 3


def test_many_classes_with_long_names_stay_readable() -> None:
    jobs = [
        Job(
            0,
            10,
            1,
            1 + i,
            1 + i,
            group=f"a-rather-long-name-of-a-class-{i}",
            slo=SLO(ttft_s=1 + i),
        )
        for i in range(9)
    ]
    many = data(build(jobs, []), name="conversation-" * 9)
    assert "(3 smaller classes not shown)" in texts(latency_figure(many))
    texts(attainment_figure(many))


def test_the_same_run_gives_the_same_pictures(tmp_path: Path) -> None:
    folder = plain(tmp_path / "run", large_record(requests=60, steps=2000, mean_tokens=20))
    stored = write_plots(folder, folder)
    again = write_plots(load_run(folder), tmp_path / "new")
    for one, other in zip(stored, again, strict=True):
        assert one.read_bytes().startswith(PNG)
        assert one.read_bytes() == other.read_bytes()
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted([*PICTURES, ROTATIONS])


def test_pictures_are_those_of_the_public_functions(
    usual: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    names = {name: getattr(superinfer.lab, name) for name in superinfer.lab.__all__}
    public = {name: plot for name, plot in names.items() if plot.__module__ == api.__name__}
    for name, plot in public.items():

        def counted(*given: Any, _name: str = name, _plot: Any = plot, **more: Any) -> Any:
            called.append(_name)
            return _plot(*given, **more)

        monkeypatch.setattr(figures, name, counted)
    write_plots(usual, tmp_path)
    write_compare_plot({"a": [usual], "b": [usual]}, tmp_path / "c.png")
    (tmp_path / "timeline.json").write_text('{"traceEvents": []}')
    write_requests_plot(tmp_path / "timeline.json")
    assert set(called) == set(public)
    assert {"plot_kv", "compare_runs"} < set(public)


def test_a_stored_run_is_named_by_what_was_run(tmp_path: Path) -> None:
    metrics = RunMetrics(build([Job(0, 9, 1, 1, 1)], []))
    settings = {"run": {"run": {"trace": "a/day.jsonl", "scheduler": "fcfs"}}}
    folder = write_run(tmp_path / "key", metrics, metrics.summary(settings), {})
    assert PlotData.of_run(load_run(folder)).name == "fcfs on day.jsonl"


def test_a_folder_without_tables_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(InputError, match=r"requests\.parquet"):
        write_plots(tmp_path, tmp_path)


def test_compare(usual: Run, tmp_path: Path) -> None:
    none = data(rejected())
    runs = {"vllm": [usual], "rotating with a name that goes on and on": [none]}
    figure = compare_figure(runs)
    shown = texts(figure)
    assert {"vllm", "all targets", "Time to first token", "median", "p99", "no targets"} <= set(
        shown
    )
    assert "rotating with a name that goe..." in shown
    (ttft,) = [axes for axes in figure.axes if axes.get_title() == "Time to first token"]
    drawn = {line.get_label(): float(line.get_xdata()[0]) for line in ttft.lines}
    summary = usual.summary
    assert drawn == {"median": summary["median_ttft_ms"], "p99": summary["p99_ttft_ms"]}
    assert write_compare_plot(runs, tmp_path / "c.png").read_bytes().startswith(PNG)


def test_seeds_are_drawn_as_their_mean(usual: Run) -> None:
    other = changed(usual, summary={**usual.summary, "slo_attainment": 0.0, "median_ttft_ms": 0.0})
    figure = compare_figure({"a": [usual, other], "b": [usual, usual]})
    bars = [bar.get_height() for bar in figure.axes[0].patches]  # type: ignore[attr-defined]
    whole = usual.summary["slo_attainment"]
    assert bars[:2] == [pytest.approx(whole / 2), pytest.approx(whole)]
    median = usual.summary["median_ttft_ms"]
    assert figure.axes[1].lines[0].get_xdata() == pytest.approx([median / 2, median])


@pytest.mark.parametrize("count", [1, 8])
def test_compare_of_runs_without_numbers(count: int) -> None:
    none = data(rejected())
    said = texts(compare_figure({f"run{i}": [none] for i in range(count)}))
    assert "no request has a service-level objective" not in said
    assert said.count("no values") == 3


def test_no_window_and_no_shared_state() -> None:
    program = (
        "import sys, superinfer.lab.pictures.figures as p\n"
        "p.compare_figure\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_zero_latency_on_a_logarithmic_axis() -> None:
    jobs = [Job(0, 10, 1, t, t) for t in (0.0, 0.001, 9.0)]
    figure = latency_figure(data(build(jobs, [])))
    low = figure.axes[0].lines[0].get_xdata()[0]
    assert low == pytest.approx(1.0)


@pytest.mark.parametrize(
    "name", ["$\\frac{1}{$", "_hidden", "\u65e5\u672c", "a\nb\x07", "\u202eright"]
)
def test_names_are_drawn_letter_by_letter(name: str, tmp_path: Path) -> None:
    jobs = [Job(0, 10, 1, 1 + i, 1 + i, group=name, slo=SLO(ttft_s=1.5)) for i in range(3)]
    odd = data(build(jobs, []), name=name)
    write_plots(odd, tmp_path)  # a glyph that the font lacks is no warning, and no formula fails
    seen = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    labels = [text.get_text() for legend in latency_figure(odd).legends for text in legend.texts]
    assert seen in [shown.replace(r"\$", "$").strip() for shown in labels]


def test_curves_have_few_points_and_keep_their_ends() -> None:
    random = np.random.default_rng(0)
    times = np.sort(random.gamma(2, 1, 5000)).tolist()
    many = data(build([Job(0, 10, 1, t, t) for t in times], []))
    values, share = PlotData.of_run(many).latency_curve("chat", "ttft")
    assert 500 < values.size <= 1000
    assert (values[0], values[-1]) == (
        pytest.approx(times[0] * 1e3),
        pytest.approx(times[-1] * 1e3),
    )
    exact = np.searchsorted(times, values / 1e3 + 1e-9, side="right") / 5000
    assert share == pytest.approx(exact)


def test_a_measured_window_is_shaded_and_limits_the_curves(usual: Run) -> None:
    summary = {**usual.summary, "load": {"window_s": [10.0, 30.0]}}
    windowed = changed(usual, summary=summary)
    arrived = usual.columns("requests")["arrival_s"]
    inside = np.count_nonzero((arrived >= 10) & (arrived < 30))
    assert 0 < PlotData.of_run(windowed).measured().sum() == inside < arrived.size
    axes = queue_and_kv_figure(windowed).axes
    shades = [[p for p in panel.patches if p.get_label() == "measured window"] for panel in axes]
    assert [shade[0].get_x() for shade in shades] == [10.0, 10.0]
    assert [shade[0].get_width() for shade in shades] == [20.0, 20.0]


def test_rotations_and_copies(usual: Run) -> None:
    figure = rotations_figure(usual)
    shown = set(texts(figure))
    assert {"rotations per s", "copies (GB/s)", "host to device (up)"} <= shown
    timeline, (above, below) = usual.columns("timeline"), figure.axes
    up, down = (patch.get_data() for patch in below.patches[:2])  # type: ignore[attr-defined]
    (rotations,) = (patch.get_data() for patch in above.patches)  # type: ignore[attr-defined]
    for drawn, column, factor in (
        (up, "h2d_bytes", 1e9),
        (down, "d2h_bytes", -1e9),
        (rotations, "rotations", 1),
    ):
        whole = np.sum(drawn.values * np.diff(drawn.edges)) * factor
        assert whole == pytest.approx(timeline[column][-1])
    assert not below.get_yticklabels()[0].get_text().startswith(("-", "\N{MINUS SIGN}"))


def test_copies_in_one_direction_alone_draw_without_a_warning(usual: Run) -> None:
    nothing = np.zeros(2000, np.int64)
    axes = rotations_figure(with_timeline(usual, h2d_bytes=nothing)).axes[1]
    low, high = axes.get_ylim()
    assert axes.get_ylabel() == "copies (GB/s)" and low == -high < 0


def test_copies_without_rotations_say_so(usual: Run) -> None:
    nothing = rotations_figure(with_timeline(usual, rotations=np.zeros(2000, np.int64)))
    assert "none" in texts(nothing) and list(nothing.axes[0].get_yticks()) == [0]
    assert "none" not in texts(rotations_figure(usual))


@pytest.mark.parametrize(
    ("count", "shown"), [(2, "my_policies:ShortestPrompt"), (5, "my_policies:S...")]
)
def test_long_names_of_few_groups_stay_whole(count: int, shown: str) -> None:
    axes = Figure().subplots()
    groups = ["my_policies:ShortestPrompt", *map(str, range(count - 1))]
    share_bars(axes, groups, {"all": ([0.5] * count, "C0", "")})
    assert axes.get_xticklabels()[0].get_text() == shown


@pytest.mark.parametrize("without", [None, np.zeros(2000, np.int64)], ids=["older", "nothing"])
def test_no_picture_of_copies_without_any(usual: Run, without: Any, tmp_path: Path) -> None:
    """Runs of an earlier version do not have the columns."""
    names = ("rotations", "h2d_bytes", "d2h_bytes")
    bare = with_timeline(usual, **dict.fromkeys(names, without))
    assert [path.name for path in write_plots(bare, tmp_path)] == PICTURES
    texts(rotations_figure(bare))


def test_names_of_targets_stand_where_the_curves_are_not() -> None:
    def height(target_s: float) -> float:
        jobs = [Job(0, 10, 1, t, t, slo=SLO(ttft_s=target_s)) for t in (1.0, 1.1, 1.2)]
        axes = latency_figure(data(build(jobs, []))).axes[0]
        (name,) = [text for text in axes.texts if text.get_text() == "chat"]
        return float(name.xy[1])  # type: ignore[attr-defined]

    assert height(0.5) > 0.5
    assert height(2.0) < 0.5


@pytest.mark.parametrize("most", [40.0, 2e3, 9e4, 9e5, 2.4e6])
def test_numbers_of_a_logarithmic_axis_stand_apart(most: float) -> None:
    """In a panel as wide as those of a comparison, whatever the decades."""
    for least in (most / 30, most / 200, most / 4000):
        figure = Figure(figsize=(4.0, 3.0), layout="constrained")
        axes = figure.subplots()
        dumbbells(axes, "", {"a": (least, most / 2), "b": (least * 2, most)})
        figure.draw_without_rendering()
        low, high = sorted(axes.get_xlim())
        ticks = axes.xaxis.get_major_ticks()
        shown = [tick.label1 for tick in ticks if low <= tick.get_loc() <= high]
        ends = [label.get_window_extent() for label in shown if label.get_text()]
        assert len(ends) >= 2
        for left, right in pairwise(sorted(ends, key=lambda box: float(box.x0))):
            assert left.x1 < right.x0, [label.get_text() for label in shown]
