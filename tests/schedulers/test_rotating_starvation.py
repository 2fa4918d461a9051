"""`rotating`: nobody starves. The bound is the one of `superinfer/schedulers/rotating/aging.py`."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pytest
from harness import FakeCost
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from property.workloads import SETTINGS
from rotating_runs import Run, arriving, promised, rotating, run

BLOCKS = 24
BUDGET = 64
STEP_S, CHUNK_TOKEN_S = 2**-4, 2**-8
COST = FakeCost(step=STEP_S, per_chunk_token=CHUNK_TOKEN_S, copy=2**-6, per_byte=2**-8)
PREFILL_RATE = BUDGET / (STEP_S + BUDGET * CHUNK_TOKEN_S)
CAPACITY = 8.0
"""Heavy requests/s: six fit into the memory, and each stays for about 0.75 s."""


@dataclass(frozen=True)
class Wait:
    """A time without a token that is longer than the patience with it."""

    start_s: float
    end_s: float
    aged_s: float
    row: int
    tenant: str
    """Empty where the aged of all tenants are one queue."""


def long_waits(played: Run) -> list[Wait]:
    """Every wait after which a request is aged, from its arrival or a token to its next token."""
    scheduler, found = played.scheduler, []
    for row, request in enumerate(played.requests):
        ttft_s = request.slo.ttft_s or 0.0
        tenant = request.tenant if scheduler.fairness else ""
        patience_s = max(scheduler.max_wait_s, scheduler.max_wait_ttfts * ttft_s)
        for start_s, end_s in pairwise([request.arrival_s, *played.tokens(row)]):
            if end_s - start_s > patience_s:
                found.append(Wait(start_s, end_s, start_s + patience_s, row, tenant))
    return found


class Bound:
    """The longest wait that is allowed, from what happened in a run."""

    def __init__(self, played: Run, output_tokens: list[int]) -> None:
        self._requests, self._outputs = played.requests, output_tokens
        self._share = played.scheduler.aged_share
        self._aging = played.scheduler.aging
        self._saved = self._share * played.scheduler.max_wait_s * PREFILL_RATE
        steps = np.diff(played.record.tokens.decode_end_s)
        self._stay_s = max(output_tokens) * float(steps.max())
        prefills = played.kinds("prefill")
        self._prefill_ends = [event[0] for event in prefills]
        self._prefilled = [0, *accumulate(event[3] for event in prefills)]
        self._waits = long_waits(played)

    def excess_s(self, wait: Wait) -> float:
        """By how much a wait is longer than allowed; negative if it is not.

        Other tenants' aged may take as much as this one's, and twice the longest request.
        """
        if self._is_pause(wait) and self._requests[wait.row].slo.tpot_s:
            return self._stream_excess_s(wait)
        aged = [w for w in self._waits if w.aged_s < wait.end_s and w.end_s > wait.aged_s]
        mine = [w for w in aged if w.tenant == wait.tenant and w.aged_s <= wait.aged_s]
        own, longest = sum(self._work(w) for w in mine), max(self._work(w) for w in self._waits)
        rivals = [w for w in aged if w.tenant != wait.tenant] if self._aging else []
        work = own + len({w.tenant for w in rivals}) * (own + 2 * longest)
        ahead = len(mine) + sum(w.end_s <= wait.end_s for w in rivals)
        computed = self._computed(wait.end_s) - self._computed(wait.aged_s)
        by_share_s = 0.0
        if computed:
            rate = computed / (wait.end_s - wait.aged_s)
            by_share_s = (self._saved + work) / (self._share * rate)
        return wait.end_s - wait.aged_s - by_share_s - 2 * ahead * self._stay_s

    def _stream_excess_s(self, wait: Wait) -> float:
        """The same of a stream that is owed its next token, which is never aged: only who waited
        before it, and the aged, come in before it.
        """
        inside = [w for w in self._waits if wait.start_s < w.end_s < wait.end_s]
        before = [w for w in inside if w.start_s < wait.start_s or not self._is_pause(w)]
        return wait.end_s - wait.aged_s - 2 * (len(before) + 1) * self._stay_s

    def _is_pause(self, wait: Wait) -> bool:
        return wait.start_s > self._requests[wait.row].arrival_s

    def waits_of(self, tenant: str) -> list[Wait]:
        """The long waits of a tenant."""
        return [wait for wait in self._waits if self._requests[wait.row].tenant == tenant]

    def _work(self, wait: Wait) -> int:
        return self._requests[wait.row].prompt_tokens + self._outputs[wait.row]

    def broken(self) -> list[Wait]:
        """The waits that are too long."""
        return [wait for wait in self._waits if self.excess_s(wait) > 0]

    def _computed(self, time_s: float) -> int:
        return self._prefilled[bisect_right(self._prefill_ends, time_s)]


Light = tuple[float, int, int]
"""Arrival, prompt and output tokens of a request that was promised nothing."""
HEAVY: dict[str, Any] = {"tenant": "heavy", **promised(ttft_s=1.0, tpot_s=0.25)}
HOPELESS: dict[str, Any] = {"tenant": "heavy", **promised(ttft_s=2**-6, tpot_s=0.25)}


def overload(
    seconds: float, load: float, light: list[Light], heavy: dict[str, Any] = HEAVY, **settings: Any
) -> Bound:
    """A tenant that sends urgent requests at `load` times what the device can serve, and another
    with few of no urgency.
    """
    rate = load * CAPACITY
    jobs: list[tuple[float, int, int, dict[str, Any]]] = [
        (index / rate, 8, 8, heavy) for index in range(int(seconds * rate))
    ]
    jobs += [(arrival_s, prompt, output, {}) for arrival_s, prompt, output in light]
    jobs.sort(key=lambda job: job[:3])
    requests = [
        arriving(index, arrival_s, prompt, **more)
        for index, (arrival_s, prompt, _, more) in enumerate(jobs)
    ]
    outputs = [output for _, _, output, _ in jobs]
    settings.setdefault("max_wait_s", 4.0)
    scheduler = rotating(max_num_seqs=16, max_num_batched_tokens=BUDGET, **settings)
    played = run(scheduler, requests, outputs, BLOCKS, cost=COST)
    assert set(played.record.table.state) == {"finished"}
    assert played.record.table.output_tokens.tolist() == outputs
    return Bound(played, outputs)


def test_a_hostile_tenant_starves_nobody() -> None:
    """Twice the load for 30 s, all of it urgent: without aging the light tenant's first request
    waits for the end of it, with aging only for those few who were aged before.
    """
    light = [(0.5, 24, 8), (10.5, 24, 8)]
    assert overload(30.0, 2.0, light).broken() == []
    broken = overload(30.0, 2.0, light, aging=False).broken()
    assert broken and broken[0].end_s > 30.0


def test_nobody_starves_behind_requests_that_are_late_from_the_start() -> None:
    """Targets that nobody could meet: relegated at once, and before those promised nothing."""
    light = [(0.5, 24, 8)]
    assert overload(15.0, 2.0, light, HOPELESS).broken() == []
    broken = overload(30.0, 2.0, light, HOPELESS, aging=False).broken()
    assert broken and broken[0].end_s > 30.0


LATE_FLOOD: dict[str, Any] = {"tenant": "hostile", **promised(ttft_s=0.25, tpot_s=0.25)}


def late_flood(seconds: float, load: float, light: list[Light], **settings: Any) -> Bound:
    """A hostile tenant whose requests are late for the most part and then aged as well."""
    return overload(seconds, load, light, LATE_FLOOD, max_wait_s=2.0, **settings)


def test_a_flood_of_late_requests_keeps_no_other_tenant_from_the_share() -> None:
    """The hostile tenant's late requests are aged too, and before the other's. In turns its aged
    cost the other no more than its own; in order of aging the waits last as long as the flood.
    """
    light = [(5.0 + index, 24, 4) for index in range(3)]
    longest_s = {}
    for fair in (True, False):
        found = late_flood(40.0, 3.0, light, fairness=fair)
        assert len(found.waits_of("hostile")) > 50
        waits = found.waits_of("default")
        longest_s[fair] = max(wait.end_s - wait.start_s for wait in waits)
    assert longest_s[True] < 20 and longest_s[False] > 60, longest_s


@hypothesis_settings(SETTINGS, max_examples=8)
@given(
    load=st.sampled_from([1.5, 2.0, 3.0]),
    light=st.lists(
        st.tuples(st.sampled_from([0.5, 2.0, 5.0]), st.integers(1, 80), st.integers(1, 12)),
        min_size=1,
        max_size=5,
    ),
)
def test_no_flood_takes_the_share_of_another_tenant(load: float, light: list[Light]) -> None:
    assert late_flood(12.0, load, light).broken() == []


def long_tailed(load: float, every: int, answer: int, **settings: Any) -> tuple[Run, list[int]]:
    """A run, and its answers: urgent requests of one tenant for 30 s, one in `every` of them with a
    long answer. Memory holds one such answer and little beside it, so streams leave all the time.
    """
    rate = load * CAPACITY
    requests = [arriving(row, row / rate, 8, **HEAVY) for row in range(int(30 * rate))]
    outputs = [answer if row % every == every - 1 else 4 for row in range(len(requests))]
    given = {"max_wait_s": 1.0, "max_wait_ttfts": 1.0, "max_num_seqs": 16, **settings}
    scheduler = rotating(max_num_batched_tokens=BUDGET, **given)
    return run(scheduler, requests, outputs, BLOCKS, cost=COST), outputs


@pytest.mark.parametrize("load", [1.0, 2.0])
@pytest.mark.parametrize(("every", "answer"), [(6, 64), (10, 40)])
def test_no_stream_waits_longer_for_its_age(load: float, every: int, answer: int) -> None:
    """Who is rotated out comes back within the stays of a few others, under any load. If it were
    aged, others would come in before it until the flood ends, after up to two minutes.
    """
    played, outputs = long_tailed(load, every, answer)
    streams = range(len(played.requests))
    pauses_s = [end - start for row in streams for start, end in pairwise(played.tokens(row))]
    assert sum(pause_s > 1.0 for pause_s in pauses_s) > 5  # the patience
    assert max(pauses_s) < 12.0
    assert Bound(played, outputs).broken() == []


@pytest.mark.parametrize("switch", ["relegation", "rotation", "admission", "fairness"])
def test_the_bound_does_not_hang_on_other_mechanisms(switch: str) -> None:
    assert overload(15.0, 2.0, [(0.5, 24, 8), (3.0, 60, 4)], **{switch: False}).broken() == []


@hypothesis_settings(SETTINGS, max_examples=8)
@given(
    load=st.sampled_from([0.5, 1.0, 2.0, 3.0]),
    light=st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 2.0, 5.0]), st.integers(1, 80), st.integers(1, 12)),
        min_size=1,
        max_size=6,
    ),
)
def test_no_wait_exceeds_the_bound(load: float, light: list[Light]) -> None:
    assert overload(12.0, load, light, max_wait_s=2.0).broken() == []
