"""What schedulers believe of step times, apart from what steps take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sim.run import SimResult, build_engine, run_simulation
from sim.workload import load_workload
from superinfer.costs import CalibratedCost, Chunk, RooflineCost
from superinfer.errors import ConfigError
from superinfer.lab.config import Config, load_config
from superinfer.metrics import RunMetrics

NOMINAL = "run.believed_costs=roofline"
LEARN = "run.learn_step_times=true"
TRACE = Path(__file__).parents[2] / "traces" / "samples" / "mixed.jsonl"


def config(*settings: str, **run: Any) -> Config:
    return load_config(None, settings, **{"trace": str(TRACE), **run})


def simulated(*settings: str, **run: Any) -> SimResult:
    given = config(*settings, **run)
    return run_simulation(given, load_workload(given))


def attainment(result: SimResult) -> float:
    summary = RunMetrics(result.record).summary({"wall_s": 1.0, "scheduler_s": 0.0})
    return float(summary["slo_attainment"])


def test_the_device_takes_what_it_takes_whatever_is_believed() -> None:
    engine, cost = build_engine(config(NOMINAL))
    assert isinstance(cost, CalibratedCost) and engine.cost is cost
    assert isinstance(engine.believed, RooflineCost) and engine.learned is None
    same, _ = build_engine(config())
    assert same.believed is same.cost, "where nothing is said there is one model"
    alone = [simulated(*settings, scheduler="fcfs") for settings in ((), (NOMINAL, LEARN))]
    times = [result.record.table.finish_s.tolist() for result in alone]
    assert times[0] == times[1], "fcfs predicts nothing"


def test_what_run_says_of_the_host_and_the_links_is_believed_too() -> None:
    settings = ("run.host_step_ms=2.5", "run.host_link_gb_per_s=5")
    engine, cost = build_engine(config(NOMINAL, *settings))
    believed = engine.believed
    assert believed.host_s(0) == cost.host_s(0) == 0.0025
    assert believed.transfer_s(5 * 10**9, 0, "h2d") == 1.0


def test_learning_regains_what_wrong_times_lose() -> None:
    """The shipped trace, on an A100 by its profile, believed to be what its datasheet says."""
    known, nominal, learned = (
        attainment(simulated(*settings)) for settings in ((), (NOMINAL,), (NOMINAL, LEARN))
    )
    assert nominal < known - 0.1
    assert learned > known - 0.02


def test_a_run_says_what_was_believed_and_learned() -> None:
    assert "beliefs" not in simulated(limit=20).trust
    nominal = simulated(NOMINAL, limit=20)
    assert nominal.trust["beliefs"] == {"profile": "roofline:a100-80g", "learned": []}
    assert nominal.trust["profile"] == "a100-80g_llama-3.1-8b_tp1"
    learned = simulated(NOMINAL, LEARN, limit=100)
    (factors,) = learned.trust["beliefs"]["learned"]
    assert factors["decodes"] > 1.1 and factors["prefills"] > 1.1
    note = f"learned: steps of decodes alone took {factors['decodes']:.2f} times as long"
    assert any(note in said for said in learned.record.notes)


def test_each_replica_learns_by_itself() -> None:
    result = simulated(LEARN, limit=100, replicas=2, costs="roofline")
    first, second = result.trust["beliefs"]["learned"]
    assert first is not second and result.trust["beliefs"]["profile"] == "roofline:a100-80g"
    engine, cost = build_engine(config(LEARN))
    other, _ = build_engine(config(LEARN), cost=cost)
    assert engine.learned is not None and other.learned is not None
    assert engine.learned is not other.learned
    assert engine.learned.base is other.learned.base is cost


def test_what_is_believed_is_learned_from_what_the_device_takes() -> None:
    """In the steps of a run, not in some that nobody took."""
    given = config(NOMINAL, LEARN, limit=100)
    engine, cost = build_engine(given)
    believed = engine.learned
    assert believed is not None
    chunk = [Chunk(512, 0)]
    before = believed.step_s(chunk, 32, 32_000) / cost.step_s(chunk, 32, 32_000)
    learned = simulated(NOMINAL, LEARN, limit=100).trust["beliefs"]["learned"][0]
    assert abs(1.0 - before * learned["prefills"]) < abs(1.0 - before)


@pytest.mark.parametrize("scheduler", ["qoserve", "andes", "flexgen"])
def test_others_can_be_told_so_too(scheduler: str) -> None:
    result = simulated(NOMINAL, LEARN, limit=30, scheduler=scheduler)
    assert set(result.record.table.state) == {"finished"}


@pytest.mark.parametrize("costs", ["rooflin", "nowhere.json"])
def test_a_mistake_names_the_setting(costs: str) -> None:
    with pytest.raises(ConfigError, match=r"^run\.believed_costs: .*expected auto"):
        build_engine(config(f"run.believed_costs={costs}"))
