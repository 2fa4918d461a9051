"""The study of scenarios: what its arms share, and how it judges."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.scenarios.arms import (
    ARMS,
    CHUNKED,
    KV4,
    PREFILL_FIRST,
    PRIORITY_SWAP,
    ROTATING,
    TUNED,
    WITH_MEMORY,
    as_published,
    label,
)
from experiments.scenarios.comparison import _in_order, conditions
from experiments.scenarios.measures import ATTAINMENT, BATCH, DECIDING, P99_TTFT, PEAK_KV, TABLES
from experiments.scenarios.plot import MECHANISMS, SWEEP, write_pictures
from experiments.scenarios.settings import SETTINGS, config_of, full_extent, quick_extent
from experiments.scenarios.table import page
from experiments.scenarios.tuning import (
    GRIDS,
    SEEDS,
    Choice,
    tune,
    tuned_arms,
    vllm_grid,
    write_tuned,
)
from experiments.scenarios.verdicts import (
    FAILS,
    HOLDS,
    IN_THE_MEAN,
    Measured,
    Verdict,
    at_least,
    at_most,
    verdicts,
)
from sim.run import build_engine
from sim.studies.arms import WORKLOAD_KEYS
from sim.workload import load_workload
from superinfer.errors import ConfigError


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=list(SETTINGS))
def test_every_arm_has_the_same_workload_and_memory(setting: Any) -> None:
    grids = [arm for grid in GRIDS.values() for arm in grid]
    arms = [*ARMS.values(), *grids, *tuned_arms(setting.name).values()]
    configs = {arm: config_of(setting, arm, 1.25) for arm in (*arms, *map(as_published, arms))}
    first = configs[ARMS[ROTATING]]
    for name, config in configs.items():
        for key in (*WORKLOAD_KEYS, "prefix_caching", "host_memory_gib", "host_link_gb_per_s"):
            assert getattr(config.run, key) == getattr(first.run, key), (name, key)
        clients = {"chat": {"rate_per_s": 1.25}, "batch": {"priority": 1}}
        assert config.workload == first.workload == {"clients": clients}
        assert config.run.kv_blocks > 0
    assert (first.run.duration_s, first.run.window_s) == (900, [200, 800])


def test_memory_is_the_same_in_tokens_whatever_the_block_size() -> None:
    for setting in ("m-pcie", "c"):
        found = []
        for arm in ARMS.values():
            sizes = build_engine(config_of(SETTINGS[setting], arm, 1.25))[0].config
            found.append(sizes.total_blocks * sizes.block_tokens)
        assert max(found) - min(found) < 32
        assert SETTINGS[setting].kv_tokens in (0, found[0])


def test_a_loop_of_its_own_for_batch_needs_no_backlog() -> None:
    config = config_of(SETTINGS["article"], ARMS[ROTATING], 1.25)
    assert load_workload(config).warnings == []


def test_the_extents() -> None:
    full, quick = full_extent(5), quick_extent(5)
    assert (full.seeds, full.swept_seeds) == ((0, 1, 2, 3, 4), (0, 1))
    assert len(quick.seeds) == 2
    assert not set(full.seeds) & set(SEEDS)


class ToldBench:
    """Answers with summaries, by scheduler setting and seed, and notes who was asked."""

    def __init__(self, told: dict[tuple[int, int], tuple[float, float]]) -> None:
        self.told = told
        self.asked: list[tuple[int, ...]] = []

    def runs(self, configs: dict[str, Any], seeds: Any, what: str) -> dict[str, list[Any]]:
        found = {}
        for name, config in configs.items():
            budget = config.build_scheduler().max_num_batched_tokens
            self.asked.append((budget, *seeds))
            found[name] = [self._run(*self.told[budget, seed]) for seed in seeds]
        return found

    @staticmethod
    def _run(chat: float, batch: float) -> Any:
        classes = {"chat": {"slo_attainment": chat}, "batch": {"output_throughput": batch}}
        return SimpleNamespace(summary={"classes": classes})


def test_tuning_tries_the_best_two_on_all_seeds() -> None:
    """On seed 100 both 512 and 2048 keep 80 % (to a point), 2048 with more batch tokens; 512 wins
    over both seeds.
    """
    told = {
        (512, 100): (0.801, 90.0),
        (1024, 100): (0.7, 300.0),
        (2048, 100): (0.799, 100.0),
        (512, 101): (0.9, 90.0),
        (2048, 101): (0.8, 100.0),
    }
    bench = ToldBench(told)
    grid = [arm for arm in vllm_grid((512, 1024, 2048), (128,)) if "swap" not in arm.settings[-1]]
    choice = tune(bench, SETTINGS["c"], 1.5, grid[:-1], (100, 101))  # type: ignore[arg-type]
    assert bench.asked == [(512, 100), (1024, 100), (2048, 100), (2048, 100, 101), (512, 100, 101)]
    assert choice.arm is grid[0]
    assert (choice.chat_attainment, choice.batch_tokens_per_s) == (pytest.approx(0.8505), 90.0)


def test_what_was_tuned_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "tuned.toml"
    with pytest.raises(ConfigError, match=r"tuned.toml has nothing for c: run `python -m"):
        tuned_arms("c", path)
    choices = {name: Choice(grid[1], 0.8, 90.0) for name, grid in GRIDS.items()}
    write_tuned(path, "m-pcie", 2.0, choices)
    write_tuned(path, "c", 1.5, choices)
    for setting in ("c", "m-pcie"):
        found = tuned_arms(setting, path)
        assert list(found) == list(TUNED)
        for name, arm in found.items():
            assert (arm.scheduler, arm.settings) == (
                GRIDS[name][1].scheduler,
                GRIDS[name][1].settings,
            )


@pytest.mark.parametrize(
    ("measured", "bound", "expected"),
    [
        (Measured(-50, -55, -45), -40, HOLDS),
        (Measured(-50, -65, -35), -40, IN_THE_MEAN),
        (Measured(-50), -40, IN_THE_MEAN),
        (Measured(-39, -60, -18), -40, FAILS),
        (Measured(float("nan")), -40, FAILS),
    ],
)
def test_at_most_and_at_least(measured: Measured, bound: float, expected: str) -> None:
    assert at_most(measured, bound) == expected
    low, high = measured.low, measured.high
    mirrored = Measured(-measured.value, None if high is None else -high, low and -low)
    assert at_least(mirrored, -bound) == expected


def difference(value: float, half: float, base: float = 1.0) -> dict[str, float]:
    bounds = {"difference": value, "low": value - half, "high": value + half}
    return bounds | {
        name: bounds[key] / base
        for name, key in (
            ("relative", "difference"),
            ("relative_low", "low"),
            ("relative_high", "high"),
        )
    }


def measured_arm(attainment: float, half: float = 0.01) -> dict[str, Any]:
    return {
        ATTAINMENT: {
            "mean": attainment,
            "low": attainment - half,
            "high": attainment + half,
            "by_seed": [attainment],
        }
    }


def outcomes(name: str, part: dict[str, Any]) -> dict[str, str]:
    return {row.claim: row.outcome for row in verdicts({name: part})}


@pytest.mark.parametrize(
    ("chat", "batch", "expected"),
    [
        (difference(0.03, 0.01), difference(0.0, 0.02), HOLDS),
        (difference(0.0, 0.01), difference(0.05, 0.02), HOLDS),
        (difference(0.03, 0.01), difference(-0.05, 0.02), FAILS),
        (difference(-0.03, 0.01), difference(0.05, 0.02), FAILS),
        (difference(0.01, 0.02), difference(0.01, 0.02), FAILS),
    ],
)
def test_beating_a_rival(chat: dict[str, float], batch: dict[str, float], expected: str) -> None:
    part = {
        "differences": {},
        "arms": {PRIORITY_SWAP: measured_arm(0.78), ROTATING: measured_arm(0.8)},
        "rotating_over": {PRIORITY_SWAP: {ATTAINMENT: chat, BATCH: batch}},
    }
    assert list(outcomes("m-pcie", part).values()) == [expected]


def test_not_worse_than_the_arm_with_the_highest_attainment() -> None:
    same, worse = difference(0.0, 0.01), difference(-0.05, 0.01)
    part: dict[str, Any] = {
        "differences": {},
        "arms": {"fcfs": measured_arm(0.0), "priority": measured_arm(0.9), ROTATING: {}},
        "rotating_over": {
            "fcfs": {ATTAINMENT: same, BATCH: worse},
            "priority": {ATTAINMENT: same, BATCH: same},
        },
    }
    assert list(outcomes("c", part).values()) == [HOLDS]
    part["rotating_over"]["priority"][BATCH] = worse
    assert list(outcomes("c", part).values()) == [FAILS]


def test_the_memory_manager_against_every_rival() -> None:
    """One row, which names those against whom it does not hold."""
    better, same, worse = difference(0.05, 0.01), difference(0.0, 0.01), difference(-0.05, 0.01)
    over = {
        "fcfs": {ATTAINMENT: better, BATCH: same},
        PRIORITY_SWAP: {ATTAINMENT: better, BATCH: worse},
    }
    part: dict[str, Any] = {
        "differences": {},
        "arms": dict.fromkeys(("fcfs", PRIORITY_SWAP, KV4, ROTATING), measured_arm(0.8)),
        "rotating_over": over,
        "with_memory_over": {KV4: over},
    }
    *_, (claim, outcome) = outcomes("m-pcie", part).items()
    assert outcome == FAILS and label(KV4) in claim
    *_, row = verdicts({"m-pcie": part})
    assert row.measured.startswith("all but priority (swap) (chat +5.0 points")
    over[PRIORITY_SWAP][BATCH] = same
    *_, row = verdicts({"m-pcie": part})
    assert (row.measured, row.outcome) == ("all 2", HOLDS)


def test_rivals_with_8_bit_kv_have_the_room_of_twice_the_blocks() -> None:
    setting = SETTINGS["m-pcie"]
    arms = _in_order(tuned_arms(setting.name))
    plain, small = (config_of(setting, arms[name], 2.0) for name in ("edf-tuned", "edf-kv8"))
    assert small.run.kv_blocks == pytest.approx(plain.run.kv_blocks / 0.508, rel=1e-3)
    assert small.scheduler == plain.scheduler
    assert list(arms)[-4:] == [*WITH_MEMORY, ROTATING]


def article_part() -> dict[str, Any]:
    found = {
        ATTAINMENT: difference(0.19, 0.02),
        P99_TTFT: difference(-0.5, 0.05),
        BATCH: difference(-0.02, 0.01),
        PEAK_KV: difference(-0.35, 0.05),
    }
    return {
        "differences": {PREFILL_FIRST: {ROTATING: found}},
        "arms": {ROTATING: measured_arm(0.97, 0.005)},
        "star": {"reference": PREFILL_FIRST},
    }


def test_claims_against_vllm() -> None:
    assert list(outcomes("article", article_part()).values()) == [
        HOLDS,
        HOLDS,
        HOLDS,
        IN_THE_MEAN,
        FAILS,
        FAILS,
        FAILS,
        FAILS,
    ]


def test_other_parts() -> None:
    scaled = {"differences": {"x4": {ATTAINMENT: difference(0.01, 0.005)}}}
    assert list(outcomes("wrong-slo", scaled).values()) == [HOLDS]
    scaled["differences"]["x4"][ATTAINMENT] = difference(-0.01, 0.02)
    assert list(outcomes("wrong-slo", scaled).values()) == [IN_THE_MEAN]
    slower = {"traces": {"sample": {"rotating_over_fcfs": {"mean_e2el_ms": difference(0.1, 0.05)}}}}
    assert list(outcomes("no-slo", slower).values()) == [FAILS]
    without_load = {"star": {"said": "no load keeps it", "rate_per_s": None}}
    assert verdicts({"c": without_load}) == [
        Verdict("c", "a load to compare at", "no load keeps it", FAILS)
    ]


def test_the_page_and_the_pictures(tmp_path: Path) -> None:
    """Every number may be missing, as where no chat request finished."""
    keys = [each.key for table in TABLES.values() for each in table]
    missing = {"mean": None, "low": None, "high": None, "by_seed": [None, None]}
    known = {"mean": 0.5, "low": 0.25, "high": 0.75, "by_seed": [0.25, 0.75]}
    arms = {name: dict.fromkeys(keys, known) for name in (CHUNKED, PREFILL_FIRST, ROTATING)}
    arms[PREFILL_FIRST][P99_TTFT] = missing
    changes = {ROTATING: dict.fromkeys(DECIDING, dict.fromkeys(difference(1, 1)))}
    part = {
        "title": "a title",
        "conditions": conditions(SETTINGS["m-pcie"]),
        "seeds": [0, 1],
        "star": {"reference": PREFILL_FIRST, "rate_per_s": 1.5, "said": "1.5", "other_modes": {}},
        "first_come": {"rate_per_s": 0.05, "arms": arms},
        "tuned": {"vllm-tuned": ["scheduler.chunked=true"]},
        "published": {"arms": arms, "rotating_over": {CHUNKED: changes[ROTATING]}},
        "arms": arms,
        "differences": {PREFILL_FIRST: changes},
        "rotating_over": {PREFILL_FIRST: changes[ROTATING]},
        "sweep": {
            "rates_per_s": [1.5],
            "factors": [1.0],
            "seeds": [0],
            "arms": {name: [each] for name, each in arms.items()},
        },
        "ablation": {"differences": {"aging off": changes[ROTATING]}, "absent": ["a reason"]},
    }
    made_by = {"command": "x", "versions": {}, "source": "y", "profile": "z"}
    summary = {
        "made_by": made_by | {"quick": True, "stale": ["article"]},
        "parts": {"article": part},
    }
    text = page(summary)
    for expected in ("Simulated", "does not hold", "80,000 tokens", "Not shown: a reason.", "none"):
        assert expected in text, expected
    assert write_pictures(summary, tmp_path) == [SWEEP, MECHANISMS]
    assert (tmp_path / SWEEP).stat().st_size > 1000
