"""Several replicas behind a router: nothing is lost or counted twice, and one is as none."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import make_engine, request

from sim.cluster import Cluster
from sim.environment import ExactEnvironment
from sim.run import build_engine, run_cluster, run_simulation
from sim.summaries import simulated
from sim.workload import load_workload
from superinfer.events import Event
from superinfer.lab.config import Config, load_config
from superinfer.lab.report import write_report
from superinfer.lab.results import load_run
from superinfer.lab.studies.study import WALL_CLOCK
from superinfer.metrics import RunMetrics, Window
from superinfer.request import Request
from superinfer.routers import ROUTERS, slo_aware
from superinfer.routers.round_robin import RoundRobinRouter
from superinfer.routers.slo_aware import SloAwareRouter
from superinfer.schedulers.fcfs import FcfsScheduler
from traces.workload import Workload

ENDINGS = ("finish", "reject", "fail", "cancel", "unfinished")
LOADS = {
    "open": (),
    "lag": ("run.lag=1",),
    "closed": ("run.concurrency=6",),
    "closed, lag": ("run.concurrency=6", "run.lag=1"),
    "sessions": ("run.sessions=closed",),
    "backlog": ("run.backlog={batch=3}",),
    "in flight": ("run.in_flight={batch=4}", "run.lag=1"),
    "cut off": ("run.duration_s=2.5",),
    "cut off, lag": ("run.duration_s=2.5", "run.lag=1"),
    "short of memory": ("run.kv_blocks=60", "run.block_tokens=16"),
    "cached": ("run.prefix_caching=true",),
}


def record(number: int) -> dict[str, Any]:
    """Chat in sessions and batch work; one prompt is longer than the model takes."""
    chat = number % 3 > 0
    prompt = 200_000 if number == 20 else 64 + 67 * (number * 7 % 11)
    own = range(1000 * number, 1000 * number + -(-prompt // 32))
    return {
        "timestamp": 45 * number,
        "input_length": prompt,
        "output_length": 3 + number * 5 % 29,
        "class": "chat" if chat else "batch",
        "hash_ids": [-1 - number % 4, *own][: len(own)],
        "hash_block_size": 32,
        **({"session_id": f"s{number % 5}", "delay_ms": 120} if chat else {}),
    }


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a small trace in it."""
    lines = (json.dumps(record(number)) for number in range(60))
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def config(*settings: str, **run: Any) -> Config:
    return load_config(None, settings, trace="t.jsonl", **run)


def told(chosen: Config) -> tuple[Any, list[list[Event]]]:
    """The record of a run, and the events of each replica."""
    events: list[list[Event]] = [[] for _ in range(chosen.run.replicas)]
    result = run_simulation(chosen, load_workload(chosen), sinks=[each.append for each in events])
    return result.record, events


def without_clock(summary: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in summary.items() if key not in WALL_CLOCK})


# -- one replica is as none -----------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["rotating", "vllm"])
@pytest.mark.parametrize("load", LOADS)
def test_a_cluster_of_one_gives_the_events_of_a_single_engine(load: str, scheduler: str) -> None:
    chosen = config(*LOADS[load], scheduler=scheduler)
    alone: list[Event] = []
    behind: list[Event] = []
    single = run_simulation(chosen, load_workload(chosen), alone.append)
    cluster = run_cluster(chosen, load_workload(chosen), [behind.append])
    assert behind == alone
    summary = RunMetrics(cluster.record).summary()
    assert [row["replica"] for row in summary.pop("replicas")] == [0]
    assert json.dumps(summary) == json.dumps(RunMetrics(single.record).summary())
    assert cluster.trust == single.trust


def test_what_was_outside_the_measured_range_on_any_replica_counts() -> None:
    """Each of two replicas gets one of two prompts that are longer than any that was measured."""

    def share(replicas: int) -> Any:
        line = json.dumps({"timestamp": 0, "input_length": 30_000, "output_length": 4})
        Path("t.jsonl").write_text(f"{line}\n" * replicas)
        chosen = config(f"run.replicas={replicas}")
        return run_simulation(chosen, load_workload(chosen)).trust["extrapolated_share"]

    assert share(2) == share(1) > 0


def test_one_replica_leaves_no_trace_of_a_cluster() -> None:
    chosen = config()
    _, summary = simulated(chosen, load_workload(chosen))
    assert "replicas" not in summary
    assert "router" not in chosen.resolved()
    assert not {"replicas", "router"} & chosen.resolved()["run"].keys()
    assert (
        simulated(config(replicas=1, router="slo_aware"), load_workload(chosen))[1]["run"]
        == (summary["run"])
    )


# -- many replicas --------------------------------------------------------------------------------


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("load", LOADS)
def test_each_request_ends_once_on_one_replica(load: str, router: str) -> None:
    chosen = config(*LOADS[load], replicas=3, router=router)
    found, events = told(chosen)
    sent = load_workload(chosen).requests
    submitted = [[e[2] for e in each if e[1] == "submit"] for each in events]
    ended = Counter(e[2] for each in events for e in each if e[1] in ENDINGS)
    ids = [request.request_id for request in found.table.requests]
    assert sorted(chain.from_iterable(submitted)) == sorted(ids) == sorted(ended)
    assert set(ended.values()) == {1}
    assert len(set(ids)) == len(ids)
    if "duration_s" not in "".join(LOADS[load]):
        assert set(ids) == {request.request_id for request in sent}
    for number, each in enumerate(submitted):
        mine = [ids[row] for row in np.flatnonzero(found.table.replica == number)]
        assert mine == each
    assert len([each for each in submitted if each]) > 1


@pytest.mark.parametrize("router", ROUTERS)
def test_the_same_run_gives_the_same_bytes(router: str) -> None:
    chosen = config("run.concurrency=9", replicas=3, router=router)
    first, second = (simulated(chosen, load_workload(chosen))[1] for _ in range(2))
    assert without_clock(first) == without_clock(second)


def shares(chosen: Config) -> tuple[Any, Iterator[tuple[np.ndarray, Any]]]:
    """A cluster's record; of each replica its rows, and the record of the same requests alone."""
    found, _ = told(chosen)
    workload = load_workload(chosen)
    by_id = {request.request_id: request for request in workload.requests}

    def each() -> Iterator[tuple[np.ndarray, Any]]:
        for number in range(chosen.run.replicas):
            rows = np.flatnonzero(found.table.replica == number)
            mine = [by_id[found.table.requests[row].request_id] for row in rows]
            share = Workload(mine, workload.output_tokens, workload.name)
            yield rows, run_simulation(config(), share).record

    return found, each()


def test_a_replica_does_what_it_would_do_alone() -> None:
    found, alone = shares(config(replicas=3))
    for rows, single in alone:
        for name in ("first_token_s", "finish_s", "output_tokens", "first_scheduled_s"):
            together, apart = getattr(found.table, name)[rows], getattr(single.table, name)
            np.testing.assert_allclose(together, apart, rtol=1e-12)


def test_figures_of_a_cluster_are_those_of_its_replicas() -> None:
    window = Window(0.5, 2.0)
    found, alone = shares(config(replicas=3))
    parts = [(RunMetrics(single, window), single) for _, single in alone]
    whole = RunMetrics(found, window).summary()
    for key in ("completed", "rejected", "total_output_tokens", "total_input_tokens", "steps"):
        assert whole[key] == sum(part.summary()[key] for part, _ in parts), key
    assert whole["peak_kv_bytes"] == sum(part.summary()["peak_kv_bytes"] for part, _ in parts)
    assert found.total_blocks == sum(single.total_blocks for _, single in parts)
    rows = [RunMetrics(single) for _, single in parts]
    for at, row in enumerate(RunMetrics(found).summary()["replicas"]):
        for key in ("completed", "p99_ttft_ms", "p99_tpot_ms", "slo_attainment", "peak_kv_bytes"):
            assert row[key] == pytest.approx(rows[at].summary()[key]), key
    # The gaps between tokens are pooled: the longest is the longest of any replica.
    longest = max(row.summary()["max_itl_ms"] for row in rows)
    assert RunMetrics(found).summary()["max_itl_ms"] == pytest.approx(longest)


def test_windows_of_a_cluster_copy_together_what_the_run_does() -> None:
    """Caches of requests and cached blocks, each in the window in which it was decided."""
    short = ("run.kv_blocks=60", "run.block_tokens=16", "run.prefix_caching=true")
    found, events = told(config(*short, memory="slo_aware", replicas=2, scheduler="rotasched"))
    assert all({"rotate_out", "rotate_in"} <= {event[1] for event in each} for each in events)
    bounds = [0.0, *np.quantile(found.copies.decided_s, (0.2, 0.4, 0.6, 0.8)).tolist(), 1e6]
    parts = [RunMetrics(found, Window(*edges)).summary() for edges in pairwise(bounds)]
    whole = RunMetrics(found).summary()
    for key in ("h2d_bytes", "d2h_bytes"):
        assert sum(part[key] for part in parts) == whole[key] > max(part[key] for part in parts)
        for name, group in whole["classes"].items():
            assert sum(part["classes"][name][key] for part in parts) == group[key]
    assert whole["d2h_bytes"] > sum(group["d2h_bytes"] for group in whole["classes"].values())


def test_the_timeline_adds_replicas_up() -> None:
    found, _ = told(config(replicas=3))
    timeline = found.timeline
    assert (np.diff(timeline.t_s) > 0).all()
    assert timeline.running.max() > 3
    assert timeline.running[-1] == timeline.waiting[-1] == timeline.referenced_blocks[-1] == 0
    assert (timeline.referenced_blocks <= found.total_blocks).all()


def test_use_is_the_time_in_which_steps_were_under_way() -> None:
    chosen = config(replicas=2, limit=1)
    summary = simulated(chosen, load_workload(chosen))[1]
    first, second = summary["replicas"]
    # A request alone: from its arrival to its end there is always a step, or host time.
    assert first["utilisation"] == pytest.approx(1.0)
    assert (second["utilisation"], second["submitted"], second["steps"]) == (0.0, 0, 0)


def test_no_replica_is_busy_for_longer_than_the_run() -> None:
    chosen = config(replicas=2, limit=1, lag=1)
    busy, idle = simulated(chosen, load_workload(chosen))[1]["replicas"]
    # The step that was planned ahead is under way when the only answer is whole.
    assert (busy["utilisation"], idle["utilisation"]) == (1.0, 0.0)


def test_more_replicas_serve_sooner() -> None:
    waits = []
    for replicas in (1, 4):
        chosen = config("run.rate_scale=20", replicas=replicas)
        waits.append(simulated(chosen, load_workload(chosen))[1]["mean_ttft_ms"])
    assert waits[1] < waits[0]


def test_a_prefix_is_found_where_it_went() -> None:
    hits = {}
    for router in ("round_robin", "prefix_affinity", "slo_aware"):
        # Prompts begin in four ways by turns, which three replicas in turn do not keep apart.
        chosen = config("run.prefix_caching=true", replicas=3, router=router)
        hits[router] = simulated(chosen, load_workload(chosen))[1]["prefix_hit_rate"]
    assert min(hits["prefix_affinity"], hits["slo_aware"]) > hits["round_robin"]


# -- slo_aware by its board and by asking everybody ------------------------------------------------


class AskingBoth(SloAwareRouter):
    """Each decision by the board, if that knows all and it is that of the ranks of all replicas."""

    def route(self, request: Request, now: float) -> int:
        chosen, board = super().route(request, now), self._board
        assert board is not None
        for number, known in enumerate(board._columns.T.tolist()):
            assert known == list(board._told(number))
        self._board = None
        assert super().route(request, now) == chosen
        self._board = board
        return chosen


BOARDS: dict[str, tuple[str, ...]] = {
    **{name: LOADS[name] for name in ("closed", "closed, lag", "sessions", "cached")},
    "busy": ("run.rate_scale=30",),
    "busy, lag": ("run.rate_scale=30", "run.lag=1"),
    "short of memory": ("run.rate_scale=30", "run.kv_blocks=90"),
    "learned": ("run.rate_scale=30", "run.learn_step_times=true", "run.slow_replicas.1=3"),
    "cached and busy": ("run.rate_scale=30", "run.prefix_caching=true"),
    "by arrival": ("run.rate_scale=30", "router.overtaking=false"),
    "learned, lag": (
        "run.rate_scale=3",
        "run.lag=1",
        "run.learn_step_times=true",
        "run.slow_replicas={0=3,1=3,2=3,3=3,4=3}",
    ),
    "in pairs": ("run.time_unit=s", "run.rate_scale=9000"),
}


@pytest.mark.parametrize("load", BOARDS)
def test_the_board_sends_nobody_elsewhere(load: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slo_aware, "FEW", 1)
    chosen = config(*BOARDS[load], replicas=5, router=f"{__name__}:AskingBoth")
    found, _ = told(chosen)
    assert len(set(found.table.replica.tolist())) == 5


# -- outside code ---------------------------------------------------------------------------------


class LastRouter(RoundRobinRouter):
    """Everything to the last replica, if it can see no more than it should."""

    def route(self, request: Request, now: float) -> int:
        assert not hasattr(request, "output_tokens")
        return self._replicas - 1


class NowhereRouter(RoundRobinRouter):
    """To a replica that is not there."""

    def route(self, request: Request, now: float) -> int:
        return self._replicas


class NamelessRouter(RoundRobinRouter):
    """To none."""

    def route(self, request: Request, now: float) -> int:
        return None  # type: ignore[return-value]


class ManyRouter(RoundRobinRouter):
    """To a thousand at once."""

    def route(self, request: Request, now: float) -> int:
        return [0] * 1000  # type: ignore[return-value]


class HugeRouter(RoundRobinRouter):
    """To one with more digits than Python writes."""

    def route(self, request: Request, now: float) -> int:
        return 10**5000


class NumpyRouter(RoundRobinRouter):
    """Always to the last replica, in numpy's words."""

    def route(self, request: Request, now: float) -> int:
        return np.int64(self._replicas - 1)  # type: ignore[return-value]


def test_a_router_from_outside() -> None:
    found, _ = told(config(replicas=2, router=f"{__name__}:LastRouter"))
    assert set(found.table.replica.tolist()) == {1}


def test_a_number_of_numpy_is_one() -> None:
    found, _ = told(config(replicas=2, router=f"{__name__}:NumpyRouter"))
    assert set(found.table.replica.tolist()) == {1}


@pytest.mark.parametrize(
    ("router", "got"),
    [
        ("NowhereRouter", "2"),
        ("NamelessRouter", "None"),
        ("ManyRouter", f"[{'0, ' * 18}0,..."),
        ("HugeRouter", "a value of type int"),
    ],
)
def test_a_replica_that_is_none(cli: Call, router: str, got: str) -> None:
    """A fault of the router, as of any other policy from outside."""
    name = f"{__name__}:{router}"
    code, out, err = cli("--replicas", "2", "--router", name, "--out", "out")
    words = f"route: expected a replica from 0 to 1, got {got}"
    assert (code, out) == (1, "") and not Path("out").exists()
    assert err.splitlines()[-1].startswith(f"error: router {name!r} (")
    assert err.splitlines()[-1].endswith(words)


# -- the command ----------------------------------------------------------------------------------

Call = Callable[..., tuple[int, str, str]]


def tracks_of(folder: Path) -> dict[str, Any]:
    """The twelve requests that are drawn first."""
    from superinfer.lab.pictures import tracks

    return tracks.tracks_of(folder / "timeline.json", 12)


@pytest.fixture
def cli(command: Call) -> Call:
    return partial(command, "run", "t.jsonl")


def test_the_result_folder_of_a_cluster(cli: Call) -> None:
    arguments = ("--replicas", "3", "--router", "slo_aware", "--timeline", "--out", "out")
    code, out, _ = cli(*arguments, "--no-plots")
    assert code == 0
    assert "Replica" in out
    run = load_run("out")
    counts = Counter(run.requests["replica"])
    assert [row["submitted"] for row in run.summary["replicas"]] == [counts[i] for i in range(3)]
    assert (run.config["run"]["replicas"], run.config["run"]["router"]) == (3, "slo_aware")
    assert run.config["router"]["overtaking"] is True
    events = json.loads(Path("out/timeline.json").read_text())["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert {name for name in names.values() if "device" in name} == {
        f"replica {i}: device" for i in range(3)
    }
    assert len(names) == len(set(names.values()))
    tracks = [e for e in events if e["name"] == "thread_name" and "requests" in names[e["pid"]]]
    assert len(tracks) == 60
    starts = [min(e["ts"] for e in own if "ts" in e) for own in tracks_of(run.folder).values()]
    assert starts == sorted(starts)
    assert len(starts) == 12
    assert "Metrics by replica" in write_report(run.folder).read_text()
    # What a run has resolved can be run again.
    assert load_config(Path("out/config.toml")).resolved() == run.config | {
        "classes": {},
        "workload": {},
        "run": load_config(Path("out/config.toml")).resolved()["run"],
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--replicas", "0"), "--replicas"),
        (("--set", "run.replicas=0"), "run.replicas: expected"),
        (("--replicas", "2", "--router", "nearest"), "router 'nearest'"),
        (("--replicas", "2", "--set", "router.margin=1"), "router.margin"),
        (
            ("--replicas", "2", "--router", "prefix_affinity", "--set", "router.load_bound=0.5"),
            "router.load_bound: expected at least 1, got 0.5",
        ),
    ],
)
def test_bad_input_is_one_line(cli: Call, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = cli(*arguments, "--out", "out")
    *notes, error = err.splitlines()
    assert (code, out) == (2, "") and error.startswith("error: ") and words in error
    assert all(note.startswith("note: prompts begin alike") for note in notes)
    assert not Path("out").exists()


def test_a_router_that_is_not_used_is_said(cli: Call) -> None:
    _, _, err = cli("--set", "router.load_bound=2", "--router", "prefix_affinity", "--no-plots")
    assert "warning: [router]: not used with one replica" in err


def test_replicas_share_a_cost_model() -> None:
    engine, cost = build_engine(config())
    other, same = build_engine(config(), cost=cost)
    assert same is cost is engine.cost is other.cost


def test_the_gateway_hears_of_first_tokens_and_of_ends() -> None:
    """Both prompts are computed at 1 s; then one request has all its tokens, the other at 3 s."""
    env = ExactEnvironment(0.0)
    cluster = Cluster(env, [make_engine(FcfsScheduler(), 8)], RoundRobinRouter(), [1, 3])
    cluster.listen()
    for index in (0, 1):
        cluster.send(request(index, 4, 0), 0.0)
    (view,), seen = cluster.views, []
    for until_s in (0.5, 1.5, 3.5):
        env.run(until_s)
        seen.append((view.requests, view.waiting_prompt_tokens))
    assert seen == [(2, 8), (1, 0), (0, 0)]


@pytest.mark.parametrize("number", [0, 1])
def test_who_follows_a_decision_of_a_moment_to_come_is_not_there_before_it(number: int) -> None:
    """The sender, whose clock is ahead of the others', takes in its own at once."""
    events: list[Event] = []
    engines = [
        make_engine(FcfsScheduler(), 8, **({"sink": events.append} if n == number else {}))
        for n in (0, 1)
    ]
    router = RoundRobinRouter()
    env = ExactEnvironment(0.0)
    cluster = Cluster(env, engines, router, [1, 1], None, 100.0)
    if number:
        cluster.send(request(0, 1, 1, 0.0), 0.0)
    cluster.replicas[0].send(request(1, 1, 1, 5.0), 5.0)
    assert len(engines[number].live) == 1 - number
    env.run(6.0)
    assert [event[1] for event in events][:2] == ["submit", "admit"]
    assert number == 0 or events[0][0] == events[1][0] == 5.0


@pytest.mark.parametrize(("lag", "changes"), [(0, [0, 1, 1, 2, 2]), (1, [0, 0, 1, 2, 2, 3, 3])])
def test_a_replica_tells_of_each_decision_and_of_what_was_completed(
    lag: int, changes: list[float]
) -> None:
    """A prompt in the first second, the rest of the answer in the next, and that nothing is left to
    do; with lag what follows a step is decided before it ends, and one step is for nothing.
    """
    env = ExactEnvironment(0.0)
    engine = make_engine(FcfsScheduler(), 8, lag=lag)
    replica = Cluster(env, [engine], RoundRobinRouter(), [2], None, 100.0).replicas[0]
    told: list[float] = []
    replica.on_change = lambda: told.append(env.now)
    replica.submit(request(0, 1, 2, 0.0), 0.0)
    env.run(20.0)
    assert told == changes
