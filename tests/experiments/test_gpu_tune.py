"""Variants of products with int8 weights: wrong ones are told, tables are left as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from executor.kernels import linear, widen
from experiments.gpu_check import tune_int8
from experiments.gpu_check.checks import Context


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """Of a CPU, for one small product."""
    monkeypatch.setattr(tune_int8, "sizes", lambda context: ((96, 64),))
    return Context("cpu", 60.0, {"fast": True}, tmp_path)


def test_widened_products_beside_what_runs_now(context: Context) -> None:
    kept = dict(widen.WIDEN_FROM)
    found = tune_int8.widened(context, 2048)
    assert found["ok"], found
    names = ["now", *(f"widened, {mib} MiB" for mib in tune_int8.PIECES_MIB)]
    assert [row["tile"] for row in found["rows"]] == names
    assert all(row["us"] > 0 and row["TFLOP/s"] > 0 for row in found["rows"])
    assert context.cache["int8"] == found["rows"]
    assert kept == widen.WIDEN_FROM


def test_a_wrong_widened_product_is_told(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widen, "widen", lambda codes, scales, out: out.copy_(codes))
    found = tune_int8.widened(context, 2048)
    assert not found["ok"] and found["error"].startswith("wrong by")
    assert "int8" not in context.cache


def test_tiles_of_products_and_the_table_as_it_was(context: Context) -> None:
    kept = linear.tile_of_product, linear.WARPS_PER_PROCESSOR
    found = tune_int8.tile(context, 32, tune_int8.INT8[32][-1])
    assert found["ok"] and found["rows"][0]["tile"] == "(32, 128, 64, 4, 4)"
    assert (linear.tile_of_product, linear.WARPS_PER_PROCESSOR) == kept


def test_weights_are_widened_for_a_while() -> None:
    kept, size = dict(widen.WIDEN_FROM), widen.PIECE_BYTES
    with tune_int8.widening(64, 1 << 20):
        assert set(widen.WIDEN_FROM.values()) == {64}
        assert widen.PIECE_BYTES == 1 << 20
    assert kept == widen.WIDEN_FROM
    assert size == widen.PIECE_BYTES


def test_kernels_are_compiled_once_before(context: Context) -> None:
    """The other numbers of rows have the same ones."""
    context.rehearsal = True
    assert "skipped" in tune_int8.widened(context, 512)
