"""Variants of products and steps: wrong ones are told, tables are left as they were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch

from executor.kernels import decode_attention, linear, linear_fused, widen
from executor.kernels.ops import ops_for
from experiments.gpu_check import rows as gpu_rows
from experiments.gpu_check import small
from experiments.gpu_check.checks import Context
from experiments.gpu_check.rows import Row
from experiments.gpu_check.tune import int8, steps, wide


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """Of a CPU, for one small product."""
    monkeypatch.setattr(int8, "sizes", lambda context: ((96, 64),))
    return Context("cpu", 60.0, {"fast": True}, tmp_path)


def test_widened_products_beside_what_runs_now(context: Context) -> None:
    kept = dict(widen.WIDEN_FROM)
    found = int8.widened(context, 2048)
    assert found["ok"], found
    names = ["now", *(f"widened, {mib} MiB" for mib in int8.PIECES_MIB)]
    assert [row["tile"] for row in found["rows"]] == names
    assert all(row["us"] > 0 and row["TFLOP/s"] > 0 for row in found["rows"])
    assert context.cache["int8"] == found["rows"]
    assert kept == widen.WIDEN_FROM


def test_a_wrong_widened_product_is_told(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widen, "widen", lambda codes, scales, out: out.copy_(codes))
    found = int8.widened(context, 2048)
    assert not found["ok"] and found["error"].startswith("wrong by")
    assert "int8" not in context.cache


def test_tiles_of_products_and_the_table_as_it_was(context: Context) -> None:
    kept = linear.tile_of_product, linear.WARPS_PER_PROCESSOR
    found = int8.tile(context, 32, int8.INT8[32][-1])
    assert found["ok"] and found["rows"][0]["tile"] == "(32, 128, 64, 4, 4)"
    assert (linear.tile_of_product, linear.WARPS_PER_PROCESSOR) == kept


def test_weights_are_widened_for_a_while() -> None:
    kept, size = dict(widen.WIDEN_FROM), widen.PIECE_BYTES
    with int8.widening(64, 1 << 20):
        assert set(widen.WIDEN_FROM.values()) == {64}
        assert widen.PIECE_BYTES == 1 << 20
    assert kept == widen.WIDEN_FROM
    assert size == widen.PIECE_BYTES


def test_kernels_are_compiled_once_before(context: Context) -> None:
    """The other numbers of rows have the same ones."""
    context.rehearsal = True
    assert "skipped" in int8.widened(context, 512)


def test_a_rehearsal_copies_no_gigabytes(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen processes rehearse at once, and what they compile needs their memory."""
    asked: list[float] = []

    def copied(device: torch.device, budget_s: float) -> float:
        asked.append(budget_s)
        return 1e9

    monkeypatch.setattr(gpu_rows, "copy_bandwidth", copied)
    context.rehearsal = True
    assert gpu_rows.streamed(context, 1e6, 1e-3)["GB/s"] == 1.0
    assert not asked
    context.rehearsal = False
    assert gpu_rows.streamed(context, 1e6, 1e-3)["share"] == 1.0
    assert len(asked) == 1


def test_all_outputs_are_checked_some_at_a_time(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 96 outputs also those in the last, shorter part."""
    monkeypatch.setattr(int8, "CHECKED_OUTS", 40)
    x, (weight, *_), scales = int8.drawn(context, 5, 96, 64)
    assert int8.error(context, x, weight, scales) < 1e-2
    product = ops_for(torch.device("cpu")).linear_int8

    class Wrong:
        def linear_int8(self, *given: torch.Tensor) -> torch.Tensor:
            found = product(*given)
            found[:, -1] += found.abs().max()
            return found

    monkeypatch.setattr(int8, "ops_of", lambda context: Wrong())
    assert int8.error(context, x, weight, scales) > 2e-2


@pytest.mark.slow
def test_shared_tiles_beside_the_library(context: Context) -> None:
    kept = dict(linear.NARROW)
    found = wide.shared(context, 64)
    assert found["ok"], found
    products = [row for row in found["rows"] if "tile" in row]
    assert len(products) == 1 + len(wide.TILES[64]) and products[0]["tile"] == "library"
    assert [row["products"] for row in found["rows"] if "products" in row] == ["now", "shared"]
    assert all(row["us"] > 0 for row in found["rows"])
    assert kept == linear.NARROW


def test_a_wrong_shared_product_is_told(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    product = linear._product
    monkeypatch.setattr(linear, "_product", lambda *given, **more: 2 * product(*given, **more))
    found = wide.shared(context, 64)
    assert not found["ok"] and found["error"].startswith("wrong by")
    assert "wide" not in context.cache


# -- fused steps ----------------------------------------------------------------------------------


def test_each_process_reads_a_model_of_its_own(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They rehearse side by side."""
    read: list[str] = []
    monkeypatch.setattr(steps, "load_model", lambda path, **_more: read.append(path))
    context.device = "cuda"
    for process in (7, 8):
        monkeypatch.setattr(small.os, "getpid", lambda process=process: process)
        steps.layers_of_8b(context)
    assert len({*read}) == 2 and all(Path(path).is_file() for path in read)


@pytest.mark.slow
def test_fused_steps_beside_those_of_now(context: Context) -> None:
    kept = dict(linear_fused.FUSED), linear_fused.TYPES
    found = steps.fused(context)
    assert found["ok"], found
    assert [row["products"] for row in found["rows"]] == ["now", "fused"]
    assert all(row["us"] > 0 for row in found["rows"])
    assert kept == (linear_fused.FUSED, linear_fused.TYPES)


@pytest.mark.slow
def test_steps_that_ask_for_blocks_beside_those_of_now(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, measure = [], steps.measured_steps

    def noted(context: Context, products: str, counts: Sequence[int]) -> list[Row]:
        seen.append((products, decode_attention.ASKED[90]))
        return measure(context, products, counts)

    monkeypatch.setattr(steps, "measured_steps", noted)
    found = steps.asked(context)
    assert found["ok"] and [row["products"] for row in found["rows"]] == ["now", "asked"]
    assert seen == [("now", False), ("asked", True)]
    assert decode_attention.ASKED == {80: False, 90: False}


def test_wrong_fused_products_are_not_timed(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "steps", lambda context: pytest.fail("timed"))
    monkeypatch.setattr(steps, "products", lambda context: {"add 1x128": 0.5})
    found = steps.fused(context)
    assert not found["ok"] and "add 1x128 0.5" in found["error"]
    monkeypatch.setattr(steps, "products", lambda context: {"add 1x128": 0.0})
    monkeypatch.setattr(steps, "logits", lambda context: ({"1 rows": 0.5}, 0))
    assert not steps.fused(context)["ok"]
    monkeypatch.setattr(steps, "logits", lambda context: ({"1 rows": 0.0}, 3))
    found = steps.fused(context)
    assert not found["ok"] and found["error"] == "3 replays differ"


def test_replays_are_held_against_a_step(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no graphs, by the step itself."""
    monkeypatch.setattr(steps, "captured", lambda calls: calls[0])
    monkeypatch.setattr(steps, "ops_of", lambda context: ops_for(torch.device("cpu")))
    model = steps.layers_of_8b(context)
    source, step = steps.decodes(model, 3)
    wanted = model.forward(step, source.arena)
    assert steps.replays_that_differ(model, step, source.arena, wanted) == 0
    other = wanted + 1
    assert steps.replays_that_differ(model, step, source.arena, other) == steps.REPLAYS
