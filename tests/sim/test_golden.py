"""Tiny traces whose every token time is worked out by hand. Blocks hold 4 tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import FakeCost, make_engine, request
from property.exact_runs import token_times
from rotating_runs import promised, told

from sim.driver import simulate
from sim.oracle import Oracle
from superinfer.metrics.columns import RequestView
from superinfer.records.run import RunRecord
from superinfer.schedulers.vllm import VllmScheduler

Jobs = dict[str, tuple[float, int, int]]
"""Name: (arrival, prompt tokens, output tokens)."""


class Golden:
    """A finished run, asked by the names of its requests."""

    def __init__(self, jobs: Jobs, record: RunRecord) -> None:
        self.rows = {name: row for row, name in enumerate(jobs)}
        self.record, self.view = record, RequestView.of(record)
        assert set(record.table.state) == {"finished"}

    def tokens(self, name: str) -> list[float]:
        return token_times(self.record, self.rows[name])

    def itl(self, name: str) -> list[float]:
        return np.diff(self.tokens(name)).tolist()

    def ttft(self, name: str) -> float:
        return float(self.view.ttft_s[self.rows[name]])

    def tpot(self, name: str) -> float:
        return float(self.view.tpot_s[self.rows[name]])

    def e2e(self, name: str) -> float:
        return float(self.view.e2el_s[self.rows[name]])

    def count(self, name: str, column: str) -> int:
        return int(getattr(self.record.table, column)[self.rows[name]])


def run(jobs: Jobs, cost: FakeCost, *, lag: int = 0, blocks: int = 8, **settings: Any) -> Golden:
    settings.setdefault("chunked", False)
    scheduler = VllmScheduler(watermark=0.0, max_num_seqs=4, **settings)
    engine = make_engine(scheduler, blocks, cost=cost, host_blocks=64, lag=lag)
    requests = [
        request(index, prompt, 0, arrival_s, name)
        for index, (name, (arrival_s, prompt, _)) in enumerate(jobs.items())
    ]
    simulate(engine, requests, Oracle([output for _, _, output in jobs.values()]))
    return Golden(jobs, engine.recorder.build(engine))


def test_prefill_stalls_decodes() -> None:
    """A step takes 1 + (prompt tokens) / 4 + (decode context) / 8 seconds.

    0      A prefills 8: 1 + 2          -> 3      A's first token
    3      B (since 0.5) prefills 4: 1+1 -> 5     B's first token; A stalls
    5      A at context 9, B at 5: 1 + 14/8 -> 7.75   both; B has its 2 tokens
    7.75   A at context 10: 1 + 10/8    -> 10     A has its 3 tokens
    """
    cost = FakeCost(step=1.0, per_chunk_token=0.25, per_context_token=0.125)
    golden = run({"A": (0, 8, 3), "B": (0.5, 4, 2)}, cost, max_num_batched_tokens=16)
    assert golden.tokens("A") == [3, 7.75, 10]
    assert golden.tokens("B") == [5, 7.75]
    assert (golden.ttft("A"), golden.ttft("B")) == (3, 4.5)
    assert (golden.tpot("A"), golden.tpot("B")) == (3.5, 2.75)
    assert golden.itl("A") == [4.75, 2.25]
    assert (golden.e2e("A"), golden.e2e("B")) == (10, 7.25)


THREE: Jobs = {"A": (0, 8, 6), "B": (0, 7, 6), "C": (0, 4, 3)}


def test_preemption_by_recomputation() -> None:
    """Every step takes 1 s; 8 blocks, prompts share a budget of 16 tokens.

    0  A, B prefill (4 blocks)           -> 1   first tokens of A, B
    1  C prefills (5 blocks)             -> 2   first token of C
    2  A, B, C decode (A, C grow: 7)     -> 3   A 2, B 2, C 2
    3  B's growth takes the eighth block, so none is free at C's turn: C is dropped (-2)
       A, B decode                       -> 4   A 3, B 3
    4  C prefills 4 + 2 tokens (2 blocks) -> 5  C 3: done. Its first token stays that of 2 s.
    5  A, B decode                       -> 6   A 4, B 4
    6  A, B decode                       -> 7   A 5, B 5
    7  A, B decode                       -> 8   A 6, B 6: done
    """
    golden = run(THREE, FakeCost(), max_num_batched_tokens=16)
    assert golden.tokens("A") == golden.tokens("B") == [1, 3, 4, 6, 7, 8]
    assert golden.tokens("C") == [2, 3, 5]
    assert [golden.ttft(name) for name in "ABC"] == [1, 1, 2]
    assert [golden.tpot(name) for name in "AC"] == [1.4, 1.5]
    assert (golden.itl("A"), golden.itl("C")) == ([2, 1, 2, 1, 1], [1, 2])
    # C had its prompt and its first token in the cache, and computed those 5 tokens again.
    assert (golden.count("C", "preemptions"), golden.count("C", "recomputed_tokens")) == (1, 5)
    assert golden.count("A", "recomputed_tokens") == golden.count("B", "preemptions") == 0
    # 8 + 7 + 4 prompt tokens, 5 decodes each of A and B, 1 of C, 6 tokens of C again.
    assert golden.record.computed_tokens == 19 + 11 + 6


def test_preemption_by_swapping() -> None:
    """As above; a copy takes 1/4 s and 1/8 s for each of its blocks (of one byte).

    3    C's 5 tokens are copied out: 2 blocks, 1/2 s; A, B decode  -> 4.5
    4.5  C needs 2 + 1 blocks, 2 are free: A, B decode              -> 5.5
    5.5  the same                                                   -> 6.5
    6.5  the same; A, B have their 6 tokens                         -> 7.5
    7.5  C is copied in, 1/2 s, and decodes                         -> 9
    """
    cost = FakeCost(copy=0.25, per_byte=0.125)
    golden = run(THREE, cost, max_num_batched_tokens=16, preemption="swap")
    assert golden.tokens("A") == golden.tokens("B") == [1, 3, 4.5, 5.5, 6.5, 7.5]
    assert golden.tokens("C") == [2, 3, 9]
    assert (golden.tpot("A"), golden.tpot("C")) == (1.3, 3.5)
    assert golden.itl("C") == [1, 6]
    counts = ("rotations", "preemptions", "d2h_bytes", "h2d_bytes", "recomputed_tokens")
    assert [golden.count("C", name) for name in counts] == [1, 1, 2, 2, 0]


def test_chunked_prefill_beside_decodes() -> None:
    """A step takes 1 + (prompt tokens) / 8 + (decode context) / 16 s; 8 tokens a step.

    0       A prefills 4: 1 + 1/2                    -> 1.5      A 1
    1.5     B (since 0.5) 7 of 14, A at 5: 1 + 7/8 + 5/16 -> 3.6875  A 2
    3.6875  B the other 7, A at 6: 1 + 7/8 + 6/16    -> 5.9375   A 3, B 1
    5.9375  A at 7, B at 15: 1 + 22/16               -> 8.3125   A 4, B 2
    8.3125  A at 8, B at 16: 1 + 24/16               -> 10.8125  A 5, B 3: both done
    """
    cost = FakeCost(step=1.0, per_chunk_token=0.125, per_context_token=0.0625)
    jobs: Jobs = {"A": (0, 4, 5), "B": (0.5, 14, 3)}
    golden = run(jobs, cost, max_num_batched_tokens=8, chunked=True)
    assert golden.tokens("A") == [1.5, 3.6875, 5.9375, 8.3125, 10.8125]
    assert golden.tokens("B") == [5.9375, 8.3125, 10.8125]
    assert (golden.ttft("A"), golden.ttft("B")) == (1.5, 5.4375)
    assert golden.tpot("A") == 9.3125 / 4
    assert golden.tpot("B") == 4.875 / 2
    assert golden.itl("A") == [2.1875, 2.25, 2.375, 2.5]


def test_rotation_for_an_urgent_request() -> None:
    """`rotating`, 10 blocks. A step takes 1 + (prompt tokens) / 16 s, a copy 1/4 + (blocks) / 16 s.
    A is owed a token every 4 s, B (24 tokens, 6 blocks) its first one 6 s after it came.

    0       A prefills 16: 1 + 1                -> 2        A 1
    2       A decodes                           -> 3        A 2
    3       B (since 2.5) is urgent; A's 5 blocks would have to go, but copying them out and back
            takes 9/8 s, a tenth of which may be a twentieth of A's stay: it stays for 3 tokens
            A decodes, twice                    -> 5        A 4
    5       A may pause for 4 s. It is copied out, 9/16 s; B prefills 24: 1 + 3/2 -> 8.0625  B 1
    8.0625  A's next token is due by 9: it is urgent, and does not fit; B decodes
                                                -> 9.0625   B 2: done
    9.0625  A is copied in, 9/16 s; A decodes   -> 10.625   A 5
    10.625  A decodes                           -> 11.625   A 6: done
    """
    cost = FakeCost(step=1.0, per_chunk_token=2**-4, copy=0.25, per_byte=2**-4)
    jobs: Jobs = {"A": (0, 16, 6), "B": (2.5, 24, 2)}
    scheduler = told({"A": 30, "B": 2}, max_num_batched_tokens=32)
    targets = {"A": promised(ttft_s=8.0, tpot_s=4.0), "B": promised(ttft_s=6.0)}
    engine = make_engine(scheduler, 10, cost=cost, host_blocks=64)
    requests = [
        request(index, prompt, 0, arrival_s, name, **targets[name])
        for index, (name, (arrival_s, prompt, _)) in enumerate(jobs.items())
    ]
    simulate(engine, requests, Oracle([output for _, _, output in jobs.values()]))
    golden = Golden(jobs, engine.recorder.build(engine))
    assert golden.tokens("A") == [2, 3, 4, 5, 10.625, 11.625]
    assert golden.tokens("B") == [8.0625, 9.0625]
    counts = ("rotations", "d2h_bytes", "h2d_bytes", "recomputed_tokens")
    assert [golden.count("A", name) for name in counts] == [1, 5, 5, 0]


LATE: Jobs = {"A": (0, 4, 3), "B": (0, 4, 1), "C": (3.5, 4, 1)}
HOST = FakeCost(step=1.0, host=0.25)


def test_host_time_shows_without_lag() -> None:
    """A step takes 1/4 s on the host and then 1 s on the device.

    0     A, B prefill -> 1.25   A 1, B 1: done
    1.25  A decodes    -> 2.5    A 2
    2.5   A decodes    -> 3.75   A 3: done
    3.75  C (since 3.5) prefills -> 5
    """
    golden = run(LATE, HOST, max_num_batched_tokens=16)
    assert [golden.tokens(name) for name in "ABC"] == [[1.25, 2.5, 3.75], [1.25], [5]]
    assert golden.ttft("C") == 1.5
    assert np.isnan(golden.tpot("B"))
    assert golden.record.computed_tokens == 8 + 2 + 4


def test_lag_hides_host_time_and_wastes_a_step() -> None:
    """With lag 1 a step takes 1 s, the longer of host and device.

    0  A, B prefill                                  -> 1   A 1, B 1: done
    1  planned at 0: A decodes, B still with it      -> 2   A 2
    2  A decodes                                     -> 3   A 3: done
    3  planned at 2: A once more, for nothing        -> 4
    4  C (since 3.5) prefills                        -> 5   C 1: done
    5  C once more, for nothing                      -> 6
    """
    golden = run(LATE, HOST, max_num_batched_tokens=16, lag=1)
    assert [golden.tokens(name) for name in "ABC"] == [[1, 2, 3], [1], [5]]
    assert golden.record.tokens.decode_end_s.tolist() == [2, 3, 4, 6]
    assert golden.ttft("C") == 1.5
    assert golden.count("A", "output_tokens") == 3
    # Decodes of A (2, and one for nothing), of B (1 for nothing), of C (1 for nothing).
    assert golden.record.computed_tokens == 8 + 3 + 1 + 4 + 1


def test_lag_delays_who_waits_for_blocks() -> None:
    """4 blocks: B needs 3 of them, so it can start only when A has left. Every step takes 1 s.

    0  A prefills (1 block)                          -> 1   A 1
    1  A decodes (grows: 2 blocks)                   -> 2   A 2: done
    2  planned at 1: A once more, for nothing        -> 3
    3  B (since 1.5) prefills                        -> 4   B 1: done
    """
    jobs: Jobs = {"A": (0, 4, 2), "B": (1.5, 12, 1)}
    settings: Any = {"blocks": 4, "max_num_batched_tokens": 12}
    assert run(jobs, FakeCost(), lag=1, **settings).tokens("B") == [4]
    assert run(jobs, FakeCost(), lag=0, **settings).tokens("B") == [3]


def test_a_plan_made_ahead_turns_nobody_away() -> None:
    """A fills the memory and has its only token after 1 s. The plan made at 0 finds no block for
    another one and takes A off the device; with its token A would be too long to start again.
    """
    golden = run({"A": (0, 8, 1)}, FakeCost(), lag=1, blocks=2, max_num_batched_tokens=8)
    assert golden.tokens("A") == [1]


@pytest.mark.parametrize("lag", [0, 1])
def test_an_arrival_ends_a_slice(lag: int) -> None:
    """A decodes alone in one long slice until B comes at 3.5; with lag 1 B waits a step more."""
    jobs: Jobs = {"A": (0, 4, 9), "B": (3.5, 4, 1)}
    golden = run(jobs, FakeCost(), lag=lag, max_num_batched_tokens=8)
    start = 4 + lag
    assert golden.tokens("B") == [start + 1]
    assert golden.tokens("A") == [*range(1, start + 1), *range(start + 2, 11)]
