"""Copies to the host and back in vLLM's V1 engine, iteration by iteration, worked by hand.

Blocks have 4 tokens, a step takes a second, copies go one after the other in each direction.
"""

from __future__ import annotations

from typing import Any

import pytest
from harness import BlockingDriver, FakeCost, iterations, make_engine, request

from superinfer.draft import Draft
from superinfer.engine import Engine
from superinfer.errors import ConfigError
from superinfer.memory.vllm_v1.offload import OffloadingCache
from superinfer.memory.vllm_v1.orders import User
from superinfer.memory.vllm_v1.policy import VllmV1Memory
from superinfer.plan import Outcome
from superinfer.request import Request
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.schedulers.vllm_v1 import VllmV1Scheduler
from superinfer.sequence import Sequence, State

TEXTS = {name: tuple(range(start, start + 16)) for name, start in (("a", 0), ("b", 100))}


def play(
    jobs: dict[str, tuple[str, int, int]],
    arrivals: dict[str, int],
    *,
    blocks: int,
    copy_s: float = 0.0,
    memory: Any = None,
    host_blocks: int = 16,
    **scheduler: Any,
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The iterations, and what was copied: time, kind, request and blocks. A job is a text, of
    which its prompt is the beginning, the length of the prompt, and that of the answer.
    """
    scheduler = {"max_num_batched_tokens": 16, "max_num_seqs": 8} | scheduler
    events: list[tuple[Any, ...]] = []
    lines = iterations(
        VllmV1Scheduler(**scheduler),
        {name: job[1:] for name, job in jobs.items()},
        arrivals,
        blocks=blocks,
        requests={
            name: {"hash_ids": ids(name, *job), "hash_block_tokens": 4}
            for name, job in jobs.items()
        },
        memory=memory or VllmV1Memory(offload=True),
        cost=FakeCost(copy=copy_s),
        host_blocks=host_blocks,
        prefix_caching=True,
        sink=events.append,
    )
    return lines, [event for event in events if event[1] in ("backup", "load")]


def ids(name: str, text: str, prompt: int, output: int) -> tuple[int, ...]:
    """Content of a prompt; a text that is in no list is the request's own."""
    own = tuple(range(1000 * ord(name[-1]), 1000 * ord(name[-1]) + 16))
    return TEXTS.get(text, own)[: -(-prompt // 4)]


def test_a_prefix_comes_back_while_others_pass() -> None:
    """Six blocks to use. `b` drives three of the four blocks of `a` off the device. `c`, the same
    text, finds one there and three on the host, takes four blocks and waits for the load from 3 to
    4.75 s; `d` behind it runs meanwhile. Then `c` computes the last token again.
    """
    lines, copies = play(
        {"a": ("a", 16, 1), "b": ("b", 20, 1), "c": ("a", 16, 1), "d": ("", 4, 3)},
        {"b": 2, "c": 4, "d": 4},
        blocks=7,
        copy_s=1.75,
    )
    assert lines == [
        "a16 used 4",
        "b16 used 4",
        "b4 used 5",
        "d4 used 5",
        "d used 6",
        "c1 d used 6",
    ]
    assert copies == [
        (1.0, "backup", "", 4),  # of `a`, with the step after the one that completed them
        (2.0, "backup", "", 4),  # of `b`
        (3.0, "load", "c", 3),
        (3.0, "backup", "", 1),
        (4.0, "backup", "", 1),  # of `d`
    ]


def test_who_wants_the_same_blocks_waits_for_them() -> None:
    """`e` is passed over while `c` loads its text. Then it finds three blocks on the device, where
    the last token's block never counts, and has the fourth brought by a load of its own.
    """
    lines, copies = play(
        {"a": ("a", 16, 1), "b": ("b", 20, 1), "c": ("a", 16, 1), "e": ("a", 16, 1)},
        {"b": 2, "c": 4, "e": 4},
        blocks=7,
        copy_s=1.75,
    )
    assert lines[3:] == [
        " used 4",  # nothing but the load
        "c1 used 5",  # from 4.75 s on, and the load for `e`
        "e1 used 4",
    ]
    assert [copy for copy in copies if copy[1] == "load"] == [
        (3.0, "load", "c", 3),
        (4.75, "load", "e", 1),
    ]


def test_blocks_that_are_being_written_are_waited_for() -> None:
    """The copy of `a` takes from 1 to 6 s: until then `c` is passed over, while `d` runs, and takes
    the one block that `c` would have found on the device.
    """
    lines, copies = play(
        {"a": ("a", 16, 1), "b": ("b", 20, 1), "c": ("a", 16, 1), "d": ("", 3, 5)},
        {"b": 2, "c": 4, "d": 4},
        blocks=7,
        copy_s=5.0,
    )
    assert lines[3:] == [
        "d3 used 1",
        "d used 1",
        "d used 2",
        "d used 6",  # from 6 s on, with the four blocks of `c`
        "d used 6",
        "c1 used 4",
    ]
    assert (6.0, "load", "c", 4) in copies


def test_a_load_leaves_others_the_blocks_they_lack() -> None:
    """Eight blocks to use. `p` takes its six as its chunks come, and `c`, which would fit beside
    what `p` has so far, loads its four when `p` has ended.
    """
    lines, _ = play(
        {"a": ("a", 16, 1), "b": ("b", 32, 1), "p": ("", 24, 1), "c": ("a", 16, 1)},
        {"b": 2, "p": 4, "c": 4},
        blocks=9,
        host_blocks=32,
        long_prefill_token_threshold=8,
    )
    assert lines == [
        "a16 used 4",
        "b16 used 4",
        "b16 used 8",
        "p8 used 2",
        "p8 used 4",
        "p8 used 6",
        " used 4",
        "c1 used 4",
    ]


def test_a_loaded_prompt_has_to_fit_as_a_whole_before_it_runs() -> None:
    """`c` goes on for two blocks beyond the four that it loads, of which `d` takes one meanwhile:
    it waits, holding what it has, till `d` has ended, and `e` behind it waits too.
    """
    lines, _ = play(
        {
            "a": ("a", 16, 1),
            "b": ("b", 28, 1),
            "c": ("a", 24, 1),
            "d": ("", 4, 3),
            "e": ("", 3, 1),
        },
        {"b": 2, "c": 4, "d": 4, "e": 5},
        blocks=8,
        copy_s=0.75,
    )
    assert lines[3:] == [
        "d4 used 5",
        "d used 6",
        "d used 6",
        "c8 e3 used 7",
        " used 0",  # the last blocks of `c` go to the host
    ]


@pytest.mark.parametrize("prompts_only", [True, False])
def test_blocks_of_an_answer(prompts_only: bool) -> None:
    """Those that a decode completes are copied only where that was asked for."""
    memory = VllmV1Memory(offload=True, offload_prompt_only=prompts_only)
    _, copies = play({"a": ("a", 6, 7)}, {}, blocks=9, memory=memory)
    answers = [] if prompts_only else [(3.0, "backup", "", 1), (7.0, "backup", "", 1)]
    assert copies == [(1.0, "backup", "", 1), *answers]


def test_a_prefix_on_the_device_is_offered_again() -> None:
    """The host has room for two blocks: `a` does not get in with four, `c` with the first two of
    them, which it found on the device.
    """
    lines, copies = play({"a": ("a", 16, 3), "c": ("a", 9, 1)}, {"c": 5}, blocks=9, host_blocks=2)
    assert lines == ["a16 used 4", "a used 5", "a used 5", "c1 used 3", " used 0"]
    assert copies == [(4.5, "backup", "", 2)]


ANSWERS_TOO = VllmV1Memory(offload=True, offload_prompt_only=False)


def test_who_runs_first_offers_first() -> None:
    """The order is that in which requests run for the first time. `c` came before `d`, but only
    loads while `d` starts. At 5 s `d` completes a block with a decode and `c` two with a chunk.
    """
    lines, copies = play(
        {"a": ("a", 16, 1), "b": ("b", 28, 1), "c": ("a", 24, 1), "d": ("", 6, 4)},
        {"b": 2, "c": 4, "d": 4},
        blocks=10,
        copy_s=1.75,
        memory=ANSWERS_TOO,
        host_blocks=32,
    )
    assert lines[3:6] == ["d6 used 6", "d used 6", "c8 d used 8"]
    assert [(kind, blocks) for time_s, kind, _, blocks in copies if time_s == 6.0] == [
        ("backup", 1),
        ("backup", 2),
    ]


def test_who_has_run_keeps_its_place_among_those_who_offer() -> None:
    """With its second chunk `d` completes two blocks, and `e`, behind it, one with a decode."""
    lines, copies = play(
        {"d": ("", 24, 1), "e": ("b", 3, 4)},
        {},
        blocks=12,
        memory=ANSWERS_TOO,
        long_prefill_token_threshold=8,
    )
    assert lines[:2] == ["d8 e3 used 3", "d8 e used 5"]
    assert [(time_s, blocks) for time_s, _, _, blocks in copies[:3]] == [
        (1.0, 2),
        (2.0, 2),
        (2.0, 1),
    ]


def test_what_can_never_run_offers_nothing() -> None:
    assert play({"a": ("a", 64, 1)}, {}, blocks=8) == ([], [])


def slices(jobs: list[tuple[Request, int]], memory: VllmV1Memory, **engine: Any) -> tuple[Any, Any]:
    """When plans were made and their steps, and what was copied when."""
    events: list[tuple[Any, ...]] = []
    seen: list[tuple[float, int]] = []
    core = make_engine(
        VllmV1Scheduler(max_num_batched_tokens=16, max_num_seqs=8),
        16,
        memory=memory,
        prefix_caching=True,
        sink=events.append,
        **engine,
    )
    BlockingDriver(
        core,
        [job for job, _ in jobs],
        [answer for _, answer in jobs],
        lambda _, plan: seen.append((plan.now, plan.steps)),
    ).run()
    cache = core.prefix
    assert isinstance(cache, OffloadingCache) and not cache._behind and not cache._users
    return seen, [(event[0], event[3]) for event in events if event[1] == "backup"]


def test_a_slice_ends_where_a_block_of_an_answer_is_full() -> None:
    """A prompt of 6 tokens, whose second block is full with the step from 2 s on, and the next ones
    four steps later each: what that step completes is copied from the next plan on. Copies land at
    once, and end a slice as well.
    """
    seen, backups = slices([(request(0, 6, 0), 11)], ANSWERS_TOO, host_blocks=16)
    assert seen == [
        *((0.0, 1), (1.0, 1), (2.0, 1)),
        *((3.0, 3), (4.0, 2), (6.0, 1)),
        *((7.0, 3), (8.0, 2), (10.0, 1)),
        (11.0, 1),
    ]
    assert backups == [(1.0, 1), (3.0, 1), (7.0, 1), (11.0, 1)]


def test_what_found_no_room_is_offered_in_each_step_until_it_does() -> None:
    """The copies of the first request fill the host, and are being written from 1 to 4.5 s. The two
    blocks of the second, which decodes from 2 s on, get in with the step from 5 s on. From then on
    it runs as long as memory lasts, and is only looked at when its copy has landed, at 9.5 s.
    """
    jobs = [(request(0, 16, 0), 1), (request(1, 8, 0, 0.5), 14)]
    seen, backups = slices(jobs, VllmV1Memory(offload=True), host_blocks=4, cost=FakeCost(copy=3.5))
    assert backups == [(1.0, 4), (6.0, 2)]
    assert seen == [*((float(step), 1) for step in range(6)), (6.0, 48), (10.0, 44)]


# -- taken back -----------------------------------------------------------------------------------


def with_a_text_on_the_host(blocks: int) -> tuple[Engine, OffloadingCache, list[Sequence]]:
    """An engine with two requests of one text, all of which is on the host, and one token each."""
    engine = make_engine(
        VllmV1Scheduler(),
        2 * blocks,
        memory=VllmV1Memory(offload=True),
        host_blocks=blocks,
        prefix_caching=True,
    )
    cache = engine.prefix
    assert isinstance(cache, OffloadingCache)
    same: Any = {"hash_ids": tuple(range(blocks + 1)), "hash_block_tokens": 4}
    one, other = (engine.submit(request(row, 4 * blocks + 1, 0, **same), 0.0) for row in range(2))
    names = cache._keys(one.request, engine.keys(one), 0, blocks)
    new = cache.copies.reserve(User(2), 0, names)
    assert new == names
    cache.copies.written(names)
    return engine, cache, [one, other]


def test_blocks_are_found_whole_strides_of_them() -> None:
    """Up to where they are asked for, and from there on."""
    _, cache, (seq, _) = with_a_text_on_the_host(150)
    keys = seq.keys
    assert keys is not None
    for start, stop in ((0, 150), (3, 150), (0, 140), (70, 71)):
        assert cache.find(seq.request, keys, start, stop) == stop - start
    assert cache.find(seq.request, keys, 140, 160) == 10


def test_a_load_that_is_taken_back_can_be_decided_again() -> None:
    engine, _, (one, other) = with_a_text_on_the_host(4)
    draft = Draft(engine, 0.0)
    assert draft.host_prefix(one) == 4 and draft.try_load(one, 4)
    assert draft.host_prefix(other) is None
    draft.rollback()
    assert (one.state, one.node, engine.pool.referenced) == (State.WAITING, None, 0)
    assert draft.host_prefix(other) == draft.host_prefix(one) == 4
    assert draft.try_load(other, 4) and draft.host_prefix(one) is None


def loaded(engine: Engine) -> None:
    """The load that the next plan begins is over."""
    plan = engine.plan(0.0)
    assert plan is not None and not plan.has_step
    engine.complete(plan, Outcome(0.0))
    engine.transferred(plan.background[0], 1.0)
    engine.landings.take_in()


def test_what_was_loaded_is_found_from_its_adoption_on() -> None:
    """And no more when that is taken back."""
    engine, _, (one, other) = with_a_text_on_the_host(4)
    loaded(engine)
    draft = Draft(engine, 1.0)
    assert draft.cached_tokens(other) == 0
    for _ in range(2):
        draft.adopt(one)
        changes = len(draft.changes)
        draft.adopt(one)
        assert (len(draft.changes), draft.cached_tokens(other)) == (changes, 16)
        draft.rollback()
        assert (len(draft.changes), draft.cached_tokens(other)) == (0, 0)


@pytest.mark.parametrize(("adopt", "kept"), [(False, 0), (True, 4)])
def test_what_was_loaded_and_not_adopted_goes_with_its_request(adopt: bool, kept: int) -> None:
    engine, _, (one, _) = with_a_text_on_the_host(4)
    loaded(engine)
    if adopt:
        Draft(engine, 1.0).adopt(one)
    engine.cancel(one, 1.0)
    assert (engine.pool.referenced, engine.pool.cached) == (0, kept)


def test_what_does_not_fit_together_is_refused() -> None:
    """One clear line each."""

    def build(memory: VllmV1Memory, scheduler: Any = None, **config: Any) -> None:
        config = {"prefix_caching": True, "host_blocks": 4} | config
        make_engine(scheduler or VllmV1Scheduler(), 8, memory=memory, **config)

    offload = VllmV1Memory(offload=True)
    build(offload)
    with pytest.raises(ConfigError, match=r"memory.offload: expected run.lag = 0, got 1"):
        build(offload, lag=1)
    with pytest.raises(ConfigError, match=r"memory.offload: expected room on the host"):
        build(offload, host_blocks=0)
    with pytest.raises(ConfigError, match=r"memory.offload: expected run.prefix_caching = true"):
        build(offload, prefix_caching=False)
    with pytest.raises(ConfigError, match=r"memory.offload: expected a scheduler .*, got fcfs"):
        build(offload, FcfsScheduler())
    with pytest.raises(ConfigError, match=r"memory.offload_policy: expected lru or arc, got 'fi"):
        VllmV1Memory(offload_policy="fifo")  # type: ignore[arg-type]
    build(VllmV1Memory(), FcfsScheduler(), lag=1)
