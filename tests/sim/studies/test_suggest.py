"""`superinfer-sim suggest-slo`: floors worked from the cost model, proposals that hold, errors."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Cli

from sim.run import build_engine
from sim.studies.suggest import MOST_CHECKS, Search, Wish
from sim.summaries import simulated
from sim.workload import load_workload
from superinfer.costs import Chunk, build_cost, write_profile
from superinfer.costs.calibrated import CalibratedCost
from superinfer.lab.config import load_config
from superinfer.slo_classes import load_classes

RECORD = (
    '{{"timestamp":{at},"input_length":{prompt},"output_length":{answer},"class":"{name}"{more}}}\n'
)


def trace(number: int = 60, gap_ms: int = 100, more: str = "") -> str:
    """Chat and batch in turns; the prompts grow."""
    return "".join(
        RECORD.format(
            at=gap_ms * i,
            prompt=200 + 37 * i,
            answer=5 + i % 9,
            name=("chat", "batch")[i % 2],
            more=more,
        )
        for i in range(number)
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a small trace in it."""
    (tmp_path / "t.jsonl").write_text(trace())
    (tmp_path / "mine.toml").write_text("[classes.chat]\nttft_ms = 900\n")
    (tmp_path / "lengths.json").write_text('[{"input_length": 10, "output_length": 5}]')
    (tmp_path / "sessions").mkdir()
    (tmp_path / "sessions/a.json").write_text("{}")
    (tmp_path / "spec.toml").write_text(
        "version = 1\nduration_s = 20\n"
        '[clients.a]\nrate_per_s = 1\nlengths = { sharegpt = "lengths.json" }\n'
    )
    (tmp_path / "gpu.toml").write_text(
        "memory_gib = 80\nmemory_gb_per_s = 2039\nbf16_tflops = 312\nhost_gb_per_s = 25\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture
def cli(cli: Cli) -> Cli:
    """Call the command in this process."""
    return partial(cli, "suggest-slo")


BOTH = Wish(classes=("chat", "batch"))
"""`batch` states no target: it is asked only because it is named."""


def searched(name: str = "t.jsonl", *settings: str, wish: Wish | None = None, **run: Any) -> Search:
    search = Search(load_config(None, settings, trace=name, **run), wish or Wish())
    search.run()
    return search


# -- alone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["fcfs", "rotating", "vllm"])
def test_the_floor_is_what_the_chunks_and_steps_of_a_lone_request_take(
    folder: Path, scheduler: str
) -> None:
    """3,000 prompt tokens in chunks of 512, each step with its host time, then three more tokens;
    all requests arrive at once, and still each has the machine for itself.
    """
    (folder / "same.jsonl").write_text(
        RECORD.format(at=0, prompt=3000, answer=4, name="chat", more="") * 5
    )
    settings = ["scheduler.max_num_batched_tokens=512", "run.costs=roofline"]
    settings += ["scheduler.tile_tokens=0"] if scheduler == "rotating" else []
    search = searched("same.jsonl", *settings, scheduler=scheduler)
    cost = build_engine(search.config)[1]
    sizes = [512] * 5 + [3000 - 5 * 512]
    chunks = [Chunk(size, 512 * number) for number, size in enumerate(sizes)]
    ttft_s = sum(cost.host_s(1) + cost.step_s([chunk], 0, 0) for chunk in chunks)
    decode_s = [cost.host_s(1) + cost.step_s([], 1, 3000 + token) for token in (1, 2, 3)]
    floor = search.alone["chat"]
    assert floor.values("ttft_ms") == pytest.approx([1e3 * ttft_s] * 5)
    assert floor.values("tpot_ms") == pytest.approx([1e3 * sum(decode_s) / 3] * 5)
    loaded = search.loaded["chat"].values("ttft_ms")
    assert loaded.max() > 1.5 * floor.values("ttft_ms").max()


def test_no_load_leaves_less_than_the_floor() -> None:
    search = searched(wish=BOTH)
    for name, floor in search.alone.items():
        assert (search.loaded[name].values("ttft_ms") >= floor.values("ttft_ms") - 1e-6).all()
        for kind, target in search.proposals[name].items():
            reached = floor.reached(kind, search.wish.quantile)
            assert reached is not None and target >= 1.2 * reached


# -- proposals ------------------------------------------------------------------------------------


def test_the_file_gives_the_attainment_that_was_promised(folder: Path, cli: Any) -> None:
    """`run --classes FILE` meets the proposal exactly as the last check did."""
    both = ("--class", "chat", "--class", "batch")
    answer = cli("t.jsonl", *both, "--rate-scale", "3", "--json", "-o", "new/c.toml")
    assert answer.code == 0
    found = answer.json
    tables = tomllib.loads((folder / "new/c.toml").read_text())["classes"]
    assert set(tables) == {"chat", "batch"}
    classes = load_classes(folder / "new/c.toml")
    config = load_config(None, (), folder / "new/c.toml", trace="t.jsonl", rate_scale=3.0)
    summary = simulated(config, load_workload(config))[1]
    for name, entry in found["classes"].items():
        for kind, row in entry["targets"].items():
            assert tables[name].get(kind) == row["proposed"]
        assert classes[name].slo.ttft_s == entry["targets"]["ttft_ms"]["proposed"] / 1e3
        assert summary["classes"][name]["slo_attainment"] == entry["attainment"] >= 0.95
    assert classes["chat"].max_stall_s == 1.0 and classes["chat"].max_tokens == 1024
    assert found["reached"] is True and 1 <= found["checks"] <= MOST_CHECKS


def test_a_class_keeps_what_the_file_of_classes_says_of_it(folder: Path, cli: Any) -> None:
    (folder / "mine.toml").write_text(
        "[classes.chat]\nweight = 3.5\ndelivery = 'paced'\nttft_ms = 900\n"
        "[classes.other]\ne2el_ms = 7\n"
    )
    answer = cli("t.jsonl", "--classes", "mine.toml", "--class", "chat", "-o", "c.toml", "--json")
    assert answer.code == 0 and set(answer.json["classes"]) == {"chat"}
    classes = load_classes(folder / "c.toml")
    assert (classes["chat"].weight, classes["chat"].delivery) == (3.5, "paced")
    assert classes["other"].slo.e2el_s == 0.007
    assert classes["batch"].slo.empty


def test_each_class_is_asked_for_what_it_states(folder: Path) -> None:
    """E2E alone for an agent; a class without targets is not asked unless it is named or nobody
    states any: then it is asked for TTFT and TPOT, or for what is wished.
    """
    text = trace(40).replace('"batch"', '"agent"').replace('"chat"', '"batch"')
    (folder / "agent.jsonl").write_text(text)
    assert set(searched("agent.jsonl").proposals) == {"agent"}
    named = ("agent", "batch")
    proposals = searched("agent.jsonl", wish=Wish(classes=named)).proposals
    assert {name: set(targets) for name, targets in proposals.items()} == {
        "agent": {"e2el_ms"},
        "batch": {"ttft_ms", "tpot_ms"},
    }
    rate = searched("agent.jsonl", wish=Wish(classes=named, kinds=("min_tokens_per_s",))).proposals
    assert {name: set(targets) for name, targets in rate.items()} == {
        name: {"min_tokens_per_s"} for name in named
    }
    free = searched("agent.jsonl", without_slo=True).proposals
    assert {name: set(targets) for name, targets in free.items()} == {
        name: {"ttft_ms", "tpot_ms"} for name in named
    }


def test_proposals_give_way_until_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a margin and at half of the requests the first proposal is too tight for 99 %."""
    wish = Wish(quantile=0.5, margin=0.0, attainment=0.99)
    search = searched("t.jsonl", wish=wish, rate_scale=3.0)
    assert search.checks > 1
    first = search._first_proposals()
    for name, targets in search.proposals.items():
        for kind, target in targets.items():
            assert target >= first[name][kind]
        assert (search.attainment(name) or 0) >= 0.99 or name in search.short()
    monkeypatch.setattr("sim.studies.suggest.MOST_CHECKS", 1)
    once = searched("t.jsonl", wish=wish, rate_scale=3.0)
    assert once.checks == 1 and once.short() and once.proposals == first


def test_a_proposal_that_does_not_hold_is_said_so(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim.studies.suggest.MOST_CHECKS", 1)
    few = ("--quantile", "50", "--margin", "0", "--attainment", "99", "--rate-scale", "3")
    answer = cli("t.jsonl", *few, "--json")
    assert answer.code == 0 and answer.json["reached"] is False
    assert "in check 1, 99 % were wanted" in answer.err


UNHEEDING = ("scheduler.prefill_turns=false", "run.kv_blocks=14402")
"""Urgent prompts hold blocks before it is their turn, and cannot be given up for others; the jobs
of `rush` fill so many blocks.
"""


@pytest.fixture
def rush(folder: Path) -> str:
    """A trace whose batch jobs fill the machine within seconds while chat goes on."""
    random = np.random.default_rng(1)
    chat = [
        (int(at), "chat", int(prompt), int(answer))
        for at, prompt, answer in zip(
            np.cumsum(random.exponential(400, 740)),
            random.lognormal(6.2, 0.8, 740),
            1 + random.lognormal(5, 0.7, 740),
            strict=True,
        )
    ]
    jobs = [
        (60_000 + 100 * i, "batch", int(random.uniform(3000, 9000)), int(random.uniform(200, 600)))
        for i in range(120)
    ]
    lines = [
        RECORD.format(at=at, prompt=prompt, answer=answer, name=name, more="")
        for at, name, prompt, answer in sorted(chat + jobs)
    ]
    (folder / "rush.jsonl").write_text("".join(lines))
    return "rush.jsonl"


def test_targets_of_several_classes_stay_near_what_was_reached(rush: str) -> None:
    """With a target beside it, batch competes with chat, and a scheduler that minds deadlines puts
    off who has missed one: what the late ones then reach, 30 s and more, is nobody's target.
    """
    alone = searched(rush, *UNHEEDING, scheduler="rotating")
    reached = alone.loaded["chat"].reached("ttft_ms", 0.95)
    assert reached is not None and set(alone.proposals) == {"chat"} and not alone.short()
    assert reached <= alone.proposals["chat"]["ttft_ms"] <= 1.5 * reached
    beside = searched(rush, *UNHEEDING, scheduler="rotating", wish=BOTH)
    assert not beside.short()
    assert reached <= beside.proposals["chat"]["ttft_ms"] <= 4 * reached
    first = replace(beside, wish=BOTH, proposals=beside._first_proposals())
    config = first._proposed()
    late = first._simulated(config, load_workload(config))["chat"].reached("ttft_ms", 0.95)
    assert late is not None and late > 20 * reached


def test_a_class_that_states_nothing_is_shown_without_a_proposal(cli: Any) -> None:
    answer = cli("t.jsonl", "--json")
    batch = answer.json["classes"]["batch"]
    assert batch["targets"]["ttft_ms"]["reached"] > 0
    assert {row["proposed"] for row in batch["targets"].values()} == {None}
    assert "class batch states no target: none is proposed (--class batch asks" in answer.err
    assert "states no target" not in cli("t.jsonl", "--class", "batch", "--json").err


def test_targets_that_hurt_the_other_classes_are_warned_of(rush: str, cli: Any) -> None:
    tight = ("--set", "classes.chat.ttft_ms=450", "--set", "classes.chat.tpot_ms=110")
    tight += tuple(word for each in UNHEEDING for word in ("--set", each))
    answer = cli(rush, "--scheduler", "rotating", "--class", "batch", *tight, "--json")
    assert answer.code == 0
    (said,) = [each for each in answer.json["warnings"] if "beside it" in each]
    shares = r"class chat: [\d.]+ % with the proposals beside it, [\d.]+ % before of its requests"
    assert re.match(shares, said)


# -- warnings -------------------------------------------------------------------------------------


def test_targets_that_nothing_can_meet(folder: Path, cli: Any) -> None:
    """A first token in 50 ms is beyond the longer prompts, a pace of 1 ms beyond every answer."""
    (folder / "hard.toml").write_text("[classes.chat]\nttft_ms = 50\ntpot_ms = 1\n")
    answer = cli("t.jsonl", "--classes", "hard.toml", "--json")
    found = answer.json["warnings"]
    search = searched("t.jsonl", "classes.chat.ttft_ms=50", "classes.chat.tpot_ms=1")
    values = search.alone["chat"].values("ttft_ms")
    share = 100 * float((values > 50).mean())
    assert 10 < share < 100
    longest = 200 + 37 * 58
    ttft = f"class chat: TTFT 50 ms cannot be met by {share:.1f}".removesuffix(".0")
    ending = f"% of its requests even alone: a prompt of {longest:,} tokens takes "
    assert any(each.startswith(ttft) and ending in each for each in found)
    tpot = "class chat: TPOT 1 ms cannot be met by 100 % of its requests even alone: an answer of "
    assert any(each.startswith(tpot) for each in found)
    assert f"warning: {tpot}" in answer.err
    assert not any("batch: T" in each for each in found)


def test_requests_that_are_refused_even_alone(folder: Path, cli: Any) -> None:
    both = ("--class", "chat", "--class", "batch")
    answer = cli("t.jsonl", *both, "--set", "run.max_model_len=2000", "--json")
    found = answer.json
    assert found["classes"]["batch"]["unfinished_share"] == pytest.approx(0.2)
    said = ("20 % of its requests are refused even alone",)
    said += ("no target is proposed: 20 % of its requests did not finish",)
    assert {f"class batch: {words}" for words in said} <= set(found["warnings"])
    assert found["reached"] is False and found["checks"] == 0


def test_few_requests_and_a_load_that_is_too_high(folder: Path, cli: Any) -> None:
    assert "12 requests are few for P95" in cli("t.jsonl", "--limit", "24").err
    (folder / "much.jsonl").write_text(trace(400, 5))
    assert "class chat: its waits grow through the run" in cli("much.jsonl").err
    assert "grow" not in cli("t.jsonl").err


def test_kernels_that_are_assumed_are_named(cli: Any) -> None:
    cost = build_cost("llama-3.1-8b", "a100-80g", 1, "calibrated")
    assert isinstance(cost, CalibratedCost)
    narrow = {"attention_prefill": {"chunk_tokens": [1, 8]}}
    write_profile(replace(cost.profile, assumed={"norm": "a guess"}, range=narrow), Path("p.json"))
    found = cli("t.jsonl", "--limit", "8", "--json", "--set", "run.costs=p.json")
    assert found.code == 0
    extrapolated, assumed = json.loads(found.out)["warnings"][:2]
    assert "of the step time is extrapolated from a100-80g_llama-3.1-8b_tp1" in extrapolated
    assert assumed == (
        "a100-80g_llama-3.1-8b_tp1 assumes norm: shapes outside what was measured "
        "(superinfer-sim profiles show says what stands in)"
    )
    assert f"warning: {assumed}" in found.err
    plain = cli("t.jsonl", "--limit", "8", "--json")
    assert "assumes" not in plain.out + plain.err


def test_targets_from_nominal_step_times_are_told(cli: Any) -> None:
    found = cli("t.jsonl", "--limit", "8", "--json", "--device", "l40s")
    told = "no profile of llama-3.1-8b on l40s at tp 1: step times are nominal figures"
    assert any(warning.startswith(told) for warning in json.loads(found.out)["warnings"])
    assert f"warning: {told}" in found.err
    assert "nominal" not in cli("t.jsonl", "--limit", "8", "--json").err


def test_targets_of_single_requests_stay(folder: Path, cli: Any) -> None:
    """What a record states itself is stronger than its class."""
    own = trace(40, more=',"slo":{"ttft_ms":77777}')
    (folder / "own.jsonl").write_text(own)
    answer = cli("own.jsonl", "--class", "chat", "--json")
    found = answer.json
    assert any("state ttft_ms themselves" in each for each in found["warnings"])
    assert found["classes"]["chat"]["targets"]["ttft_ms"]["stated"] == 77777


# -- the command ----------------------------------------------------------------------------------


def test_the_table(cli: Any) -> None:
    answer = cli("t.jsonl")
    assert answer.code == 0 and answer.err.startswith("check 1: ")
    for word in ("alone P50", "at load P95", "stated", "proposed", "chat", "batch", "ttft_ms"):
        assert word in answer.out


def test_a_trace_from_standard_input(cli: Any) -> None:
    """It is read once and used for every check."""
    given = cli("-", "--json", stdin=trace().encode())
    read = cli("t.jsonl", "--json")
    assert given.code == 0
    assert json.loads(given.out)["classes"] == json.loads(read.out)["classes"]


def test_a_specification(cli: Any) -> None:
    answer = cli("chat", "--seed", "2", "--limit", "60", "--json")
    found = answer.json
    assert answer.code == 0 and found["classes"]["chat"]["requests"] == 60


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("t.jsonl", "--class", "chatt"), ("--class chatt", "batch, chat", "did you mean")),
        (("t.jsonl", "--quantile", "100"), ("--quantile", "99.99")),
        (("t.jsonl", "--margin", "-1"), ("--margin",)),
        (("t.jsonl", "--attainment", "0"), ("--attainment",)),
        (("t.jsonl", "--target", "itl_ms"), ("--target", "ttft_ms")),
        (("t.jsonl", "-o", "."), (".", "expected a file, got a folder")),
        (("t.jsonl", "-o", "t.jsonl"), ("t.jsonl", "expected another file than the one that")),
        (
            ("t.jsonl", "--classes", "mine.toml", "-o", "mine.toml"),
            ("mine.toml", "expected another file than the one that"),
        ),
        (
            ("t.jsonl", "--config", "mine.toml", "-o", "./mine.toml"),
            ("mine.toml", "expected another file than the one that"),
        ),
        (
            ("t.jsonl", "--device", "gpu.toml", "-o", "gpu.toml"),
            ("gpu.toml", "expected another file than the one that"),
        ),
        (
            ("spec.toml", "-o", "lengths.json"),
            ("lengths.json", "expected another file than the one that"),
        ),
        (
            ("t.jsonl", "--set", "run.believed_costs=gpu.toml", "-o", "gpu.toml"),
            ("gpu.toml", "expected another file than the one that"),
        ),
        (
            ("sessions", "-o", "sessions/a.json"),
            ("sessions/a.json", "expected another file than the one that"),
        ),
        (("t.jsonl", "-o", "t.jsonl/c.toml"), ("t.jsonl/c.toml", "Not a directory")),
        (("nowhere.jsonl",), ("nowhere.jsonl",)),
        (("t.jsonl", "--scheduler", "rotatng"), ("rotatng", "rotating")),
        ((), ("TRACE",)),
    ],
)
def test_mistakes_are_one_line(
    cli: Any, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    answer = cli(*arguments)
    assert (answer.code, answer.out) == (2, ""), answer
    assert answer.err.startswith("error: ") and answer.err.count("\n") == 1, answer.err
    for word in words:
        assert word in answer.err
