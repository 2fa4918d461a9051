"""More KV blocks than a device has memory for are simulated, and said."""

from __future__ import annotations

from typing import Any

import pytest

from sim.notices.too_many_blocks import GIB, too_many_blocks
from sim.run import build_engine
from superinfer.costs import find_device
from superinfer.lab.config import load_config


def at_most(**settings: Any) -> int:
    """The most blocks that fit beside the weights."""
    config = load_config(kv_blocks=1, **settings)
    engine, cost = build_engine(config)
    memory_bytes = find_device(config.run.device).memory_bytes
    free = memory_bytes - cost.shape.weight_bytes(config.run.tp)
    return int(free // engine.config.block_bytes)


@pytest.mark.parametrize("settings", [{}, {"tp": 2}, {"scheduler": "sglang"}, {"device": "h100"}])
def test_one_block_more_than_fits(settings: dict[str, Any]) -> None:
    most = at_most(**settings)
    assert too_many_blocks(load_config(kv_blocks=most, **settings)) == []
    (line,) = too_many_blocks(load_config(kv_blocks=most + 1, **settings))
    assert line.startswith(f"run.kv_blocks: {most + 1:,} blocks take ")


def test_what_fits_by_default_fits() -> None:
    assert too_many_blocks(load_config()) == []
    blocks = build_engine(load_config())[0].config.total_blocks
    assert too_many_blocks(load_config(kv_blocks=blocks)) == []


def test_a_model_that_does_not_fit_at_all() -> None:
    (line,) = too_many_blocks(load_config(kv_blocks=1024, model="llama-3.1-70b"))
    taken = 1024 * 32 * 80 * 8 * 128 * 2 * 2 / GIB
    assert line == (
        f"run.kv_blocks: 1,024 blocks take {taken:.1f} GiB of each a100-80g at tp 1, and the "
        "weights leave 0.0 GiB"
    )


def test_flexgen_has_more_than_the_device() -> None:
    assert too_many_blocks(load_config(kv_blocks=10**6, scheduler="flexgen")) == []
