"""Conversations with a driver that knows what is said: later turns find what earlier ones answered,
and whatever has to hold with any scheduler and memory policy still does.
"""

from __future__ import annotations

from random import Random
from typing import Any

from harness import BLOCK, request
from property.arms import ALL_ARMS, BOTH_LAGS
from property.exact_runs import build
from property.invariants import ImpatientDriver, assert_all_free, assert_each_ends_once

from superinfer.engine import Engine
from superinfer.request import Request
from superinfer.sequence import Sequence

HASH_TOKENS = BLOCK // 2
TURNS, CONVERSATIONS = 3, 12


def said(index: int, first: int, stop: int) -> tuple[int, ...]:
    """Ids of what request `index` answers."""
    return tuple(1_000_000 * (index + 1) + k for k in range(first, stop))


def text_ids(seq: Sequence) -> tuple[int, ...]:
    """Of a prompt and its answer, without the last token."""
    asked = seq.request
    first = asked.prompt_tokens // HASH_TOKENS
    stop = (asked.prompt_tokens + seq.output_tokens - 1) // HASH_TOKENS
    return asked.hash_ids[:first] + said(asked.index, first, stop)


def conversations(seed: int) -> tuple[list[Request], list[int]]:
    """Turns that begin with all that was said before, and the lengths of their answers."""
    rng = Random(seed)
    histories: list[tuple[int, ...]] = [() for _ in range(CONVERSATIONS)]
    requests, outputs = [], []
    for index in range(TURNS * CONVERSATIONS):
        history = histories[index % CONVERSATIONS]
        new, output = rng.randint(1, 9), rng.randint(1, 12)
        asked = tuple(5_000 + 100 * index + k for k in range(-(-new // HASH_TOKENS)))
        prompt = len(history) * HASH_TOKENS + new
        now = 60.0 * (index // CONVERSATIONS) + index % CONVERSATIONS
        more: dict[str, Any] = {"hash_ids": history + asked, "hash_block_tokens": HASH_TOKENS}
        requests.append(request(index, prompt, output, now, **more))
        outputs.append(output)
        first, stop = prompt // HASH_TOKENS, (prompt + output - 1) // HASH_TOKENS
        histories[index % CONVERSATIONS] = more["hash_ids"][:first] + said(index, first, stop)
    return requests, outputs


def found_tokens(arm: str, lag: int, seed: int, knows: bool) -> tuple[int, Engine]:
    """Tokens of prompts that were found in the cache."""
    events: list[Any] = []
    engine = build(arm, lag, True, events.append)
    if knows:
        engine.text_ids = text_ids
    requests, outputs = conversations(seed)
    ImpatientDriver(engine, requests, outputs, cancels=[(30.5, 3), (61.0, 13)]).run()
    assert_all_free(engine)
    assert_each_ends_once(events, requests)
    return engine.recorder.prefix_hit_tokens, engine


@ALL_ARMS
@BOTH_LAGS
def test_later_turns_find_answers(arm: str, lag: int) -> None:
    """Where prefixes are in the tree and anything is found at all; an index of a scheduler's own
    takes no notice.
    """
    plain = known = 0
    for seed in range(4):
        plain += found_tokens(arm, lag, seed, knows=False)[0]
        found, engine = found_tokens(arm, lag, seed, knows=True)
        known += found
    assert known > plain if engine.tree is not None and plain else known == plain


def test_ids_longer_than_a_block_are_left_alone() -> None:
    """The last blocks of a prompt bear the id of a partial one there."""
    engine = build("fcfs", 0, True, None)
    engine.text_ids = lambda seq: tuple(range(90, 99))
    asked = request(0, 5, 9, hash_ids=(1,), hash_block_tokens=2 * BLOCK)
    ImpatientDriver(engine, [asked], [9]).run()
    assert engine.tree is not None
    assert engine.tree.match(asked, (90, 91, 92), 3) == (0, 0)
