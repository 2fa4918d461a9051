"""Panels over the time of a run: queues, KV memory, rotations and copies, of one run or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from superinfer.lab.pictures.data import PlotData
from superinfer.lab.pictures.parts import BLUE, GREY, ORANGE, RED, SKY, label, line_look

_GIB = 2.0**30
_GB = 1e9


def queue_panel(axes: Axes, data: PlotData) -> None:
    """Requests waiting and running over time."""
    t = data.timeline["t_s"]
    waiting = data.timeline["waiting"]
    axes.fill_between(t, 0, waiting, color=ORANGE, alpha=0.7, lw=0, label="waiting")
    axes.plot(t, data.timeline["running"], color=BLUE, lw=1.2, label="running")
    axes.set_ylabel("requests")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    time_axis(axes, [data])


def kv_panel(axes: Axes, data: PlotData) -> None:
    """KV memory over time: in use below kept for reuse; host memory and the capacity as lines."""
    t, gib = data.timeline["t_s"], data.sizes.get("block_bytes", 0) / _GIB
    held = data.timeline["referenced_blocks"] * gib
    with_cache = held + data.timeline["cached_blocks"] * gib
    axes.fill_between(t, 0, held, color=BLUE, alpha=0.75, lw=0, label="in use")
    if data.timeline["cached_blocks"].any():
        axes.fill_between(
            t, held, with_cache, facecolor=SKY, alpha=0.5, hatch="///", edgecolor="white", lw=0,
            label="kept for reuse",
        )  # fmt: skip
    host = data.timeline["host_blocks"]
    if host.any():
        # The wider line below keeps it visible on top of the areas, also without colours.
        axes.plot(t, host * gib, color="white", lw=3.0)
        axes.plot(t, host * gib, color=RED, lw=1.3, label="host")
    _capacity_lines(axes, [data])
    axes.set_ylabel("KV memory (GiB)")
    time_axis(axes, [data])


def load_lines(axes: Axes, runs: Mapping[str, PlotData], column: str) -> None:
    """One column of several runs' timelines, blocks as GiB, one line per run."""
    is_memory = column.endswith("_blocks")
    for number, (name, data) in enumerate(runs.items()):
        factor = data.sizes.get("block_bytes", 0) / _GIB if is_memory else 1
        values = data.timeline[column] * factor
        look = line_look(number)
        axes.plot(data.timeline["t_s"], values, lw=1.3, label=label(name), **look)  # type: ignore[arg-type]
    if is_memory:
        _capacity_lines(axes, list(runs.values()))
    axes.set_ylabel("KV memory (GiB)" if is_memory else f"requests {column}")
    time_axis(axes, list(runs.values()))


def rotations_panel(axes: Axes, data: PlotData) -> None:
    """Copies of caches to the host per second, over time."""
    edges, per_s = data.rate("rotations")
    axes.stairs(per_s, edges, fill=True, color=BLUE, alpha=0.75)
    axes.set_ylabel("rotations per s")
    time_axis(axes, [data])
    if not per_s.any():
        axes.set_yticks([0])
        axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes, color=GREY)


def copies_panel(axes: Axes, data: PlotData) -> None:
    """Bytes per second over one GPU's link: to the device upwards, to the host downwards."""
    edges, to_device = data.rate("h2d_bytes")
    _, to_host = data.rate("d2h_bytes")
    up, down = to_device / _GB, to_host / _GB
    axes.stairs(up, edges, fill=True, color=BLUE, alpha=0.75, label="host to device (up)")
    axes.stairs(
        -down, edges, fill=True, facecolor=ORANGE, hatch="///", edgecolor="white", lw=0,
        label="device to host (down)",
    )  # fmt: skip
    axes.axhline(0, color="black", lw=0.8)
    axes.set_ylabel("copies (GB/s)")
    time_axis(axes, [data])
    most = 1.08 * max(float(up.max()), float(down.max())) or 1.0
    axes.set_ylim(-most, most)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{abs(y):g}"))


def rate_lines(axes: Axes, runs: Mapping[str, PlotData], columns: Sequence[str]) -> None:
    """Growth per second of cumulative columns, added up, one line per run; bytes as GB."""
    is_bytes = columns[0].endswith("_bytes")
    for number, (name, data) in enumerate(runs.items()):
        rates = [data.rate(column) for column in columns]
        summed = sum(per_s for _, per_s in rates) / (_GB if is_bytes else 1)
        look = line_look(number)
        axes.stairs(summed, rates[0][0], baseline=None, lw=1.3, label=label(name), **look)  # type: ignore[arg-type]
    axes.set_ylabel("copies, both ways (GB/s)" if is_bytes else "rotations per s")
    time_axis(axes, list(runs.values()))


def time_axis(axes: Axes, runs: Sequence[PlotData]) -> None:
    """Seconds of the run from the first to the last sample; a measured window is shaded."""
    times = [data.timeline["t_s"] for data in runs if data.timeline["t_s"].size]
    first = min((float(t[0]) for t in times), default=0.0)
    last = max((float(t[-1]) for t in times), default=0.0)
    axes.set_xlim(first, last if last > first else first + 1.0)
    if axes.get_ylim()[1] > 0:  # not where all that is drawn points downwards
        axes.set_ylim(bottom=0)
    axes.set_xlabel("time (s)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axes.grid(alpha=0.3)
    windows = {(data.window.start_s, data.window.end_s) for data in runs if data.window}
    for window_s in sorted(windows):
        axes.axvspan(*window_s, color=GREY, alpha=0.15, lw=0, zorder=0, label="measured window")


def _capacity_lines(axes: Axes, runs: Sequence[PlotData]) -> None:
    """A line at each different capacity; another block size changes the last digits only."""
    sizes = [data.sizes for data in runs]
    found = {s.get("total_blocks", 0) * s.get("block_bytes", 0) / _GIB for s in sizes}
    different = sorted({float(f"{capacity:.3g}") for capacity in found if capacity})
    for number, capacity in enumerate(different):
        text = "_" if number else "device capacity"
        axes.axhline(capacity, color="black", ls=":", lw=1.3, label=text)
