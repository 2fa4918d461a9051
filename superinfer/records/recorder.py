"""What an engine writes down while it runs, and the record it becomes at the end."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from superinfer.batch import DecodeBatch
from superinfer.errors import PolicyError, SuperInferError
from superinfer.plan import Transfer
from superinfer.records.run import (
    NO_REQUEST,
    Copies,
    Floats,
    Ints,
    RequestTable,
    RunRecord,
    Timeline,
    TokenTimes,
)
from superinfer.sequence import Sequence
from superinfer.settings import is_number, shown_value

if TYPE_CHECKING:
    from superinfer.engine import Engine

MAX_SAMPLES: Final = 4096

Sample = tuple[float, int, int, int, int, int, int, int, int]
"""One row of a `Timeline`, its fields in order."""


class Recorder:
    """Counters and columns of one engine."""

    __slots__ = (
        "_interval_s",
        "_samples",
        "cache_d2h_bytes",
        "computed_tokens",
        "copied_bytes",
        "copied_index",
        "copied_s",
        "d2h_bytes",
        "events",
        "h2d_bytes",
        "losing_offloads",
        "next_sample_s",
        "partial",
        "plans",
        "prefetch_useful_bytes",
        "prefetch_wasted_bytes",
        "prefetched",
        "prefix_hit_tokens",
        "prefix_query_tokens",
        "rotations",
        "sequences",
        "steps_without_decode",
    )

    def __init__(self) -> None:
        self.sequences: list[Sequence] = []
        """In the order of submission: the rows of the table. After `forget` without those that had
        ended by then."""
        self.computed_tokens = 0
        self.prefix_query_tokens = 0
        self.prefix_hit_tokens = 0
        self.cache_d2h_bytes = 0
        """Copied to the host for no request: cached blocks, and what was written through."""
        self.losing_offloads = 0
        """Copies to the host that were not made because computing again took no longer."""
        self.prefetched: dict[Sequence, tuple[int, int]] = {}
        """Bytes that were copied back ahead of need, and the output tokens then, of requests of
        which it is not known yet whether that was of use."""
        self.prefetch_useful_bytes = 0
        self.prefetch_wasted_bytes = 0
        self.steps_without_decode = 0
        """The others are counted by the batch."""
        self.plans = 0
        self.events = 0
        """Those not counted elsewhere: steps of the batch, submissions, first tokens, ends."""
        self.rotations = 0
        """Copies of committed plans to the host, as are the bytes of each direction."""
        self.h2d_bytes = 0
        self.d2h_bytes = 0
        self.copied_s = array("d")
        """When each copy was decided; the request that it was for, or `NO_REQUEST`; and its bytes,
        below 0 to the host."""
        self.copied_index = array("q")
        self.copied_bytes = array("q")
        self._samples: list[Sample] = []
        self._interval_s = 0.0
        self.next_sample_s = -math.inf
        """No sample is due before this time."""
        self.partial = False
        """True once a part of the run has been forgotten."""

    def settle_prefetch(self, seq: Sequence) -> None:
        """A prefetched request leaves the device or ends: it was of use if a token came of it."""
        nbytes, tokens = self.prefetched.pop(seq, (0, 0))
        if seq.output_tokens > tokens:
            self.prefetch_useful_bytes += nbytes
        else:
            self.prefetch_wasted_bytes += nbytes

    def note_copy(self, transfer: Transfer, now: float) -> None:
        """A copy was decided."""
        seq, nbytes = transfer.sequence, transfer.nbytes
        self.copied_s.append(now)
        self.copied_index.append(NO_REQUEST if seq is None else seq.request.index)
        self.copied_bytes.append(-nbytes if transfer.direction == "d2h" else nbytes)

    def forget(self, live: Iterable[Sequence]) -> None:
        """Keep only the `live` sequences, and nothing for a record: there will be none."""
        self.sequences = list(live)
        self._samples, self.next_sample_s = [], math.inf
        for column in (self.copied_s, self.copied_index, self.copied_bytes):
            del column[:]
        self.partial = True

    def sample(self, engine: Engine, now: float) -> None:
        """Note the state of the replica."""
        self._samples.append(self._state(engine, now))
        if len(self._samples) >= MAX_SAMPLES:
            self._thin_out()
        self.next_sample_s = now + self._interval_s

    def build(self, engine: Engine) -> RunRecord:
        """Everything as columns. Raises SuperInferError once the engine has forgotten a part: the
        rest would be told of requests without their beginnings; PolicyError for a counter that is
        no number or a note that is no text.
        """
        if self.partial:
            raise SuperInferError("record: expected an engine that has never been told to forget")
        pool, config = engine.pool, engine.config
        decode_steps = len(engine.batch.end_s)
        table = _table(self.sequences, config.kv_bits, engine.demotion is not None)
        tokens = _token_times(engine.batch, self.sequences)
        table.computed_tokens = _computed_tokens(self.sequences, tokens)
        ended = len(self.sequences) - len(engine.live)
        mirror = engine.mirror
        begun = int(np.count_nonzero(~np.isnan(table.first_token_s)))
        return RunRecord(
            table=table,
            tokens=tokens,
            timeline=_timeline(self._all_samples(engine, table)),
            total_blocks=pool.size,
            block_tokens=config.block_tokens,
            block_bytes=config.block_bytes,
            peak_referenced_blocks=pool.peak_referenced,
            peak_used_blocks=pool.peak_used,
            slab_blocks=config.slabs.blocks_16 if engine.demotion is not None else 1,
            computed_tokens=self.computed_tokens,
            prefix_query_tokens=self.prefix_query_tokens,
            prefix_hit_tokens=self.prefix_hit_tokens,
            cache_d2h_bytes=self.cache_d2h_bytes,
            write_through_bytes=mirror.written_bytes if mirror else 0,
            write_through_useful_bytes=mirror.useful_bytes if mirror else 0,
            write_through_wasted_bytes=mirror.wasted_bytes if mirror else 0,
            prefetch_useful_bytes=self.prefetch_useful_bytes,
            prefetch_wasted_bytes=self.prefetch_wasted_bytes,
            losing_offloads=self.losing_offloads,
            steps=self.steps_without_decode + decode_steps,
            plans=self.plans,
            events=self.events + decode_steps + len(self.sequences) + begun + ended,
            extra=_counters(engine),
            notes=notes_of(engine.memory),
            copies=self._copies(),
        )

    # -- inside ---------------------------------------------------------------------------------

    def _state(self, engine: Engine, now: float) -> Sample:
        pool, resident = engine.pool, engine.resident
        blocks = (pool.taken, pool.used - pool.taken, engine.host.taken)
        moved = (self.rotations, self.h2d_bytes, self.d2h_bytes + self.cache_d2h_bytes)
        return (now, len(engine.live) - resident, resident, *blocks, *moved)

    def _copies(self) -> Copies:
        rows = np.append(_rows(self.sequences), NO_REQUEST)  # the last one is that of no request
        index = _column(self.copied_index, np.int64)
        decided_s = _column(self.copied_s, np.float64)
        return Copies(decided_s, rows[index], _column(self.copied_bytes, np.int64))

    def _all_samples(self, engine: Engine, table: RequestTable) -> list[Sample]:
        """The samples, and one of the end, so that the sums reach those of the whole run."""
        samples = self._samples
        if not samples:
            return []
        ends = (samples[-1][0], *engine.batch.end_s[-1:])
        end_s = float(np.fmax.reduce(table.finish_s, initial=max(ends)))
        kept = samples[:-1] if samples[-1][0] == end_s else samples
        return [*kept, self._state(engine, end_s)]

    def _thin_out(self) -> None:
        """Halve the samples and sample half as often from now on."""
        samples = self._samples
        del samples[1::2]
        self._interval_s = 2 * (samples[-1][0] - samples[0][0]) / MAX_SAMPLES


def notes_of(policy: object) -> list[str]:
    """What a memory policy, or an order of eviction, says of a run; nothing without `notes`."""
    notes: Any = _stated(policy, "notes", ())
    if isinstance(notes, str) or not isinstance(notes, Iterable):
        raise _unfit(policy, "notes", "a list of texts", notes)
    found = list(notes)
    for note in found:
        if not isinstance(note, str):
            raise _unfit(policy, "notes", "texts", note)
    return found


def _counters(engine: Engine) -> dict[str, float]:
    """Those of the scheduler, and those of the memory policy; whole ones are integers, whoever
    counted them: compiled code adds floats where its source adds integers.
    """
    found: dict[str, Any] = {}
    for part in (engine.scheduler, engine.memory):
        counters: Any = _stated(part, "counters", {})
        if not isinstance(counters, Mapping):
            raise _unfit(part, "counters", "numbers by name", counters)
        for name, count in counters.items():
            plain = count.item() if isinstance(count, np.integer | np.floating) else count
            if not is_number(plain):
                raise _unfit(part, f"counters[{name!r}]", "a number", count)
            found[name] = int(plain) if plain == round(plain) else plain
    return found


def _stated(policy: object, name: str, usual: object) -> object:
    """What a policy may have; a property that fails is no sign that it has none."""
    stated = hasattr(policy, name) or isinstance(getattr(type(policy), name, None), property)
    return getattr(policy, name) if stated else usual


def _unfit(policy: object, place: str, expected: str, got: object) -> PolicyError:
    name = type(policy).__name__
    return PolicyError(f"{name}.{place}: expected {expected}, got {shown_value(got)}")


def _floats(times_s: list[float | None]) -> Floats:
    """Times; numpy reads None as NaN."""
    return np.array(times_s, dtype=np.float64)


def _ints(counts: list[int]) -> Ints:
    return np.fromiter(counts, np.int64, len(counts))


def _kv_shares(sequences: list[Sequence], kv_bits: int, demotes: bool) -> Floats:
    """Shares of 8 and 4 bits in what each has read; without demotion nothing loses bits."""
    shares = np.zeros((len(sequences), 2))
    if demotes and sequences:
        shares[:] = [seq.kv_shares for seq in sequences]
    if kv_bits < 16:
        shares[:, 0 if kv_bits == 8 else 1] = 1.0
    return shares


def _table(sequences: list[Sequence], kv_bits: int, demotes: bool) -> RequestTable:
    shares = _kv_shares(sequences, kv_bits, demotes)
    first_scheduled_s = _floats([seq.first_scheduled_s for seq in sequences])
    return RequestTable(
        requests=[seq.request for seq in sequences],
        state=[seq.outcome or "unfinished" for seq in sequences],
        reject_reason=[seq.end_reason for seq in sequences],
        first_scheduled_s=first_scheduled_s,
        first_token_s=_floats([seq.first_token_s for seq in sequences]),
        finish_s=_floats([seq.finish_s for seq in sequences]),
        output_tokens=_ints([seq.output_tokens for seq in sequences]),
        cached_tokens=_ints([seq.cached_tokens for seq in sequences]),
        recomputed_tokens=_ints([seq.recomputed_tokens for seq in sequences]),
        preemptions=_ints([seq.preemptions for seq in sequences]),
        rotations=_ints([seq.rotations for seq in sequences]),
        h2d_bytes=_ints([seq.h2d_bytes for seq in sequences]),
        d2h_bytes=_ints([seq.d2h_bytes for seq in sequences]),
        kv_bits=np.where(np.isnan(first_scheduled_s), np.nan, 16.0 - shares @ (8.0, 12.0)),
        kv_8_share=shares[:, 0],
        kv_4_share=shares[:, 1],
    )


def _column(values: array[int] | array[float], dtype: type) -> np.ndarray:
    return np.frombuffer(values, dtype=dtype) if len(values) else np.empty(0, dtype)


def _token_times(batch: DecodeBatch, sequences: list[Sequence]) -> TokenTimes:
    runs = batch.runs
    end_s = _column(batch.end_s, np.float64)
    step = _column(runs.previous_step, np.int64)
    previous_s = _column(runs.previous_s, np.float64)
    if len(end_s):
        previous_s = np.where(step >= 0, end_s[np.maximum(step, 0)], previous_s)
    rows = _rows(sequences)
    return TokenTimes(
        decode_end_s=end_s,
        run_row=rows[_column(runs.row, np.int64)],
        run_first=_column(runs.first, np.int64),
        run_stop=_column(runs.stop, np.int64),
        run_previous_s=previous_s,
        gap_row=rows[_column(runs.gap_row, np.int64)],
        gap_s=_column(runs.gap_s, np.float64),
    )


def _computed_tokens(sequences: list[Sequence], tokens: TokenTimes) -> Ints:
    """Of each request: what its prefills and its decode steps have computed."""
    computed = _ints([seq.prefilled_tokens for seq in sequences])
    np.add.at(computed, tokens.run_row, tokens.run_stop - tokens.run_first)
    return computed


def _rows(sequences: list[Sequence]) -> Ints:
    """Row of the table by position in the workload."""
    indices = np.array([seq.request.index for seq in sequences], dtype=np.int64)
    rows = np.full(int(indices.max(initial=-1)) + 1, -1, dtype=np.int64)
    rows[indices] = np.arange(len(indices))
    return rows


def _timeline(samples: list[Sample]) -> Timeline:
    columns = list(zip(*samples, strict=True)) or [()] * len(fields(Timeline))
    ints = [np.array(column, dtype=np.int64) for column in columns[1:]]
    return Timeline(np.array(columns[0], dtype=np.float64), *ints)
