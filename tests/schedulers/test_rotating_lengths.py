"""`rotating`: what is known of answer lengths: histogram, nothing, or the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import make_engine, request
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from property.workloads import SETTINGS
from rotating_runs import arriving, rotating, run

from superinfer.errors import ConfigError
from superinfer.request import Request, SLOClass
from superinfer.schedulers.rotating.lengths import (
    COLD_START_TOKENS,
    HISTORY,
    HistogramLengths,
    NoLengths,
    OracleLengths,
    estimator_of,
)

FEWEST = 8


def asked(tenant: str = "t", name: str = "c", max_tokens: int = 1 << 20) -> Request:
    return request(0, 8, 0, tenant=tenant, slo_class=SLOClass(name), max_tokens=max_tokens)


def test_scaled_estimates_for_studies_of_their_errors() -> None:
    plain, longer = (estimator_of("histogram", None, by) for by in (1.0, 1.5))
    assert isinstance(plain, HistogramLengths)
    for _ in range(FEWEST):
        plain.learn(asked(), 100)
        longer.learn(asked(), 100)
    assert longer.tokens_left(asked(), 20, 0.5) == 1.5 * plain.tokens_left(asked(), 20, 0.5) == 120
    assert estimator_of("none", None, 0.001).tokens_left(asked(max_tokens=100), 0, 0.5) == 1


@hypothesis_settings(SETTINGS, max_examples=80)
@given(
    lengths=st.lists(st.integers(1, 300), max_size=60),
    given_tokens=st.integers(0, 300),
    quantile=st.sampled_from([0.1, 0.5, 0.9]),
)
def test_conditional_quantiles(lengths: list[int], given_tokens: int, quantile: float) -> None:
    """Of the answers that are longer than this one is already; too few of them tell nothing."""
    estimator = HistogramLengths()
    for tokens in lengths:
        estimator.learn(asked(), tokens)
    longer = np.array([tokens for tokens in lengths if tokens > given_tokens])
    found = estimator.tokens_left(asked(), given_tokens, quantile) + given_tokens
    if len(longer) < FEWEST:
        assert found == NoLengths().tokens_left(asked(), given_tokens, quantile) + given_tokens
    else:
        assert np.mean(longer < found) <= quantile <= np.mean(longer <= found)
        assert found in longer


def test_the_histogram_forgets() -> None:
    """After 1000 answers of the second kind the first are gone, equal ones one at a time."""
    estimator = HistogramLengths()
    for tokens in [50] * HISTORY + [200] * (HISTORY // 2 + 1):
        estimator.learn(asked(), tokens)
    assert estimator.tokens_left(asked(), 0, 0.5) == 200
    assert estimator.tokens_left(asked(), 0, 0.4) == 50
    for _ in range(HISTORY // 2):
        estimator.learn(asked(), 200)
    assert estimator.tokens_left(asked(), 0, 0.0) == 200


def test_tenant_then_class_then_nothing() -> None:
    estimator = HistogramLengths()
    for _ in range(FEWEST):
        estimator.learn(asked("a"), 100)
        estimator.learn(asked("b"), 300)
    assert estimator.tokens_left(asked("a"), 0, 0.5) == 100
    assert estimator.tokens_left(asked("b"), 0, 0.5) == 300
    assert estimator.tokens_left(asked("a"), 150, 0.5) == 150  # no longer one of a's: the class's
    assert estimator.tokens_left(asked("new"), 0, 0.4) == 100
    assert estimator.tokens_left(asked("a", "other"), 0, 0.5) == COLD_START_TOKENS


def test_the_clients_limit_bounds_an_answer() -> None:
    estimator = HistogramLengths()
    for _ in range(FEWEST):
        estimator.learn(asked(), 300)
    assert estimator.tokens_left(asked(max_tokens=120), 100, 0.5) == 20
    assert estimator.tokens_left(asked(max_tokens=120), 120, 0.5) == 1


@pytest.mark.parametrize(
    ("max_tokens", "given_tokens", "left"),
    [
        (100, 0, 100),
        (1 << 20, 0, COLD_START_TOKENS),
        (1 << 20, 511, 1),
        (1 << 20, 512, 512),
        (600, 512, 88),
        (100, 99, 1),
        (100, 100, 1),
    ],
)
def test_cold_start(max_tokens: int, given_tokens: int, left: int) -> None:
    """The shorter of the limit and 512 tokens; longer answers are taken to be twice as long."""
    assert NoLengths().tokens_left(asked(max_tokens=max_tokens), given_tokens, 0.5) == left


def test_the_oracle_tells_the_truth() -> None:
    oracle = OracleLengths(lambda req: 40)
    assert [oracle.tokens_left(asked(), n, 0.9) for n in (0, 39, 40, 41)] == [40, 1, 1, 1]
    oracle.learn(asked(), 5)
    assert oracle.tokens_left(asked(), 0, 0.5) == 40


def test_none_does_not_learn() -> None:
    estimator = estimator_of("none", None)
    for _ in range(100):
        estimator.learn(asked(), 7)
    assert estimator.tokens_left(asked(), 0, 0.5) == COLD_START_TOKENS


def test_an_oracle_nobody_told_is_refused() -> None:
    with pytest.raises(ConfigError, match="'oracle' is for studies in simulation only"):
        make_engine(rotating(lengths="oracle"), 10)


@pytest.mark.parametrize(("source", "together"), [("oracle", 3), ("histogram", 3), ("none", 1)])
def test_what_is_known_decides_who_fits(source: Any, together: int) -> None:
    """Three prompts of 8 tokens with answers of 12 fit into 20 blocks; three of 512 would not.
    The histogram knows it after eight answers, the truth-teller at once, `none` never.
    """
    requests = [arriving(index, 1000.0 * index, 8) for index in range(FEWEST)]
    requests += [arriving(FEWEST + index, 9000.0, 8) for index in range(3)]
    scheduler = rotating(lengths=source)
    scheduler.tell_lengths(lambda req: 12)
    played = run(scheduler, requests, [12] * len(requests), 20)
    starts = played.record.table.first_scheduled_s[FEWEST:]
    assert (starts <= 9001.0).sum() == together


@pytest.mark.interpreted
def test_only_finished_answers_are_learnt() -> None:
    """A request that was given up says nothing about lengths."""
    scheduler = rotating()
    engine = make_engine(scheduler, 40)
    learnt: list[int] = []
    scheduler._estimator.learn = lambda req, tokens: learnt.append(tokens)  # type: ignore[method-assign]
    first, second = (engine.submit(request(index, 8, 0), 0.0) for index in range(2))
    engine.cancel(first, 0.0)
    engine.end(second, "finished", None, 1.0)
    assert learnt == [0]
