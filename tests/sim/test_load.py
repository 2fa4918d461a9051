"""Load models: closed loop, closed sessions, backlogs, and runs that are cut off."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import FakeCost, make_engine, request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from specs import document, write_spec

from sim.cli.app import main
from sim.driver import simulate
from sim.load import LoadModel
from sim.oracle import Oracle
from sim.workload import load_workload
from superinfer.engine import Engine
from superinfer.errors import ConfigError, InputError
from superinfer.lab.config import load_config
from superinfer.metrics import RunMetrics, Window
from superinfer.plan import Plan
from superinfer.records.run import RunRecord
from superinfer.request import Request, SLOClass
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.schedulers.vllm import VllmScheduler

BATCH = SLOClass("batch")
COST = FakeCost(step=1.0, per_chunk_token=2**-6, per_context_token=2**-8, host=0.25)


def vllm() -> VllmScheduler:
    return VllmScheduler(chunked=True, max_num_batched_tokens=16, max_num_seqs=8)


def play(
    requests: list[Request],
    load: LoadModel,
    *,
    outputs: int = 5,
    stop_s: float = inf,
    scheduler: Any = None,
    blocks: int = 60,
    single_steps: bool = False,
    **options: Any,
) -> tuple[list[Any], RunRecord, Any]:
    events: list[Any] = []
    engine = make_engine(
        scheduler or vllm(), blocks, cost=COST, sink=events.append, host_blocks=99, **options
    )
    if single_steps:
        _step_by_step(engine)
    oracle = Oracle([outputs + request.index % 3 for request in requests])
    _, closed = simulate(engine, requests, oracle, load, stop_s)
    return events, engine.recorder.build(engine), closed


def _step_by_step(engine: Engine) -> None:
    plan_slice = engine.plan

    def plan(now: float) -> Plan | None:
        made = plan_slice(now)
        if made is not None:
            made.steps = 1
        return made

    engine.plan = plan  # type: ignore[method-assign]


def times(events: list[Any], kind: str) -> dict[str, float]:
    return {event[2]: event[0] for event in events if event[1] == kind}


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("users", [1, 3, 50])
def test_closed_loop_keeps_so_many_under_way(users: int, lag: int) -> None:
    requests = [request(i, 4 + i % 9, 0, 1000.0 * i) for i in range(20)]
    events, record, _ = play(requests, LoadModel(concurrency=users), lag=lag)
    under_way, most = 0, 0
    for event in events:
        under_way += (event[1] == "submit") - (event[1] == "finish")
        most = max(most, under_way)
    assert most == min(users, 20)
    assert record.table.state == ["finished"] * 20
    sent, ended = times(events, "submit"), sorted(times(events, "finish").values())
    starts = sorted(sent.values())
    assert starts[:users] == [0.0] * min(users, 20)
    # Each place is taken again at the very moment at which it came free.
    assert starts[users:] == ended[: max(0, 20 - users)]
    assert [r.arrival_s for r in record.table.requests] == [
        sent[r.request_id] for r in record.table.requests
    ]


@pytest.mark.parametrize("lag", [0, 1])
def test_turns_follow_the_end_of_the_turn_before(lag: int) -> None:
    requests = [
        request(0, 8, 0, 0.0, session_id="a"),
        request(1, 8, 0, 1.0),
        request(2, 8, 0, 2.0, session_id="a", delay_s=7.5),
        request(3, 8, 0, 3.0, session_id="b"),
        request(4, 8, 0, 4.0, session_id="a", delay_s=0.0),
    ]
    events, _, _ = play(requests, LoadModel(closed_sessions=True), lag=lag)
    sent, ended = times(events, "submit"), times(events, "finish")
    assert (sent["r0"], sent["r1"], sent["r3"]) == (0.0, 1.0, 3.0)
    assert sent["r2"] == ended["r0"] + 7.5
    assert sent["r4"] == ended["r2"]


def test_closed_loop_of_sessions() -> None:
    """With both, the places belong to sessions: users who think between their turns."""
    requests = [
        request(3 * s + t, 8, 0, 0.0, session_id=f"s{s}", delay_s=2.0 if t else None)
        for s in range(4)
        for t in range(3)
    ]
    events, _, _ = play(requests, LoadModel(concurrency=2, closed_sessions=True))
    sent, ended = times(events, "submit"), times(events, "finish")
    assert len(ended) == 12
    assert sent["r0"] == sent["r3"] == 0.0
    last_turns = sorted(ended[f"r{3 * s + 2}"] for s in range(4))
    assert sorted(sent[f"r{3 * s}"] for s in (2, 3)) == last_turns[:2]


def test_a_turn_without_a_think_time_is_refused() -> None:
    requests = [request(i, 8, 0, float(i), session_id="a") for i in range(2)]
    with pytest.raises(ConfigError, match=r"run.sessions: expected delay_ms .* request r1"):
        play(requests, LoadModel(closed_sessions=True))


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("scheduler", [vllm, FcfsScheduler], ids=["vllm", "fcfs"])
def test_a_backlog_always_waits(scheduler: Any, lag: int) -> None:
    requests = [request(i, 12, 0, 0.0, slo_class=BATCH) for i in range(60)]
    requests += [request(60 + i, 6, 0, 2.0 * i) for i in range(10)]
    events, record, closed = play(
        requests, LoadModel(backlog={"batch": 7}), scheduler=scheduler(), lag=lag
    )
    assert closed.left == {"batch": 0}
    assert len(times(events, "finish")) == 70
    scheduled = sorted(
        s
        for r, s in zip(record.table.requests, record.table.first_scheduled_s, strict=True)
        if r.slo_class is BATCH
    )
    sent = sorted(r.arrival_s for r in record.table.requests if r.slo_class is BATCH)
    # The first seven at once; each further one when one before it was scheduled.
    assert sent[:7] == [0.0] * 7
    assert sent[7:] == scheduled[:53]


def test_a_backlog_of_an_unknown_class_is_refused() -> None:
    expected = r"run\.backlog\.batch: expected a class of the trace \(default\)$"
    with pytest.raises(ConfigError, match=expected):
        play([request(0, 4, 0)], LoadModel(backlog={"batch": 3}))
    with pytest.raises(ConfigError, match=r"\(default\) \(did you mean 'default'\?\)$"):
        play([request(0, 4, 0)], LoadModel(in_flight={"defalt": 3}))


def test_who_is_turned_away_makes_room_for_the_next() -> None:
    """Prompts that fit nowhere are rejected inside a decision; the load goes on."""
    requests = [request(i, 900 if i % 2 else 6, 0, 0.0, slo_class=BATCH) for i in range(12)]
    for load in (LoadModel(backlog={"batch": 2}), LoadModel(concurrency=2)):
        for lag in (0, 1):
            _, record, _ = play(requests, load, lag=lag)
            assert Counter(record.table.state) == {"finished": 6, "rejected": 6}


@pytest.mark.parametrize("lag", [0, 1])
def test_a_run_is_cut_off_at_a_step(lag: int) -> None:
    requests = [request(i, 10, 0, 3.0 * i) for i in range(40)]
    whole_events, _, _ = play(requests, LoadModel(), lag=lag)
    events, record, _ = play(requests, LoadModel(), lag=lag, stop_s=50.0)
    cut = [event for event in events if event[1] != "unfinished"]
    assert [e for e in cut if e[0] < 50.0] == [e for e in whole_events if e[0] < 50.0]
    assert all(r.arrival_s < 55.0 for r in record.table.requests)
    states = Counter(record.table.state)
    assert states["finished"] > 0 and states["unfinished"] > 0
    summary = RunMetrics(record).summary()
    assert summary["unfinished"] == states["unfinished"]
    assert 50.0 <= summary["duration"] < 53.0


def test_a_cut_off_after_the_end_changes_nothing() -> None:
    requests = [request(i, 10, 0, float(i)) for i in range(5)]
    whole, cut = (play(requests, LoadModel(), stop_s=stop_s) for stop_s in (inf, 1e6))
    assert whole[0] == cut[0]


JOBS = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from((0.0, 0.5, 3.0, 40.0)), st.integers(0, 3)),
    min_size=2,
    max_size=14,
)
LOADS = st.sampled_from(
    [
        LoadModel(concurrency=2),
        LoadModel(concurrency=5, closed_sessions=True),
        LoadModel(closed_sessions=True),
        LoadModel(backlog={"batch": 2}),
        LoadModel(concurrency=1, backlog={"batch": 1}),
    ]
)


@pytest.mark.interpreted
@pytest.mark.parametrize("lag", [0, 1])
@settings(deadline=None, derandomize=True, max_examples=25, suppress_health_check=list(HealthCheck))
@given(jobs=JOBS, load=LOADS, stop_s=st.sampled_from((inf, inf, 30.0)))
def test_slices_are_exact(lag: int, jobs: Any, load: LoadModel, stop_s: float) -> None:
    if lag:
        stop_s = inf  # a slice then ends one step later than a single step would
    now, seen, requests = 0.0, set[int](), []
    for index, (prompt, gap_s, session) in enumerate(jobs):
        now += gap_s
        more: dict[str, Any] = {"slo_class": BATCH} if session == 3 or not index else {}
        if session:
            more |= {"session_id": str(session), "delay_s": gap_s if session in seen else None}
            seen.add(session)
        requests.append(request(index, prompt, 0, now, **more))
    runs = [
        play([replace(r) for r in requests], load, stop_s=stop_s, lag=lag, single_steps=single)
        for single in (False, True)
    ]
    records = [record for _, record, _ in runs]
    for name in ("first_scheduled_s", "first_token_s", "finish_s", "output_tokens"):
        columns = [getattr(record.table, name) for record in records]
        assert np.allclose(*columns, rtol=1e-9, equal_nan=True), name
    assert records[0].table.state == records[1].table.state
    assert records[0].steps == records[1].steps


def test_a_window_counts_what_happens_inside() -> None:
    # One request at a time: a prompt of 8 in one step of 1 s, then a token every second.
    cost = FakeCost(step=1.0)
    engine = make_engine(vllm(), 60, cost=cost)
    requests = [request(0, 8, 0, 0.0), request(1, 8, 0, 10.0), request(2, 8, 0, 18.0)]
    simulate(engine, requests, Oracle([5, 5, 5]))
    record = engine.recorder.build(engine)
    # Tokens at 1..5, 11..15 and 19..23; the window [3, 20) holds 3 + 5 + 1 of them.
    summary = RunMetrics(record, Window(3.0, 20.0)).summary()
    assert summary["total_output_tokens"] == 9
    assert summary["total_input_tokens"] == 16
    assert summary["output_throughput"] == 9 / 17
    assert summary["request_throughput"] == 2 / 17  # r0 at 5 and r1 at 15
    assert summary["submitted"] == summary["completed"] == 2  # r1 and r2 arrive inside
    assert summary["duration"] == 17.0
    assert sum(group["total_output_tokens"] for group in summary["classes"].values()) == 9


def test_the_windows_of_a_run_add_up() -> None:
    rng = np.random.default_rng(0)
    requests = [
        request(i, int(rng.integers(1, 40)), 0, float(i), slo_class=BATCH) for i in range(40)
    ]
    _, record, _ = play(requests, LoadModel(), blocks=24, outputs=20)
    assert record.table.recomputed_tokens.sum() > 0  # gaps outside runs count too
    whole = RunMetrics(record).summary()
    bounds = [0.0, 7.5, 31.25, 100.0, 1e6]
    parts = [RunMetrics(record, Window(a, b)).summary() for a, b in pairwise(bounds)]
    for key in ("total_output_tokens", "total_input_tokens", "submitted", "completed"):
        assert sum(part[key] for part in parts) == whole[key], key


# -- from the command line ------------------------------------------------------------------------


def run_cli(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["superinfer-sim", "run", "t.jsonl", "--no-plots", *options])
        main()
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [
        {"timestamp": 1000 * i, "input_length": 50, "output_length": 20, "class": name}
        for i, name in enumerate(["chat", "batch"] * 10)
    ]
    Path("t.jsonl").write_text("\n".join(json.dumps(line) for line in lines))


@pytest.mark.usefixtures("trace")
@pytest.mark.parametrize(
    ("options", "load"),
    [
        ([], {"model": "open loop", "concurrency": 0}),
        (["--concurrency", "3"], {"model": "closed loop", "concurrency": 3}),
        (
            ["--set", "run.backlog.batch=2", "--duration", "5"],
            {"backlog": {"batch": 2}, "duration_s": 5.0},
        ),
        (["--set", "run.window_s=[2,8]"], {"window_s": [2.0, 8.0]}),
        (["--set", "run.sessions=closed"], {"sessions": "closed"}),
    ],
)
def test_load_is_in_summary_and_configuration(
    capsys: pytest.CaptureFixture[str], options: list[str], load: dict[str, Any]
) -> None:
    code, out, _ = run_cli(capsys, *options, "--json", "--out", "r")
    assert code == 0
    summary = json.loads(out)
    assert {key: summary["load"][key] for key in load} == load
    stored = tomllib.loads(Path("r/config.toml").read_text())["run"]
    assert all(stored[key] == load[key] for key in load.keys() - {"model"} if load[key])
    again_code, again, _ = run_cli(capsys, "--config", "r/config.toml", "--json", "--out", "r2")
    assert again_code == 0
    assert json.loads(again)["classes"] == summary["classes"]


@pytest.mark.usefixtures("trace")
def test_the_rate_can_be_scaled(capsys: pytest.CaptureFixture[str]) -> None:
    durations = [
        json.loads(run_cli(capsys, "--rate-scale", scale, "--json")[1])["duration"]
        for scale in ("1", "0.5")
    ]
    assert durations[1] == pytest.approx(2 * durations[0], rel=0.1)


def test_a_name_that_is_nearly_that_of_a_specification() -> None:
    with pytest.raises(InputError, match=r"chatt: expected a trace file or one of .*'chat'\?\)"):
        load_workload(load_config(trace="chatt"))


def test_a_scale_multiplies_that_of_a_specification(tmp_path: Path) -> None:
    client = {"rate_per_s": 1.0, "prompt": 10, "answer": 10}
    double = write_spec(tmp_path, {**document(chat=client), "rate_scale": 2.0}, "double.toml")
    plain = write_spec(tmp_path, document(chat=client), "plain.toml")

    def arrivals(spec: Path, scale: float, *settings: str) -> list[float]:
        config = load_config(None, settings, trace=str(spec), rate_scale=scale)
        return [request.arrival_s for request in load_workload(config).requests]

    assert arrivals(double, 0.5) == arrivals(plain, 1.0)
    assert arrivals(double, 3.0, "workload.rate_scale=1") == arrivals(plain, 3.0)
    with pytest.raises(ConfigError, match="rate_scale: expected a number, got"):
        arrivals(plain, 2.0, "workload.rate_scale=fast")


@pytest.mark.usefixtures("trace")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "run.window_s=[5]"], "run.window_s: expected [from, to), got [5.0]"),
        (["--set", "run.window_s=[8,2]"], "run.window_s: expected [from, to), got [8.0, 2.0]"),
        (
            ["--set", "run.window_s=[2,8]", "--duration", "5"],
            "run.window_s: expected an end within run.duration_s 5.0",
        ),
        (["--set", "run.backlog.code=2"], "run.backlog.code: expected a class of the trace"),
        (["--set", "run.backlog.batch=0"], "run.backlog"),
        (["--set", "run.sessions=half"], "expected one of 'open', 'closed'"),
        (["--rate-scale", "0"], "run.rate_scale"),
        (["--duration", "-1"], "run.duration_s"),
        (["--concurrency", "0"], "concurrency"),
    ],
)
def test_bad_loads(capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    code, out, err = run_cli(capsys, *options)
    assert (code, out) == (2, "")
    assert words in err and "Traceback" not in err
