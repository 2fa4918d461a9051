"""The reference pages say what the program says."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from msgspec import Meta

from experiments.reference.__main__ import differing
from experiments.reference.config import CLASS_KEYS
from experiments.reference.fields import kind, settings, shown, unit
from sim.run import run_simulation
from sim.workload import load_workload
from superinfer.errors import ConfigError
from superinfer.lab.config import load_config
from superinfer.metrics.meanings import BLOCKS, GROUP, LATENCIES, REPLICA, RUN
from superinfer.metrics.statistics import STATISTICS
from superinfer.metrics.summary import REPLICA_KEYS, summarise
from superinfer.slo_classes import class_from_table

SAMPLE = Path(__file__).parents[2] / "traces" / "samples" / "rotation.jsonl"


def test_pages_are_what_the_program_says() -> None:
    """Otherwise: python -m experiments.reference."""
    assert [path.name for path, _ in differing()] == []


@pytest.mark.parametrize("replicas", [1, 2])
def test_every_metric_is_explained_and_every_explained_one_exists(replicas: int) -> None:
    config = load_config(None, [f"run.replicas={replicas}", "run.limit=6"], trace=str(SAMPLE))
    summary = summarise(run_simulation(config, load_workload(config)).record)
    group = {*GROUP, *(f"{each}_{name}_ms" for name in LATENCIES for each in STATISTICS)}
    absent = set() if replicas > 1 else {"replicas"}
    assert set(summary) == (group | set(RUN) | set(BLOCKS)) - absent
    assert all(set(each) == group for each in list(summary["classes"].values())[1:])
    for row in summary.get("replicas", ()):
        kept = {"prefix_hit_rate", "peak_kv_bytes", "peak_slab_bytes", "steps"}
        assert set(row) == {*REPLICA_KEYS, *REPLICA, *kept}


def test_the_keys_of_a_class_are_those_that_it_takes() -> None:
    known = ", ".join(each.name for each in CLASS_KEYS)
    with pytest.raises(ConfigError, match=rf"one of {known}\)"):
        class_from_table("x", {"no_such_key": 1})


@dataclass
class Policy:
    """Something with settings."""

    depth_tokens: int = 5
    mode: Literal["a", "b"] | None = None
    share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    hidden: int = dataclasses.field(default_factory=int, init=False)


def test_a_setting_has_type_default_and_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    told = dict.fromkeys(("depth_tokens", "mode", "share"), "some  words")
    rows = [(each.name, each.kind, each.default, each.unit) for each in settings(Policy, told)]
    assert rows == [
        ("depth_tokens", "integer", "`5`", "tokens"),
        ("mode", "`a`, `b`", "absent", ""),
        ("share", "number > 0, <= 1", "`0.5`", "share"),
    ]
    with pytest.raises(KeyError, match=r"Policy\.depth_tokens has no docstring"):
        settings(Policy, {})


def test_words_of_types_and_defaults() -> None:
    assert kind(dict[str, int]) == "table of integer"
    assert kind(list[Annotated[float, Meta(ge=0)]]) == "list of number >= 0"
    assert [shown(each) for each in (True, "x", (1, 2), 0.5)] == [
        "`true`",
        '`"x"`',
        "`[1, 2]`",
        "`0.5`",
    ]
    assert unit("min_tokens_per_s") == "tokens/s"
    assert unit("host_link_gb_per_s") == "1e9 bytes/s"
