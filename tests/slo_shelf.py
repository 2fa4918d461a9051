"""A cache under `slo_aware` that tests fill by hand, and weights that give known hazards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import FakeCost
from shelves import block_prompt

from superinfer.memory.blocks.pool import BlockPool, HostPool
from superinfer.memory.blocks.slabs import EQUAL_SIZES, ONE_BLOCK_SLABS, BlockSizes, Slabs
from superinfer.memory.index.keys import request_keys
from superinfer.memory.index.node import Node
from superinfer.memory.reuse.features import FEATURES
from superinfer.memory.reuse.model import HEADS, WIDTH
from superinfer.memory.slo_aware import SloAwareMemory
from superinfer.request import Request, SLOClass

BLOCK = 4
EDGES_S = (10.0, 20.0)
COST = FakeCost(step=0.0, per_chunk_token=1.0, copy=0.0, per_byte=1.0)
"""A block takes 4 s to compute, and 1 s for each way to the host and back."""


def write_weights(
    path: Path, *hazards: float, edges_s: Sequence[float] = EDGES_S, by_uses: float = 0.0
) -> str:
    """A model that gives every stretch these hazards in the bins up to these ends, and other ones
    the more often it was used.
    """
    inputs, hidden, bins = len(FEATURES), 2, len(hazards)
    shapes = {
        "w_embed": (1, WIDTH), "b_embed": (WIDTH,), "p_place": (8, WIDTH), "p_null": (WIDTH,),
        "w_query": (inputs, WIDTH), "b_query": (WIDTH,), "w_key": (WIDTH, WIDTH),
        "b_key": (WIDTH,), "w_value": (WIDTH, WIDTH), "b_value": (WIDTH,),
        "w_hidden": (inputs + WIDTH, hidden), "b_hidden": (hidden,), "w_deep": (hidden, hidden),
        "b_deep": (hidden,), "w_out": (hidden, bins), "mean": (inputs,),
    }  # fmt: skip
    arrays: dict[str, Any] = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    logits = [np.log(h / (1 - h)) for h in hazards]
    arrays |= {"b_out": np.array(logits, np.float32), "scale": np.ones(inputs, np.float32)}
    arrays["w_hidden"][FEATURES.index("uses"), 0] = arrays["w_deep"][0, 0] = 1.0
    arrays["w_out"][0] = by_uses
    arrays |= {"edges_s": np.array(edges_s), "source": np.array("x"), "format": np.array(2)}
    assert WIDTH % HEADS == 0
    np.savez(path, **arrays)
    return str(path)


def prompt(at_s: float, *ids: int, weight: float = 1.0, index: int = 0) -> Request:
    slo_class = SLOClass(f"weight {weight}", weight=weight)
    return block_prompt(index, *ids, arrival_s=at_s, slo_class=slo_class, max_tokens=1)


class Shelf:
    """An index filled prompt by prompt, without an engine."""

    def __init__(
        self,
        weights: str,
        host_blocks: int = 0,
        cost: Any = COST,
        slabs: Slabs = ONE_BLOCK_SLABS,
        sizes: BlockSizes = EQUAL_SIZES,
        **settings: Any,
    ):
        self.pool, self.host = BlockPool(100, slabs), HostPool(0, host_blocks, sizes)
        settings = {"pin_share": 0.0, "guard": False} | settings
        self.policy = SloAwareMemory(weights, **settings)
        self.policy.bind_costs(cost, lambda blocks, small: (sizes.total(blocks, small), blocks))
        self.index = self.policy.index(self.pool, self.host, BLOCK)

    def put(self, req: Request, *, until_s: float | None = None, answer: int = 0) -> Node:
        """A request uses its prompt; returns the node of its end."""
        keys, blocks = request_keys(req), len(req.hash_ids) - 1
        held_blocks = self.index.match(req, keys, blocks)[0]
        node, held = self.index.acquire(req, keys, held_blocks)
        if node is not None:
            self.index.hit(req, node)
        self.pool.referenced += blocks - held
        node, _ = self.index.insert(req, keys, node, blocks)
        assert node is not None
        now = req.arrival_s if until_s is None else until_s
        if answer:
            self.index.add_answer(req, node, answer, now)
        self.index.release(node, now)
        return node

    def gone(self, blocks: int) -> list[object]:
        """Content ids of the blocks that are reclaimed, in order."""
        found: list[object] = []
        for _ in range(blocks):
            before = self.on_device()
            assert len(self.index.reclaim(1)) == 1
            found += [key for key in before if key not in self.on_device()]
        return found

    def on_device(self) -> list[object]:
        return [key for node in self.index.nodes() if node.on_device for key in node.keys]

    def on_host(self) -> list[object]:
        return [key for node in self.index.nodes() if not node.on_device for key in node.keys]


QUARTERS = BlockSizes(4, 2, 1)
"""Bytes of blocks of 16, 8 and 4 bits."""


def shrink(shelf: Shelf, node: Node, bits: int) -> None:
    """A cached node has fewer bits."""
    shelf.pool.count_small(bits, 0, node.blocks)
    shelf.index.set_bits(node, bits)
    shelf.policy.unused(node)
