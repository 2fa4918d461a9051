"""`check-policy` finds what a policy breaks, and nothing in those that come with us."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sim.studies import policy_check
from sim.studies.policy_check import (
    REPLICAS,
    Condition,
    Finding,
    check_policies,
    place,
    with_replicas,
)
from sim.studies.policy_check_page import findings_json, told_once
from superinfer.draft import Draft
from superinfer.errors import ConfigError
from superinfer.lab.config import load_config
from superinfer.memory.index.node import Node
from superinfer.memory.lru import LruMemory
from superinfer.request import Request
from superinfer.routers.round_robin import RoundRobinRouter
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.sequence import Sequence

SCARCE = Condition(4_000, 0, True, 0.0)
CUT = Condition(24_000, 1, True, 3.0)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few requests under two conditions, with policies of this file."""
    monkeypatch.setitem(sys.modules, "own_policies", sys.modules[__name__])
    monkeypatch.setattr(policy_check, "REQUESTS", 12)
    monkeypatch.setattr(policy_check, "conditions", lambda: iter([SCARCE, CUT]))


def found(scheduler: str = "fcfs", **run: Any) -> list[Finding]:
    return check_policies(load_config(None, [], scheduler=scheduler, **run), [0, 1])


calls = iter(range(1_000_000))


@dataclass
class Moody(FcfsScheduler):
    """Does otherwise when it runs again."""

    size: int = field(default_factory=lambda: 64 + next(calls), init=False)

    def prefill_budget(self, draft: Draft) -> int:
        return self.size


@dataclass
class Greedy(FcfsScheduler):
    """Turns nobody away."""

    def _hopeless(self, draft: Draft, seq: Sequence) -> str | None:
        return None


@dataclass
class Thief(FcfsScheduler):
    """Makes a request look as if it held less than it does."""

    def ended(self, seq: Sequence) -> None:
        super().ended(seq)
        self.machine_pool.referenced += 1

    def plan(self, draft: Draft, now: float) -> None:
        self.machine_pool = draft.pool
        super().plan(draft, now)


def test_what_comes_with_us_passes() -> None:
    scarce, cut = found()
    assert (scarce.fault, scarce.unfit, cut.fault, cut.unfit) == ("", "", "", "")
    assert scarce.requests == sum((scarce.outcomes or {}).values()) == 24
    assert (scarce.outcomes or {})["rejected"] > 0
    assert (cut.outcomes or {})["unfinished"] > 0


def test_a_run_that_comes_out_otherwise() -> None:
    assert "the same run came out otherwise: at 0" in found("own_policies:Moody")[0].fault


def test_who_does_not_turn_away_what_never_fits() -> None:
    fault = found("own_policies:Greedy")[0].fault
    assert fault.startswith("scheduler 'own_policies:Greedy' (")
    assert "requests can never run" in fault


def test_blocks_that_stay_taken() -> None:
    fault = found("own_policies:Thief")[0].fault
    assert "device blocks are held" in fault or "can never run" in fault


@dataclass
class Stingy(LruMemory):
    """Gives nothing up, which shows when all is evicted in the end."""

    def victim(self, blocks: int) -> tuple[Node, int]:
        return super().victim(blocks)[0], 0


def test_a_memory_policy_that_keeps_what_it_has() -> None:
    fault = found(memory="own_policies:Stingy")[0].fault
    assert fault.startswith("memory 'own_policies:Stingy' (")
    assert "victim: expected 1 to " in fault


@dataclass
class Wordy(LruMemory):
    """One note in place of a list."""

    notes: str = field(default_factory=lambda: "as one", init=False)


def test_notes_that_cannot_be_told() -> None:
    for finding in found(memory="own_policies:Wordy"):
        assert finding.fault.endswith("Wordy.notes: expected a list of texts, got 'as one'")


def test_conditions_that_a_policy_refuses() -> None:
    """All of them refused is a mistake of the configuration."""
    with pytest.raises(ConfigError, match="expected a scheduler that loads prefixes"):
        check_policies(load_config(None, ["memory.offload=true"], memory="vllm_v1"), [0])


def test_conditions_that_a_policy_refuses_in_part() -> None:
    """Copies on the host go with a prefix cache and without a lag."""
    config = load_config(None, ["memory.offload=true"], scheduler="vllm_v1", memory="vllm_v1")
    scarce, cut = check_policies(config, [0])
    assert (scarce.fault, scarce.unfit) == ("", "")
    assert "lag" in cut.unfit and not cut.fault


@dataclass
class MoodyRouter(RoundRobinRouter):
    """Begins elsewhere when it runs again."""

    def route(self, request: Request, now: float) -> int:
        return (super().route(request, now) + self.first) % self._replicas

    first: int = field(default_factory=lambda: next(calls), init=False)


@dataclass
class Beyond(RoundRobinRouter):
    """Names a replica that there is not, now and then."""

    def route(self, request: Request, now: float) -> int:
        return request.index % (self._replicas + 1)


def replicas_of(*settings: str, file: Path | None = None, **run: Any) -> int:
    return with_replicas(load_config(file, settings, **run)).run.replicas


def routed(router: str | None, *settings: str, **run: Any) -> list[Finding]:
    config = load_config(None, settings, scheduler="fcfs", router=router, **run)
    return check_policies(with_replicas(config), [0, 1])


@pytest.mark.parametrize("router", ["round_robin", "slo_aware"])
def test_a_router_that_comes_with_us_passes(router: str) -> None:
    scarce, cut = routed(router)
    assert (scarce.fault, scarce.unfit, cut.fault, cut.unfit) == ("", "", "", "")
    assert scarce.requests == 2 * 12 * REPLICAS == sum(scarce.sent_to or [])
    assert (scarce.outcomes or {})["rejected"] > 0 and (cut.outcomes or {})["unfinished"] > 0
    if router == "round_robin":
        assert scarce.sent_to == [24, 24, 24]


def test_a_router_that_decides_otherwise_when_it_runs_again() -> None:
    fault = routed("own_policies:MoodyRouter")[0].fault
    assert "the same run came out otherwise: at 0" in fault
    assert "submit of 1 on replica " in fault


def test_a_router_that_names_no_replica() -> None:
    fault = routed("own_policies:Beyond")[0].fault
    assert fault.startswith("router 'own_policies:Beyond' (")
    assert "route: expected a replica from 0 to 2, got 3" in fault


def test_replicas_for_a_router_alone() -> None:
    """One that is not asked for takes no part; the numbers of a configuration hold."""
    assert replicas_of() == 1
    assert replicas_of("run.replicas=1") == 1
    assert replicas_of("run.router=round_robin") == REPLICAS
    assert replicas_of("run.replicas=2", router="slo_aware") == 2
    assert [each.sent_to for each in found()] == [None, None]


def test_the_router_that_is_the_default_may_be_named_as_well(tmp_path: Path) -> None:
    file = tmp_path / "routed.toml"
    file.write_text('[run]\nrouter = "least_loaded"\n')
    assert replicas_of(router="least_loaded") == REPLICAS
    assert replicas_of("run.router=least_loaded") == REPLICAS
    assert replicas_of(file=file) == REPLICAS


def test_a_fault_is_told_once() -> None:
    one, two = Finding(SCARCE, fault="x"), Finding(CUT, fault="y")
    assert told_once([one, Finding(CUT, fault="x"), Finding(CUT)], "fault") == [
        f"{place(SCARCE)}, and under 1 other condition: x"
    ]
    assert told_once([one, two], "fault") == [f"{place(SCARCE)}: x", f"{place(CUT)}: y"]
    assert told_once([one, two], "unfit") == []


@pytest.mark.parametrize(
    ("fault", "like"),
    [
        ("at 0.5 s prefill of 1", "at 1.25e-05 s prefill of 12"),
        ("1 blocks are held", "1,024 blocks are held"),
        ("'vllm_v1' (own.py:7): KeyError: 3", "'vllm_v1' (own.py:7): KeyError: 4"),
    ],
)
def test_faults_that_differ_in_numbers_are_told_as_the_first(fault: str, like: str) -> None:
    findings = [Finding(SCARCE, fault=fault), Finding(CUT, fault=like), Finding(CUT, fault=fault)]
    assert told_once(findings, "fault") == [
        f"{place(SCARCE)}, and the like under 2 other conditions: {fault}"
    ]


@pytest.mark.parametrize(
    ("fault", "other"),
    [
        ("own.py:7: no", "own.py:8: no"),
        ("scheduler 'vllm_v1'", "scheduler 'vllm_v2'"),
        ("a request ended 2 times", "a request did not end"),
    ],
)
def test_faults_of_other_places_are_told_each(fault: str, other: str) -> None:
    assert len(told_once([Finding(SCARCE, fault=fault), Finding(CUT, fault=other)], "fault")) == 2


def test_what_is_said() -> None:
    assert place(SCARCE) == "KV memory 4,000 tokens, lag 0, prefix cache"
    assert place(CUT) == "KV memory 24,000 tokens, lag 1, prefix cache, cut off at 3 s"
    config = load_config(None, [], scheduler="fcfs")
    told = findings_json(config, [Finding(CUT, 3, {"finished": 3})])
    assert (told["scheduler"], told["memory"]) == ("fcfs", "lru")
    assert told["conditions"][0]["condition"]["duration_s"] == 3.0
    assert "router" not in told
    told = findings_json(with_replicas(load_config(None, [], router="least_loaded")), [])
    assert (told["router"], told["replicas"]) == ("least_loaded", REPLICAS)


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sim.cli.app import main

    def called(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["superinfer-sim", "check-policy", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        shown = capsys.readouterr()
        return int(caught.value.code or 0), shown.out, shown.err

    code, out, err = called("--scheduler", "fcfs", "--seeds", "1")
    assert (code, err) == (0, "")
    assert out.count(" ok") == 2 and "4,000 tokens" in out and "By replica" not in out
    code, out, err = called("--router", "round_robin", "--seeds", "1")
    assert (code, err) == (0, "")
    assert out.count("12, 12, 12   ok") == 2 and "By replica" in out
    assert called("--set", "run.router=round_robin", "--seeds", "1") == (code, out, err)
    given = ("run.lag=1", "run.rate_scale=2", "run.kv_blocks=3000", "run.slo_scale=2")
    _, _, err = called("--seeds", "1", *(part for each in given for part in ("--set", each)))
    assert err == (
        "note: run.rate_scale, run.lag: not used: a check has its own\n"
        "note: run.kv_blocks: 3000 is all KV memory; "
        "a check tries 24,000 and 4,000 tokens as well\n"
    )
    file = tmp_path / "other.toml"
    file.write_text('[run]\nscheduler = "vllm"\n[scheduler]\nwatermark = 0.1\n')
    _, _, err = called("--config", str(file), "--scheduler", "fcfs", "--seeds", "1")
    assert err == f"warning: {file}: [scheduler] is for vllm: not used with fcfs\n"
    code, out, err = called("--scheduler", "own_policies:Greedy", "--seeds", "1", "--json")
    assert code == 1
    assert json.loads(out)["conditions"][0]["fault"] in err
    assert err.startswith("error: KV memory 4,000 tokens, lag 0, prefix cache: scheduler 'own_")
