"""`superinfer.lab` as a notebook uses it, and the examples of its documentation."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pages import plain
from records import CLASSES, Job, build, large_record, wave

import superinfer.lab
from superinfer.errors import ConfigError, InputError
from superinfer.lab import (
    Run,
    compare_runs,
    load_run,
    plot_copies,
    plot_kv,
    plot_latency_cdf,
    plot_latency_tail,
    plot_rotations,
    plot_slo_attainment,
    plot_slo_scale,
    plot_timeline,
)

REPOSITORY = Path(__file__).resolve().parents[3]
PLOTS: list[Callable[..., Axes]] = [plot_latency_cdf, plot_slo_attainment, plot_kv, plot_timeline]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of three classes, and two more with the same names elsewhere."""
    root = tmp_path_factory.mktemp("runs")
    record = large_record(requests=300, steps=4000, mean_tokens=40)
    return [plain(root / name, record) for name in ("one/vllm", "one/fcfs", "two/vllm")]


def drawn(axes: Axes) -> set[str]:
    """Draw; every text that is shown."""
    FigureCanvasAgg(axes.figure).draw()  # type: ignore[arg-type]
    legend = axes.get_legend()
    texts = [text.get_text() for text in legend.get_texts()] if legend else []
    labels = [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    return {*texts, *labels, *ticks, *(text.get_text() for text in axes.texts)}


def curves(axes: Axes) -> list[Any]:
    return [line for line in axes.lines if line.get_drawstyle() == "steps-post"]


# -- every picture --------------------------------------------------------------------------------


@pytest.mark.parametrize("plot", PLOTS)
def test_paths_texts_runs_lists_and_mappings(
    plot: Callable[..., Axes], folders: list[Path]
) -> None:
    one = load_run(folders[0])
    for source in (folders[0], str(folders[0]), one, [one], folders, {"a": one, "b": folders[1]}):
        axes = plot(source)
        assert isinstance(axes.figure, Figure)
        assert len(drawn(axes)) > 3


@pytest.mark.parametrize("plot", PLOTS)
def test_given_axes_are_drawn_on(plot: Callable[..., Axes], folders: list[Path]) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot(folders[0], axes=left) is left
    assert plot(folders, axes=right) is right
    assert left.has_data()
    assert right.has_data()


@pytest.mark.parametrize("plot", PLOTS)
def test_what_is_no_result_folder(plot: Callable[..., Axes], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a result file here"):
        plot(tmp_path)
    with pytest.raises(ConfigError, match="expected at least one run"):
        plot([])


@pytest.mark.parametrize("plot", PLOTS)
def test_runs_with_nothing_to_show(plot: Callable[..., Axes], tmp_path: Path) -> None:
    empty = plain(tmp_path / "empty", build([], []))
    short = plain(tmp_path / "short", build([Job(0, 10, 1, 0, 0)], [], timeline=wave(1)))
    for source in (empty, short, [empty, short]):
        drawn(plot(source))


def test_folders_of_the_same_name_are_told_apart(folders: list[Path]) -> None:
    names = {"one/vllm", "one/fcfs", "two/vllm"}
    assert names <= drawn(plot_kv(folders))
    assert names <= drawn(plot_latency_cdf(folders))
    with pytest.raises(ConfigError, match="expected different runs"):
        plot_kv([folders[0], folders[0]])


@pytest.mark.parametrize(
    "plot", [*PLOTS, plot_copies, plot_latency_tail, plot_rotations, plot_slo_scale]
)
def test_every_plot_has_a_title_of_its_own(plot: Callable[..., Axes], folders: list[Path]) -> None:
    assert all(plot(runs).get_title() for runs in (folders[0], folders))


# -- latency --------------------------------------------------------------------------------------


def test_one_run_has_a_line_per_class(folders: list[Path]) -> None:
    axes = plot_latency_cdf(folders[0])
    assert {"chat", "batch", "code", "Time to first token", "ms"} <= drawn(axes)
    assert len(curves(axes)) == 3
    targets = {float(line.get_xdata()[0]) for line in axes.lines if line.get_linestyle() == ":"}
    assert targets == {500.0, 1000.0}


@pytest.mark.parametrize("metric", ["ttft", "itl", "e2el"])
@pytest.mark.parametrize("slo_class", [None, "chat"])
def test_curves_of_runs_are_the_distributions(
    metric: Any, slo_class: str | None, folders: list[Path]
) -> None:
    run = load_run(folders[0])
    axes = plot_latency_cdf(folders, metric, slo_class=slo_class)
    assert (slo_class or "all requests") in axes.get_title()
    assert len(curves(axes)) == 3
    x, share = (np.asarray(values) for values in curves(axes)[0].get_data())
    assert share[-1] == pytest.approx(1.0)
    group = run.summary["classes"][slo_class] if slo_class else run.summary
    for name, level in (("median", 0.5), ("p99", 0.99)):
        shown = float(np.interp(level, share, x))
        assert shown == pytest.approx(group[f"{name}_{metric}_ms"], rel=0.05)


def test_a_target_that_all_runs_share_is_marked(folders: list[Path]) -> None:
    axes = plot_latency_cdf(folders, slo_class="chat")
    assert [x for line in axes.lines if line.get_linestyle() == ":" for x in line.get_xdata()] == [
        1000.0,
        1000.0,
    ]


def test_a_selection_of_requests_is_drawn(folders: list[Path]) -> None:
    run = load_run(folders[0])
    run.requests = run.requests[run.requests["tenant"] == "t1"]
    wanted = run.requests.loc[run.requests["class"] == "chat", "ttft_ms"].max()
    axes = plot_latency_cdf(run, slo_class="chat")
    assert max(curves(axes)[0].get_xdata()) == pytest.approx(wanted)
    whole = plot_latency_cdf(folders[0], slo_class="chat")
    assert max(curves(whole)[0].get_xdata()) > wanted


def test_words_that_mean_nothing(folders: list[Path]) -> None:
    with pytest.raises(ConfigError, match="metric: expected one of ttft, itl, e2el, got 'ttf'"):
        plot_latency_cdf(folders, "ttf")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected a class of batch, chat, code, got 'chta'"):
        plot_latency_cdf(folders, slo_class="chta")
    with pytest.raises(ConfigError, match="expected a class of batch, chat, code, got 'chta'"):
        plot_slo_attainment(folders, slo_class="chta")
    with pytest.raises(
        ConfigError, match=r"folder \(one run of an arm with several seeds\), got list"
    ):
        plot_latency_cdf({"one": folders})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="expected a run, or the path of its folder, got int"):
        plot_latency_cdf({"one": 1})  # type: ignore[dict-item]
    for wrong in (1, [1], {"0": folders[0]}):
        with pytest.raises(ConfigError, match=r"^arm one: expected a run, .*, got (int|dict)$"):
            compare_runs({"fcfs": folders[0], "one": wrong})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="expected a run, or the path of its folder, got int"):
        compare_runs(1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="column: expected waiting or running"):
        plot_timeline(folders, "sleeping")  # type: ignore[arg-type]


def test_axes_that_are_none(folders: list[Path]) -> None:
    """A word, or all axes of a figure at once, where a picture goes on one of them."""
    both = Figure().subplots(1, 2)
    for plot in (*PLOTS, plot_latency_tail, plot_slo_scale, plot_rotations, plot_copies):
        with pytest.raises(ConfigError, match=r"^axes: expected matplotlib's Axes, got 'left'$"):
            plot(folders, axes="left")
        with pytest.raises(ConfigError, match=r"^axes: expected matplotlib's Axes, got array"):
            plot(folders, axes=both)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("load_run", "a result folder"),
        ("newest_folder", "a result folder"),
        ("load_comparison", "a comparison"),
        ("load_cache_study", "a cache study"),
        ("load_steady", "recorded pairs"),
        ("plot_requests", "a timeline.json"),
    ],
)
def test_what_is_no_path(name: str, what: str) -> None:
    for given in (3, None, ["runs/a"]):
        with pytest.raises(ConfigError) as caught:
            getattr(superinfer.lab, name)(given)
        assert str(caught.value) == f"expected the path of {what}, got {given!r}"


# -- attainment, memory, requests over time -------------------------------------------------------


def heights(axes: Axes) -> list[float]:
    return [bar.get_height() for bar in axes.patches]  # type: ignore[attr-defined]


def test_bars_are_the_attainment(folders: list[Path]) -> None:
    summary = load_run(folders[0]).summary
    axes = plot_slo_attainment(folders[0])
    assert {"all", "chat", "code", "batch", "all targets", "TTFT"} <= drawn(axes)
    assert heights(axes)[0] == summary["slo_attainment"]
    chat = plot_slo_attainment(folders, slo_class="chat")
    assert {"one/vllm", "one/fcfs"} <= drawn(chat)
    assert heights(chat)[:3] == [summary["classes"]["chat"]["slo_attainment"]] * 3
    whole = plot_slo_attainment(folders)
    assert heights(whole)[:3] == [summary["slo_attainment"]] * 3


def test_memory_and_requests_over_time(folders: list[Path]) -> None:
    timeline = load_run(folders[0]).timeline
    assert {"in use", "kept for reuse", "device capacity"} <= drawn(plot_kv(folders[0]))
    several = plot_kv(folders)
    shown = several.lines[0].get_ydata()
    gib = timeline["referenced_blocks"] * timeline.attrs["block_bytes"] / 2**30
    assert np.allclose(np.asarray(shown), gib)
    assert {"waiting", "running"} <= drawn(plot_timeline(folders[0]))
    running = plot_timeline(folders, "running")
    assert np.array_equal(np.asarray(running.lines[0].get_ydata()), timeline["running"])
    assert "requests running" in drawn(running)


# -- comparisons ----------------------------------------------------------------------------------


def seeds(root: Path, slower: float) -> list[Path]:
    made = []
    for seed in range(5):
        ttft_s = np.random.RandomState(seed).gamma(2, 0.4, 40) * slower
        jobs = [Job(i, 10, 1, i + t, i + t, slo=CLASSES[0].slo) for i, t in enumerate(ttft_s)]
        made.append(plain(root / f"{slower}-{seed}", build(jobs, [])))
    return made


def test_arms_of_seeds_give_a_frame(tmp_path: Path) -> None:
    frame = compare_runs({"a": seeds(tmp_path, 1.0), "b": seeds(tmp_path, 1.2)})
    assert isinstance(frame, pd.DataFrame)
    row = frame.set_index(["arm", "metric"]).loc[("b", "mean_ttft_ms")]
    assert row["relative"] == pytest.approx(0.2)
    assert row["low"] < row["difference"] < row["high"]
    assert (row["method"], row["contains_zero"]) == ("paired t", False)
    assert frame[["value", "difference", "low", "high"]].dtypes.eq(np.float64).all()


def test_single_runs_are_compared_by_request(folders: list[Path]) -> None:
    frame = compare_runs(folders[:2], ["p90_ttft_ms", "classes.chat.slo_attainment"], "fcfs")
    assert frame["arm"].tolist() == ["vllm", "vllm"]
    assert frame["metric"].tolist() == ["p90_ttft_ms", "classes.chat.slo_attainment"]
    assert frame["difference"].tolist() == [0, 0]
    assert set(frame["method"]) == {"block bootstrap"}


def test_a_metric_that_is_not_there(folders: list[Path]) -> None:
    with pytest.raises(ConfigError, match=r"'p99_tftt_ms'; close: p99_ttft_ms"):
        compare_runs(folders, ["p99_tftt_ms"])
    with pytest.raises(ConfigError, match="expected at least one run"):
        compare_runs([])


def test_one_run_has_nothing_to_differ_from(folders: list[Path]) -> None:
    assert compare_runs([folders[0]]).empty
    (one,) = compare_runs(folders[:2], "p99_ttft_ms").to_dict("records")
    assert one["metric"] == "p99_ttft_ms"


# -- the package ----------------------------------------------------------------------------------


def test_the_package_is_light() -> None:
    code = (
        "import sys, superinfer.lab\n"
        "heavy = {'numpy', 'pandas', 'matplotlib', 'pyarrow', 'msgspec', 'rich'}\n"
        "assert not heavy & set(sys.modules), sys.modules.keys()\n"
        "superinfer.lab.load_run\n"
        "assert 'pandas' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_every_public_name_is_there_and_documented() -> None:
    for name in superinfer.lab.__all__:
        assert getattr(superinfer.lab, name).__doc__
    assert set(superinfer.lab.__all__) <= set(dir(superinfer.lab))
    assert superinfer.lab.Run is Run
    with pytest.raises(AttributeError, match="has no attribute 'plot_nothing'"):
        _ = superinfer.lab.plot_nothing


SILENT = {"attainment_figure", "latency_figure", "queue_and_kv_figure", "rotations_figure"}
"""These raise nothing but the InputError of a folder that holds no result."""


def test_the_package_says_what_each_name_is_for() -> None:
    """Its docstring names all; methods have one too, and functions say what they raise."""
    named = set(re.findall(r"`(\w+)`", superinfer.lab.__doc__ or ""))
    assert set(superinfer.lab.__all__) - {"Run"} == named
    for name in superinfer.lab.__all__:
        found = getattr(superinfer.lab, name)
        if isinstance(found, type):
            assert all(member.__doc__ for key, member in vars(found).items() if usable(key, member))
        elif name not in SILENT and not {"axes"} & set(inspect.signature(found).parameters):
            assert re.search(r"(Config|Input)Error", found.__doc__), name


def usable(name: str, member: object) -> bool:
    """Whether it is a method or property for users."""
    kinds = (property, functools.cached_property)
    return not name.startswith("_") and (callable(member) or isinstance(member, kinds))


def blocks(language: str) -> list[str]:
    text = (REPOSITORY / "docs" / "studies.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow
def test_the_examples_of_the_documentation_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: list[Path]
) -> None:
    """All Python of `docs/studies.md` in one go, a study of a small part of the sample included."""
    monkeypatch.chdir(tmp_path)
    record = large_record(requests=300, steps=4000, mean_tokens=40)
    for name in ("vllm", "priority"):
        plain(tmp_path / "runs" / "c" / name, record)
    names: dict[str, Any] = {}
    for code in blocks("python"):
        ast.parse(code)
        exec(compile(code, "docs/studies.md", "exec"), names)
    assert isinstance(names["table"], pd.DataFrame)
    assert names["result"].exit_code == 0
    assert names["limit"].load is not None
    assert (tmp_path / "ttft.png").stat().st_size > 1000
