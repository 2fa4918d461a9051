"""The study of fairness: one workload for all arms, shares that add up, a bound that means it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.fairness.__main__ import STUDY
from experiments.fairness.measures import measured, of_bound
from experiments.fairness.plot import PICTURE
from experiments.fairness.settings import ARMS, FLOODS, NO_AGING, ROTATING, TENANTS, config_of
from experiments.fairness.table import page
from sim.studies.arms import WORKLOAD_KEYS
from sim.studies.compare import simulate_into
from superinfer.lab.results import Run, load_run


@pytest.mark.parametrize("flood", FLOODS)
def test_every_arm_has_the_same_workload(flood: str) -> None:
    configs = [config_of(arm, FLOODS[flood]) for arm in ARMS.values()]
    for config in configs:
        assert config.workload == configs[0].workload and config.classes == configs[0].classes
        for key in (*WORKLOAD_KEYS, "model", "device", "tp", "kv_blocks"):
            assert getattr(config.run, key) == getattr(configs[0].run, key), key
    hostile = configs[0].workload["clients"]["hostile"]
    assert hostile["class"] == FLOODS[flood].slo_class


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Two arms under a flood of a minute and a half."""
    found = {}
    for name in (ROTATING, NO_AGING):
        config = config_of(ARMS[name], FLOODS["hurry"])
        config.workload["duration_s"] = 90
        folder = tmp_path_factory.mktemp("run") / "r"
        simulate_into(config, folder)
        found[name] = load_run(folder)
    return found


def test_measures_of_a_run(runs: dict[str, Run]) -> None:
    """Shares of prompt tokens add up, the aged are a part of them, and without aging there is no
    bound. A mean of two equal seeds is the value of one.
    """
    found = measured([runs[ROTATING]])
    assert sum(found[f"{tenant}.got"] for tenant in TENANTS) == pytest.approx(1.0)
    for tenant in TENANTS:
        assert 0 <= found[f"{tenant}.aged"] <= found[f"{tenant}.got"]
    assert measured([runs[ROTATING]] * 2) == found
    assert found["free.worst_wait_ms"] >= found["free.median_ttft_ms"]
    assert 0 < found["of_bound"] < found["of_prefill_bound"]
    assert of_bound(runs[NO_AGING]) == {"of_bound": None, "of_prefill_bound": None}


def test_the_bound_by_hand(runs: dict[str, Run]) -> None:
    """The free tier's two requests, of 100 tokens each, come at 0 s and are aged at 30 s; of the
    other tenant's requests one, of 400, was aged then too, the other was in time. The second of the
    free ones gets its token at 130 s. In between, 600 tokens in 100 s were computed: 6/s. Allowed
    are 30 s, 30 s of what was saved up, and W over a tenth of 6/s, where W is 200 of its own and
    for the other tenant as much and twice 400; and two stays of 10 s for each of the three.
    """
    rows = [
        ("free", "free", 0.0, 40.0, 50.0, 100),
        ("free", "free", 0.0, 130.0, 140.0, 100),
        ("hostile", "paid", 0.0, 100.0, 101.0, 400),
        ("hostile", "paid", 90.0, 91.0, 92.0, 0),
    ]
    columns = ["tenant", "class", "arrival_s", "first_token_s", "finish_s", "input_tokens"]
    run = replace(runs[ROTATING])
    run.requests = pd.DataFrame(rows, columns=columns)
    allowed_s = 30 + 30 + (200 + 200 + 800) / (0.1 * 6)
    shares = of_bound(run)
    assert shares["of_prefill_bound"] == pytest.approx(130 / allowed_s)
    assert shares["of_bound"] == pytest.approx(130 / (allowed_s + 2 * 3 * 10))


def test_the_files_say_what_the_numbers_are(tmp_path: Path, runs: dict[str, Run]) -> None:
    one = measured([runs[ROTATING]])
    floods: dict[str, Any] = {name: dict.fromkeys(ARMS, one) for name in FLOODS}
    made_by = {"command": "c", "versions": {"x": "1"}, "source": "s", "profile": "p"}
    STUDY.write(tmp_path, {"floods": floods}, made_by)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["kind"] == "simulated" and set(summary["floods"]) == set(FLOODS)
    text = (tmp_path / "results.md").read_text()
    assert "**Simulated**, by `c` with x 1" in text
    assert text.count(f"| {ROTATING} |") == len(FLOODS)
    assert text.count(f"| {one['free.median_ttft_ms'] / 1e3:,.1f} s |") >= len(FLOODS) * len(ARMS)
    assert (tmp_path / PICTURE).read_bytes().startswith(b"\x89PNG")


def test_the_kept_results_are_of_this_study() -> None:
    folder = Path(__file__).parents[2] / "experiments" / "results" / "simulated" / "fairness"
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["floods"]) == set(FLOODS)
    assert all(set(arms) == set(ARMS) for arms in summary["floods"].values())
    assert page(summary) == (folder / "results.md").read_text()
