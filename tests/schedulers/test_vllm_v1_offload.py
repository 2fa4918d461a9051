"""Copies to the host and back in vLLM's V1 engine, iteration by iteration, worked by hand.

Blocks have 4 tokens, a step takes a second, copies go one after the other in each direction.
"""

from __future__ import annotations

from typing import Any

import pytest
from harness import FakeCost, iterations, make_engine

from superinfer.errors import ConfigError
from superinfer.memory.vllm_v1.policy import VllmV1Memory
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.schedulers.vllm_v1 import VllmV1Scheduler

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
