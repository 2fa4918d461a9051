"""The dial: what it sets, that it is monotone, and that what is given wins."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sim.workload import load_workload
from superinfer.errors import ConfigError
from superinfer.lab.config import load_config
from superinfer.lab.config.dial import WEIGHTS, Dial, dial_of, parse_dial

SHARES = st.floats(0, 1, allow_subnormal=False)
RISES = {
    "quality": ("floor_bits", "shrink_8_at", "shrink_4_at"),
    "cost": ("memory_share", "max_num_batched_tokens", "max_num_seqs"),
    "speed": ("promotion_margin_s",),
}
FALLS = {"speed": ("pace_margin",)}


def set_by(dial: Dial) -> dict[str, float]:
    settings = dial.settings("memory") | dial.settings("scheduler")
    return settings | {"floor_bits": dial.floor_bits}


@given(cost=SHARES, speed=SHARES, quality=SHARES, more=SHARES, turned=st.sampled_from(WEIGHTS))
def test_turning_a_weight_up_never_turns_back_what_it_stands_for(
    cost: float, speed: float, quality: float, more: float, turned: str
) -> None:
    weights = {"cost": cost, "speed": speed, "quality": quality}
    higher = weights | {turned: max(weights[turned], more)}
    low, high = (dial_of(each) if sum(each.values()) else None for each in (weights, higher))
    assume(low is not None and high is not None)
    assert low is not None and high is not None
    before, after = set_by(low), set_by(high)
    for name in WEIGHTS:
        up = name == turned
        for key in RISES[name]:
            assert (before[key] <= after[key]) if up else (before[key] >= after[key])
        for key in FALLS.get(name, ()):
            assert (before[key] >= after[key]) if up else (before[key] <= after[key])


def test_the_whole_way_of_each_weight_changes_everything_that_it_sets() -> None:
    ends = {name: set_by(Dial(*(float(name == each) for each in WEIGHTS))) for name in WEIGHTS}
    for name in WEIGHTS:
        for key in (*RISES[name], *FALLS.get(name, ())):
            others = {ends[other][key] for other in WEIGHTS if other != name}
            assert len(others) == 1 and ends[name][key] not in others


def test_weights_are_normalised() -> None:
    assert dial_of({"cost": 0.2, "speed": 0.5, "quality": 0.3}) == Dial(0.2, 0.5, 0.3)
    assert dial_of({"cost": 1.0, "speed": 1.0}) == Dial(0.5, 0.5, 0.0)
    assert dial_of({}) is None


def test_floors_of_precision() -> None:
    floors = [Dial(1 - q, 0.0, q).floor_bits for q in (0.0, 0.19, 0.2, 0.49, 0.5, 1.0)]
    assert floors == [4, 4, 8, 8, 16, 16]
    assert all(low <= high for low, high in pairwise(floors))


@pytest.mark.parametrize(
    "text",
    [
        "cost=2",
        "cost=-0.1",
        "cost=0,speed=0",
        "price=1",
        "cost",
        "cost=x",
        "cost=nan",
        "",
        "cost=1,cost=0.5",
    ],
)
def test_bad_weights_are_told_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="cost"):
        parse_dial(text)


def test_a_dial_sets_what_is_not_given() -> None:
    config = load_config(None, ["scheduler.max_num_seqs=7"], dial="cost=0.5,quality=0.5")
    assert (config.run.memory, config.run.dial) == ("slo_aware", {"cost": 0.5, "quality": 0.5})
    resolved = config.resolved()
    assert resolved["scheduler"]["max_num_seqs"] == 7
    assert resolved["scheduler"]["max_num_batched_tokens"] == 2048
    assert resolved["memory"]["shrink_8_at"] == 1.0
    plain = load_config(None, [])
    assert (plain.run.memory, plain.run.dial) == ("lru", {})


def test_a_scheduler_takes_what_it_knows_of_a_dial() -> None:
    config = load_config(None, [], scheduler="vllm", memory="lru", dial="cost=1")
    assert config.scheduler == {"max_num_batched_tokens": 4096, "max_num_seqs": 512}
    assert config.memory == {}
    assert config.notes == (
        "run.dial: not for vllm, which has no pace_margin, promotion_margin_s, memory_share",
        "run.dial: not for lru, which has no shrink_8_at, shrink_4_at",
    )
    assert load_config(None, [], dial="cost=1").notes == ()


def test_classes_keep_the_precision_that_they_demand(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    line = '{{"timestamp":0,"input_length":9,"output_length":2,"class":"{}"}}\n'
    trace.write_text(line.format("chat") + line.format("exact"))
    settings = ["classes.exact.min_kv_bits=16"]
    config = load_config(None, settings, trace=str(trace), dial="cost=1")
    found = [each.slo_class.min_kv_bits for each in load_workload(config).requests]
    assert found == [4, 16]
