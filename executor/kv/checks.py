"""Compares what a block manager placed with what the core counts: for tests, after each plan."""

from __future__ import annotations

from collections import Counter

import numpy as np

from executor.kv.manager import BlockManager
from executor.kv.tables import NO_OFFSETS, BlockTable
from superinfer.memory.blocks.runs import cut
from superinfer.memory.index.node import Node


def check(manager: BlockManager) -> None:
    """Raises AssertionError where they differ, or where a block has two owners or none.

    The counts agree between two plans: after `follow`, and without lag after `complete` as well.
    """
    manager.settle()
    _check_owners(manager)
    _check_counts(manager)
    _check_tables(manager)
    _check_host(manager)


def _check_owners(manager: BlockManager) -> None:
    """Each place that is taken is somebody's, and only one's."""
    device = manager.device
    parts = [held.own for held in device.held.values()]
    parts += [table.offsets for table in device.nodes.values()]
    parts += [] if manager.eager is None else [manager.eager.offsets]
    owned = np.sort(np.concatenate([NO_OFFSETS, *parts]))
    assert (np.diff(owned) > 0).all(), "a block has two owners"
    assert np.array_equal(owned, device.places.live_offsets()), "a block has no owner"


def _check_counts(manager: BlockManager) -> None:
    """Referenced and cached blocks, and those of 8 and 4 bits among them."""
    pool = manager.engine.pool
    referenced, cached = _held_bits(manager), _node_bits(manager, referenced=False)
    referenced += _node_bits(manager, referenced=True)
    if manager.eager is not None:
        in_use = sum(block.refs > 0 for block in manager.eager.blocks)
        referenced[16] += in_use
        cached[16] += len(manager.eager.offsets) - in_use
    assert referenced.total() == pool.referenced, (referenced, pool.referenced)
    assert cached.total() == pool.cached, (cached, pool.cached)
    core = (pool._referenced_8, pool._referenced_4, pool._cached_8, pool._cached_4)
    assert (referenced[8], referenced[4], cached[8], cached[4]) == core


def _held_bits(manager: BlockManager) -> Counter[int]:
    bits: Counter[int] = Counter()
    for held in manager.device.held.values():
        bits.update(held.table.bits[held.shared :].tolist())
    return bits


def _node_bits(manager: BlockManager, referenced: bool) -> Counter[int]:
    bits: Counter[int] = Counter()
    for node, table in manager.device.nodes.items():
        if bool(node.refs) is referenced:
            bits.update(table.bits.tolist())
    return bits


def _check_tables(manager: BlockManager) -> None:
    """Sequences have the blocks of their path, and nodes as many as the tree says."""
    nodes = manager.device.nodes
    tree = manager.engine.tree
    if tree is not None:
        assert set(nodes) == {node for node in tree.nodes() if node.on_device}
    for node, table in nodes.items():
        assert len(table) == node.blocks and (table.bits == node.bits).all()
    for seq, held in manager.device.held.items():
        assert seq.shared_blocks == held.shared, seq
        if manager.eager is not None:
            own = [] if seq.node is None else [manager.eager.blocks[b] for b in seq.node.blocks]
            assert held.table.offsets[: held.shared].tolist() == own, seq
            continue
        counted = cut(manager.engine.holdings.runs_of(seq), 0, len(held.table))
        assert held.table.bits.tolist() == [bits for bits, n in counted for _ in range(n)], seq
        for node in _path(seq.node):
            assert _same(held.table, node, nodes[node]), (seq, node.start)


def _path(node: Node | None) -> list[Node]:
    return [] if node is None else node.path()


def _same(table: BlockTable, node: Node, part: BlockTable) -> bool:
    where = slice(node.start, node.stop)
    same = np.array_equal(table.offsets[where], part.offsets)
    return same and np.array_equal(table.bits[where], part.bits)


def _check_host(manager: BlockManager) -> None:
    """As many host places are taken as the core counts, each by one."""
    host = manager.engine.host
    for seq, there in manager.swapped.hosted.items():
        counted = cut(seq.host_runs, 0, len(there.bits))
        assert there.bits.tolist() == [bits for bits, n in counted for _ in range(n)], seq
    hosted = sum(len(blocks.offsets) for blocks in manager.swapped.hosted.values())
    assert hosted == host.used, (hosted, host.used)
    tree = manager.engine.tree
    on_host = set() if tree is None else {node for node in tree.nodes() if node.on_host}
    assert set(manager.tier.nodes) == on_host
    for node, blocks in manager.tier.nodes.items():
        assert len(blocks.offsets) == node.blocks and (blocks.bits == node.bits).all()
    assert manager.host.taken == host.used + host.mirrored + host.cached
    assert manager.host.taken_bytes == host.nbytes
