"""`--adopt`: what `tune` has measured to be faster on this device, set for one call.

Constants are set in this process before its parts run, and checks, which are its forks, have them;
`memcheck` starts processes of its own, which have those of the sources. There is a rule for each
variant that is prepared but off. It goes by recorded rows, and a variant that is wrong, fails
somewhere or has no rows is left off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import torch

from executor.kernels import decode_attention, linear, linear_fused, prefill_attention, widen
from executor.kernels.tiles import Tile, capability
from executor.steps import items
from experiments.gpu_check.checks import NO_TIME, Context, Part, Result, Results, run_part
from experiments.gpu_check.rows import Row, outcome
from experiments.gpu_check.tune import attention, int8, steps
from experiments.gpu_check.tune.recorded import (
    UNKNOWN,
    Checks,
    Times,
    change,
    compared,
    rows_of,
    times,
    tuned,
    well,
)
from experiments.gpu_check.variants import label

PART = "adopted"
CHIP = 90
"""The column of the tables that variants are prepared for."""
START_S = 30.0
"""For a device to say its name, at the most."""
STEPS_LESS, ONE_STEP_MORE = 0.01, 0.005
ASKED_LESS = 0.003
WIDENED_LESS, INT8_LESS, PREFILL_LESS = 0.03, 0.02, 0.01
DECODE_LESS, ONE_KV_MORE = 0.02, 0.01
"""Shares of the time that have to be saved, and that the worst may take longer."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a rule says: whether `table[key]`, `place` in the sources, becomes `value`."""

    won: bool
    change: float
    """Of the time, that decides."""
    place: str
    table: dict[int, Any]
    key: int
    value: Any
    figures: list[Row]


def adopt(context: Context, results: Results) -> None:
    """Set what was measured faster, and put down what that is and why; in `context` is the time
    that the device has to say its name.
    """
    results.data[PART] = {"checks": {}}
    run_part(PART, Part({"device": device}, context.seconds), context, results)
    here = results.checks(PART)["device"]
    checks = tuned(results, here.get("device"))
    if not checks or here.get("chip") != CHIP:
        name = here.get("device", "no GPU")
        print(f"--adopt: nothing that tune has measured fits this device ({name})", flush=True)
        return
    for name, rule in RULES.items():
        results.record(PART, name, followed(rule, checks))


def device(context: Context) -> Result:
    """Have the harness name the GPU; this process of its parent's never touches it."""
    if context.device == "cpu":
        return {}
    torch.cuda.init()
    return {"chip": capability(torch.device(context.device))}


def followed(rule: Callable[[Checks], Choice], checks: Checks) -> Result:
    """Do as a rule says; a result that tells what was done. Rows that are not as expected must not
    end a call that has a device for minutes: they adopt nothing.
    """
    try:
        choice = rule(checks)
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        return {"ok": True, "adopted": "nothing", "why": str(error) or type(error).__name__}
    told = {"adopted": "nothing", "why": "not faster by enough"}
    if choice.won:
        choice.table[choice.key] = choice.value
        place = f"{choice.place}[{choice.key}] = {choice.value}"
        told = {"adopted": place, "why": "measured faster"}
    return outcome(choice.figures, **told, change=choice.change)


# -- rules ----------------------------------------------------------------------------------------


def whole_steps(
    checks: Checks, form: str, least: float, place: str, table: dict[int, Any]
) -> Choice:
    """Whole steps of the 8B, all numbers of rows together by a share of `least`, and none of them
    slower.
    """
    rows = rows_of(checks, form)
    figures = compared(times(rows, "B", products="now"), times(rows, "B", products=form))
    if len(figures) < len(steps.ROWS):
        raise ValueError("not all numbers of rows were measured")
    less, slowest = change(figures), max(row["change"] for row in figures)
    won = less <= -least and slowest <= ONE_STEP_MORE
    return Choice(won, less, place, table, CHIP, True, figures)


def fused(checks: Checks) -> Choice:
    """Layers of few rows whose products norm, add and activate."""
    place = "linear_fused.FUSED"
    return whole_steps(checks, "fused", STEPS_LESS, place, linear_fused.FUSED)


def asked(checks: Checks) -> Choice:
    """Decode attention that asks for its first blocks before it waits."""
    place = "decode_attention.ASKED"
    return whole_steps(checks, "asked", ASKED_LESS, place, decode_attention.ASKED)


def shared(checks: Checks, tile: Tile) -> Choice:
    """Whole steps of the 8B of as many rows as the tile has; it joins those that are there."""
    rows = rows_of(checks, f"shared-{tile.rows}")
    times(rows, "n", "k", tile=str(tile))  # no product by it has failed
    figures = compared(times(rows, "B", products="now"), times(rows, "B", products="shared"))
    less, table = change(figures), linear.NARROW
    tiles = tuple(sorted({*table[CHIP], tile}, key=lambda tile: tile.rows))
    return Choice(less <= -STEPS_LESS, less, "linear.NARROW", table, CHIP, tiles, figures)


def widened(checks: Checks) -> Choice:
    """The least number of rows from which all that were measured gain, by the sum over matrices of
    the 70B alone: the model that needs int8 weights, and that the calls run with them.
    """
    least, less, gains, figures = None, 0.0, True, list[Row]()
    for count in sorted(int8.WIDEN_ROWS, reverse=True):
        if checks.get(f"widen-{count}", UNKNOWN).get("error") in NO_TIME:
            continue
        rows = rows_of(checks, f"widen-{count}")
        rows = [row for row in rows if (row["n"], row["k"]) in int8.SIZES_70B]
        piece = f"widened, {widen.PIECE_BYTES >> 20} MiB"
        now, new = (times(rows, "m", "n", "k", tile=tile) for tile in ("now", piece))
        found = compared(now, new)
        figures += found
        gains = gains and change(found) <= -WIDENED_LESS
        if gains:
            least, less = count, change(figures)
    if not figures:
        raise ValueError("not measured for any number of rows")
    won = least is not None
    less = less if won else change(figures)
    return Choice(won, less, "widen.WIDEN_FROM", widen.WIDEN_FROM, CHIP, least, figures)


def int8_tiles(checks: Checks) -> Choice:
    """Tiles of 32 rows, by the sum over all matrices of the better of both times of each; the one
    with tiles shared as a run shares them has to be less, too.
    """
    rows, table, tried = well(checks, "int8-32-"), linear.TILES[CHIP], []
    (present,) = [tile for tile in table if tile.rows == 32]
    shapes = {Tile(*shape): str(shape) for shape in int8.INT8[32]}
    for tile in [tile for tile in shapes if tile != present]:
        with suppress(ValueError):  # it fails, or is not there
            found = [
                compared(*(times(rows, "n", "k", tile=shapes[t], **kind) for t in (present, tile)))
                for kind in ({}, {"share to": linear.WARPS_PER_PROCESSOR})
            ]
            won = all(change(figures) <= -INT8_LESS for figures in found)
            tried.append((not won, change(found[0]), tile, found[0]))
    if not tried:
        raise ValueError("the present tile and another one were not both measured")
    lost, less, best, figures = min(tried, key=lambda each: each[:2])
    tiles = tuple(best if tile == present else tile for tile in table)
    return Choice(not lost, less, "linear.TILES", linear.TILES, CHIP, tiles, figures)


def prefill(checks: Checks, rows: int) -> Choice:
    """Prefill attention by tiles of so many rows: the form that saves most, chunks of all lengths
    alike.
    """
    found, table, tried = well(checks, "prefill-"), prefill_attention.TILES[CHIP], []
    forms = {prefill_form(rows, each): each for count, each in attention.PREFILL if count == rows}
    present = forms.pop(prefill_form(rows, {}))
    for form, variant in forms.items():
        with suppress(ValueError):  # it fails, or is not there
            names = [attention.prefill_name(rows, each) for each in (present, variant)]
            figures = compared(*(times(found, "chunk", "context", tile=name) for name in names))
            tried.append((mean_change(figures), dict(form), figures))
    if not tried:
        raise ValueError("the present form and another one were not both measured")
    less, best, figures = min(tried, key=lambda each: each[0])
    place = f"prefill_attention.TILES[{CHIP}]"
    return Choice(less <= -PREFILL_LESS, less, place, table, rows, best, figures)


def prefill_form(rows: int, variant: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """What the table says of tiles of so many rows, changed by a variant of `tune`."""
    return tuple({**prefill_attention.TILES[CHIP][rows], **variant}.items())


def copied(checks: Checks) -> Choice:
    """Decode attention by the form that saves most over all cases alike, and costs no precision."""
    table, tried = decode_attention.TILES, []
    now = decode_times(checks, {}, "now")
    for variant in (each for each in attention.DECODE if each.get("copied")):
        with suppress(ValueError):  # it fails, or is not there
            figures = compared(now, decode_times(checks, variant, "now"))
            tried.append((costs_one(figures), mean_change(figures), variant, figures))
    if not tried:
        raise ValueError("the present form and another one were not both measured")
    slower, less, best, figures = min(tried, key=lambda each: each[:2])
    won, value = not slower and less <= -DECODE_LESS, table[CHIP] | best
    return Choice(won, less, "decode_attention.TILES", table, CHIP, value, figures)


def waves(checks: Checks) -> Choice:
    """Rows cut into whole waves, by the form of decode attention that this call has."""
    table, present = items.WAVES, decode_attention.TILES[CHIP]
    (form,) = [each for each in attention.DECODE if present | each == present][-1:]
    figures = compared(*(decode_times(checks, form, cut) for cut in attention.CUTS))
    less = mean_change(figures)
    won = less <= -DECODE_LESS and not costs_one(figures)
    return Choice(won, less, "items.WAVES", table, CHIP, True, figures)


def decode_times(checks: Checks, form: Mapping[str, int], cut: str) -> Times:
    """Of all cases of decode attention by a form of `tune`. ValueError where one is missing."""
    return times(well(checks, "decode-"), "kv", "B", "ctx", tile=label(dict(form)), cut=cut)


def costs_one(figures: list[Row]) -> bool:
    """True if a precision takes longer."""
    by_bits = (
        [row for row in figures if str(row["case"]).startswith(f"kv={kv} ")] for kv in (16, 8, 4)
    )
    return any(mean_change(part) > ONE_KV_MORE for part in by_bits if part)


def mean_change(figures: list[Row]) -> float:
    """The geometric mean, as a share: all cases count alike."""
    return math.exp(fmean(math.log1p(row["change"]) for row in figures)) - 1


RULES: dict[str, Callable[[Checks], Choice]] = {
    "copied": copied,
    "waves": waves,
    "fused": fused,
    "asked": asked,
    **{f"shared-{tile.rows}": partial(shared, tile=tile) for tile in linear.SHARED_TILES},
    "widened": widened,
    "int8-32": int8_tiles,
    **{f"prefill-{rows}": partial(prefill, rows=rows) for rows in prefill_attention.TILES[CHIP]},
}
