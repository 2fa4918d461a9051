"""A run as a trace that https://ui.perfetto.dev and chrome://tracing open.

The format is the JSON object form of Google's "Trace Event Format": complete events (`X`), instants
(`i`), counters (`C`) and metadata (`M`), in microseconds of the run's own clock. A request has a
track with its phases, the device one with its steps, a direction of the link one with its copies.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from superinfer.events import Event
from superinfer.lab.timelines.replay import Copy, CopySeconds, Replay, Step, replay
from superinfer.lab.timelines.stories import ENDS, Story
from superinfer.outputs import replacing
from superinfer.records.run import RunRecord

TIMELINE_JSON = "timeline.json"
VERSION = 1
"""Of its form."""
MAX_REQUESTS = 2000
"""Requests shown unless a sink is told otherwise."""

REQUESTS, _DEVICE, _LINKS = 1, 2, 3
PROCESSES = 3
"""Of each replica."""
_STEPS = 1
_LINK_TRACKS = {("h2d", False): 1, ("d2h", False): 2, ("h2d", True): 3, ("d2h", True): 4}
_LINK_NAMES = {"h2d": "host to device", "d2h": "device to host"}

TraceEvent = dict[str, Any]


class TimelineSink:
    """Collects the events of a run's first requests, and all that happens until they have ended.

    Pass it to `run_simulation` and then to `write_timeline`. `lag` is that of the run, and
    `full_duplex` says whether copies that a step waits for run both ways at once. Requests after
    the first `max_requests` have no track: they are counted, and seen as load on the device.
    """

    def __init__(
        self, *, lag: int = 0, max_requests: int = MAX_REQUESTS, full_duplex: bool = False
    ) -> None:
        self.lag, self.max_requests, self.full_duplex = lag, max_requests, full_duplex
        self.events: list[Event] = []
        self.shown: list[str] = []
        """Ids of the requests that get a track, in order of arrival."""
        self.submitted = 0
        self._open: set[object] = set()
        self._over = False

    @property
    def left_out(self) -> int:
        """Requests without a track."""
        return self.submitted - len(self.shown)

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        kind = event[1]
        if kind == "submit":
            self._submit(str(event[2]))
        if self._over:
            return
        self.events.append(event)
        if kind in ENDS:
            self._open.discard(event[2])
            self._over = not self._open and len(self.shown) >= self.max_requests

    def _submit(self, request_id: str) -> None:
        self.submitted += 1
        if len(self.shown) < self.max_requests:
            self.shown.append(request_id)
            self._open.add(request_id)


def write_timeline(
    sink: TimelineSink | Sequence[TimelineSink],
    path: Path,
    *,
    record: RunRecord | None = None,
    copy_s: CopySeconds | None = None,
) -> Path:
    """Write what `sink` collected as a trace, whole or not at all; of a cluster, those of all
    replicas in order.

    `record`, of the same run, adds classes and tenants, the KV blocks in use and the bytes of
    copies. `copy_s` gives the seconds of copying so many blocks in direction `d2h` or `h2d`;
    without it, copies that a step waited for are moments and part of that step.
    """
    sinks = sink if isinstance(sink, Sequence) else [sink]
    told = [_told(each, record, copy_s) for each in sinks]
    other = {
        "requests_shown": sum(len(each.shown) for each in sinks),
        "requests_left_out": sum(each.left_out for each in sinks),
    }
    with replacing(path) as staged, staged.open("w", encoding="ascii", newline="\n") as file:
        head = {"version": VERSION, "displayTimeUnit": "ms", "otherData": other}
        file.write(_json(head)[:-1] + ',"traceEvents":[\n')
        file.writelines(_lines(_all_events(told, record)))
        file.write("\n]}\n")
    return path


def _told(sink: TimelineSink, record: RunRecord | None, copy_s: CopySeconds | None) -> Replay:
    return replay(
        sink.events,
        sink.shown,
        lag=sink.lag,
        block_tokens=record.block_tokens if record else 1,
        copy_s=copy_s,
        full_duplex=sink.full_duplex,
    )


def _all_events(told: Sequence[Replay], record: RunRecord | None) -> Iterator[TraceEvent]:
    """The events of one engine, or of each replica in processes of its own."""
    if len(told) == 1:
        yield from trace_events(told[0], record)
        return
    end_s = max(each.end_s for each in told)
    for number, each in enumerate(told):
        for event in trace_events(each, record, 0.0 if number else end_s):
            yield _of_replica(event, number)


def _of_replica(event: TraceEvent, number: int) -> TraceEvent:
    """The event in the processes of a replica, behind those of the replicas before it."""
    moved = {**event, "pid": event["pid"] + PROCESSES * number}
    name, args = event["name"], event.get("args", {})
    if name == "process_name":
        moved["args"] = {"name": f"replica {number}: {args['name']}"}
    elif name == "process_sort_index":
        moved["args"] = {"sort_index": args["sort_index"] + PROCESSES * number}
    return moved


def trace_events(
    told: Replay, record: RunRecord | None = None, kv_until_s: float | None = None
) -> Iterator[TraceEvent]:
    """The events of a trace, track by track and each track in order of time.

    The counters of KV blocks, which the record of a cluster has for all replicas at once, go up to
    `kv_until_s` (by default to the end of what is told; 0: there are none).
    """
    yield from _process(REQUESTS, "requests", 2)
    yield from _process(_DEVICE, "device", 0)
    yield from _device(told)
    if told.copies:
        yield from _process(_LINKS, "links", 1)
        yield from _links(told.copies, record.block_bytes if record else None)
    until_s = told.end_s if kv_until_s is None else kv_until_s
    if record is not None and kv_until_s != 0:
        yield from _kv_blocks(record, until_s)
    owners = _owners(record)
    for number, story in enumerate(told.stories, 1):
        yield from _request(number, story, owners.get(story.request_id, {}))


def _lines(events: Iterable[TraceEvent]) -> Iterator[str]:
    for number, event in enumerate(events):
        yield (",\n" if number else "") + _json(event)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


# -- tracks ---------------------------------------------------------------------------------------


def _device(told: Replay) -> Iterator[TraceEvent]:
    """Steps as slices; batch, prefill tokens and waiting requests as counters."""
    yield from _track(_DEVICE, _STEPS, "steps", 0)
    before = None
    for step in told.steps:
        yield _step(step)
        load = (step.decodes, step.prefill_tokens)
        if load != before:
            series = {"decodes": step.decodes, "prefills": len(step.chunks)}
            yield _counter(step.start_s, "batch (sequences)", series)
            yield _counter(step.start_s, "prefill (tokens per step)", {"tokens": load[1]})
        before = load
    if told.steps:
        yield _counter(told.steps[-1].end_s, "batch (sequences)", {"decodes": 0, "prefills": 0})
        yield _counter(told.steps[-1].end_s, "prefill (tokens per step)", {"tokens": 0})
    for t, waiting in told.waiting:
        yield _counter(t, "queue (requests)", {"waiting": waiting})
    for t, blocks in told.evictions:
        yield _instant(t, "evict", _DEVICE, _STEPS, {"blocks": blocks})


def _step(step: Step) -> TraceEvent:
    kinds = [("prefill", step.chunks), ("decode", step.decodes)]
    args = {
        "batch": step.decodes + len(step.chunks),
        "tokens": step.decodes + step.prefill_tokens,
        "decodes": step.decodes,
        "decode_context_tokens": step.context_tokens,
        "prefills": len(step.chunks),
        "prefill_tokens": step.prefill_tokens,
    }
    name = " + ".join(name for name, work in kinds if work)
    return _slice(step.start_s, step.end_s, name, _DEVICE, _STEPS, args)


def _links(copies: list[Copy], block_bytes: int | None) -> Iterator[TraceEvent]:
    """Copies by direction; those that a step waits for apart from those in the background."""
    size = {} if block_bytes is None else {"bytes": block_bytes}
    for (direction, background), tid in _LINK_TRACKS.items():
        mine = [c for c in copies if (c.direction, c.background) == (direction, background)]
        if mine:
            kind = "background" if background else "the step waits"
            yield from _track(_LINKS, tid, f"{_LINK_NAMES[direction]} ({kind})", tid)
        for copy in mine:
            args = {name: copy.blocks * unit for name, unit in {"blocks": 1, **size}.items()}
            unasked = "written through" if copy.written_through else "cached blocks"
            where = (copy.request_id or unasked, _LINKS, tid, args)
            if copy.end_s > copy.start_s:
                yield _slice(copy.start_s, copy.end_s, *where)
            else:
                yield _instant(copy.start_s, *where)


def _kv_blocks(record: RunRecord, end_s: float) -> Iterator[TraceEvent]:
    """The samples of the replica's state up to `end_s`."""
    samples = record.timeline
    where = "the devices of all replicas" if record.replicas else "the device"
    yield from _track(_DEVICE, _STEPS + 1, f"KV blocks: {record.total_blocks} on {where}", 1)
    columns = (samples.t_s, samples.referenced_blocks, samples.cached_blocks, samples.host_blocks)
    for t, held, cached, host in zip(*(column.tolist() for column in columns), strict=True):
        if t <= end_s:
            yield _counter(t, "KV blocks on the device", {"in use": held, "kept for reuse": cached})
            yield _counter(t, "KV blocks on the host", {"blocks": host})


def _request(number: int, story: Story, owner: Mapping[str, str]) -> Iterator[TraceEvent]:
    """The whole life as one slice, in it the phases, in them the chunks; moments on top."""
    name = f"{story.request_id} ({owner['class']})" if owner else story.request_id
    yield from _track(REQUESTS, number, name, number)
    is_rule = story.outcome in ("rejected", "failed")
    args = {
        **owner,
        "prompt_tokens": story.prompt_tokens,
        "max_tokens": story.max_tokens,
        "outcome": story.outcome,
        "rule" if is_rule else "output_tokens": story.detail,
    }
    inner = story.phases + story.chunks
    slices = [_slice(story.start_s, story.end_s, story.request_id, REQUESTS, number, args)]
    slices += [_slice(s.start_s, s.end_s, s.name, REQUESTS, number, s.args) for s in inner]
    # Stable: of two slices of equal extent the one that holds the other stays first.
    yield from sorted(slices, key=lambda event: (event["ts"], -event["dur"]))
    for moment in story.moments:
        yield _instant(moment.start_s, moment.name, REQUESTS, number, moment.args)


def _owners(record: RunRecord | None) -> dict[str, dict[str, str]]:
    requests = record.table.requests if record else []
    return {r.request_id: {"class": r.slo_class.name, "tenant": r.tenant} for r in requests}


# -- events ---------------------------------------------------------------------------------------


def _slice(
    start_s: float, end_s: float, name: str, pid: int, tid: int, args: Mapping[str, Any]
) -> TraceEvent:
    start_ns, end_ns = _ns(start_s), _ns(end_s)
    times = {"ts": start_ns / 1000, "dur": (end_ns - start_ns) / 1000}
    return {"ph": "X", "name": name, "pid": pid, "tid": tid, **times, "args": dict(args)}


def _instant(t: float, name: str, pid: int, tid: int, args: Mapping[str, Any]) -> TraceEvent:
    place = {"pid": pid, "tid": tid, "ts": _ns(t) / 1000}
    return {"ph": "i", "s": "t", "name": name, **place, "args": dict(args)}


def _counter(t: float, name: str, series: Mapping[str, int]) -> TraceEvent:
    return {"ph": "C", "name": name, "pid": _DEVICE, "ts": _ns(t) / 1000, "args": dict(series)}


def _process(pid: int, name: str, place: int) -> Iterator[TraceEvent]:
    yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": place}}


def _track(pid: int, tid: int, name: str, place: int) -> Iterator[TraceEvent]:
    where = {"pid": pid, "tid": tid}
    yield {"ph": "M", "name": "thread_name", **where, "args": {"name": name}}
    yield {"ph": "M", "name": "thread_sort_index", **where, "args": {"sort_index": place}}


def _ns(t: float) -> int:
    """Whole nanoseconds, so that slices which touch in the run touch in the trace."""
    return round(t * 1e9)
