"""The summary of a run: every key of `summary.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from superinfer.metrics.columns import RequestView, columns_of
from superinfer.metrics.fairness import fairness
from superinfer.metrics.shares import having, max_ms, ratio, same, share
from superinfer.metrics.statistics import STATISTICS, statistics
from superinfer.metrics.tokens import Bools, GapPool
from superinfer.metrics.waits import duration_s, longest_stall_s, longest_wait_s
from superinfer.metrics.window import Window
from superinfer.records.run import NO_REQUEST, Floats, Ints, ReplicaUse, RunRecord

Summary = dict[str, Any]
OTHERS = "(others)"
"""Name of the group that stands for all classes or tenants beyond the `_MOST_GROUPS` largest."""

_MOST_GROUPS = 64
STATES = ("finished", "rejected", "failed", "cancelled", "unfinished")
"""How a request can end; `unfinished` is what a run that was cut off left open."""
_CALLER_KEYS = ("scheduler_s", "wall_s", "sim_requests_per_wall_s")
REPLICA_KEYS = (
    "submitted",
    "completed",
    "rejected",
    "failed",
    "cancelled",
    "unfinished",
    "slo_attainment",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "median_ttft_ms",
    "p99_ttft_ms",
    "p99_tpot_ms",
    "preemptions",
    "rotations",
)
"""What is said of each replica as it is of the whole run."""


def summarise(record: RunRecord, extra: Mapping[str, Any] | None = None) -> Summary:
    """Every metric of a run, by the names of `summary.json`; `None` where one is undefined.

    `extra` holds what the record cannot know: `scheduler_s`, `wall_s`,
    `sim_requests_per_wall_s`, `load`, `trust` and `run`.
    """
    return RunMetrics(record).summary(extra)


@dataclass(slots=True, init=False)
class RunMetrics:
    """A record with what several outputs share, so that one run is analysed once.

    Latencies (TTFT, TPOT, ITL, E2E), `completed` and token totals are over finished requests, as
    in `vllm bench serve`. Rates divide by the duration of the whole run, first arrival to last
    end, for groups too: the rates of all classes add up to that of the run.

    With a window, counts, latencies and attainment are of the requests that arrived inside, and
    token totals, rates and copied bytes are of what came inside, by whichever request, rates over
    its length.
    """

    record: RunRecord
    view: RequestView
    gaps: GapPool
    duration_s: float
    _window: Window | None
    _stall_s: Floats
    _wait_s: Floats
    _state: Ints

    def __init__(self, record: RunRecord, window: Window | None = None) -> None:
        self.record = record
        self._window = window
        self.view = RequestView.of(record)
        self.gaps = GapPool.of(self.view.streams)
        self.duration_s = window.length_s if window else duration_s(self.view)
        self._stall_s = longest_stall_s(self.view)
        self._wait_s = longest_wait_s(self.view)
        code = {state: i for i, state in enumerate(STATES)}
        states = record.table.state
        self._state = np.array([code[state] for state in states], np.int64)

    def request_columns(self) -> dict[str, NDArray[np.generic] | list[object]]:
        """The columns of `requests.parquet`."""
        return columns_of(self.view)

    def summary(self, extra: Mapping[str, Any] | None = None) -> Summary:
        """`summarise` of this record."""
        given = extra or {}
        whole = self.group(np.arange(self.view.finished.size))
        return {
            "version": 1,
            **whole,
            **self._whole_run(),
            **self._reuse_of_run(),
            "d2h_bytes": whole["d2h_bytes"] + self._cache_d2h_bytes(),
            **{key: given.get(key) for key in _CALLER_KEYS},
            "steps": self.record.steps,
            "events": self.record.events,
            "classes": self._groups(self.class_rows(), whole),
            "tenants": self._groups(self.tenant_rows(), whole),
            **self._replicas(),
            "counters": dict(self.record.extra),
            "notes": list(self.record.notes),
            "load": given.get("load"),
            "trust": given.get("trust"),
            "run": given.get("run"),
        }

    def group(self, rows: Ints) -> Summary:
        """The metrics of the requests with numbers `rows` that single requests determine."""
        everybody, rows = rows, self._arrived_inside(rows)
        return {
            **self._volume(rows),
            **self._inside(everybody),
            **self._latency(rows),
            **self._attainment(rows),
            **self._memory(rows),
            **self._copied(everybody),
            **self._reuse(rows),
            "worst_stall_ms": max_ms(self._stall_s[rows]),
            "worst_wait_ms": max_ms(self._wait_s[rows]),
            "slo": self._common_targets(rows),
        }

    def measured_rows(self) -> Ints:
        """Numbers of the requests that are measured: with a window, those that arrived inside."""
        return self._arrived_inside(np.arange(self.view.finished.size))

    def itl_counts(self, rows: Ints) -> tuple[Floats, Ints]:
        """Ascending times between tokens (ms) of finished requests in `rows`, and their counts."""
        counts = self.gaps.weights(self._mask(self._finished(rows)))
        kept = counts > 0
        return self.gaps.gap_ms[kept], counts[kept].astype(np.int64)

    def rows_by(self, names: list[str]) -> dict[str, Ints]:
        """Numbers of the requests of each name; the rarest names beyond 64 are one group."""
        kept = [name for name, _ in Counter(names).most_common(_MOST_GROUPS)]
        if len(kept) == 1:
            return {kept[0]: np.arange(len(names))}
        number = {name: i for i, name in enumerate(sorted(kept))}
        group = np.array([number.get(name, len(kept)) for name in names], np.int64)
        bounds = np.cumsum(np.bincount(group, minlength=len(kept) + 1))
        rows = np.split(np.argsort(group, kind="stable"), bounds[:-1])
        return {name: r for name, r in zip([*number, OTHERS], rows, strict=True) if r.size}

    def class_rows(self) -> dict[str, Ints]:
        """Numbers of the requests of each class."""
        return self.rows_by([request.slo_class.name for request in self.record.table.requests])

    def tenant_rows(self) -> dict[str, Ints]:
        """Numbers of the requests of each tenant."""
        return self.rows_by([request.tenant for request in self.record.table.requests])

    def _replicas(self) -> Summary:
        """What each replica of a cluster did; nothing for a single engine."""
        record, span_s = self.record, duration_s(self.view)
        if record.table.replica is None:
            return {}
        rows = [np.flatnonzero(record.table.replica == i) for i in range(len(record.replicas))]
        used = zip(rows, record.replicas, strict=True)
        return {
            "replicas": [
                {"replica": i, **self._replica(*each, span_s)} for i, each in enumerate(used)
            ]
        }

    def _replica(self, rows: Ints, use: ReplicaUse, span_s: float) -> Summary:
        """The figures of one replica; its use is of the whole run, also beside a window."""
        group, block_bytes = self.group(rows), self.record.block_bytes
        busy_s = min(use.busy_s, span_s)  # with lag 1 a step may come after the last answer
        return {
            **{key: group[key] for key in REPLICA_KEYS},
            "utilisation": ratio(busy_s, span_s),
            "prefix_hit_rate": ratio(use.prefix_hit_tokens, use.prefix_query_tokens),
            "peak_kv_bytes": use.peak_referenced_blocks * block_bytes,
            "peak_slab_bytes": self._slab_bytes(use.peak_used_blocks),
            "steps": use.steps,
        }

    def _groups(self, rows_by_name: dict[str, Ints], whole: Summary) -> dict[str, Summary]:
        if len(rows_by_name) == 1:
            return {name: dict(whole) for name in rows_by_name}
        return {name: self.group(rows) for name, rows in rows_by_name.items()}

    def _finished(self, rows: Ints) -> Ints:
        return rows[self.view.finished[rows]]

    def _mask(self, rows: Ints) -> Bools:
        mask = np.zeros(self.view.finished.size, np.bool_)
        mask[rows] = True
        return mask

    def _volume(self, rows: Ints) -> Summary:
        done = self._finished(rows)
        counts = np.bincount(self._state[rows], minlength=len(STATES))
        states = dict(zip(STATES, counts.tolist(), strict=False))
        inputs = int(self.view.input_tokens[done].sum())
        outputs = int(self.record.table.output_tokens[done].sum())
        return {
            "completed": states["finished"],
            "duration": self.duration_s,
            "total_input_tokens": inputs,
            "total_output_tokens": outputs,
            "request_throughput": self._rate(states["finished"]),
            "output_throughput": self._rate(outputs),
            "total_token_throughput": self._rate(inputs + outputs),
            "submitted": rows.size,
            "rejected": states["rejected"],
            "failed": states["failed"],
            "cancelled": states["cancelled"],
            "unfinished": states["unfinished"],
        }

    def _arrived_inside(self, rows: Ints) -> Ints:
        if self._window is None:
            return rows
        inside: Ints = rows[self._window.holds(self.view.arrival_s[rows])]
        return inside

    def _inside(self, rows: Ints) -> Summary:
        """Totals and rates of a window, in place of those of the requests that arrived inside."""
        if self._window is None:
            return {}
        ended = self._finished(rows)
        ended = ended[self._window.holds(self.record.table.finish_s[ended])]
        inputs = int(self._window.input_tokens(self.view)[rows].sum())
        outputs = int(self._window.output_tokens(self.view)[rows].sum())
        return {
            "total_input_tokens": inputs,
            "total_output_tokens": outputs,
            "request_throughput": self._rate(ended.size),
            "output_throughput": self._rate(outputs),
            "total_token_throughput": self._rate(inputs + outputs),
        }

    def _latency(self, rows: Ints) -> Summary:
        done = self._finished(rows)
        found = {
            "ttft": statistics(self.view.ttft_s[done] * 1e3),
            "tpot": statistics(self.view.tpot_s[done] * 1e3),
            "itl": self.gaps.statistics_ms(self._mask(done)),
            "e2el": statistics(self.view.e2el_s[done] * 1e3),
        }
        named = {f"{s}_{key}_ms": found[key][s] for key in found for s in STATISTICS}
        return named | {"max_itl_ms": max_ms(self.view.longest_gap_s[done])}

    def _attainment(self, rows: Ints) -> Summary:
        """Shares of the submitted requests that have the target, and goodput over those.

        Paced attainment is over requests with both a TTFT and a TPOT target. Goodput counts
        requests that meet a target they have: one without any is neither good nor bad, and
        goodput is None where nobody has one, as in `vllm bench serve` without `--goodput`.
        """
        targets, met = self.view.targets, self.view.met
        asked = rows[targets.any[rows]]
        ttft, tpot = having(targets.ttft_s, rows), having(targets.tpot_s, rows)
        good = asked[met["slo"][asked]]
        tokens = int(self.record.table.output_tokens[good].sum())
        return {
            "slo_attainment": share(met["slo"], asked),
            "ttft_attainment": share(met["ttft"], ttft),
            "tpot_attainment": share(met["tpot"], tpot),
            "paced_attainment": share(met["paced"], having(targets.tpot_s, ttft)),
            "request_goodput": self._rate(good.size) if asked.size else None,
            "token_goodput": self._rate(tokens) if asked.size else None,
        }

    def _memory(self, rows: Ints) -> Summary:
        """Losses of the device, and KV bits: a mean over those that held cache, by their tokens."""
        table = self.record.table
        held = having(table.kv_bits, rows)
        tokens = (self.view.input_tokens + table.output_tokens)[held]
        bits = float(tokens @ table.kv_bits[held]) / int(tokens.sum()) if tokens.size else None
        totals = ("preemptions", "rotations")
        return {name: int(getattr(table, name)[rows].sum()) for name in totals} | {
            "kv_bits_mean": bits,
            "kv_kl": self._quality("kl", held, tokens),
            "kv_perplexity_change": self._quality("perplexity_change", held, tokens),
        }

    def _copied(self, rows: Ints) -> Summary:
        """Bytes that were copied for these requests; of a window, those decided inside."""
        if self._window is None:
            table = self.record.table
            return {name: int(getattr(table, name)[rows].sum()) for name in _COPIED}
        copies = self.record.copies
        theirs = np.append(self._mask(rows), [False])[copies.row]  # the last: of no request
        return dict(zip(_COPIED, self._window.copied_bytes(copies, theirs), strict=True))

    def _cache_d2h_bytes(self) -> int:
        """The same of no request: cached blocks, and what was written through."""
        if self._window is None:
            return self.record.cache_d2h_bytes
        copies = self.record.copies
        return self._window.copied_bytes(copies, copies.row == NO_REQUEST)[1]

    def _quality(self, measure: str, held: Ints, tokens: Ints) -> float | str | None:
        """What the precisions of the caches are expected to cost: the measured cost of each, by its
        share in what decodes read, requests weighed by tokens; `unmeasured` where a part of it is.
        """
        if not tokens.size:
            return None
        table, expected = self.record.table, 0.0
        for bits, shares in (("8", table.kv_8_share), ("4", table.kv_4_share)):
            part = float(tokens @ shares[held]) / int(tokens.sum())
            cost = self.record.quality.get(bits, {}).get(measure)
            if part and cost is None:
                return "unmeasured"
            expected += part * (cost or 0.0)
        return expected

    def _common_targets(self, rows: Ints) -> dict[str, float | None]:
        """The targets that all requests of a group share; None where they differ or have none."""
        targets = self.view.targets
        kinds = {
            "ttft_ms": targets.ttft_s * 1e3,
            "tpot_ms": targets.tpot_s * 1e3,
            "e2el_ms": targets.e2el_s * 1e3,
            "min_tokens_per_s": targets.min_tokens_per_s,
        }
        return {name: same(values[rows]) for name, values in kinds.items()}

    def _reuse(self, rows: Ints) -> Summary:
        """What was computed again for these requests; what was found, of those that were admitted.

        With lag 1 the run also computed steps after the end of a request, which are nobody's.
        """
        table, cached = self.record.table, self.record.prefix_query_tokens > 0
        asked = having(table.first_scheduled_s, rows) if cached else rows[:0]
        found, looked_up = table.cached_tokens[asked].sum(), self.view.input_tokens[asked].sum()
        recomputed, computed = table.recomputed_tokens[rows], table.computed_tokens[rows]
        return {
            "recompute_tax": ratio(int(recomputed.sum()), int(computed.sum())),
            "prefix_hit_rate": ratio(int(found), int(looked_up)),
        }

    def _reuse_of_run(self) -> Summary:
        """The same of all that was computed; of a window there is only what its requests say."""
        record = self.record
        if self._window is not None:
            return {}
        recomputed = int(record.table.recomputed_tokens.sum())
        return {
            "recompute_tax": ratio(recomputed, record.computed_tokens),
            "prefix_hit_rate": ratio(record.prefix_hit_tokens, record.prefix_query_tokens),
        }

    def _whole_run(self) -> Summary:
        """What no single request determines: peaks, copies ahead of need and fairness. It is of the
        whole run, beside a window too.
        """
        record, shares = self.record, fairness(self.view)
        peaks = [use.peak_used_blocks for use in record.replicas] or [record.peak_used_blocks]
        return {
            "peak_kv_bytes": record.peak_referenced_blocks * record.block_bytes,
            "peak_slab_bytes": sum(map(self._slab_bytes, peaks)),
            **{name: getattr(record, name) for name in _TRAFFIC},
            "jain_index": shares.jain_index() if shares else None,
            "vtc_gap": shares.vtc_gap() if shares else None,
        }

    def _slab_bytes(self, blocks: int) -> int:
        """Of the whole slabs in which so many blocks of one replica lie."""
        slab_blocks = self.record.slab_blocks
        return -(-blocks // slab_blocks) * slab_blocks * self.record.block_bytes

    def _rate(self, count: int) -> float | None:
        return ratio(count, self.duration_s)


_COPIED: Final = ("h2d_bytes", "d2h_bytes")
_TRAFFIC: Final = (
    "write_through_bytes",
    "write_through_useful_bytes",
    "write_through_wasted_bytes",
    "prefetch_useful_bytes",
    "prefetch_wasted_bytes",
    "losing_offloads",
)
"""Copies ahead of need, and those that were not made, as the record has them."""
