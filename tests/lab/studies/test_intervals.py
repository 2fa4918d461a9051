"""Intervals hold the truth as often as they say, and differences pair what belongs together."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from pages import plain
from records import CLASSES, Job, build, large_record

from superinfer.errors import ConfigError
from superinfer.lab.changes import change
from superinfer.lab.numbers import mean_number, mean_summary, number
from superinfer.lab.results import Run, load_run, write_run
from superinfer.lab.studies.bisect import LoadSearch, Probe, largest_load, mean_at
from superinfer.lab.studies.differences import differences
from superinfer.lab.studies.intervals import (
    FEW,
    FEWEST_BLOCKS,
    Interval,
    block_interval,
    block_length,
    mean_interval,
    t_quantile,
)
from superinfer.lab.studies.paired import RequestRows, _quantile, interval_of
from superinfer.metrics import RunMetrics, Window
from superinfer.metrics.statistics import QUANTILES
from superinfer.records.run import Floats


def holds(interval: Interval | None, value: float) -> bool:
    return interval is not None and interval.low <= value <= interval.high


# -- independent values ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [  # any table of Student's t, such as NIST's e-Handbook 1.3.6.7.2
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 4, 2.776),
        (0.975, 9, 2.262),
        (0.95, 7, 1.895),
        (0.999, 10, 4.144),
        (0.975, 100, 1.984),
        (0.025, 4, -2.776),
        (0.5, 3, 0.0),
    ],
)
def test_quantiles_of_student(probability: float, freedom: int, expected: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(expected, abs=5e-4)


def test_a_t_interval_by_hand() -> None:
    found = mean_interval(np.array([1.0, 2.0, 3.0]))
    half = 4.3026527 / math.sqrt(3)  # mean 2, deviation 1
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(2 - half), pytest.approx(2 + half))
    assert (found.method, found.size, found.contains_zero) == ("paired t", 3, True)


def coverage(draw: Any, n: int, truth: float, trials: int = 1500) -> float:
    random = np.random.RandomState(n)
    return float(np.mean([holds(mean_interval(draw(random, n)), truth) for _ in range(trials)]))


def normal(random: np.random.RandomState, n: int) -> Floats:
    return random.normal(size=n)


def difference_of_skewed(random: np.random.RandomState, n: int) -> Floats:
    """Such as the difference of two tail latencies."""
    return random.lognormal(0, 1, n) - random.lognormal(0, 1, n)


def test_five_seeds_hold_the_mean_in_95_percent() -> None:
    """1,500 trials: a standard error of 0.6 points. The percentile bootstrap gets about 83 %."""
    assert coverage(normal, 5, 0.0) == pytest.approx(0.95, abs=0.018)
    assert 0.94 < coverage(difference_of_skewed, 5, 0.0) <= 1.0, "on the safe side"


def test_the_percentile_bootstrap_would_be_too_narrow_at_five() -> None:
    random = np.random.RandomState(1)
    inside = 0
    for _ in range(500):
        values = random.normal(size=5)
        means = values[random.randint(0, 5, (500, 5))].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        inside += low <= 0 <= high
    assert inside / 500 < 0.88


def test_many_seeds_are_resampled() -> None:
    assert coverage(normal, 25, 0.0, 400) == pytest.approx(0.95, abs=0.033)
    found = mean_interval(np.arange(float(FEW)))
    assert found is not None
    assert (found.method, found.size) == ("bootstrap", FEW)


def test_equal_input_gives_equal_intervals() -> None:
    values = np.random.RandomState(0).normal(size=50)
    assert mean_interval(values) == mean_interval(values.copy())
    assert of_mean(values) == of_mean(values.copy())


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [math.inf, 1.0]])
def test_no_interval_without_values(values: list[float]) -> None:
    assert mean_interval(np.array(values)) is None


def test_equal_values_have_an_interval_of_no_width() -> None:
    found = mean_interval(np.full(5, 0.25))
    assert found is not None
    assert (found.low, found.high, found.contains_zero) == (0.25, 0.25, False)


# -- neighbours that depend -----------------------------------------------------------------------


def autoregressive(random: np.random.RandomState, n: int, correlation: float) -> Floats:
    """AR(1) of variance 1, mean 0."""
    noise = random.normal(size=n) * math.sqrt(1 - correlation**2)
    series = [random.normal()]
    for step in noise[1:]:
        series.append(correlation * series[-1] + step)
    return np.array(series)


def of_mean(values: Floats) -> Interval | None:
    return block_interval(lambda counts: float(counts @ values / counts.sum()), [values])


def test_block_length_follows_the_dependence() -> None:
    """The best length for AR(1) is (3/2 (2 r / (1 - r^2))^2 n)^(1/3) (Politis and White 2004)."""
    random = np.random.RandomState(0)
    for correlation in (0.5, 0.8):
        best = (1.5 * (2 * correlation / (1 - correlation**2)) ** 2 * 4000) ** (1 / 3)
        found = [block_length(autoregressive(random, 4000, correlation)) for _ in range(20)]
        assert np.median(found) == pytest.approx(best, rel=0.3)
    assert np.median([block_length(random.normal(size=4000)) for _ in range(20)]) < 5


@pytest.mark.parametrize("values", [[], [1.0, 2.0], [3.0] * 100, [0.0] * 100])
def test_nothing_to_depend_on(values: list[float]) -> None:
    assert block_length(np.array(values)) == 1.0


def test_an_interval_is_as_wide_as_the_dependence_asks() -> None:
    """The mean of AR(1) has a standard error of sqrt((1 + r) / (1 - r) / n)."""
    random = np.random.RandomState(2)
    widths = []
    for _ in range(12):
        found = of_mean(autoregressive(random, 2000, 0.8))
        assert found is not None
        widths.append(found.high - found.low)
    right = 2 * 1.96 * math.sqrt((1.8 / 0.2) / 2000)
    assert np.mean(widths) == pytest.approx(right, rel=0.2)
    assert np.mean(widths) > 2 * (2 * 1.96 / math.sqrt(2000)), "as if requests were independent"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("correlation", "least"), [(0.0, 0.93), (0.5, 0.915), (0.9, 0.89), (0.98, 0.85)]
)
def test_blocks_hold_the_mean(correlation: float, least: float) -> None:
    """400 series: a standard error of 1.1 to 1.5 points; the bounds lie two of them below."""
    random = np.random.RandomState(7)
    found = [of_mean(autoregressive(random, 2000, correlation)) for _ in range(400)]
    inside = [holds(each, 0.0) for each in found if each is not None]
    assert len(inside) > 390
    assert least < np.mean(inside) < 0.985


@pytest.mark.slow
def test_blocks_hold_a_quantile_and_pair_what_both_share(tmp_path: Path) -> None:
    """p90 of 1,500 waits that follow one queue; the arm is 10 % slower and the rest is shared."""
    random = np.random.RandomState(9)
    true_p90 = math.exp(1.2815515655446004)
    inside = 0
    for _ in range(150):
        wait = np.exp(autoregressive(random, 1500, 0.7))
        arms = {"a": [stored(tmp_path, wait)], "b": [stored(tmp_path, 1.1 * wait)]}
        (found,) = differences(arms, ["p90_ttft_ms"])
        inside += holds(found.interval, 100 * true_p90)
    assert inside / 150 > 0.86


def test_too_few_blocks_say_nothing() -> None:
    assert of_mean(np.cumsum(np.random.RandomState(0).normal(size=60))) is None
    assert of_mean(np.ones(FEWEST_BLOCKS - 8)) is None
    assert of_mean(np.empty(0)) is None


# -- differences of runs --------------------------------------------------------------------------


def stored(folder: Path, ttft_s: Sequence[float] | Floats, **changes: Any) -> Run:
    """A result folder of requests of one token, one per second."""
    slo = CLASSES[0].slo
    jobs = [Job(i, 10, 1, i + t, i + t, slo=slo, **changes) for i, t in enumerate(ttft_s)]
    return load_run(plain(folder / "r", build(jobs, [])))


def summarised(**numbers: float | None) -> Run:
    """A run of which only the summary is looked at."""
    return Run(Path("nowhere"), dict(numbers))


def test_differences_are_paired_by_seed() -> None:
    """Seeds differ by far more than arms: only pairing shows the arm."""
    base = [summarised(x=10.0 * seed) for seed in range(1, 6)]
    arm = [summarised(x=10.0 * seed + 1 + 0.1 * (-1) ** seed) for seed in range(1, 6)]
    (found,) = differences({"base": base, "arm": arm}, ["x"])
    assert found.by_seed == pytest.approx((0.9, 1.1, 0.9, 1.1, 0.9))
    assert (found.value, found.reference_value) == (pytest.approx(30.98), 30.0)
    assert (found.difference, found.relative) == (pytest.approx(0.98), pytest.approx(0.98 / 30))
    assert found.interval is not None
    half = 2.776445 * np.std([0.9, 1.1, 0.9, 1.1, 0.9], ddof=1) / math.sqrt(5)
    assert found.interval.low == pytest.approx(0.98 - half)
    assert (found.interval.method, found.interval.contains_zero) == ("paired t", False)
    assert json.loads(json.dumps(found.as_json()))["interval"]["size"] == 5


def test_a_number_that_one_seed_lacks_has_no_mean() -> None:
    base = [summarised(x=1.0), summarised(x=None)]
    arm = [summarised(x=2.0), summarised(x=3.0)]
    (found,) = differences({"base": base, "arm": arm}, ["x"])
    assert (found.value, found.reference_value, found.difference) == (2.5, None, None)
    assert (found.relative, found.interval, found.by_seed) == (None, None, (1.0, None))
    (found,) = differences({"base": arm, "arm": base}, ["x"])
    assert (found.value, found.reference_value, found.difference) == (None, 2.5, None)


def test_a_reference_of_zero_has_no_share() -> None:
    (found,) = differences({"a": [summarised(x=0)], "b": [summarised(x=3)]}, ["x", "y"])
    assert (found.difference, found.relative) == (3, None)


def test_any_arm_can_be_the_reference() -> None:
    arms = {name: [summarised(x=value)] for name, value in (("a", 1), ("b", 2), ("c", 4))}
    found = differences(arms, ["x"], reference="b")
    assert [(each.arm, each.difference) for each in found] == [("a", -1), ("c", 2)]


@pytest.mark.parametrize(
    ("arms", "reference", "words"),
    [
        ({"a": 2, "b": 1}, None, "arm b: expected 2 runs as in a, got 1"),
        ({"a": 0}, None, "expected at least one run in every arm"),
        ({}, None, "expected at least one run"),
        ({"a": 1, "b": 1}, "c", "reference 'c': expected one of a, b"),
    ],
)
def test_arms_that_do_not_pair(arms: dict[str, int], reference: str | None, words: str) -> None:
    runs = {name: [summarised(x=1)] * count for name, count in arms.items()}
    with pytest.raises(ConfigError, match=words):
        differences(runs, ["x"], reference)


def test_one_run_per_arm_is_paired_by_request(tmp_path: Path) -> None:
    random = np.random.RandomState(4)
    wait = random.gamma(2, 0.4, 1000)
    arms = {"a": [stored(tmp_path, wait)], "b": [stored(tmp_path, wait + 0.01)]}
    found = {each.metric: each for each in differences(arms)}
    mean = found["mean_ttft_ms"]
    assert mean.interval is not None
    assert mean.interval.method == "block bootstrap"
    assert mean.interval.low == pytest.approx(10, abs=1e-6), "what both runs share cancels out"
    assert holds(found["p99_ttft_ms"].interval, 10.0)
    assert found["slo_attainment"].interval is not None
    assert found["output_throughput"].interval is None, "one number per run"
    assert found["slo_attainment"].difference == pytest.approx(
        np.mean(wait + 0.01 <= 1) - np.mean(wait <= 1)
    )


def lognormal_tail(name: str, rows: int, trials: int = 120) -> float:
    """How often the interval of a quantile of lognormal values (sigma 1) holds the true one."""
    random, truth = np.random.RandomState(rows), math.exp(NormalDist().inv_cdf(QUANTILES[name]))
    held = 0
    for _ in range(trials):
        estimate = _quantile(random.lognormal(0, 1, rows), name)
        assert estimate is not None
        held += holds(interval_of(estimate), truth)
    return held / trials


def test_a_quantile_with_few_requests_beyond_has_no_interval(tmp_path: Path) -> None:
    """At 1,000 requests ten lie beyond P99, and the interval holds it in 92 %; one lies beyond
    P99.9. At 990 there are not ten, and the interval would hold less and less.
    """
    random = np.random.RandomState(4)
    for rows, has in ((1000, True), (990, False)):
        wait = random.gamma(2, 0.4, rows)
        arms = {"a": [stored(tmp_path, wait)], "b": [stored(tmp_path, wait + 0.01)]}
        found = {each.metric: each for each in differences(arms)}
        p99 = found["p99_ttft_ms"]
        assert (p99.interval is not None, p99.few) == (has, not has)
        assert found["p999_ttft_ms"].few and found["p999_ttft_ms"].interval is None
        assert found["median_ttft_ms"].interval is not None
        assert not found["output_throughput"].few
    said = change(p99.metric, p99.value, p99.reference_value, p99.interval, p99.few)
    assert said is not None and (said.verdict, said.bounds) == ("unclear", None)
    assert lognormal_tail("p95", 200) > 0.86, "ten beyond; 92 % in the long run, give or take 2.5"


def test_equal_runs_do_not_differ(tmp_path: Path) -> None:
    run = stored(tmp_path, np.random.RandomState(4).gamma(2, 0.4, 100))
    for each in differences({"a": [run], "b": [run]}):
        assert each.difference == 0
        if each.interval is not None:
            assert (each.interval.low, each.interval.high) == (0, 0)


def test_other_requests_are_not_paired(tmp_path: Path) -> None:
    """But a quantile that a handful of requests make says as little, in whichever run it is one."""
    for rows in ((1000, 1001), (1000, 990), (990, 1000)):
        arms = {name: [stored(tmp_path, [0.5] * n)] for name, n in zip("ab", rows, strict=True)}
        found = {each.metric: each for each in differences(arms)}
        assert all(each.interval is None for each in found.values())
        assert found["p99_ttft_ms"].few == (990 in rows)
        assert found["p999_ttft_ms"].few and not found["mean_ttft_ms"].few


def test_a_window_in_which_nobody_came_has_no_estimates(tmp_path: Path) -> None:
    run = stored(tmp_path, [0.5] * 20)
    rows = RequestRows.of(Run(run.folder, {**run.summary, "load": {"window_s": [100.0, 200.0]}}))
    assert rows is not None
    for metric in ("completed", "preemptions", "mean_ttft_ms", "p99_ttft_ms", "slo_attainment"):
        assert rows.estimate(metric) is None


def test_the_same_requests_have_the_same_names_in_the_same_order() -> None:
    def rows(*names: str) -> RequestRows:
        return RequestRows({}, {"request_id": np.array(names)})

    assert rows("a", "b").same_requests(rows("a", "b"))
    for other in (rows("a", "c"), rows("b", "a"), rows("a"), rows()):
        assert not rows("a", "b").same_requests(other)
    assert not rows().same_requests(rows())


def test_what_both_runs_share_makes_no_difference_uncertain(tmp_path: Path) -> None:
    """Queues that follow one another for as long as the run have no interval of their own."""
    random = np.random.RandomState(3)
    shared, noise = 30 + np.cumsum(random.normal(size=300)), random.normal(size=300)
    arms = {"a": [stored(tmp_path, shared)], "b": [stored(tmp_path, shared + 1 + 0.1 * noise)]}
    assert of_mean(shared) is None
    (found,) = differences(arms, ["mean_ttft_ms"])
    assert found.interval is not None and found.interval.size > 100
    assert found.interval.high - found.interval.low < 50 and holds(found.interval, 1000)


def test_a_run_without_its_requests_is_told_by_the_other(tmp_path: Path) -> None:
    """Its folder may have been thinned out; of two of them nothing is known."""
    whole = stored(tmp_path, [0.5] * 990)
    bare = summarised(**dict.fromkeys(("p99_ttft_ms", "mean_ttft_ms"), 7.0))
    for one, other, few in ((whole, bare, True), (bare, whole, True), (bare, bare, False)):
        found = differences({"a": [one], "b": [other]}, ["p99_ttft_ms", "mean_ttft_ms"])
        assert [(each.few, each.interval) for each in found] == [(few, None), (False, None)]


def test_estimates_are_the_numbers_of_the_summary(tmp_path: Path) -> None:
    """Every metric that requests determine, over the run, its classes and a window."""
    record = large_record(requests=300, steps=4000, mean_tokens=20)
    seen = set()
    for window in (None, Window(10.0, 60.0)):
        metrics = RunMetrics(record, window)
        load = {"window_s": [10.0, 60.0] if window else None}
        run = load_run(write_run(tmp_path / "r", metrics, metrics.summary({"load": load}), {}))
        rows = RequestRows.of(run)
        assert rows is not None
        for prefix in ("", "classes.chat.", "tenants.t1."):
            for key in run.summary["classes"]["chat"]:
                metric = f"{prefix}{key}"
                found = rows.estimate(metric)
                if found is None:
                    continue
                seen.add(metric)
                ones = np.ones(found.influence.size, np.int64)
                assert found.statistic(ones) == pytest.approx(number(run.summary, metric))
                assert abs(found.influence.mean()) < 0.05 * (1 + abs(found.influence).max())
    for key in ("slo_attainment", "ttft_attainment", "p99_ttft_ms", "mean_e2el_ms", "preemptions"):
        assert {key, f"classes.chat.{key}"} <= seen
    assert "tenants.t1.p90_tpot_ms" in seen


def test_an_estimate_that_is_not_the_summarys_number_is_not_used(tmp_path: Path) -> None:
    run = stored(tmp_path, [0.5] * 30)
    changed = dataclasses.replace(run, summary={**run.summary, "p99_ttft_ms": 501.0})
    rows = RequestRows.of(changed)
    assert rows is not None
    assert rows.estimate("p99_ttft_ms") is None
    assert rows.estimate("median_ttft_ms") is not None


def test_numbers_by_key() -> None:
    summary = {"x": 1, "s": "text", "n": None, "classes": {"a.b": {"x": 2.5}}}
    assert number(summary, "x") == 1
    assert number(summary, "classes.a.b.x") == 2.5
    assert [number(summary, key) for key in ("s", "n", "y", "classes.c.x", "classes")] == [None] * 5
    assert mean_number([{"x": 1}, {"x": 4}], "x") == 2.5
    assert mean_number([{"x": 1}, {}], "x") is None
    assert mean_summary([{"x": 1, "t": "a", "n": None}, {"x": 2, "t": "b", "n": 1}]) == {
        "x": 1.5,
        "n": None,
    }


# -- the largest load -----------------------------------------------------------------------------


def search(keeps: Any, low: float, high: float, **options: Any) -> LoadSearch:
    return largest_load(lambda load: 1.0 if keeps(load) else 0.0, 0.5, low, high, **options)


@pytest.mark.parametrize("truth", [0.013, 0.4, 1.0, 3.7, 900.0])
def test_the_limit_is_found_within_the_tolerance(truth: float) -> None:
    found = search(lambda load: load <= truth, 0.5, 4.0)
    assert found.bracketed
    assert found.load is not None
    assert found.load <= truth < 1.01 * found.load
    assert found.kept_above == ()


def test_a_latency_is_kept_below_its_bound() -> None:
    found = largest_load(lambda load: 100 / (2 - load), 200, 0.1, 1.9, at_most=True)
    assert found.load == pytest.approx(1.5, rel=0.01)
    assert found.load is not None
    assert found.load <= 1.5


@pytest.mark.parametrize("at_most", [True, False])
def test_exactly_the_bound_keeps_it(at_most: bool) -> None:
    found = largest_load(lambda load: load if at_most else 2 - load, 1.0, 1.0, 2.0, at_most=at_most)
    assert found.probes[0] == Probe(1.0, 1.0, True)
    assert found.load == 1.0


def test_no_load_or_every_load_keeps_it() -> None:
    none = search(lambda _: False, 1.0, 2.0)
    assert (none.load, none.bracketed, len(none.probes)) == (None, False, 11)
    assert str(none) == "no load keeps it: it fails down to 0.000976562, the smallest tried"
    every = search(lambda _: True, 1.0, 2.0)
    assert (every.load, every.bracketed) == (2048.0, False)
    assert str(every).startswith("at least 2048")


def test_what_is_unknown_fails() -> None:
    found = largest_load(lambda load: math.nan if load > 1 else 1.0, 0.5, 0.5, 2.0)
    assert found.load == pytest.approx(1.0, rel=0.01)


def test_a_metric_that_is_not_monotone_is_said_to_be_none() -> None:
    found = search(lambda load: load <= 1.0 or 1.03 < load < 1.05, 0.5, 2.0)
    assert found.load == pytest.approx(1.0, rel=0.01)
    assert len(found.kept_above) == 1
    assert "not monotone: it holds again at 1.0" in str(found)


def test_every_probe_is_logged_once_and_in_the_same_order() -> None:
    logs: list[list[Probe]] = [[], []]
    for log in logs:
        found = search(lambda load: load < 1.3, 0.5, 2.0, log=log.append)
        assert tuple(log) == found.probes
    assert logs[0] == logs[1]
    loads = [probe.load for probe in logs[0]]
    assert len(set(loads)) == len(loads)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (2, 1), (1, 1), (1, math.inf), (math.nan, 1)])
def test_bounds_that_make_no_sense(low: float, high: float) -> None:
    with pytest.raises(ConfigError, match="expected 0 < low < high"):
        search(lambda _: True, low, high)


def test_a_threshold_that_is_no_number() -> None:
    with pytest.raises(ConfigError, match="expected a number as threshold, got nan"):
        largest_load(lambda _: 1.0, math.nan, 1, 2)
    with pytest.raises(ConfigError, match=r"expected a number as threshold, got '0\.9'"):
        largest_load(lambda _: 1.0, "0.9", 1, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [None, "high", [0.9]])
def test_a_run_that_gives_no_number(answer: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        largest_load(lambda _: answer, 0.9, 1, 2)
    assert str(caught.value) == f"run_at: expected a number at load 1, got {answer!r}"


def test_a_search_goes_through_the_study(tmp_path: Path) -> None:
    """The runner's mean TTFT does not depend on the load, so every load keeps a loose bound."""
    from study_runner import Recorder, study

    made = study(tmp_path, Recorder(tmp_path / "log"), range(2))
    one = dataclasses.replace(made, arms={"plain": made.arms["plain"]})
    run_at = mean_at(one, "mean_ttft_ms")
    first = run_at(0.5)
    assert first == run_at(0.5) > 0
    begun = (tmp_path / "log").read_text().count("begin")
    assert begun == 2, "the second time it is only read"
    with pytest.raises(ConfigError, match="expected a number of the summary, got 'mean_ttft'"):
        mean_at(one, "mean_ttft")(0.5)
    assert math.isnan(mean_at(one, "classes.chat.p99_tpot_ms")(0.5)), "null has a place"
    with pytest.raises(ConfigError, match="expected a study of one arm, got plain, other, third"):
        mean_at(made, "mean_ttft_ms")
