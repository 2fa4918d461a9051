"""The pictures of a report: one panel each, small enough to stand side by side or alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from superinfer.lab.pictures.canvas import legend_below
from superinfer.lab.pictures.data import LATENCIES, PlotData
from superinfer.lab.pictures.latency_curves import latency_curves
from superinfer.lab.report.html import Html, figure
from superinfer.lab.report.svg import inline_svg
from superinfer.lab.report.values import COMPARE_ROWS, number, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Runs = Mapping[str, PlotData]

_SMALL = (4.6, 3.5)
_WIDE = (9.2, 3.0)
_LEFT_IN = 0.9
"""Room for the numbers and words of a vertical axis over time, in inches."""
_MOST_NAME = 20


def attainment(data: PlotData) -> Html:
    """Attainment by class and kind of target, as bars with numbers."""
    from superinfer.lab.pictures import parts

    groups = data.attainment_groups()
    drawn, axes = _panel((max(4.6, 1.5 * len(groups) + 1), 3.4))
    parts.share_bars(axes, list(groups), parts.attainment_bars(groups))
    legend_below(drawn, axes, columns=4)
    shares = {name: group.get("slo_attainment") for name, group in groups.items()}
    words = ", ".join(f"{name} {shown('attainment', share)}" for name, share in shares.items())
    title = "SLO attainment by class"
    about = f"Bars from 0 to 100 %. Requests that met all their targets: {words}."
    return figure(
        inline_svg(drawn, "attainment", title, about), f"{title}, and by single target.", wide=True
    )


def latency(data: PlotData, key: str) -> Html:
    """The distribution of `ttft`, `itl` or `e2el`, a line per class, targets as dotted lines."""
    from superinfer.lab.pictures import parts

    drawn, axes = _panel(_SMALL)
    parts.latency_panel(axes, latency_curves({data.name: data}, key))
    _line_legend(drawn, data.classes())
    title, of, _ = LATENCIES[key]
    groups = data.summary.get("classes") or {}
    quantiles = [
        f"{name}: median {number(group.get(f'median_{key}_ms'))} ms, "
        f"p99 {number(group.get(f'p99_{key}_ms'))} ms"
        for name, group in groups.items()
        if name in data.classes()
    ]
    about = f"Cumulative {of} by latency in ms, one line per class. {'; '.join(quantiles)}."
    return figure(inline_svg(drawn, f"cdf-{key}", title, about), _cdf_caption(data, title, of, key))


def load(data: PlotData) -> list[Html]:
    """Waiting and running requests, and KV memory by use, over time."""
    from superinfer.lab.pictures import over_time

    t = data.timeline["t_s"]
    span = f"from {number(float(t[0]))} to {number(float(t[-1]))} s"
    found = []
    for name, title, draw, columns in (
        ("queue", "Requests waiting and running", over_time.queue_panel, ("waiting", "running")),
        ("kv", "KV memory by use", over_time.kv_panel, ("referenced_blocks", "host_blocks")),
    ):
        peaks = [f"{each.replace('_', ' ')} {data.timeline[each].max():,}" for each in columns]
        about = f"{title} over time {span}. Peaks of the samples: {', '.join(peaks)}."
        found.append(_over_time(name, title, about, partial(draw, data=data), columns=5))
    return found


def traffic(data: PlotData) -> list[Html]:
    """Rotations, and bytes on each direction of the link, over time; nothing if there were none."""
    from superinfer.lab.pictures import over_time

    if not data.moved():
        return []
    found = []
    for name, title, draw, columns in (
        ("rotations", "Rotations per second", over_time.rotations_panel, ("rotations",)),
        ("copies", "Copies over the link", over_time.copies_panel, ("h2d_bytes", "d2h_bytes")),
    ):
        last = {each: shown(each, data.timeline[each][-1]) for each in columns}
        sums = ", ".join(f"{COMPARE_ROWS[each]} {text}" for each, text in last.items())
        about = f"{title} over time, means of equal intervals. Sums: {sums}."
        draw_run = partial(draw, data=data)
        found.append(_over_time(name, title, about, draw_run, 3, ", means of equal intervals"))
    return found


def compared_attainment(
    runs: Sequence[str], classes: Sequence[str], share: Callable[[str, str], float | None]
) -> Html:
    """SLO attainment by class, a bar per run; `share` gives it by run and metric."""
    from superinfer.lab.pictures import parts

    groups = {"all": "slo_attainment"}
    if len(classes) > 1:
        groups |= {name: f"classes.{name}.slo_attainment" for name in classes}
    bars: dict[str, parts.Bars] = {}
    for i, name in enumerate(runs):
        shares = [share(name, metric) for metric in groups.values()]
        bars[parts.label(name, _MOST_NAME)] = (shares, *parts.bar_look(i))
    drawn, axes = _panel((max(4.6, 0.5 * len(groups) * len(runs) + 1.5), 3.4))
    parts.share_bars(axes, list(groups), bars)
    legend_below(drawn, axes, columns=4)
    over_all = [f"{name} {shown('attainment', share(name, 'slo_attainment'))}" for name in runs]
    title = "SLO attainment by class and run"
    about = f"Bars from 0 to 100 %. Over all classes: {', '.join(over_all)}."
    return figure(inline_svg(drawn, "attainment", title, about), f"{title}.", wide=True)


def compared_latency(runs: Runs, slo_class: str, key: str, name: str) -> Html:
    """The distribution of a latency in one class, a line per run; `name` is that of the picture."""
    from superinfer.lab.pictures import parts

    title, of, kind = LATENCIES[key]
    curves = {run: data.latency_curve(slo_class, key) for run, data in runs.items()}
    target = next(iter(runs.values())).target_ms(slo_class, kind)
    drawn, axes = _panel(_SMALL)
    parts.cdf_panel(axes, title, curves, {"target": target} if target else {})
    axes.set_ylabel(of)
    _line_legend(drawn, list(runs))
    found = {
        run: (data.summary.get("classes") or {}).get(slo_class, {}) for run, data in runs.items()
    }
    p99 = [f"{run} {number(group.get(f'p99_{key}_ms'))} ms" for run, group in found.items()]
    about = f"Cumulative {of} of class {slo_class}, one line per run. p99: {', '.join(p99)}."
    svg = inline_svg(drawn, name, f"{title}, class {slo_class}", about)
    return figure(svg, f"{title}, {slo_class}.")


def compared_load(runs: Runs) -> list[Html]:
    """Waiting requests and KV memory in use over time, a line per run."""
    from superinfer.lab.pictures import over_time

    found = []
    for name, column, title in (
        ("queue", "waiting", "Requests waiting"),
        ("kv", "referenced_blocks", "KV memory in use"),
    ):
        peaks = [f"{run} {data.timeline[column].max(initial=0):,}" for run, data in runs.items()]
        about = f"{title} over time, one line per run. Peaks of the samples: {', '.join(peaks)}."
        draw = partial(over_time.load_lines, runs=runs, column=column)
        found.append(_over_time(name, title, about, draw, columns=4))
    return found


def _panel(size: tuple[float, float], left: float = 0.0) -> tuple[Figure, Axes]:
    """A figure and its axes; `left`: share of the width that they leave free."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    drawn = Figure(figsize=size, layout=ConstrainedLayoutEngine(rect=(left, 0.0, 1.0 - left, 1.0)))
    return drawn, drawn.subplots()


def _over_time(
    name: str,
    title: str,
    about: str,
    draw: Callable[[Axes], None],
    columns: int,
    caption: str = "",
) -> Html:
    """A panel over time with so many columns in its legend. Its axis begins where those of the
    others do, however wide their numbers are, so that one moment is at one place in all of them.
    """
    drawn, axes = _panel(_WIDE, _LEFT_IN / _WIDE[0])
    axes.yaxis.set_in_layout(False)
    draw(axes)
    legend_below(drawn, axes, columns=columns)
    return figure(inline_svg(drawn, name, title, about), f"{title}{caption}.", wide=True)


def _line_legend(drawn: Figure, names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    from superinfer.lab.pictures.parts import label, line_look

    lines = [
        Line2D([], [], label=label(name, _MOST_NAME), **line_look(i))  # type: ignore[arg-type]
        for i, name in enumerate(names)
    ]
    columns = 3 if max(map(len, names), default=0) <= 10 else 2
    drawn.legend(handles=lines, loc="outside lower center", ncols=columns, frameon=False)


def _cdf_caption(data: PlotData, title: str, of: str, key: str) -> str:
    caption = f"{title}: {of} below a latency."
    if any(data.target_ms(name, LATENCIES[key][2]) for name in data.classes()):
        caption += f" Dotted: {'TPOT targets' if key == 'itl' else 'targets'}."
    if key == "itl" and data.window:
        caption += " Over the whole run, not the measured window alone."
    hidden = len(set(data.requests["class"].tolist())) - len(data.classes())
    return f"{caption} {hidden} smaller classes are not drawn." if hidden > 0 else caption
