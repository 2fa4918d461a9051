"""The timeline: a valid trace, and the very times at which the simulated device did its work."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from harness import BlockingDriver, FakeCost, make_engine, request
from tiered import TieredLru

from superinfer.errors import SuperInferError
from superinfer.lab.timelines.replay import Replay, replay
from superinfer.lab.timelines.timeline import TimelineSink, write_timeline
from superinfer.memory.lru import LruMemory
from superinfer.memory.vllm_v1.policy import VllmV1Memory
from superinfer.plan import Plan, Transfer
from superinfer.request import SLO
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.schedulers.rotating import RotatingScheduler
from superinfer.schedulers.vllm import VllmScheduler
from superinfer.schedulers.vllm_v1 import VllmV1Scheduler

COST = FakeCost(
    step=1.0, per_chunk_token=2**-6, per_context_token=2**-8, host=0.25, copy=0.5, per_byte=2**-4
)
BLOCK_TOKENS = 4


PER_BLOCK = replace(COST, per_byte=2**-4)


def copy_s(blocks: int, direction: str) -> float:
    return COST.transfer_s(blocks, blocks, direction)


@dataclass
class Diary(BlockingDriver):
    """The plain driver, writing down start and end of every step and copy of the device."""

    steps: list[tuple[float, float]] = field(default_factory=list)
    copies: list[tuple[float, float, str, str, bool]] = field(default_factory=list)

    def _copied(self, transfer: Transfer, earliest_s: float) -> float:
        start_s = max(earliest_s, self.link_free[transfer.direction])
        end_s = super()._copied(transfer, earliest_s)
        background = transfer.timing == "background"
        who = transfer.sequence.request.request_id if transfer.sequence else ""
        self.copies.append((start_s, end_s, transfer.direction, who, background))
        return end_s

    def _step_s(self, plan: Plan, done: int) -> float:
        seconds = super()._step_s(plan, done)
        if seconds:
            self.steps.append((self.now, self.now + seconds))
        return seconds


ARMS = {
    "recompute": lambda: (
        VllmScheduler(chunked=True, max_num_batched_tokens=16, max_num_seqs=8),
        LruMemory(),
    ),
    "prefill-first": lambda: (
        VllmScheduler(chunked=False, max_num_batched_tokens=64, max_num_seqs=8),
        LruMemory(),
    ),
    "swap": lambda: (
        VllmScheduler(chunked=True, max_num_batched_tokens=16, max_num_seqs=8, preemption="swap"),
        LruMemory(),
    ),
    "background": lambda: (
        FcfsScheduler(max_num_batched_tokens=16, max_num_seqs=8),
        LruMemory("swap", "background"),
    ),
    "tier": lambda: (
        VllmScheduler(chunked=False, max_num_batched_tokens=64, max_num_seqs=8),
        TieredLru(exclusive=True),
    ),
    "tier-background": lambda: (
        FcfsScheduler(max_num_batched_tokens=16, max_num_seqs=8),
        TieredLru(write_through_hits=2, load_timing="background"),
    ),
    "offload": lambda: (
        VllmV1Scheduler(max_num_batched_tokens=16, max_num_seqs=8),
        VllmV1Memory(offload=True),
    ),
}
COPYING = {
    False: ("swap", "background"),
    True: ("swap", "background", "tier", "tier-background", "offload"),
}
"""Arms that copy, without and with a prefix cache."""


def workload(count: int = 30) -> tuple[list[Any], list[int]]:
    """Bursts and pauses; prompts that begin alike; answers that outgrow the memory."""
    requests, now = [], 0.0
    for index in range(count):
        now += (0, 0.25, 1, 9.5)[index * 7 % 4]
        prompt = 5 + index * 11 % 40
        ids = tuple(range(-(-prompt // 8)))
        requests.append(request(index, prompt, 0, now, hash_ids=ids, hash_block_tokens=8))
    return requests, [1 + index * 13 % 37 for index in range(count)]


def driven(
    arm: str, *, lag: int = 0, prefix: bool = False, most: int = 99, cost: FakeCost = COST
) -> Any:
    """The sink of a run, the engine's record, and the diary."""
    if arm == "offload" and (lag or not prefix):
        pytest.skip("offload needs lag 0 and a prefix cache")
    requests, answers = workload()
    scheduler, memory = ARMS[arm]()
    sink = TimelineSink(lag=lag, max_requests=most)
    engine = make_engine(
        scheduler, 24, memory=memory, cost=cost, sink=sink, host_blocks=200, lag=lag,
        prefix_caching=prefix, max_model_len=512,
    )  # fmt: skip
    diary = Diary(engine, requests, answers)
    diary.run()
    return sink, engine.recorder.build(engine), diary


def told(sink: TimelineSink) -> Replay:
    return replay(sink.events, sink.shown, lag=sink.lag, block_tokens=BLOCK_TOKENS, copy_s=copy_s)


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("arm", ARMS)
def test_steps_and_copies_are_those_of_the_device(arm: str, lag: int, prefix: bool) -> None:
    sink, _, diary = driven(arm, lag=lag, prefix=prefix)
    found = told(sink)
    steps = [(step.start_s, step.end_s) for step in found.steps]
    copies = [(c.start_s, c.end_s, c.direction, c.request_id, c.background) for c in found.copies]
    assert steps == diary.steps
    assert sorted(copies) == sorted(diary.copies)
    assert bool(copies) == (arm in COPYING[prefix])


@pytest.mark.parametrize(("lag", "full_duplex"), [(0, False), (0, True), (1, False)])
def test_copies_share_the_link_as_on_the_device(lag: int, full_duplex: bool) -> None:
    """Copies that a step waits for stand behind those in the background that began earlier; some of
    these are written through for no request.

    With lag 1 a copy that was decided on while a step ran is shown from the end of that step, but
    may have begun before: then it may stand elsewhere in the queue of the link, and with it the
    beginning of a step.
    """
    cost = replace(COST, copy=2**-5, per_byte=2**-5)
    waited = written = steps = misplaced = 0
    for shift in range(6):
        requests, answers = workload()
        tight = SLO(ttft_s=6.0, tpot_s=4.0)
        requests = [
            replace(each, slo=tight) if each.index % 4 == shift % 4 else each for each in requests
        ]
        scheduler = RotatingScheduler(
            max_num_batched_tokens=16, max_num_seqs=8, tile_tokens=0, full_duplex=full_duplex
        )
        sink = TimelineSink(lag=lag, full_duplex=full_duplex)
        engine = make_engine(scheduler, 24 + shift, cost=cost, sink=sink, host_blocks=200, lag=lag)
        diary = Diary(engine, requests, [answer + 10 for answer in answers])
        diary.run()
        found = replay(
            sink.events,
            sink.shown,
            lag=lag,
            block_tokens=BLOCK_TOKENS,
            copy_s=lambda blocks, direction: cost.transfer_s(blocks, blocks, direction),
            full_duplex=full_duplex,
        )
        shown = [(step.start_s, step.end_s) for step in found.steps]
        assert [end_s for _, end_s in shown] == [end_s for _, end_s in diary.steps]
        copies = [
            (c.start_s, c.end_s, c.direction, c.request_id, c.background) for c in found.copies
        ]
        misplaced += len(set(shown) - set(diary.steps)) + len(set(copies) - set(diary.copies))
        assert len(copies) == len(diary.copies)
        steps += len(shown)
        waited += sum(not background for *_, background in copies)
        writes = sum(event[1] == "write_through" for event in sink.events)
        assert sum(copy.written_through for copy in found.copies) == writes
        written += writes
    assert misplaced <= (steps // 500 if lag else 0)
    assert waited > 100 and written >= 2


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("arm", ARMS)
def test_phases_tell_each_life_without_gap_or_overlap(arm: str, lag: int, prefix: bool) -> None:
    sink, record, _ = driven(arm, lag=lag, prefix=prefix)
    table = record.table
    for row, story in enumerate(told(sink).stories):
        edges = [story.start_s, *(span.end_s for span in story.phases)]
        assert [span.start_s for span in story.phases] == edges[:-1]
        assert all(span.end_s > span.start_s for span in story.phases)
        assert story.end_s == edges[-1] == table.finish_s[row]
        assert (story.outcome, story.detail) == (table.state[row], table.output_tokens[row])
        names = [span.name for span in story.phases]
        dropped = (table.preemptions - table.rotations)[row]
        # With lag 1 a request may end in the very step after which it was to be preempted.
        assert 0 <= dropped - names.count("recompute") <= lag
        assert names.count("swapped") <= table.rotations[row]
        assert [m.start_s for m in story.moments] == [table.first_token_s[row]]
        computing = [p for p in story.phases if p.name in ("prefill", "recompute")]
        for chunk in story.chunks:
            assert any(p.start_s <= chunk.start_s < chunk.end_s <= p.end_s for p in computing)
        ends = {chunk.end_s for chunk in story.chunks}
        follows = zip(story.phases, story.phases[1:], strict=False)
        assert all(a.end_s in ends for a, b in follows if a in computing and b.name == "decode")


def test_the_queue_of_the_log_is_that_of_the_engine() -> None:
    sink, record, _ = driven("recompute")
    waiting = told(sink).waiting
    times = [t for t, _ in waiting]
    assert times == sorted(times)
    samples = record.timeline
    for t, wanted in zip(samples.t_s.tolist(), samples.waiting.tolist(), strict=True):
        # A sample is taken before the decisions of its moment.
        around = [n for time, n in waiting if time == t] or [-1]
        before = [n for time, n in waiting if time < t]
        assert wanted in ([before[-1]] if before else [0]) + around


def test_a_copy_takes_as_long_as_its_blocks() -> None:
    sink, _, diary = driven("swap", cost=PER_BLOCK)
    found = replay(
        sink.events, sink.shown, copy_s=lambda blocks, way: PER_BLOCK.transfer_s(blocks, 1, way)
    )
    lengths = [copy.end_s - copy.start_s for copy in found.copies]
    assert lengths == [end - start for start, end, *_ in diary.copies]
    assert len(set(lengths)) > 3
    assert [(step.start_s, step.end_s) for step in found.steps] == diary.steps


# -- logs by hand ---------------------------------------------------------------------------------


def phases(*events: Any, **how: Any) -> list[tuple[str, float, float]]:
    (story,) = replay([*events], ["a"], **how).stories
    return [(span.name, span.start_s, span.end_s) for span in story.phases]


def test_a_life_by_hand() -> None:
    events = [
        (1.0, "submit", "a", 10, 99),
        (2.0, "admit", "a", 3, 0),
        (3.0, "prefill", "a", 6, 0),
        (4.0, "prefill", "a", 4, 6),
        (4.0, "first_token", "a"),
        (5.0, "decode", "", 1, 11),
        (5.0, "preempt", "a", 3),
        (7.0, "admit", "a", 3, 0),
        (8.0, "prefill", "a", 12, 0),
        (9.5, "decode", "", 1, 13),
        (9.5, "finish", "a", 4),
    ]
    assert phases(*events, block_tokens=4) == [
        ("queued", 1, 2),
        ("prefill", 2, 4),
        ("decode", 4, 5),
        ("preempted", 5, 7),
        ("recompute", 7, 8),
        ("decode", 8, 9.5),
    ]
    steps = replay(events, ["a"]).steps
    assert [(s.start_s, s.end_s) for s in steps] == [(2, 3), (3, 4), (4, 5), (7, 8), (8, 9.5)]


def test_a_recomputation_that_is_cut_short_never_decoded() -> None:
    events = [
        (0.0, "submit", "a", 20, 99),
        (0.0, "admit", "a", 5, 0),
        (1.0, "prefill", "a", 20, 0),
        (1.0, "first_token", "a"),
        (1.0, "preempt", "a", 5),
        (2.0, "admit", "a", 6, 0),
        (3.0, "prefill", "a", 16, 0),
        (4.0, "preempt", "a", 6),
        (5.0, "fail", "a", "host_memory_full"),
    ]
    assert phases(*events, block_tokens=4)[2:] == [("recompute", 2, 4), ("preempted", 4, 5)]
    (story,) = replay(events, ["a"], block_tokens=4).stories
    assert (story.outcome, story.detail) == ("failed", "host_memory_full")


def test_with_lag_a_decision_counts_from_the_end_of_the_step_under_way() -> None:
    events = [
        (0.0, "submit", "a", 4, 99),
        (0.0, "submit", "b", 4, 99),
        (0.0, "admit", "a", 1, 0),
        (1.0, "prefill", "a", 4, 0),
        (1.0, "first_token", "a"),
        (1.0, "admit", "b", 1, 0),  # while the step from 1 to 3 runs
        (1.0, "preempt", "a", 1),
        (3.0, "decode", "", 1, 5),
        (4.0, "prefill", "b", 4, 0),
    ]
    first, second = replay(events, ["a", "b"], lag=1).stories
    assert [(p.name, p.start_s) for p in first.phases] == [
        ("prefill", 0), ("decode", 1), ("preempted", 3),
    ]  # fmt: skip
    assert [(p.name, p.start_s) for p in second.phases] == [("queued", 0), ("prefill", 3)]
    assert [p.end_s for p in second.chunks] == [4]


def test_a_run_that_was_cut_off_ends_what_is_open() -> None:
    events = [(0.0, "submit", "a", 4, 9), (1.0, "admit", "a", 1, 0), (3.0, "prefill", "a", 2, 0)]
    assert phases(*events) == [("queued", 0, 1), ("prefill", 1, 3)]
    assert phases(*events, (4.0, "unfinished", "a", 0))[-1] == ("prefill", 1, 4)


# -- the trace ------------------------------------------------------------------------------------


def trace(
    path: Path, arm: str, *, copies: bool = True, most: int = 99, **how: Any
) -> list[dict[str, Any]]:
    sink, record, _ = driven(arm, most=most, **how)
    write_timeline(sink, path, record=record, copy_s=copy_s if copies else None)
    return json.loads(path.read_text())["traceEvents"]


def check_format(events: list[dict[str, Any]]) -> None:
    """The rules of the format, and that slices of a track lie beside or inside each other."""
    processes = {e["pid"] for e in events if e["name"] == "process_name"}
    tracks = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    slices: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for event in events:
        assert event["ph"] in "XiCM"
        assert event["pid"] in processes
        assert isinstance(event["args"], dict)
        if event["ph"] != "M":
            assert event["ts"] >= 0
        if event["ph"] == "C":
            assert all(isinstance(value, int) for value in event["args"].values())
        if event["ph"] in "Xi":
            assert (event["pid"], event["tid"]) in tracks
        if event["ph"] == "i":
            assert event["s"] == "t"
        if event["ph"] == "X":
            assert event["dur"] > 0
            ns = round(1000 * event["ts"]), round(1000 * event["dur"])
            slices[event["pid"], event["tid"]].append((ns[0], ns[0] + ns[1]))
    assert slices
    for found in slices.values():
        check_nesting(found)


def check_nesting(slices: list[tuple[int, int]]) -> None:
    assert slices == sorted(slices, key=lambda span: (span[0], -span[1]))
    open_ends: list[int] = []
    for start, end in slices:
        while open_ends and open_ends[-1] <= start:
            open_ends.pop()
        assert not open_ends or end <= open_ends[-1]
        open_ends.append(end)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("arm", ARMS)
def test_the_trace_obeys_its_format(arm: str, lag: int, tmp_path: Path) -> None:
    events = trace(tmp_path / "timeline.json", arm, lag=lag, prefix=arm != "swap")
    check_format(events)
    named = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert {"steps", "r0 (default)", "r29 (default)"} <= named
    waits = {"host to device (the step waits)", "device to host (the step waits)"}
    swaps = {"swap": waits, "background": {"host to device (background)"}}
    assert named >= swaps.get(arm, set())
    counters = {e["name"] for e in events if e["ph"] == "C"}
    assert {"batch (sequences)", "queue (requests)", "KV blocks on the device"} <= counters


def test_steps_carry_their_batch(tmp_path: Path) -> None:
    events = trace(tmp_path / "timeline.json", "recompute")
    steps = [e for e in events if e["ph"] == "X" and e["pid"] == 2]
    assert {e["name"] for e in steps} == {"prefill", "decode", "prefill + decode"}
    first = steps[0]
    assert (first["ts"], first["name"]) == (0, "prefill")
    assert first["args"]["tokens"] == first["args"]["prefill_tokens"] == 5
    assert all(e["args"]["batch"] == e["args"]["decodes"] + e["args"]["prefills"] for e in steps)


def test_copies_of_unknown_length_are_moments(tmp_path: Path) -> None:
    events = trace(tmp_path / "timeline.json", "swap", copies=False)
    check_format(events)
    copies = [e for e in events if e["pid"] == 3 and e["ph"] != "M"]
    assert copies
    assert {e["ph"] for e in copies} == {"i"}


def test_the_first_requests_are_shown_and_the_rest_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    events = trace(path, "recompute", most=5)
    check_format(events)
    whole = json.loads(path.read_text())
    assert whole["otherData"] == {"requests_shown": 5, "requests_left_out": 25}
    assert (whole["version"], whole["displayTimeUnit"]) == (1, "ms")
    ends = [e["ts"] + e["dur"] for e in events if e["ph"] == "X" and e["pid"] == 1]
    assert max(e["ts"] for e in events if "ts" in e) <= max(ends)
    sink, _, _ = driven("recompute", most=5)
    assert len(sink.events) < len(driven("recompute")[0].events) / 2


def test_kinds_of_events_to_come_are_shown(tmp_path: Path) -> None:
    sink = TimelineSink()
    for event in (
        (0.0, "submit", "a", 4, 9),
        (1.0, "admit", "a", 1, 0),
        (1.5, "promote", "a", 7),
        (2.0, "evict", "", 3),
        (3.0, "prefill", "a", 4, 0),
        (3.0, "first_token", "a"),
        (3.0, "finish", "a", 1),
    ):
        sink(event)
    events = json.loads(write_timeline(sink, tmp_path / "t.json").read_text())["traceEvents"]
    moments = {e["name"]: (e["ts"], e["args"]) for e in events if e["ph"] == "i"}
    assert moments == {
        "promote": (1.5e6, {"numbers": [7]}),
        "evict": (2e6, {"blocks": 3}),
        "first token": (3e6, {}),
    }
    assert not [e for e in events if e["pid"] == 3]


def test_nothing_to_show_is_a_trace_too(tmp_path: Path) -> None:
    path = write_timeline(TimelineSink(), tmp_path / "deep" / "timeline.json")
    assert json.loads(path.read_text())["otherData"]["requests_shown"] == 0


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        trace(tmp_path / name, "background", lag=1, prefix=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_path_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SuperInferError, match=r"^cannot write [^\n]*timeline.json: [^\n]+$"):
        write_timeline(TimelineSink(), tmp_path / "file" / "timeline.json")


def test_the_documented_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    text = (root / "docs" / "reports.md").read_text(encoding="utf-8")
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", text, re.S) if "TimelineSink" in c]
    sample = Path("traces") / "samples" / "mixed.jsonl"
    (tmp_path / sample).parent.mkdir(parents=True)
    few = (root / sample).read_bytes().splitlines(keepends=True)[:50]
    (tmp_path / sample).write_bytes(b"".join(few))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/reports.md", "exec"), {"Path": Path})
    check_format(json.loads(Path("timeline.json").read_text())["traceEvents"])
