"""What a run books: seconds inside and outside the measured range, slice by slice."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superinfer.costs import Chunk, Coverage, Limits, StepCost, build_cost, list_profiles
from superinfer.costs.coverage import (
    CHUNK_CONTEXT,
    CHUNK_TOKENS,
    CONTEXT,
    KEYS,
    MEAN_CONTEXT,
    OUTPUT_ROWS,
    SEQUENCES,
    STEP_TOKENS,
    Limit,
)

ENDS = {
    STEP_TOKENS: 40,
    OUTPUT_ROWS: 14,
    SEQUENCES: 12,
    CONTEXT: 300,
    MEAN_CONTEXT: 45,
    KEYS: 90,
    CHUNK_TOKENS: 30,
    CHUNK_CONTEXT: 75,
}
ALL = Limits.of((quantity, "kernel", float(end)) for quantity, end in ENDS.items())


def only(quantity: str, end: float) -> Coverage:
    return Coverage(Limits((Limit(quantity, end),)))


# -- by hand --------------------------------------------------------------------------------------


def test_a_slice_is_cut_where_it_passes_the_limit() -> None:
    coverage = only(CONTEXT, 100)
    # Ten decodes: contexts of 85, 95, 105 and 115 tokens in steps of 1, 2, 3 and 4 s.
    coverage.book((), 10, 85, 5.0, [6.0, 8.0, 11.0, 15.0])
    assert (coverage.total_s, coverage.outside_s, coverage.extrapolated_share) == (10.0, 7.0, 0.7)
    row = {"what": "total decode context tokens", "limit": 100, "largest": 115, "share": 0.7}
    assert coverage.left_range == [row]


def test_the_last_measured_value_is_inside() -> None:
    coverage = only(CONTEXT, 105)
    coverage.book((), 10, 85, 0.0, [1.0, 2.0, 3.0])
    assert (coverage.total_s, coverage.outside_s, coverage.left_range) == (3.0, 0.0, [])


def test_the_mean_context_moves_by_one_token_a_step() -> None:
    coverage = only(MEAN_CONTEXT, 50)
    coverage.book((), 4, 195, 0.0, [1.0, 2.0, 3.0])  # means of 48.75, 49.75, 50.75
    (left,) = coverage.left_range
    assert (coverage.outside_s, left["largest"]) == (1.0, 51)


def test_a_chunk_moves_on_by_its_tokens() -> None:
    coverage = only(KEYS, 64)
    coverage.book([Chunk(16, 20)], 3, 30, 0.0, [1.0, 3.0, 7.0])  # up to tokens 36, 52 and 68
    (left,) = coverage.left_range
    assert (coverage.outside_s, left["largest"], left["share"]) == (4.0, 68, 4 / 7)


def test_time_outside_two_limits_counts_once() -> None:
    coverage = Coverage(Limits((Limit(SEQUENCES, 2), Limit(STEP_TOKENS, 8))))
    coverage.book([Chunk(9, 0)], 0, 0, 0.0, [2.0])
    coverage.book((), 3, 30, 2.0, [3.0])
    coverage.book([Chunk(8, 0)], 3, 33, 3.0, [7.0])
    coverage.book((), 2, 24, 7.0, [8.0])
    assert coverage.extrapolated_share == 7 / 8
    assert [(row["what"], row["share"]) for row in coverage.left_range] == [
        ("step tokens", 6 / 8),
        ("decode sequences", 5 / 8),
    ]


def test_what_replicas_have_booked_counts_together() -> None:
    """One has steps with contexts of 85, 95 and 105 tokens, the other one with 103."""
    first, second = only(CONTEXT, 100), only(CONTEXT, 100)
    first.book((), 10, 85, 0.0, [1.0, 2.0, 3.0])
    second.book((), 1, 103, 4.0, [5.0])
    first.add(second)
    assert (first.total_s, first.outside_s) == (4.0, 2.0)
    row = {"what": "total decode context tokens", "limit": 100, "largest": 105, "share": 0.5}
    assert first.left_range == [row]


def test_a_chunk_slice_without_decodes_has_no_decode_context() -> None:
    coverage = Coverage(Limits((Limit(MEAN_CONTEXT, 1), Limit(CONTEXT, 1), Limit(KEYS, 1))))
    coverage.book([Chunk(8, 0)], 0, 0, 0.0, [1.0, 2.0, 3.0, 4.0])
    assert [row["what"] for row in coverage.left_range] == [KEYS]


def test_nothing_measured_nothing_left() -> None:
    coverage = Coverage()
    coverage.book([Chunk(10**9, 10**9)], 10**9, 10**12, 0.0, [1.0])
    assert (coverage.total_s, coverage.extrapolated_share, coverage.left_range) == (1.0, 0.0, [])
    assert Coverage(ALL).extrapolated_share == 0.0


def test_kernels_are_named_where_their_ends_differ() -> None:
    ends = [*((STEP_TOKENS, name, 8.0) for name in "abcde"), (STEP_TOKENS, "norm", 4.0)]
    limits = Limits.of([*ends, (SEQUENCES, "decode", 2.0), (KEYS, "prefill", inf)])
    assert [entry.what for entry in limits.entries] == [
        "step tokens (a and 4 more)",
        "step tokens (norm)",
        "decode sequences",
    ]


# -- a slice and its steps ------------------------------------------------------------------------


def booked(coverage: Coverage) -> list[object]:
    rows = [tuple(row.values()) for row in coverage.left_range]
    return [coverage.total_s, coverage.outside_s, *sorted(rows)]


def flat(values: Sequence[object]) -> list[object]:
    return [x for value in values for x in (value if isinstance(value, tuple) else (value,))]


@given(
    st.lists(st.builds(Chunk, st.integers(1, 35), st.integers(0, 80)), max_size=3),
    st.integers(0, 14),
    st.integers(1, 60),
    st.lists(st.integers(1, 8), min_size=1, max_size=60),
)
def test_a_slice_books_what_its_steps_book(
    chunks: list[Chunk], decodes: int, mean: int, lengths: list[int]
) -> None:
    if not (chunks or decodes):
        return
    if len(chunks) > 1:
        del lengths[1:]  # as in every plan
    ends = [float(sum(lengths[: step + 1])) for step in range(len(lengths))]
    whole, single = Coverage(ALL), Coverage(ALL)
    whole.book(chunks, decodes, decodes * mean, 0.0, ends)
    for step, (start, end) in enumerate(pairwise([0.0, *ends])):
        moved = [Chunk(c.tokens, c.context_tokens + step * c.tokens) for c in chunks]
        single.book(moved, decodes, decodes * (mean + step), start, [end])
        assert_by_definition(single, moved, decodes, decodes * (mean + step))
    assert flat(booked(whole)) == flat(booked(single))


def assert_by_definition(
    coverage: Coverage, chunks: list[Chunk], decodes: int, context: int
) -> None:
    """One step against the plain words of each quantity."""
    found = {
        STEP_TOKENS: decodes + sum(chunk.tokens for chunk in chunks),
        OUTPUT_ROWS: decodes + len(chunks),
        SEQUENCES: decodes,
        CONTEXT: context,
        MEAN_CONTEXT: context / decodes if decodes else 0,
        KEYS: max([chunk.tokens + chunk.context_tokens for chunk in chunks], default=0),
        CHUNK_TOKENS: max([chunk.tokens for chunk in chunks], default=0),
        CHUNK_CONTEXT: max([chunk.context_tokens for chunk in chunks], default=0),
    }
    alone = Coverage(ALL)
    alone.book(chunks, decodes, context, 0.0, [1.0])
    passed = {quantity for quantity, value in found.items() if value > ENDS[quantity]}
    assert {row["what"] for row in alone.left_range} == passed
    assert passed <= {row["what"] for row in coverage.left_range}
    assert alone.outside_s == float(bool(passed))


class Counting(list[float]):
    """Step ends that count how often one is looked at."""

    looks = 0

    def __getitem__(self, index: object) -> float:  # type: ignore[override]
        self.looks += 1
        return super().__getitem__(index)  # type: ignore[index, return-value]

    def __iter__(self) -> object:  # type: ignore[override]
        raise AssertionError("a slice is not walked through")


@pytest.mark.parametrize("steps", [10, 100_000])
def test_a_long_slice_takes_as_many_looks_as_a_short_one(steps: int) -> None:
    coverage, ends = Coverage(ALL), Counting(map(float, range(1, steps + 1)))
    coverage.book([Chunk(16, 20)], 10, 10 * 25, 0.0, ends)
    assert coverage.outside_s == steps - 4
    assert ends.looks <= 2 * (len(ENDS) + 1)


# -- cost models ----------------------------------------------------------------------------------


def cost_of(name: object) -> StepCost:
    return build_cost(name.model, name.device, name.tp, "calibrated")  # type: ignore[attr-defined]


DATACENTRE = [name for name in list_profiles() if name.device != "rtxpro6000"]


@pytest.mark.parametrize("name", DATACENTRE, ids=lambda name: name.path.stem)
def test_limits_of_the_shipped_profiles(name: object) -> None:
    cost = cost_of(name)
    ends = {limit.what: limit.end for limit in cost.limits.entries}
    total = {8: 262_144, 2: 524_288, 1: 1_048_576}[cost.shape.gpu_kv_heads(cost.tp)]
    hopper = name.device != "a100-80g"  # type: ignore[attr-defined]
    assert ends[CONTEXT] == total * (2 if hopper else 1)
    assert (ends[KEYS], ends[SEQUENCES]) == (16_384, 2048)
    assert cost.limits.end(STEP_TOKENS) == (4096 if hopper else 32_768)
    assert ("step tokens (norm, activation, rope_write, embed)" in ends) == hopper


def test_limits_of_attention_that_serves_both() -> None:
    cost = build_cost("llama-3.1-8b", "rtxpro6000", 1, "calibrated")
    ends = {limit.what: limit.end for limit in cost.limits.entries}
    assert ends["decode sequences (attention_decode_16)"] == 256
    assert ends["decode sequences (attention_mixed_16)"] == 128
    assert ends["tokens of a prefill chunk"] == 2048
    assert cost.limits.end(STEP_TOKENS) == 2048


@pytest.mark.parametrize(
    ("device", "chunks", "decodes", "context", "left"),
    [
        ("a100-80g", [Chunk(4097, 0)], 0, 0, None),
        ("h100", [Chunk(4000, 0)], 96, 9600, None),
        ("h100", [Chunk(4001, 0)], 96, 9600, ("step tokens (norm,", 4096, 4097)),
        ("a100-80g", [Chunk(512, 15_872)], 8, 8000, None),
        ("a100-80g", [Chunk(512, 15_873)], 8, 8000, ("prefill tokens", 16_384, 16_385)),
        ("a100-80g", (), 9, 262_144, None),
        ("a100-80g", (), 9, 262_145, ("total decode context", 262_144, 262_145)),
        ("a100-80g", (), 2, 65_537, ("mean decode context", 32_768, 32_769)),
        ("a100-80g", (), 2049, 4098, ("decode sequences", 2048, 2049)),
    ],
)
def test_one_step_at_the_end_of_the_8b_profiles(
    device: str,
    chunks: Sequence[Chunk],
    decodes: int,
    context: int,
    left: tuple[str, int, int] | None,
) -> None:
    cost = build_cost("llama-3.1-8b", device, 1, "calibrated")
    coverage = Coverage(cost.limits)
    coverage.book(chunks, decodes, context, 0.0, [1.0])
    trust = cost.trust(coverage)
    assert (trust["measured_share"], trust["extrapolated_share"]) == ((0, 1) if left else (1, 0))
    rows = coverage.left_range
    assert len(rows) == bool(left)
    for row in rows:
        assert left is not None and str(row["what"]).startswith(left[0])
        assert (row["limit"], row["largest"], row["share"]) == (left[1], left[2], 1.0)
