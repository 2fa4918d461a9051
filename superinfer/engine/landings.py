"""What happens when a copy has landed: caches are back on the device, or gone from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from superinfer.memory.blocks.runs import NO_RUNS, Runs
from superinfer.plan import Transfer
from superinfer.sequence import Sequence, State

if TYPE_CHECKING:
    from superinfer.engine.engine import Engine

_DECODING: Final = State.DECODING  # reading a member off its class is slow


class Landings:
    """The landings of one engine's transfers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._landed: list[tuple[Transfer, float]] = []
        """Background copies that are over and not taken in yet, each with its time."""
        self._leaving: dict[Sequence, int] = {}
        self.leaving_blocks = 0
        """Device blocks of 16 bits that come free when the copies under way have landed: of those
        on their way out, and of those who ended on their way.
        """

    def note(self, transfer: Transfer, now: float) -> None:
        """A background copy is over; it counts when it is taken in."""
        self._landed.append((transfer, now))

    def expect(self, seq: Sequence, blocks: int) -> None:
        """So many blocks come free when a sequence's copy has landed."""
        self._leaving[seq] = blocks
        self.leaving_blocks += blocks

    def undo_expect(self, seq: Sequence) -> None:
        """Undo `expect`."""
        self.leaving_blocks -= self._leaving.pop(seq)

    def take_in(self) -> None:
        """Count what has landed since last asked, in order."""
        if self._landed:
            landed, self._landed = self._landed, []
            for transfer, now in landed:
                self._take_in(transfer, now)

    def resume(self, seq: Sequence) -> None:
        """A sequence's cache is back on the device: it goes on where it stopped."""
        self._engine.host.release(seq.host_blocks, seq.host_small)
        seq.transfer = None
        seq.host_blocks, seq.host_runs = 0, NO_RUNS
        if seq.computed_tokens < seq.prefill_tokens:
            seq.state = State.PREFILLING
        else:
            seq.state = _DECODING
            self._engine.join(seq)

    def undo_resume(self, seq: Sequence, host_blocks: int, host_runs: Runs) -> None:
        """Undo `resume`."""
        if seq.state is _DECODING:
            self._engine.batch.undo_join(seq)
        seq.host_blocks, seq.host_runs = host_blocks, host_runs
        self._engine.host.hold(host_blocks, seq.host_small)

    # -- inside ---------------------------------------------------------------------------------

    def _take_in(self, transfer: Transfer, now: float) -> None:
        engine = self._engine
        engine.links.landed(transfer, now)
        if engine.placement is not None:
            engine.placement.landed(transfer)
        if transfer.job is not None:
            assert engine.offload is not None
            engine.offload.landed(transfer.job)
        seq = transfer.sequence
        if seq is None:
            if engine.mirror is not None and transfer is engine.mirror.transfer:
                engine.mirror.landed()
            engine.journal.note_cached(now, "transfer", transfer.blocks)
        else:
            engine.journal.note(now, "transfer", seq, (transfer.blocks,))
            self._take_in_of(seq, transfer, now)

    def _take_in_of(self, seq: Sequence, transfer: Transfer, now: float) -> None:
        """The same of a copy that a sequence waited for, which may have ended meanwhile."""
        engine = self._engine
        seq.transfer = None
        self.leaving_blocks -= self._leaving.pop(seq, 0)
        if engine.tier is not None and seq.node is not None and transfer.direction == "h2d":
            engine.tier.landed(seq.node)
        if seq.state is State.ENDED:
            engine.holdings.release(seq, now)
        elif transfer.direction == "d2h":
            engine.holdings.free(seq, now)
            seq.state = State.SWAPPED
            engine.scheduler.swapped_out(seq)
        else:
            self._bring_back(seq)
            engine.scheduler.resumed(seq)

    def _bring_back(self, seq: Sequence) -> None:
        """Resume a sequence; the copies that the host still has of it count as written through."""
        mirror = self._engine.mirror
        if mirror is not None and not mirror.active:
            mirror.activate(self._engine.batch)
        self.resume(seq)
        if mirror is not None and seq.state is _DECODING:
            mirror.join(seq, seq.computed_tokens // self._engine.block_tokens)
