"""Random contents of a cache, and what has to fit before anything is measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from calibration_kit import CPU

from executor.calibration import calibrate as calibration
from executor.calibration.calibrate import calibrate
from executor.calibration.cases import RandomArena, decode_step
from executor.calibration.subject import Wish
from executor.kernels.reference import TorchOps
from executor.kv.layout import PRECISIONS, KVLayout
from executor.session import ModelOptions
from executor.steps.items import ItemBudget
from superinfer.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_sequences": 10**8}, "expected at least max_num_seqs"),
        ({"kv_blocks": 10**9}, "GiB of KV cache: lower --kv-blocks"),
        ({"model": "llama-3.1-8b"}, "has no weights: expected a folder with weights, or"),
    ],
)
def test_what_cannot_be_opened_is_known_before_kernels(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], expected: str
) -> None:
    monkeypatch.setattr(calibration, "kernels_in_rounds", lambda *_arguments: 1 / 0)
    wish = replace(Wish("tiny", "cpu", ModelOptions(), 0.1), **options)
    with pytest.raises(ConfigError, match=expected):
        calibrate(wish, print)


def test_blocks_are_counted_when_graphs_have_left_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a library keeps for their streams would be missing in the KV cache."""
    done: list[str] = []

    def noted(name: str, gives: Any) -> None:
        monkeypatch.setattr(calibration, name, lambda *_given: done.append(name) or gives)

    noted("kernels_in_rounds", {})
    noted("forget_workspaces", None)
    monkeypatch.setattr(calibration, "ceilings", lambda *_given: {})
    monkeypatch.setattr(calibration, "measure_links", lambda *_given: {})
    monkeypatch.setattr(calibration, "open_session", lambda *_given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        calibrate(Wish("tiny", "cpu", ModelOptions(), 0.1), lambda _: None)
    assert done == ["kernels_in_rounds", "forget_workspaces"]


def test_random_blocks_are_numbers_of_their_precision() -> None:
    """No NaN in any precision, and attention over them is finite."""
    layout = KVLayout(2, 2, 16, 16, torch.float32)
    source = RandomArena(layout, 12, CPU)
    budget = ItemBudget.of(layout, CPU)
    for bits in PRECISIONS:
        shares = {} if bits == 16 else {bits: 1.0}
        step = decode_step(source, [1, 16, 70], 50, budget, shares)
        assert step.decode is not None
        assert bits in step.decode.bits.tolist()
        q = torch.randn(3, 4, 16)
        out = TorchOps().decode_attention(q, source.arena, layout, 1, step.decode, 0.25)
        assert torch.isfinite(out).all() and (out.abs() > 0).all()


def test_no_block_comes_twice_before_all_have_come() -> None:
    """So that a step reads as much memory as it says."""
    layout = KVLayout(1, 1, 16, 16, torch.float32)
    source = RandomArena(layout, {16: 10}, CPU)
    first, second = source.table(80), source.table(80)
    assert len({*first.offsets.tolist(), *second.offsets.tolist()}) == 10
