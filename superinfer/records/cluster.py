"""The records of the replicas of a cluster, put together into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from superinfer.records.run import (
    NO_REQUEST,
    Copies,
    Floats,
    Ints,
    ReplicaUse,
    RequestTable,
    RunRecord,
    Timeline,
    TokenTimes,
)

MOST_SAMPLES = 4096

_SUMS = (
    "total_blocks",
    "peak_referenced_blocks",
    "peak_used_blocks",
    "computed_tokens",
    "prefix_query_tokens",
    "prefix_hit_tokens",
    "cache_d2h_bytes",
    "write_through_bytes",
    "write_through_useful_bytes",
    "write_through_wasted_bytes",
    "prefetch_useful_bytes",
    "prefetch_wasted_bytes",
    "losing_offloads",
    "steps",
    "plans",
    "events",
)


def cluster_record(
    records: Sequence[RunRecord], replica: Ints, busy_s: Sequence[float]
) -> RunRecord:
    """One record of all replicas, its requests in the order in which they were sent.

    `replica[i]` took the i-th request that was sent; replica r was busy for `busy_s[r]` seconds.
    Peaks are sums of what each replica took at most, which need not be at one moment.
    """
    rows = [np.flatnonzero(replica == number) for number in range(len(records))]
    first = records[0]
    return RunRecord(
        table=_table([record.table for record in records], rows, replica),
        tokens=_tokens([record.tokens for record in records], rows),
        timeline=_timeline([record.timeline for record in records]),
        block_tokens=first.block_tokens,
        block_bytes=first.block_bytes,
        slab_blocks=first.slab_blocks,
        quality=first.quality,
        extra=_added([record.extra for record in records]),
        notes=list(dict.fromkeys(note for record in records for note in record.notes)),
        copies=_copies([record.copies for record in records], rows),
        replicas=[_use(record, busy) for record, busy in zip(records, busy_s, strict=True)],
        **{name: sum(getattr(record, name) for record in records) for name in _SUMS},
    )


# -- inside ---------------------------------------------------------------------------------------


def _use(record: RunRecord, busy_s: float) -> ReplicaUse:
    own = {f.name: getattr(record, f.name) for f in fields(ReplicaUse) if f.name != "busy_s"}
    return ReplicaUse(busy_s=busy_s, **own)


def _table(tables: Sequence[RequestTable], rows: Sequence[Ints], replica: Ints) -> RequestTable:
    """The rows of all tables, each column at the places that `rows` names."""
    order = np.argsort(np.concatenate(rows), kind="stable")
    columns: dict[str, Any] = {}
    for column in fields(RequestTable):
        if column.name == "replica":
            continue
        parts = [getattr(table, column.name) for table in tables]
        if isinstance(parts[0], list):
            joined = [item for part in parts for item in part]
            columns[column.name] = [joined[i] for i in order.tolist()]
        else:
            columns[column.name] = np.concatenate(parts)[order]
    return RequestTable(**columns, replica=replica)


def _tokens(tokens: Sequence[TokenTimes], rows: Sequence[Ints]) -> TokenTimes:
    """All steps behind each other, replica by replica."""
    sizes = [each.decode_end_s.size for each in tokens]
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int64)
    parts = list(zip(tokens, rows, starts, strict=True))
    return TokenTimes(
        decode_end_s=np.concatenate([each.decode_end_s for each in tokens]),
        run_row=np.concatenate([row[each.run_row] for each, row, _ in parts]),
        run_first=np.concatenate([each.run_first + start for each, _, start in parts]),
        run_stop=np.concatenate([each.run_stop + start for each, _, start in parts]),
        run_previous_s=np.concatenate([each.run_previous_s for each in tokens]),
        gap_row=np.concatenate([row[each.gap_row] for each, row, _ in parts]),
        gap_s=np.concatenate([each.gap_s for each in tokens]),
        replica_first=starts,
    )


def _copies(copies: Sequence[Copies], rows: Sequence[Ints]) -> Copies:
    """All of them, replica by replica."""
    placed = [np.append(row, NO_REQUEST)[each.row] for each, row in zip(copies, rows, strict=True)]
    return Copies(
        decided_s=np.concatenate([each.decided_s for each in copies]),
        row=np.concatenate(placed),
        nbytes=np.concatenate([each.nbytes for each in copies]),
    )


def _timeline(timelines: Sequence[Timeline]) -> Timeline:
    """Sums over the replicas, each as it was at its latest sample."""
    t_s = _moments([each.t_s for each in timelines])
    names = [column.name for column in fields(Timeline) if column.name != "t_s"]
    total = {name: np.zeros(t_s.size, np.int64) for name in names}
    for each in timelines:
        at = np.searchsorted(each.t_s, t_s, side="right")
        for name in names:
            # Before its first sample a replica holds nothing.
            total[name] += np.concatenate(([0], getattr(each, name)))[at]
    return Timeline(t_s, **total)


def _moments(times_s: Sequence[Floats]) -> Floats:
    """When any replica was sampled; evenly chosen, the last included, where there are too many."""
    moments = np.unique(np.concatenate(times_s))
    if moments.size <= MOST_SAMPLES:
        return moments
    kept = np.linspace(0, moments.size - 1, MOST_SAMPLES).round().astype(np.int64)
    chosen: Floats = moments[kept]
    return chosen


def _added(counters: Sequence[dict[str, float]]) -> dict[str, float]:
    """Counters by name, summed."""
    total: dict[str, float] = {}
    for each in counters:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total
