"""The transactional view on which a scheduler builds a plan.

Every decision takes effect at once on the engine's counters, so later ones see it, and is noted, so
that `rollback` can take it back (`undo.py`). The engine turns a finished draft into a plan or
refuses it. What can be asked stands in `view.py`, and what goes with a cache that
follows every decision, and with loads of its blocks, in `loads.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Items
from functools import partial
from typing import Final

from superinfer.costs.base import PrefillWork
from superinfer.draft.loads import DraftLoads
from superinfer.draft.undo import snapshot, take_back
from superinfer.errors import PlanError
from superinfer.memory.base import Fate, Timing
from superinfer.memory.blocks.runs import cut, joined
from superinfer.memory.blocks.slabs import Blocks
from superinfer.plan import NOTES, Change, Note, PrefillChunk, Work
from superinfer.sequence import RESIDENT, Sequence, State
from superinfer.settings import shown_value

MAX_STEPS: Final = 1024
"""Longest slice, in steps: long enough that events and memory end slices, not this."""


_WAITING: Final = State.WAITING  # reading a member off its class is slow
_PREFILLING: Final = State.PREFILLING
_chunk: Callable[[tuple[Sequence, int, int, bool]], PrefillChunk]
_chunk = partial(tuple.__new__, PrefillChunk)
_change: Callable[[tuple[str, Sequence, int, tuple[object, ...]]], Change]
_change = partial(tuple.__new__, Change)
"""What the constructors of these named tuples do, without a call of Python in between."""


class Draft(DraftLoads):
    """Decisions for the next plan. Schedulers call its methods and read its properties."""

    __slots__ = ()

    # -- decisions ------------------------------------------------------------------------------

    def try_admit(
        self,
        seq: Sequence,
        *,
        keep_free: int = 0,
        whole_need: bool = False,
        charge_cached: bool = False,
        chunk_tokens: int | None = None,
        fit_all: bool = True,
    ) -> bool:
        """Give a waiting sequence all blocks of its prefill; False if they do not fit.

        With `chunk_tokens` it gets only the blocks of a first chunk of at most so many tokens, and
        the rest chunk by chunk; unless `fit_all` is off, all of them must fit even so.
        `keep_free` blocks must stay available afterwards. With `whole_need`, blocks that the prefix
        cache already holds are demanded all the same (vLLM v0.6.0); with `charge_cached`, chunks
        walk over the cached prefix instead of starting after it. A prefix that the host keeps is
        copied back, in the way that the memory policy chose.
        """
        if seq.state is not _WAITING:
            self._expect(seq, State.WAITING)
        engine, pool = self._engine, self.pool
        if seq not in engine.live:
            raise PlanError(f"{seq!r} is no request of this run")
        need = -(-seq.prefill_tokens // engine.block_tokens)
        if whole_need and pool.available - need < keep_free:
            return False
        chunk = None if fit_all else chunk_tokens
        if engine.prefix is not None and not self._share_prefix(seq, keep_free, chunk):
            return False
        first = need if chunk_tokens is None else self._need(seq, seq.shared_blocks, chunk_tokens)
        if pool.available - (need if fit_all else first) + seq.shared_blocks < keep_free:
            return False
        if seq.prefix_tokens and not charge_cached:
            seq.computed_tokens = seq.prefix_tokens
        self._admit(seq, first - seq.shared_blocks)
        return True

    def prefill(self, seq: Sequence, tokens: int, *, steps: int = 1) -> int:
        """Compute the next `tokens` tokens of a resident sequence's prefill in this step.

        Returns how many are really computed: fewer when part of them is a cached prefix that the
        admission charges (never none: the last token of a fully cached chunk runs anyway). With
        `steps` the same number again in each step of a slice so long; then it is the only chunk.
        """
        if seq.state is not _PREFILLING:
            raise PlanError(f"{seq!r}: only a prefilling sequence takes a chunk")
        engine, start = self._engine, seq.computed_tokens
        stop, end = start + tokens, seq.prefill_tokens
        if tokens < 1 or stop > end:
            expected = f"expected a chunk of 1 to {end - start} tokens at {start}"
            raise PlanError(f"{seq!r}: {expected}, got {shown_value(tokens)}")
        if steps > 1:
            self._repeat_chunk(seq, tokens, steps)
        if start < seq.prefix_tokens:
            start = min(seq.prefix_tokens, stop - 1)
            tokens = stop - start
        if (
            stop > (seq.shared_blocks + seq.blocks) * engine.block_tokens
            or engine.eager is not None
        ):
            self._grow(seq, stop)
        self.chunks.append(_chunk((seq, tokens, start, stop == end)))
        return tokens

    def withdraw(self, seq: Sequence) -> int:
        """Take back the sequence's chunk in this plan, keeping the blocks; returns its tokens.

        Prompt blocks that an eager index holds for the chunk stay findable.
        """
        place = next(i for i, chunk in enumerate(self.chunks) if chunk.sequence is seq)
        chunk = self.chunks.pop(place)
        self.changes.append(Change("withdraw", seq, 0, (place, chunk)))
        return chunk.tokens

    def decode(
        self, steps: int = MAX_STEPS, *, spare_blocks: int = 0, until: float = math.inf
    ) -> int:
        """Run the whole decode batch for up to `steps` steps and not past `until`.

        Returns the number of steps that memory allows with `spare_blocks` left over; less than one
        is the caller's to mend by `preempt` or `park`. Beside prefill chunks a slice is as long as
        they are the same.
        """
        if steps < 1 and self.batch.size:
            raise PlanError(f"decode: expected at least one step, got {steps}")
        batch, pool = self.batch, self.pool
        available = pool.total - pool.lent - pool.referenced - spare_blocks
        if self.chunks and steps > self.chunk_steps:
            steps = self.chunk_steps
        if steps == 1:
            allowed = 1 if batch.next_growth() <= available else 0
        else:
            allowed = batch.steps_within(available, steps)
        self.decoding = True
        self.steps = allowed
        self.until = until
        return allowed

    def pad(self, chunks: Items[PrefillWork], decodes: int, context_tokens: int) -> None:
        """Say what the device computes in the first step where it is more than the plan's chunks
        and decodes: with `chunks` it is a slice of one step. In further steps each of the `decodes`
        has one token more, as the plan's own have.
        """
        self.padded = Work(chunks, decodes, context_tokens)

    def preempt(
        self, seq: Sequence, fate: Fate | None = None, *, scheduled_tokens: int = 0
    ) -> Fate:
        """Take a resident sequence's blocks away; `fate` None asks the memory policy.

        `scheduled_tokens` is what this plan had for it before: an eager index has heard of them.
        A swap is a `before_step` copy: its blocks can be used in this very plan. Where the host has
        no room the sequence fails by the rule `host_memory_full`. Who was admitted by this plan has
        nothing to be saved: it is dropped, and a `fate` of "swap" is refused as by `swap_out`.
        """
        if seq.state not in RESIDENT:
            raise PlanError(f"{seq!r} is not resident and cannot be preempted")
        asker = "preempt"
        if fate is None:
            asker = "fate"
            fate = "recompute" if self.admits(seq) else self._engine.memory.fate(seq, self)
        if fate == "swap":
            self.swap_out(seq, "before_step")
        elif fate != "recompute":
            raise PlanError(f"{asker}: expected 'recompute' or 'swap', got {shown_value(fate)}")
        else:
            self._drop(seq, scheduled_tokens)
        return fate

    def swap_out(self, seq: Sequence, timing: Timing, copied_blocks: int | None = None) -> bool:
        """Copy a resident sequence to the host; in the background its blocks come free on landing.

        Blocks that were written through are there already. `copied_blocks` says how many are copied
        where the scheduler's system keeps the others on the host in a way of its own. Returns
        False, and fails the sequence, if the host has no room. PlanError for who was admitted by
        this plan; who comes back from the host with it may leave again.
        """
        if self.admits(seq):
            raise PlanError(f"{seq!r}: admitted by this plan, it cannot leave for the host in it")
        if not self.host_fits(seq):
            self.fail(seq, "host_memory_full")
            return False
        saved = snapshot(seq)
        dirty = self.dirty(seq) if copied_blocks is None else Blocks(copied_blocks)
        runs = self._engine.holdings.runs_of(seq)
        self._leave_batch(seq)
        seq.host_blocks = self.blocks_for(seq.computed_tokens)
        seq.host_runs = joined(cut(runs, 0, seq.host_blocks))
        # The rest of a cached prefix over which its chunks still walk does not go along.
        seq.prefix_tokens = min(seq.prefix_tokens, seq.computed_tokens)
        self._engine.host.hold(seq.host_blocks, seq.host_small)
        seq.preemptions += 1
        transfer = self._transfer(seq, "d2h", dirty.number, timing, dirty.small)
        self._engine.resident -= 1
        if timing == "background":
            seq.state, seq.transfer = State.MOVING_OUT, transfer
            self._engine.landings.expect(seq, self.private_blocks(seq))
            self.changes.append(Change("swap_out", seq, 0, saved))
            return True
        freed = self._engine.holdings.free(seq, self.now)
        seq.state = State.SWAPPED
        self.changes.append(Change("swap_out", seq, -freed, saved))
        return True

    def try_swap_in(
        self, seq: Sequence, *, keep_free: int = 0, timing: Timing | None = None
    ) -> bool:
        """Bring a swapped sequence back; False if its blocks and `keep_free` do not fit.

        With `before_step` it runs in this very plan; in the background once the copy has landed.
        """
        self._expect(seq, State.SWAPPED)
        engine = self._engine
        blocks = self.blocks_for(max(seq.computed_tokens, self._prefill_room(seq)))
        runs, small = seq.host_runs, seq.host_small
        if self.available + self.pool.saving(*small) - blocks < keep_free:
            return False
        timing = timing or engine.memory.swap_in_timing
        seq.blocks, seq.runs = blocks, runs
        self.pool.referenced += blocks
        self.pool.hold_small(small)
        seq.transfer = self._transfer(seq, "h2d", seq.host_blocks, timing, small)
        self.changes.append(Change("swap_in", seq, blocks, (timing, seq.host_blocks, runs)))
        engine.resident += 1
        seq.state = State.MOVING_IN
        if timing == "before_step":
            engine.landings.resume(seq)
        return True

    def clear(self, blocks: int) -> None:
        """Reclaim cached blocks before the step until so many are free, or none is cached."""
        self.clear_blocks = blocks

    def write_through(self, blocks: int) -> None:
        """Copy about so many full blocks of the decode batch that have no copy yet to the host, in
        the background and beside the step. The scheduler has to have `write_through` set.
        """
        self.write_blocks = blocks

    def park(self, seq: Sequence) -> None:
        """Take a member out of the decode batch; it stays resident."""
        self._expect(seq, State.DECODING)
        saved = snapshot(seq)
        self._leave_batch(seq)
        seq.state = State.PARKED
        self.changes.append(Change("park", seq, 0, saved))

    def unpark(self, seq: Sequence) -> None:
        """Put a parked sequence back into the decode batch."""
        self._expect(seq, State.PARKED)
        seq.state = State.DECODING
        self.batch.join(seq)
        self.changes.append(Change("unpark", seq, 0))

    def note(self, kind: Note, seq: Sequence) -> None:
        """Log a decision that changes nothing outside the scheduler."""
        if kind not in NOTES:
            raise PlanError(f"note: expected one of {', '.join(NOTES)}, got {shown_value(kind)}")
        self.changes.append(Change(kind, seq, 0))

    def reject(self, seq: Sequence, rule: str) -> None:
        """Turn a waiting request away for ever, naming the rule. Cannot be rolled back."""
        self._engine.end_after_step(seq, "rejected", rule, self.now)

    def fail(self, seq: Sequence, rule: str) -> None:
        """End a request that cannot go on, naming the rule; its blocks come free at once. Cannot be
        rolled back.
        """
        self._engine.end_after_step(seq, "failed", rule, self.now)
        if seq.state in RESIDENT:  # it ends with the step under way; its blocks are wanted now
            self._drop(seq)

    # -- transactions ---------------------------------------------------------------------------

    def mark(self) -> tuple[int, int, int, int]:
        """A point to which `rollback` can return."""
        return (
            len(self.changes),
            len(self.chunks),
            len(self.before_step),
            len(self.background),
        )

    def rollback(self, mark: tuple[int, int, int, int] = (0, 0, 0, 0)) -> None:
        """Take back every decision since `mark`, latest first, and how long the slice is."""
        self.decoding, self.steps, self.chunk_steps, self.until = False, 1, 1, math.inf
        self.clear_blocks, self.padded, self.write_blocks = 0, None, 0
        changes, chunks, before, background = mark
        while len(self.changes) > changes:
            change = self.changes.pop()
            if change.sequence.state is not State.ENDED:
                take_back(self._engine, self.chunks, change)
        del self.chunks[chunks:]
        del self.before_step[before:], self.background[background:]

    # -- inside ---------------------------------------------------------------------------------

    def _admit(self, seq: Sequence, private_blocks: int) -> None:
        """Begin the prefill of a sequence that has got its share of the prefix cache."""
        engine = self._engine
        seq.blocks = private_blocks
        self.pool.referenced += private_blocks
        seq.state = _PREFILLING
        engine.resident += 1
        loaded = () if engine.tier is None else self._load_prefix(seq)
        self.changes.append(_change(("admit", seq, private_blocks, loaded)))

    def _repeat_chunk(self, seq: Sequence, tokens: int, steps: int) -> None:
        """Note that every step of the slice computes as much; none may end the prompt."""
        prefix_left = seq.computed_tokens < seq.prefix_tokens
        if self.chunks or prefix_left or seq.computed_tokens + steps * tokens >= seq.prefill_tokens:
            raise PlanError(f"{seq!r}: {steps} chunks of {tokens} tokens at {seq.computed_tokens}")
        self.chunk_steps = min(steps, MAX_STEPS)

    def _prefill_room(self, seq: Sequence) -> int:
        """Tokens whose blocks an unfinished prefill keeps from its admission on."""
        return seq.prefill_tokens if seq.computed_tokens < seq.prefill_tokens else 0

    def _need(self, seq: Sequence, cached_blocks: int, chunk_tokens: int | None) -> int:
        """Blocks of a prefill, or of its first chunk, the cached ones included."""
        tokens = seq.prefill_tokens
        if chunk_tokens is not None:
            tokens = min(tokens, cached_blocks * self._engine.block_tokens + chunk_tokens)
        return self.blocks_for(tokens)

    def _share_prefix(self, seq: Sequence, keep_free: int, chunk_tokens: int | None) -> bool:
        """Lock the cached prefix, unless the rest of what is needed would then not fit."""
        engine = self._engine
        if engine.eager is not None:
            self.settle(seq, self.batch.next_growth() if self.decoding else 0)
        prefix, keys = engine.prefix, engine.keys(seq)
        assert prefix is not None
        if engine.eager is None and not keys:
            return True
        limit = self._shareable(seq)
        cached, unreferenced = prefix.match(seq.request, keys, limit)
        need = self._need(seq, cached, chunk_tokens)
        if self.available - unreferenced - (need - cached) < keep_free:
            return False
        seq.node, seq.shared_blocks = prefix.acquire(seq.request, keys, cached)
        seq.prefix_tokens = seq.shared_blocks * engine.block_tokens
        return True

    def _load_prefix(self, seq: Sequence) -> tuple[object, ...]:
        """Copy back the part of the prefix that is on the host, if any; returns its blocks."""
        tier, node = self._engine.tier, seq.node
        if tier is None or node is None or node.on_device:
            return ()
        (blocks, small), timing = tier.load(node), tier.tier.load_timing
        transfer = self._transfer(seq, "h2d", blocks, timing, small)
        if timing == "background":
            seq.state, seq.transfer = State.MOVING_IN, transfer
        return (blocks,)

    def _leave_batch(self, seq: Sequence) -> None:
        if seq.state is State.DECODING:
            self.batch.leave(seq)
            seq.blocks = self.blocks_for(seq.computed_tokens) - seq.shared_blocks

    def _drop(self, seq: Sequence, scheduled_tokens: int = 0) -> None:
        saved = snapshot(seq)
        self._leave_batch(seq)
        self._engine.holdings.keep_own(seq, scheduled_tokens)
        freed = self._engine.holdings.free(seq, self.now)
        seq.lost_tokens = max(seq.lost_tokens, seq.computed_tokens)
        seq.computed_tokens = seq.prefix_tokens = 0
        seq.prefill_tokens = seq.request.prompt_tokens + seq.output_tokens
        seq.preemptions += 1
        seq.state = State.WAITING
        self._engine.resident -= 1
        self.changes.append(Change("preempt", seq, -freed, saved))
