"""Metrics against cases worked by hand, and against plain per-token arithmetic."""

from __future__ import annotations

import json
import math
import time
import tracemalloc
from dataclasses import dataclass, replace
from itertools import accumulate, combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import Job, build, floats, ints, large_record

from superinfer.metrics import RunMetrics, request_columns, summarise
from superinfer.metrics.fairness import Fairness, fairness, max_min_share
from superinfer.metrics.statistics import (
    statistics,
    weighted_quantiles,
    weighted_statistics,
)
from superinfer.metrics.window import Window
from superinfer.records.cluster import cluster_record
from superinfer.records.run import Copies, RunRecord
from superinfer.request import SLO

# Worked by hand. Steps end at 2, 3, 5, 6, 9, 10.
#   A arrives at 0, first token at 1, tokens at 2 3 5 6: TTFT 1, E2E 6, TPOT 5/4, gaps 1 1 2 1.
#   B arrives at 1, first token at 2.5, tokens at 3 5; preempted; its recomputed prefill gives a
#     token at 8 (gap 3), then 9 10: TTFT 1.5, E2E 9, TPOT 7.5/5, gaps .5 2 3 1 1.
#   C arrives at 4, one token at 7: TTFT = E2E = 3, no TPOT.   D is rejected at 4.
STEPS = [2.0, 3.0, 5.0, 6.0, 9.0, 10.0]
A = Job(0, 10, 5, 1, 6, [(0, 4, 1.0)], slo=SLO(ttft_s=1.0, tpot_s=1.25), scheduled_s=0.5)
B = Job(
    1, 20, 6, 2.5, 10, [(1, 3, 2.5), (4, 6, 8.0)], [3.0], SLO(ttft_s=2.0, tpot_s=1.4),
    recomputed=22, preemptions=1, scheduled_s=2.0,
)  # fmt: skip
C = Job(4, 30, 1, 7, 7, slo=SLO(ttft_s=3.0, tpot_s=0.1), group="code", scheduled_s=6.0)
D = Job(4, 40, 0, finish_s=4, state="rejected", slo=SLO(e2el_s=9.0), group="code", kv_bits=math.nan)


@pytest.fixture
def worked() -> RunRecord:
    return build([A, B, C, D], STEPS, computed_tokens=88, prefix_query_tokens=100)


def test_latencies_of_the_worked_case(worked: RunRecord) -> None:
    columns = request_columns(worked)
    nan = math.nan
    assert columns["ttft_ms"] == pytest.approx([1000, 1500, 3000, nan], nan_ok=True)
    assert columns["tpot_ms"] == pytest.approx([1250, 1500, nan, nan], nan_ok=True)
    assert columns["e2el_ms"] == pytest.approx([6000, 9000, 3000, nan], nan_ok=True)
    assert columns["max_itl_ms"] == pytest.approx([2000, 3000, nan, nan], nan_ok=True)
    assert columns["queue_s"] == pytest.approx([0.5, 1.0, 2.0, nan], nan_ok=True)


def test_two_tokens_have_one_gap_which_is_their_tpot() -> None:
    record = build([Job(0, 10, 2, 1, 2, [(0, 1, 1.0)])], STEPS)
    assert request_columns(record)["tpot_ms"] == pytest.approx([1000])
    summary = summarise(record)
    for key in ("tpot", "itl"):
        assert [summary[f"{name}_{key}_ms"] for name in ("mean", "std", "p999")] == [1000, 0, 1000]


def test_latencies_are_summed_up_in_milliseconds(worked: RunRecord) -> None:
    """TPOT is that of the two that have one, the others of all three that finished."""
    summary = summarise(worked)
    means = [summary[f"mean_{name}_ms"] for name in ("ttft", "tpot", "e2el")]
    assert means == pytest.approx([5500 / 3, 1375, 6000])
    assert [summary[f"median_{name}_ms"] for name in ("ttft", "tpot", "e2el")] == [1500, 1375, 6000]


def test_pooled_itl_of_the_worked_case(worked: RunRecord) -> None:
    gaps = np.array([1, 1, 2, 1, 0.5, 2, 3, 1, 1]) * 1e3
    summary = summarise(worked)
    assert summary["mean_itl_ms"] == pytest.approx(gaps.mean())
    assert summary["std_itl_ms"] == pytest.approx(gaps.std())
    assert summary["p90_itl_ms"] == pytest.approx(np.quantile(gaps, 0.9))
    assert summary["max_itl_ms"] == 3000


def test_attainment_of_the_worked_case(worked: RunRecord) -> None:
    summary = summarise(worked)
    # A and C meet all; B misses TPOT (1.5 > 1.4); D, rejected, has only an E2E target.
    assert request_columns(worked)["slo_met"] == [True, False, True, False]
    assert summary["slo_attainment"] == 0.5
    assert summary["ttft_attainment"] == 1.0
    assert summary["tpot_attainment"] == pytest.approx(2 / 3)
    # A: due 1 2.25 3.5 4.75 6, but its fourth token comes at 5. B: due 3 4.4 5.8 7.2, comes at 8.
    assert summary["paced_attainment"] == pytest.approx(1 / 3)


def test_counts_and_rates_of_the_worked_case(worked: RunRecord) -> None:
    summary = summarise(worked)
    assert summary["duration"] == 10
    assert (summary["submitted"], summary["completed"], summary["rejected"]) == (4, 3, 1)
    assert (summary["total_input_tokens"], summary["total_output_tokens"]) == (60, 12)
    assert summary["output_throughput"] == pytest.approx(1.2)
    assert summary["total_token_throughput"] == pytest.approx(7.2)
    assert summary["request_goodput"] == pytest.approx(0.2)
    assert summary["token_goodput"] == pytest.approx(0.6)


def test_memory_of_the_worked_case(worked: RunRecord) -> None:
    summary = summarise(worked)
    assert summary["recompute_tax"] == 0.25
    assert summary["prefix_hit_rate"] == 0.0
    assert (summary["peak_kv_bytes"], summary["peak_slab_bytes"]) == (7000, 9000)
    assert summary["preemptions"] == 1
    assert summary["kv_bits_mean"] == 16.0


def test_bits_and_what_they_cost_are_weighed_by_tokens() -> None:
    """A, 15 tokens long, keeps 16 bits. Of what the decodes of B, 26 long, read, half has 8 bits
    and a quarter 4. D never held any.
    """
    few = replace(B, kv_bits=9.0, kv_8_share=0.5, kv_4_share=0.25)
    quality = {
        "8": {"kl": 0.02, "perplexity_change": 0.1},
        "4": {"kl": 0.08, "perplexity_change": 0.4},
    }
    summary = summarise(build([A, few, D], STEPS, quality=quality))
    assert summary["kv_bits_mean"] == pytest.approx((15 * 16 + 26 * 9) / 41)
    assert summary["kv_kl"] == pytest.approx(26 / 41 * (0.02 / 2 + 0.08 / 4))
    assert summary["kv_perplexity_change"] == pytest.approx(26 / 41 * (0.1 / 2 + 0.4 / 4))


def test_groups_of_the_worked_case(worked: RunRecord) -> None:
    summary = summarise(worked)
    assert set(summary["classes"]) == {"chat", "code"}
    assert summary["classes"]["code"]["slo_attainment"] == 0.5
    assert summary["classes"]["code"]["mean_itl_ms"] is None
    assert summary["classes"]["chat"]["request_throughput"] == pytest.approx(0.2)
    assert summary["classes"]["chat"]["slo"]["ttft_ms"] is None, "targets differ"
    assert summary["tenants"]["default"]["p99_e2el_ms"] == summary["p99_e2el_ms"]


@pytest.mark.parametrize(
    ("start_s", "end_s", "outputs", "inputs", "ended"),
    [
        (1.0, 2.5, [2, 0, 0, 0], [10, 0, 0, 0], 0),
        (2.5, 7.0, [3, 3, 0, 0], [0, 20, 0, 0], 1),
        (7.0, 8.0, [0, 0, 1, 0], [0, 0, 30, 0], 1),
        (8.0, 9.0, [0, 1, 0, 0], [0, 0, 0, 0], 0),
        (9.0, 11.0, [0, 2, 0, 0], [0, 0, 0, 0], 1),
    ],
)
def test_a_window_has_its_beginning_and_not_its_end(
    worked: RunRecord,
    start_s: float,
    end_s: float,
    outputs: list[int],
    inputs: list[int],
    ended: int,
) -> None:
    """What begins at once where the one before ends shares no token with it, and none is lost."""
    metrics = RunMetrics(worked, Window(start_s, end_s))
    assert Window(start_s, end_s).output_tokens(metrics.view).tolist() == outputs
    assert Window(start_s, end_s).input_tokens(metrics.view).tolist() == inputs
    summary = metrics.summary()
    assert summary["total_output_tokens"] == sum(outputs)
    assert summary["total_input_tokens"] == sum(inputs)
    rates = ("request_throughput", "output_throughput", "total_token_throughput")
    amounts = np.array([ended, sum(outputs), sum(outputs) + sum(inputs)])
    assert [summary[name] for name in rates] == pytest.approx(amounts / (end_s - start_s))


def test_copies_of_a_window_are_those_decided_inside() -> None:
    """A and B were copied, and cached blocks of nobody; the table knows sums of the whole run."""
    decided_s = floats([1.0, 2.0, 2.5, 3.0, 4.0, 5.0])
    copies = Copies(decided_s, ints([0, 0, -1, 1, 1, -1]), ints([-7, 7, -100, -40, 5, -1000]))
    record = build([A, replace(B, group="code")], STEPS, copies=copies, cache_d2h_bytes=1100)
    record.table.h2d_bytes, record.table.d2h_bytes = ints([7, 5]), ints([7, 40])

    def copied(window: Window | None) -> list[tuple[int, int]]:
        summary = RunMetrics(record, window).summary()
        parts = (summary, summary["classes"]["chat"], summary["classes"]["code"])
        return [(part["h2d_bytes"], part["d2h_bytes"]) for part in parts]

    assert copied(None) == copied(Window(0.0, 9.0)) == [(12, 1147), (7, 7), (5, 40)]
    assert copied(Window(2.0, 4.0)) == [(7, 140), (7, 0), (0, 40)]  # B arrived before, A at 0
    assert copied(Window(4.0, 5.0)) == [(5, 0), (0, 0), (5, 0)]


def test_reuse_of_a_window_is_that_of_the_requests_that_arrived_inside() -> None:
    """B found 5 of 20 tokens, C 6 of 30; D, which was turned away, was never looked up."""
    jobs = [A, replace(B, cached=5), replace(C, cached=6), D]
    record = build(jobs, STEPS, computed_tokens=88, prefix_query_tokens=60, prefix_hit_tokens=11)

    def reuse(window: Window | None) -> tuple[float, float]:
        summary = RunMetrics(record, window).summary()
        return summary["prefix_hit_rate"], summary["recompute_tax"]

    assert reuse(None) == (11 / 60, 22 / 88)
    assert reuse(Window(1.0, 9.0)) == (11 / 50, 22 / (15 + 22 + 4 + 24))  # 4 steps decoded B
    assert reuse(Window(1.0, 2.0)) == (5 / 20, 22 / 41)
    assert reuse(Window(4.0, 9.0)) == (6 / 30, 0.0)
    assert reuse(Window(8.0, 9.0)) == (None, None)
    record.prefix_query_tokens = 0  # prefixes were not cached
    assert reuse(Window(1.0, 9.0))[0] is None


def test_reuse_of_a_class_is_that_of_its_requests() -> None:
    """And of all of them together that of the run, which counts for itself."""
    jobs = [A, replace(B, cached=5), replace(C, cached=6), replace(D, group="chat")]
    asked, computed = 10 + 20 + 30, 14 + 41 + 24
    sizes = {"computed_tokens": computed, "prefix_query_tokens": asked, "prefix_hit_tokens": 11}
    metrics = RunMetrics(build(jobs, STEPS, **sizes))
    summary = metrics.summary()
    keys = ("prefix_hit_rate", "recompute_tax")
    chat, code = ([summary["classes"][name][key] for key in keys] for name in ("chat", "code"))
    assert chat == [5 / 30, 22 / (14 + 41)]
    assert code == [6 / 30, 0.0]
    whole = metrics.group(np.arange(4))
    assert [summary[key] for key in keys] == [whole[key] for key in keys] == [11 / 60, 22 / 79]
    # The only tenant has what its requests computed; with lag 1 the run threw 9 tokens away.
    metrics.record.computed_tokens += 9
    late = metrics.summary()
    assert late["recompute_tax"] == 22 / 88
    assert late["tenants"]["default"]["recompute_tax"] == 22 / 79


def test_memory_is_taken_in_whole_slabs(worked: RunRecord) -> None:
    """9 blocks of 1,000 bytes at the peak; of two replicas each has slabs of its own."""
    for slab_blocks, expected in ((1, 9000), (3, 9000), (4, 12_000), (16, 16_000)):
        worked.slab_blocks = slab_blocks
        assert summarise(worked)["peak_slab_bytes"] == expected
    cluster = cluster_record([worked, worked], ints([0, 0, 0, 0, 1, 1, 1, 1]), [1.0, 1.0])
    summary = summarise(cluster)
    assert [row["peak_slab_bytes"] for row in summary["replicas"]] == [16_000, 16_000]
    assert (summary["peak_slab_bytes"], summary["peak_kv_bytes"]) == (32_000, 14_000)


@pytest.mark.parametrize(
    ("slo", "met"),
    [
        (SLO(), None),
        (SLO(ttft_s=1.0, tpot_s=1.25, e2el_s=6.0, min_tokens_per_s=5 / 6), True),
        (SLO(ttft_s=0.99), False),
        (SLO(tpot_s=1.24), False),
        (SLO(e2el_s=5.9), False),
        (SLO(min_tokens_per_s=0.9), False),
        # What is missed by less than a nanosecond is met: it may be the rounding of a sum.
        (SLO(ttft_s=1.0 - 1e-12), True),
        (SLO(tpot_s=1.25 - 1e-12), True),
        (SLO(e2el_s=6.0 - 1e-12), True),
        (SLO(min_tokens_per_s=5 / 6 + 1e-12), True),
    ],
)
def test_each_target_decides(slo: SLO, met: bool | None) -> None:
    job = Job(0, 10, 5, 1, 6, [(0, 4, 1.0)], slo=slo)
    assert request_columns(build([job], STEPS))["slo_met"] == [met]


def test_targets_that_all_share_are_told() -> None:
    shared = ("ttft_ms", "tpot_ms", "e2el_ms", "min_tokens_per_s")
    whole = replace(A, slo=SLO(1.0, 0.25, 9.0, 4.0))
    told = {
        (1000.0, 250.0, 9000.0, 4.0): [whole, whole],
        (1000.0, None, None, None): [whole, A],
        (None, None, None, None): [whole, B],
    }
    for expected, jobs in told.items():
        assert tuple(summarise(build(jobs, STEPS))["slo"][key] for key in shared) == expected


@pytest.mark.parametrize("state", ["failed", "cancelled", "rejected"])
def test_unfinished_requests_miss(state: str) -> None:
    job = Job(0, 10, 5, 1, 6, [(0, 4, 1.0)], slo=SLO(ttft_s=9), state=state)
    summary = summarise(build([job], STEPS))
    assert summary["slo_attainment"] == summary["ttft_attainment"] == 0
    assert summary[state] == 1
    assert summary["mean_ttft_ms"] is None


def test_worst_stall_includes_a_wait_that_ended_in_failure() -> None:
    failed = Job(0, 10, 5, 1, 20, [(0, 4, 1.0)], state="failed")
    summary = summarise(build([failed], STEPS))
    assert summary["worst_stall_ms"] == 14_000
    assert summary["max_itl_ms"] is None


def test_worst_wait_is_for_any_token_and_of_every_request() -> None:
    """Steps end at 10 at the latest. The first waits 1.5 s for its first token and 3 s for a later
    one; the next 6 s for its first; of the one that was turned away after 7 s all of it counts;
    one of two that were cut off waits since its last token at 6, the other since its arrival.
    """
    worked = {
        "stalled": (B, 3.0),
        "late": (Job(1, 10, 1, 7, 7), 6.0),
        "rejected": (Job(1, 10, 0, finish_s=8, state="rejected"), 7.0),
        "begun": (Job(0, 10, 5, 1, runs=[(0, 4, 1.0)], state="unfinished"), 4.0),
        "never": (Job(2, 10, 0, state="unfinished"), 8.0),
    }
    for name, (job, wait_s) in worked.items():
        assert summarise(build([job], STEPS))["worst_wait_ms"] == 1e3 * wait_s, name
    jobs = [replace(job, tenant=name) for name, (job, _) in worked.items()]
    tenants = summarise(build(jobs, STEPS))["tenants"]
    assert {name: group["worst_wait_ms"] for name, group in tenants.items()} == {
        name: 1e3 * wait_s for name, (_, wait_s) in worked.items()
    }
    assert summarise(build([], []))["worst_wait_ms"] is None


def test_swap_out_and_in_makes_one_long_gap() -> None:
    job = Job(0, 10, 5, 1, 10, [(0, 2, 1.0), (4, 6, 3.0)])
    columns = request_columns(build([job], STEPS))
    assert columns["max_itl_ms"] == [6000]
    assert columns["tpot_ms"] == [2250]


def test_two_preemptions_in_a_row_are_two_gaps_before_the_next_run() -> None:
    # Tokens at 1 | 2 | 2+1.5 | 3.5+2 | 6: the third and fourth are due at 3 and 4.
    job = Job(0, 10, 5, 1, 6, [(0, 1, 1.0), (3, 4, 5.5)], [1.5, 2.0], SLO(ttft_s=1, tpot_s=1))
    streams = RunMetrics(build([job], STEPS)).view.streams
    assert streams.gap_end_s.tolist() == [3.5, 5.5]
    assert streams.gap_index.tolist() == [2, 3]
    assert streams.run_index.tolist() == [1, 4]
    assert streams.last_token_s().tolist() == [6.0]


def test_paced_credit_survives_a_pause_that_strict_gaps_would_not() -> None:
    slo = SLO(ttft_s=1, tpot_s=2.0)
    early = Job(0, 10, 6, 1, 10, [(0, 4, 1.0), (5, 6, 6.0)], slo=slo)
    assert summarise(build([early], STEPS))["paced_attainment"] == 1.0
    late = Job(0, 10, 6, 1, 10, [(0, 4, 1.0), (5, 6, 6.0)], slo=SLO(ttft_s=1, tpot_s=1.7))
    assert summarise(build([late], STEPS))["paced_attainment"] == 0.0


def test_rejected_only_and_empty_runs_have_no_numbers_but_all_keys(worked: RunRecord) -> None:
    keys = list(summarise(worked))
    for record in (build([], []), build([D], [])):
        summary = summarise(record)
        assert list(summary) == keys
        assert summary["request_throughput"] is None
        assert summary["p99_itl_ms"] is None
        json.dumps(summary, allow_nan=False)


def test_a_run_that_was_cut_off_lasts_to_the_last_end_of_a_request() -> None:
    begun = Job(0, 10, 5, 1, runs=[(0, 4, 1.0)], state="unfinished")
    summary = summarise(build([A, begun], STEPS))
    assert (summary["duration"], summary["unfinished"]) == (6, 1)
    assert summary["request_throughput"] == pytest.approx(1 / 6)


def test_zero_cost_run_divides_by_nothing() -> None:
    job = Job(0, 10, 3, 0, 0, [(0, 2, 0.0)], slo=SLO(ttft_s=1, tpot_s=0.1, min_tokens_per_s=5))
    summary = summarise(build([job], [0.0, 0.0]))
    assert summary["slo_attainment"] == 1
    assert summary["output_throughput"] is None


def test_caller_supplies_what_the_record_cannot_know(worked: RunRecord) -> None:
    summary = summarise(worked, {"wall_s": 2.0, "trust": {"profile": "x"}, "run": {"seed": 0}})
    assert summary["wall_s"] == 2.0
    assert summary["sim_requests_per_wall_s"] is summary["scheduler_s"] is None
    assert (summary["trust"], summary["run"]) == ({"profile": "x"}, {"seed": 0})


def test_summary_is_plain_json_and_columns_have_the_agreed_types(worked: RunRecord) -> None:
    json.dumps(summarise(worked), allow_nan=False)
    columns = request_columns(worked)
    names = (
        "request_id session_id tenant class priority namespace arrival_s first_token_s finish_s "
        "queue_s ttft_ms tpot_ms e2el_ms max_itl_ms input_tokens output_tokens max_tokens "
        "cached_tokens recomputed_tokens preemptions rotations h2d_bytes d2h_bytes kv_bits state "
        "reject_reason slo_met"
    )
    assert list(columns) == names.split()
    assert {len(column) for column in columns.values()} == {4}
    types = {c.dtype.name for c in columns.values() if isinstance(c, np.ndarray)}
    assert types == {"int64", "float64"}


SAMPLES = st.lists(
    st.tuples(st.floats(-1e6, 1e6), st.integers(0, 50)), min_size=1, max_size=40
).filter(lambda pairs: any(weight for _, weight in pairs))


@given(SAMPLES, st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_weighted_quantiles_equal_those_of_the_expanded_sample(
    pairs: list[tuple[float, int]], levels: list[float]
) -> None:
    pairs.sort()
    values, weights = floats([v for v, _ in pairs]), ints([w for _, w in pairs])
    expanded = np.repeat(values, weights)
    found = weighted_quantiles(values, weights, np.array(levels))
    assert found == pytest.approx(np.quantile(expanded, levels), rel=1e-9, abs=1e-6)
    plain, weighted = statistics(expanded), weighted_statistics(values, weights)
    assert list(weighted) == list(plain)
    for name, value in plain.items():
        assert weighted[name] == pytest.approx(value, rel=1e-6, abs=1e-3)


@dataclass
class Story:
    """A random run, with the plain list of token times of every request beside its record."""

    jobs: list[Job]
    steps: list[float]
    token_s: list[list[float]]


def story(seed: int) -> Story:
    """Requests that decode, pause, lose their cache and come back, over up to 30 steps."""
    random = Random(seed)
    steps = list(accumulate(0.25 * random.randint(1, 8) for _ in range(random.randint(1, 30))))
    made = Story([], steps, [])
    for _ in range(random.randint(1, 6)):
        _add_job(made, random)
    return made


def _add_job(made: Story, random: Random) -> None:
    slo = SLO(random.choice([0.5, 3.0, None]), random.choice([0.25, 0.5, 1.0, 1.3]))
    job = Job(0.0, random.randint(1, 9), slo=slo, tenant=random.choice("abc"))
    steps, k = made.steps, random.randrange(len(made.steps))
    job.first_token_s = steps[k] - 0.125
    job.arrival_s = max(0.0, job.first_token_s - random.choice([0.25, 2.5, 4.0]))
    job.scheduled_s = random.uniform(job.arrival_s, job.first_token_s)
    times = [job.first_token_s]
    while k < len(steps) and random.random() < 0.9:
        stop = random.randint(k, len(steps))
        if stop > k:
            job.runs.append((k, stop, times[-1]))
            times += steps[k:stop]
        k = stop + random.randint(0, 3)
        while k < len(steps) and random.random() < 0.5:
            job.gaps.append(steps[k] - 0.0625 - times[-1])
            times.append(steps[k] - 0.0625)
            k += 1
    job.output, job.finish_s = len(times), times[-1]
    made.jobs.append(job)
    made.token_s.append(times)


STORIES = st.integers(0, 2**32).map(story)


@settings(max_examples=150, deadline=None)
@given(STORIES)
def test_streams_equal_plain_per_token_arithmetic(made: Story) -> None:
    metrics = RunMetrics(build(made.jobs, made.steps))
    gaps = [np.diff(times) for times in made.token_s]
    pooled = np.sort(np.concatenate(gaps)) * 1e3
    values, counts = metrics.itl_counts(np.arange(len(gaps)))
    assert np.repeat(values, counts) == pytest.approx(pooled)
    longest = [g.max() if g.size else math.nan for g in gaps]
    assert metrics.view.longest_gap_s == pytest.approx(longest, nan_ok=True)
    last = [times[-1] for times in made.token_s]
    assert metrics.view.streams.last_token_s() == pytest.approx(last)


@settings(max_examples=150, deadline=None)
@given(STORIES)
def test_paced_attainment_equals_a_check_of_every_token(made: Story) -> None:
    def in_pace(job: Job, times: list[float]) -> bool:
        first, pace = job.arrival_s + (job.slo.ttft_s or math.nan), job.slo.tpot_s or math.nan
        return all(t <= first + i * pace + 1e-9 for i, t in enumerate(times))

    metrics = RunMetrics(build(made.jobs, made.steps))
    expected = [in_pace(*pair) for pair in zip(made.jobs, made.token_s, strict=True)]
    assert metrics.view.met["paced"].tolist() == expected


@settings(max_examples=60, deadline=None)
@given(STORIES, st.none() | STORIES)
def test_service_curves_equal_a_count_of_tokens(made: Story, beside: Story | None) -> None:
    """Of a single engine, and of two replicas, at the ends of the steps of both."""
    stories = [made, beside] if beside else [made]
    records = [build(each.jobs, each.steps) for each in stories]
    replica = ints([number for number, each in enumerate(stories) for _ in each.jobs])
    record = cluster_record(records, replica, [1.0, 1.0]) if beside else records[0]
    shares = fairness(RunMetrics(record).view)
    jobs = [job for each in stories for job in each.jobs]
    if shares is None:
        assert len({job.tenant for job in jobs}) == 1
        return
    instants = sorted(t for each in stories for t in each.steps)
    total = np.zeros(len(instants))
    for job, times in zip(jobs, (t for each in stories for t in each.token_s), strict=True):
        total += [
            job.prompt * (job.scheduled_s <= t) + 2 * sum(token <= t for token in times)
            for t in instants
        ]
    assert shares.service.sum(axis=0) == pytest.approx(total)
    assert 1 / 3 - 1e-9 <= shares.jain_index() <= 1 + 1e-9
    assert shares.vtc_gap() >= 0


def test_fairness_of_a_worked_case() -> None:
    # One step per second. Tenant a is served from 0: prompt 4 at 0, tokens at 1..4.
    # Tenant b waits from 0 to 4, prompt 4 at 4, tokens at 5..8. Both keep one more waiting.
    steps = [float(t) for t in range(1, 9)]
    served = [
        Job(0, 4, 4, 1, 4, [(1, 4, 1.0)], tenant="a", scheduled_s=0.0),
        Job(0, 4, 4, 5, 8, [(5, 8, 5.0)], tenant="b", scheduled_s=4.0),
    ]
    waiting = [Job(0, 4, 0, tenant=t, state="cancelled", finish_s=8) for t in "ab"]
    summary = summarise(build(served + waiting, steps))
    # W_a - W_b over steps 1..8: 6 8 10 8(12 - 4) 6 4 2 0, both backlogged until 8: 10 - 2.
    assert summary["vtc_gap"] == pytest.approx(10 - 2)
    # Steps 1-3: b has nothing: x = (2, 0), index 1/2. Then x = W/(sum/2).
    by_hand = [0.5] * 3 + [(a + b) ** 2 / (2 * (a * a + b * b)) for a, b in
                           ((12, 4), (12, 6), (12, 8), (12, 10))]  # fmt: skip
    assert summary["jain_index"] == pytest.approx(np.mean(by_hand))


@given(st.integers(0, 2**32))
def test_the_gap_is_the_largest_of_every_pair_and_interval(seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = random.integers((2, 1), (6, 12))
    service = random.integers(0, 9, shape).cumsum(axis=1).astype(np.float64)
    backlogged = random.random(shape) < 0.8
    expected = 0.0
    for one, other in combinations(range(len(service)), 2):
        interval: list[float] = []  # how far one was ahead since both have been backlogged
        ahead = (service[one] - service[other]).tolist()
        both = backlogged[one] & backlogged[other]
        for instant, difference in enumerate(ahead):
            interval = [*interval, difference] if both[instant] else []
            expected = max(expected, max(interval, default=0.0) - min(interval, default=0.0))
    assert Fairness(service, service, backlogged).vtc_gap() == expected


def test_small_demand_that_is_met_in_full_is_fair() -> None:
    demand = np.array([[2.0], [100.0], [100.0]])
    assert max_min_share(demand, np.array([62.0]))[:, 0].tolist() == [2, 30, 30]
    assert max_min_share(demand, np.array([3.0]))[:, 0].tolist() == [1, 1, 1]
    assert max_min_share(demand, np.array([500.0]))[:, 0].tolist() == [2, 100, 100]
    # A tenth more than all ask for together stays with nobody.
    demand = np.array([[10.0], [90.0]])
    assert max_min_share(demand, np.array([110.0]))[:, 0].tolist() == [10, 90]


def test_one_tenant_has_no_fairness() -> None:
    summary = summarise(build([A, B], STEPS))
    assert summary["jain_index"] is None
    assert summary["vtc_gap"] is None


def test_many_tenants_are_gathered_under_others() -> None:
    jobs = [Job(0, 5, 1, 1, 1, tenant=f"t{i % 80}") for i in range(120)]
    tenants = summarise(build(jobs, STEPS))["tenants"]
    assert len(tenants) == 65
    assert sum(group["submitted"] for group in tenants.values()) == 120


def test_fairness_compares_the_64_tenants_with_most_requests() -> None:
    jobs = [Job(0, 5, 1, 1, 1, tenant=f"t{i % 64}", scheduled_s=0.5) for i in range(128)]
    rare = Job(0, 5000, 1, 1, 1, tenant="rare", scheduled_s=0.5)
    shares = fairness(RunMetrics(build([rare, *jobs], STEPS)).view)
    assert shares is not None
    assert shares.service[:, -1].tolist() == [2 * (5 + 2)] * 64


def test_memory_does_not_grow_with_tokens() -> None:
    steps, count = 20_000, 400
    jobs = [
        Job(0, 5, steps - i, i + 0.5, steps, [(i, steps - 1, i + 0.5)], slo=SLO(9, 1.01))
        for i in range(count)
    ]
    record = build(jobs, [float(t) for t in range(1, steps + 1)])
    tracemalloc.start()
    summary = summarise(record)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert summary["total_output_tokens"] > 7_900_000
    assert peak < 8_000_000, "one number per token would take 63 MB"


def test_nineteen_million_tokens_take_a_moment() -> None:
    record = large_record(requests=100_000, steps=500_000, mean_tokens=190)
    started = time.process_time()
    summary = summarise(record)
    assert time.process_time() - started < 5, "about 0.5 s on one core"
    assert summary["total_output_tokens"] > 18_000_000
