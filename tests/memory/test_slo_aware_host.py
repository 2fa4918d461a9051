"""The host tier and the guard of the memory policy `slo_aware`, worked by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from harness import FakeCost
from slo_shelf import BLOCK, EDGES_S, Shelf, prompt, write_weights

from superinfer.engine import EngineConfig
from superinfer.memory.index.keys import request_keys
from superinfer.memory.orders import Surroundings, build_order
from superinfer.memory.orders.guard import WINDOW, Guard
from superinfer.memory.orders.host import Experience
from superinfer.memory.orders.worth import Worth
from superinfer.memory.reuse.features import Visit
from superinfer.memory.reuse.value import used_within
from superinfer.memory.slo_aware import SloAwareMemory


def test_used_within() -> None:
    """0.5 by 10 s, 0.25 by 20 s, and no more after that."""
    unused, edges_s = [0.5, 0.25], list(EDGES_S)
    assert used_within(unused, edges_s, 0.0, 10.0) == pytest.approx(0.5)
    assert used_within(unused, edges_s, 0.0, 5.0) == pytest.approx(0.25)
    assert used_within(unused, edges_s, 10.0, 10.0) == pytest.approx(0.5)
    assert used_within(unused, edges_s, 5.0, float("inf")) == pytest.approx(1 - 0.25 / 0.75)
    assert used_within(unused, edges_s, 20.0, 100.0) == 0.0


@pytest.mark.parametrize(
    ("hazard", "per_byte", "kept"),
    [
        (0.5, 1.0, True),  # 0.75 x (4 - 1) s > 1 s
        (0.5, 2.0, False),  # 0.75 x (4 - 2) s < 2 s
        (0.2, 1.0, True),  # 0.36 x 3 s > 1 s
        (0.15, 1.0, False),  # 0.28 x 3 s < 1 s: an end that is used once
        (0.99, 4.5, False),  # to load it takes longer than to compute it
    ],
)
def test_only_what_pays_goes_to_the_host(
    tmp_path: Path, hazard: float, per_byte: float, kept: bool
) -> None:
    cost = FakeCost(step=0.0, per_chunk_token=1.0, copy=0.0, per_byte=per_byte)
    shelf = Shelf(write_weights(tmp_path / "x.npz", hazard, hazard), 10, cost)
    shelf.put(prompt(0.0, 1, 2))
    shelf.index.reclaim(2)
    assert shelf.on_host() == ([1, 2] if kept else [])


def test_generated_text_and_what_is_old_are_dropped(even: str) -> None:
    shelf = Shelf(even, 10)
    shelf.put(prompt(0.0, 1), answer=1)
    shelf.put(prompt(20.0, 2))
    shelf.index.reclaim(3)
    assert shelf.on_host() == [2]


def test_the_host_keeps_what_is_worth_more(even: str) -> None:
    """One place there: the heavy one takes it from the first, and keeps it."""
    shelf = Shelf(even, 1)
    shelf.put(prompt(0.0, 1))
    shelf.index.reclaim(1)
    shelf.put(prompt(1.0, 2, weight=3.0))
    shelf.index.reclaim(1)
    assert shelf.on_host() == [2]
    shelf.put(prompt(2.0, 3, weight=2.0))
    shelf.index.reclaim(1)
    assert shelf.on_host() == [2]


def test_expectations_are_held_against_what_came() -> None:
    """Ten blocks were half expected to be used and were not; then five were used."""
    experience = Experience(1000)  # 20 blocks that came as expected stand at the beginning
    worth = Worth(prompt(0.0, 1), 0.0, Visit(0.0, 0), kept_s=5.0, kept_chance=0.5)
    experience.gone(worth, 10, 15.0)
    assert experience.life_s == 10.0
    assert experience.trust(0) == pytest.approx(20 / 25)
    experience.used(worth, 5)
    assert experience.trust(0) == pytest.approx(25 / 27.5)
    for windows in (1, 2):  # what is not of the beginning fades with every request
        left = math.exp(-windows)
        faded = (20 + 5 * left) / (20 + 7.5 * left)
        assert experience.trust(windows * int(WINDOW)) == pytest.approx(faded, rel=1e-3)
    assert experience.trust(100_000) == pytest.approx(1.0)  # long ago


def test_less_goes_to_the_host_after_uses_that_did_not_come(even: str) -> None:
    """The host has 1,000 blocks, so 20 uses that came stand at the beginning."""
    shelf = Shelf(even, 1000)
    parts = shelf.policy._parts
    assert parts is not None
    unused = Worth(prompt(0.0, 9), 0.0, Visit(0.0, 0), kept_s=0.0, kept_chance=1.0)
    parts.shelf._experience.gone(unused, 10, 1000.0)
    shelf.put(prompt(0.0, 1))
    shelf.index.reclaim(1)
    assert shelf.on_host() == [1]  # 20 of 30 came: 2/3 x 0.75 x 3 s > 1 s
    parts.shelf._experience.gone(unused, 20, 1000.0)
    shelf.put(prompt(1.0, 2))
    shelf.index.reclaim(1)
    assert shelf.on_host() == [1]  # 20 of 50: 0.4 x 0.75 x 3 s < 1 s
    parts.order.uses += 100_000  # requests
    shelf.put(prompt(2.0, 3))
    shelf.index.reclaim(1)
    assert sorted(shelf.on_host()) == [1, 3]  # that was long ago
    assert parts.order.uses == 100_003


def test_loads_only_what_is_faster_to_load(even: str) -> None:
    slow = FakeCost(step=0.0, per_chunk_token=1.0, copy=7.0, per_byte=1.0)
    policy = Shelf(even, 10, slow).policy
    # 7 s and 1 s a block against 4 s a block.
    assert [policy.loads(0, blocks) for blocks in (1, 2, 3)] == [False, False, True]


def test_host_room() -> None:
    config = EngineConfig(total_blocks=30, block_tokens=BLOCK, block_bytes=1)
    assert SloAwareMemory(host_ratio=1.5).host_cache_blocks(config) == 45
    assert SloAwareMemory(host_ratio=0.0).host_cache_blocks(config) == 0


# -- guard ----------------------------------------------------------------------------------------


def test_by_age_both_tiers_go_by_last_use(even: str) -> None:
    shelf = Shelf(even, 1, guard=True)
    parts = shelf.policy._parts
    assert parts is not None
    shelf.put(prompt(0.0, 1, weight=9.0), until_s=1.0)
    shelf.put(prompt(2.0, 2))
    parts.order.switch(True)
    assert parts.guard is not None
    parts.guard._shadow, parts.guard._blocks = 0.5, 1.0  # half of the blocks hit: 0.5 x 3 s > 1 s
    assert shelf.gone(1) == [1]  # it is kept on the host
    assert shelf.on_host() == [1]
    assert shelf.gone(1) == [2]
    assert shelf.on_host() == [2]  # the newer one took its place


def test_an_engine_begins_by_value(even: str) -> None:
    """Values save seconds besides hits; a cache study, which counts hits alone, begins by age."""
    parts = Shelf(even, guard=True).policy._parts
    assert parts is not None and not parts.order.plain
    assert build_order("slo_aware", Surroundings(100, BLOCK)).plain  # type: ignore[attr-defined]


def test_the_shadow_finds_what_an_engine_could_find() -> None:
    """A prompt of 9 tokens that comes again: two full blocks, and the shadow knows three ids."""
    guard = Guard(Surroundings(100, BLOCK, whole_blocks=True))
    for turn in range(50):
        guard.observe(prompt(float(turn), 1, 2), 2.0 if turn else 0.0)
    assert guard._lead == pytest.approx(0.0)
    assert 0.6 < guard.shadow_rate < 2 / 3


def test_the_shadow_has_the_room_that_there_is() -> None:
    guard = Guard(Surroundings(100, BLOCK))
    guard.observe(prompt(0.0, 1, 2), 0.0)
    guard.resize(2)
    guard.observe(prompt(1.0, 3, 4), 0.0)
    guard.resize(100)
    guard.observe(prompt(2.0, 1, 2), 0.0)
    assert guard.shadow_rate == 0.0


def test_the_room_of_prompts_is_the_device_less_what_requests_have_for_themselves(
    even: str,
) -> None:
    """100 blocks, of which a request has 30 for its answer; one more is on the host."""
    shelf = Shelf(even, 10, guard=True)
    shelf.put(prompt(0.0, 1))
    shelf.index.reclaim(1)
    shelf.pool.referenced += 30
    req = prompt(1.0, 2, 3)
    node, _ = shelf.index.insert(req, request_keys(req), None, 2)  # held, and not its own
    shelf.pool.referenced += 2
    shelf.put(prompt(2.0, 4))
    parts = shelf.policy._parts
    assert node is not None and parts is not None and parts.guard is not None
    assert shelf.on_host() == [1]
    assert parts.guard._room_blocks == 100 - 30 + 1


def test_hits_of_heavy_classes_count_more_for_the_guard() -> None:
    guard = Guard(Surroundings(100, BLOCK))
    for turn in range(400):
        guard.observe(prompt(2.0 * turn, 1, weight=9.0), 2.0)
        guard.observe(prompt(2.0 * turn + 1.0, 2), 1.0)  # half of what a shadow hits
    assert guard._lead / guard._compared == pytest.approx(-1 / 20, abs=0.002)
