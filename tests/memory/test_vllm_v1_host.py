"""The host's blocks in vLLM's offloading: room all or nothing, who is in use, and both orders.

Keys are a letter, for the text, and the place of the block in it.
"""

from __future__ import annotations

import pytest

from superinfer.memory.blocks.pool import HostPool
from superinfer.memory.vllm_v1.host import HostBlocks
from superinfer.memory.vllm_v1.orders import ArcOrder, CopyOrder, LruOrder, User


def keys(names: str) -> list[object]:
    return list(names.split())


def start_of(names: str) -> int:
    return int(names.split(maxsplit=1)[0][1:])


class Host:
    """Host blocks, and requests by the names of their texts."""

    def __init__(self, blocks: int, order: CopyOrder) -> None:
        self.pool = HostPool(0, blocks)
        self.order = order
        self.blocks = HostBlocks(self.pool, order)
        self.users: dict[str, User] = {}

    def user(self, name: str) -> User:
        return self.users.setdefault(name, User(len(self.users)))

    def offer(self, name: str, names: str, *, written: bool = True) -> str | None:
        """What of it is stored."""
        new = self.blocks.reserve(self.user(name), start_of(names), keys(names))
        if new and written:
            self.blocks.written(new)
        return None if new is None else " ".join(map(str, new))

    def leave(self, name: str) -> None:
        self.blocks.leave(self.users.pop(name))

    def names(self) -> str:
        held = sorted(str(copy.key) for copy in self.order)
        assert len(held) == self.pool.cached <= self.pool.cache_total
        return " ".join(held)

    def gone(self, count: int) -> str:
        """Which would go next, and go."""
        victims = self.order.evict(count, set())
        assert victims is not None
        self.pool.cached -= count
        self.blocks.idle_blocks -= count
        return " ".join(str(copy.key) for copy in victims)


@pytest.fixture(params=["lru", "arc"])
def host(request: pytest.FixtureRequest) -> Host:
    return Host(4, LruOrder() if request.param == "lru" else ArcOrder(4))


def test_only_what_is_not_there_is_stored(host: Host) -> None:
    assert host.offer("x", "a0 a1") == "a0 a1"
    assert host.offer("y", "a0 a1 b2") == "b2"
    assert host.offer("y", "a0 a1 b2") == ""
    assert host.names() == "a0 a1 b2"


def test_blocks_in_use_stay(host: Host) -> None:
    host.offer("x", "a0 a1", written=False)
    host.offer("y", "b0 b1")
    host.blocks.pin(host.user("z"), 0, keys("b0 b1"))
    assert host.offer("v", "c0") is None  # two are being written, two are read
    host.blocks.pin(host.user("v"), 1, keys("b1"))
    host.blocks.unpin(keys("b0 b1"))
    assert host.offer("w", "c0 c1") is None  # one is still read
    assert host.offer("w", "c0") == "c0"
    assert host.names() == "a0 a1 b1 c0"
    host.blocks.written(keys("a0 a1"))
    host.blocks.unpin(keys("b1"))
    assert host.blocks.idle_blocks == 4


def test_room_is_made_for_all_or_for_nothing(host: Host) -> None:
    """What is offered together does not drive out its own."""
    host.offer("x", "a0 a1")
    assert host.offer("y", "a0 b1 b2 b3 b4") is None
    assert host.names() == "a0 a1"
    assert host.offer("y", "a0 b1 b2 b3") == "b1 b2 b3"
    assert host.names() == "a0 b1 b2 b3"


def test_more_than_the_host_has(host: Host) -> None:
    assert host.offer("x", "a0 a1 a2 a3 a4") is None
    assert host.names() == ""


# -- least recently used --------------------------------------------------------------------------


def test_lru_takes_the_end_of_a_request_first() -> None:
    """However it came in, and whether it has ended."""
    host = Host(8, LruOrder())
    host.offer("x", "a0 a1")
    host.offer("x", "a2 a3")
    assert host.gone(1) == "a3"
    host.leave("x")
    assert host.gone(2) == "a2 a1"


def test_lru_counts_a_request_from_its_first_block_and_from_its_end() -> None:
    host = Host(8, LruOrder())
    host.offer("x", "a0")
    host.offer("y", "b0 b1")
    host.offer("x", "a1")  # it came before `y`
    host.offer("z", "c0")
    assert host.gone(1) == "a1"
    host.leave("x")  # now it is the last
    assert host.gone(4) == "b1 b0 c0 a0"


def test_lru_moves_up_what_a_request_finds() -> None:
    host = Host(8, LruOrder())
    host.offer("x", "a0 a1")
    host.offer("y", "b0")
    host.offer("z", "a0")
    host.blocks.pin(host.user("v"), 0, keys("b0"))
    assert host.gone(2) == "a1 a0"
    host.blocks.unpin(keys("b0"))
    assert host.gone(1) == "b0"


def test_lru_takes_the_deepest_whenever_it_came() -> None:
    host = Host(4, LruOrder())
    host.offer("x", "a1 a2")
    assert host.gone(1) == "a2"
    host.offer("x", "a0")
    assert host.gone(2) == "a1 a0"


def test_lru_forgets_what_is_out_of_date() -> None:
    """However often blocks are used, each is kept in few places."""
    order = LruOrder()
    host = Host(8, order)
    host.offer("x", "a0 a1 a2")
    for turn in range(200):
        host.offer(f"y{turn}", "a0 a1 a2")
        host.leave(f"y{turn}")
    assert sum(map(len, order._groups.values())) <= 70 and len(order._order) <= 70
    assert host.gone(3) == "a2 a1 a0"


def test_lru_keeps_the_place_of_a_request_whose_blocks_have_gone() -> None:
    """Also when others came while it had none on the host."""
    host = Host(8, LruOrder())
    host.offer("x", "a0")
    host.offer("y", "b0")
    assert host.gone(1) == "a0"
    host.offer("x", "a1 a2")
    assert host.gone(3) == "a2 a1 b0"
    host.offer("y", "b1")
    host.offer("z", "c0")
    assert host.offer("z", "c0 c1 c2 c3 c4 c5 c6 c7 c8") is None
    assert host.gone(2) == "b1 c0"


# -- adaptive replacement -------------------------------------------------------------------------


def arc(host: Host) -> tuple[str, str]:
    order = host.order
    assert isinstance(order, ArcOrder)
    return " ".join(map(str, order.once)), " ".join(map(str, order.again))


def test_arc_tells_blocks_that_were_used_again() -> None:
    """A request uses again what others stored, once it has ended; what it stored itself it has
    only stored.
    """
    host = Host(8, ArcOrder(8))
    host.offer("x", "a0 a1")
    host.offer("y", "a0 b1")
    host.offer("x", "a0 a1")
    assert arc(host) == ("a0 a1 b1", "")
    host.leave("x")
    assert arc(host) == ("b1 a1 a0", "")
    host.leave("y")
    assert arc(host) == ("a1 b1", "a0")


def test_arc_takes_first_what_was_used_once() -> None:
    host = Host(8, ArcOrder(8))
    host.offer("x", "a0 a1")
    host.offer("y", "a0")
    host.leave("y")
    host.offer("z", "c0")
    assert host.gone(3) == "a1 c0 a0"


def test_arc_learns_from_what_went_too_soon() -> None:
    """Names of both kinds are remembered, as many as the host has blocks."""
    host = Host(4, ArcOrder(4))
    order = host.order
    assert isinstance(order, ArcOrder)
    host.offer("x", "a0 a1")
    host.offer("y", "a0 a1")
    host.leave("x")
    host.leave("y")
    host.offer("z", "b0 b1")
    assert arc(host) == ("b0 b1", "a1 a0")
    assert host.gone(1) == "b0"
    host.offer("v", "b0")  # it comes back: one more place for what was used once
    assert (order.target, list(order.gone_once)) == (1.0, [])
    host.offer("v", "b0")
    assert order.target == 1.0  # a request counts once
    assert host.gone(3) == "b1 b0 a1"  # of `once` while there are as many as wanted
    assert arc(host) == ("", "a0")


def test_arc_keeps_as_many_as_it_wants_of_each() -> None:
    host = Host(4, ArcOrder(4))
    order = host.order
    assert isinstance(order, ArcOrder)
    host.offer("x", "a0 a1")
    host.offer("y", "a0 a1")
    host.leave("y")
    host.offer("z", "b0 b1")
    order.target = 3.0  # `once` has two: the others go first
    assert host.gone(3) == "a1 a0 b0"
    assert list(order.gone_again) == ["a1", "a0"]
    host.offer("v", "a0")
    assert order.target == 2.0
    for index in range(5):
        host.offer(f"w{index}", f"c{index}")
    assert len(order.gone_once) <= 4


def test_arc_puts_what_was_used_last_at_the_end_of_what_was_used_again() -> None:
    """Whether the request that has ended found it there or had stored it itself."""
    host = Host(8, ArcOrder(8))
    for text, stores, finds in (("a0", "x", "y"), ("b0", "v", "w")):
        host.offer(stores, text)
        host.offer(finds, text)
        host.leave(finds)
    assert arc(host) == ("", "a0 b0")
    host.leave("x")
    assert arc(host) == ("", "b0 a0")
    host.offer("u", "b0")
    host.leave("u")
    assert arc(host) == ("", "a0 b0")


def test_arc_learns_within_its_bounds() -> None:
    """A name of the longer list shifts the balance by one, of the shorter by how much longer the
    other is; it goes to the end of its list.
    """
    order = ArcOrder(4)
    order.gone_once.update({"a0": None, "a1": None, "a2": None})
    order.gone_again.update({"b0": None})
    order.missed(["a0", "a1"])
    assert order.target == 2.0 and list(order.gone_once) == ["a2", "a1", "a0"]
    order.missed(["a0", "a1", "a2"])
    assert order.target == 4.0
    order.missed(["b0"])
    assert order.target == 1.0
    order.gone_again.update({"b1": None, "b2": None})
    order.missed(["b0", "b1"])
    assert order.target == 0.0 and list(order.gone_again) == ["b2", "b1", "b0"]
    order.gone_again.update({f"c{number}": None for number in range(6)})
    order.missed(["a0"])
    assert order.target == 3.0


def test_arc_remembers_as_many_names_as_it_has_blocks() -> None:
    order = ArcOrder(2)
    host = Host(2, order)
    for names in ("a0 a1", "b0", "c0 c1"):
        host.offer(names[0], names)
    assert host.names() == "c0 c1" and list(order.gone_once) == ["a1", "b0"]


def test_arc_learns_once_from_a_block_for_which_there_is_no_room() -> None:
    """A request offers it again in each of its steps; another request's miss is one of its own."""
    order = ArcOrder(4)
    host = Host(1, order)
    host.offer("x", "a0")
    host.offer("y", "b0")
    host.blocks.pin(host.user("z"), 0, keys("b0"))
    assert [host.offer("v", "a0"), host.offer("v", "a0"), order.target] == [None, None, 1.0]
    assert [host.offer("w", "a0"), order.target] == [None, 2.0]


def test_arc_forgets_the_name_of_what_is_there_again() -> None:
    """It was used again, went, and is stored again, as one that was used once."""
    order = ArcOrder(4)
    host = Host(2, order)
    host.offer("x", "a0")
    host.offer("y", "a0 b1")
    host.leave("y")
    assert list(order.again) == ["a0"] and host.names() == "a0 b1"
    assert host.offer("z", "c0 c1") == "c0 c1" and list(order.gone_again) == ["a0"]
    assert host.offer("v", "a0") == "a0"
    assert list(order.once) == ["c1", "a0"] and list(order.gone_again) == []
