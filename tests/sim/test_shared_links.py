"""Links to the host that share a bridge: bandwidth, and what is decided by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sim.run import build_engine
from superinfer.costs import StepCost
from superinfer.lab.config import load_config

Command = Callable[..., tuple[int, str, str]]


def cost_of(links: int, *settings: str, tp: int = 4) -> StepCost:
    sharing = f"run.links_per_bridge={links}"
    return build_engine(load_config(None, (sharing, *settings), tp=tp))[1]


@pytest.mark.parametrize("links", [1, 2, 4])
@pytest.mark.parametrize("settings", [(), ("run.host_link_gb_per_s=8",), ("run.costs=roofline",)])
def test_each_link_has_its_part_of_the_bandwidth_and_all_of_its_set_up(
    links: int, settings: tuple[str, ...]
) -> None:
    alone, shared = cost_of(1, *settings), cost_of(links, *settings)
    for way in ("h2d", "d2h"):
        first_s = alone.transfer_s(1, 10, way)
        assert shared.transfer_s(1, 10, way) == pytest.approx(first_s, rel=1e-4)
        bytes_s = alone.transfer_s(10**9, 10, way) - first_s
        assert shared.transfer_s(10**9, 10, way) - first_s == pytest.approx(links * bytes_s)


def test_copies_both_ways_lose_the_same_share_as_before() -> None:
    recorded = Path(__file__).parents[2] / "experiments/results/h200-early"
    profile = f"run.costs={recorded / 'profile-llama-3.1-8b.json'}"
    cost = build_engine(load_config(None, (profile,), device="h200"))[1]
    was = {way: link.bytes_per_s for way, link in cost.links.items()}
    assert "both" in was
    cost.share_bridge(2)
    assert {way: link.bytes_per_s for way, link in cost.links.items()} == {
        way: speed / 2 for way, speed in was.items()
    }


def test_a_victim_is_computed_again_where_a_shared_bridge_makes_swapping_slower(
    command: Command, chat_trace: Callable[[int], str], work_folder: Path
) -> None:
    (work_folder / "t.jsonl").write_text(chat_trace(50).replace('h": 20,', 'h": 200,'))
    settings = ("--tp", "4", "--scheduler", "fcfs", "--set", "memory.preemption=cheaper")
    machine = ("--set", "run.kv_blocks=1400", "--set", "run.host_link_gb_per_s=8")
    found = {}
    for links in (1, 2):
        sharing = ("--set", f"run.links_per_bridge={links}", "--no-plots", "--json")
        _, text, _ = command("run", "t.jsonl", *settings, *machine, *sharing)
        found[links] = json.loads(text)
        assert found[links]["run"]["run"]["links_per_bridge"] == links
        assert found[links]["preemptions"] > 0
    assert found[1]["d2h_bytes"] > 0 and found[1]["recompute_tax"] == 0
    assert found[2]["d2h_bytes"] == 0 and found[2]["recompute_tax"] > 0
