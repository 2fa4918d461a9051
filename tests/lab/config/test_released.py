"""What `run.as_released` takes from the release that a scheduler models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from superinfer.lab.config import Config, RunConfig, load_config
from superinfer.lab.config.released import RELEASED, without_release
from superinfer.memory import MEMORY_POLICIES
from superinfer.schedulers import SCHEDULERS


def taken(config: Config) -> tuple[str, bool, int]:
    run = config.run
    return run.memory, run.prefix_caching, run.lag


@pytest.mark.parametrize(
    ("scheduler", "wanted"),
    [
        ("vllm", ("lru", False, 1)),
        ("vllm_v1", ("vllm_v1", True, 1)),
        ("tensorrt_llm", ("retention", True, 1)),
        ("sglang", ("radix", True, 1)),
        ("rotating", ("lru", False, 0)),
    ],
)
def test_what_a_release_ships_with(scheduler: str, wanted: tuple[str, bool, int]) -> None:
    assert taken(load_config(scheduler=scheduler, as_released=True)) == wanted
    assert taken(load_config(scheduler=scheduler)) == ("lru", False, 0)


def test_what_is_given_wins(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[run]\nscheduler = "sglang"\nas_released = true\nlag = 0\n')
    config = load_config(file, ["run.memory=hicache"], prefix_caching=False)
    assert taken(config) == ("hicache", False, 0)
    assert taken(load_config(file)) == ("radix", True, 0)


def test_older_releases_of_sglang_do_not_overlap() -> None:
    older = load_config(None, ["scheduler.version=0.3.2"], scheduler="sglang", as_released=True)
    assert taken(older) == ("radix", True, 0)
    newer = load_config(None, ["scheduler.version=0.4.1"], scheduler="sglang", as_released=True)
    assert taken(newer) == ("radix", True, 1)


def test_it_is_resolved_into_what_a_run_was(tmp_path: Path) -> None:
    config = load_config(scheduler="vllm_v1", as_released=True)
    run = config.resolved()["run"]
    assert (run["memory"], run["prefix_caching"], run["lag"]) == ("vllm_v1", True, 1)
    assert "offload" in config.resolved()["memory"], "the settings of its memory policy"


def test_a_dial_asks_for_its_own_memory_policy() -> None:
    config = load_config(scheduler="sglang", as_released=True, dial="cost=1,speed=1,quality=0")
    assert config.run.memory == "slo_aware"


def test_no_release_is_said() -> None:
    (note,) = without_release(RunConfig(scheduler="fcfs", as_released=True))
    assert note.endswith("releases are known of vllm, vllm_v1, tensorrt_llm, sglang alone")
    assert not without_release(RunConfig(scheduler="vllm_v1", as_released=True))
    assert not without_release(RunConfig(scheduler="fcfs"))


def test_a_release_of_long_ago_is_said() -> None:
    (note,) = without_release(RunConfig(scheduler="vllm", as_released=True))
    assert note == "run.as_released: vllm is v0.6.0 of 2024; vllm_v1 is 0.33.0"
    assert not without_release(RunConfig(scheduler="vllm"))


def test_every_name_is_one() -> None:
    assert RELEASED.keys() <= SCHEDULERS.keys()
    assert all(each["memory"] in MEMORY_POLICIES for each in RELEASED.values())


def test_the_page_on_rivals_shows_them() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs/rivals.md").read_text()
    (table,) = re.findall(r"^\| `--as-released` .*\n\|[-:|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = [[cell.strip("` ") for cell in row.split("|")[1:-1]] for row in table.splitlines()]
    shown = {
        name: {"memory": memory, "prefix_caching": caching == "on", "lag": int(lag)}
        for name, _, memory, caching, lag in rows
    }
    assert shown == RELEASED
