"""How the decisions of a draft are taken back, latest first."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from superinfer.memory.blocks.runs import NO_RUNS
from superinfer.plan import NOTES, Change, PrefillChunk
from superinfer.sequence import Sequence, State

if TYPE_CHECKING:
    from superinfer.engine.engine import Engine

_SAVED: Final = (
    "state",
    "prefill_tokens",
    "computed_tokens",
    "output_tokens",
    "prefix_tokens",
    "blocks",
    "runs",
    "light_tokens",
    "seen_step",
    "small_reads",
    "shared_blocks",
    "node",
    "host_blocks",
    "host_runs",
    "join_step",
    "last_token_step",
    "last_token_s",
    "lost_tokens",
    "preemptions",
    "transfer",
)


def snapshot(seq: Sequence) -> tuple[object, ...]:
    """What `take_back` needs of a sequence that is taken off the batch."""
    return tuple(getattr(seq, name) for name in _SAVED)


def saved_value(saved: tuple[object, ...], name: str) -> object:
    """One attribute of the sequence out of its snapshot."""
    return saved[_SAVED.index(name)]


def take_back(engine: Engine, chunks: list[PrefillChunk], change: Change) -> None:
    """Undo the latest change of a draft that has so many chunks."""
    if change.kind == "withdraw":
        place, chunk = change.saved
        assert isinstance(place, int) and isinstance(chunk, PrefillChunk)
        chunks.insert(place, chunk)
    else:
        _UNDO[change.kind](engine, change)


# -- inside ---------------------------------------------------------------------------------------


def _admit(engine: Engine, change: Change) -> None:
    seq = change.sequence
    engine.pool.referenced -= seq.blocks
    seq.blocks = seq.computed_tokens = seq.light_tokens = 0
    node, loaded = seq.node, change.saved
    if node is not None:
        assert engine.prefix is not None
        engine.prefix.unlock(node)
    seq.node, seq.shared_blocks, seq.prefix_tokens = None, 0, 0
    if loaded:
        (blocks,) = loaded
        assert isinstance(blocks, int)
        if engine.tier is not None:
            engine.tier.unload(node, blocks)
        else:
            assert engine.offload is not None
            engine.offload.unload(node)
    seq.state, seq.transfer = State.WAITING, None
    engine.resident -= 1


def _reclaim(engine: Engine, change: Change) -> None:
    assert engine.eager is not None
    engine.eager.restore(change.saved)  # type: ignore[arg-type]


def _adopt(engine: Engine, change: Change) -> None:
    assert engine.offload is not None
    engine.offload.unadopt(change.sequence.node)


def _grow(engine: Engine, change: Change) -> None:
    seq, (published, node) = change.sequence, change.saved
    assert isinstance(published, int)
    if published:
        assert engine.eager is not None
        engine.eager.unpublish(seq.node, published)
    seq.node = node
    seq.shared_blocks -= published
    seq.blocks += published - change.blocks
    engine.pool.referenced -= change.blocks


def _leave(engine: Engine, change: Change) -> None:
    """Undo `preempt`, `swap_out` or `park`: everything that takes a sequence off the batch."""
    seq = change.sequence
    engine.host.release(seq.host_blocks, seq.host_small)
    if seq.state in (State.WAITING, State.SWAPPED):
        node = saved_value(change.saved, "node")
        if node is not None:
            assert engine.prefix is not None
            engine.prefix.relock(node)
        engine.pool.referenced -= change.blocks
    elif seq.state is State.MOVING_OUT:
        engine.landings.undo_expect(seq)
    freed = seq.state in (State.WAITING, State.SWAPPED)
    if seq.state is not State.PARKED:
        engine.resident += 1
    for name, value in zip(_SAVED, change.saved, strict=True):
        setattr(seq, name, value)
    if freed:
        engine.pool.hold_small(seq.small)
    if seq.state is State.DECODING:
        engine.batch.undo_leave(seq)


def _swap_in(engine: Engine, change: Change) -> None:
    seq = change.sequence
    timing, host_blocks, host_runs = change.saved
    if timing == "before_step":
        assert isinstance(host_blocks, int) and isinstance(host_runs, tuple)
        engine.landings.undo_resume(seq, host_blocks, host_runs)
    engine.pool.referenced -= seq.blocks
    engine.pool.release_small(seq.small)
    seq.blocks, seq.runs, seq.light_tokens = 0, NO_RUNS, 0
    seq.transfer = None
    engine.resident -= 1
    seq.state = State.SWAPPED


def _unpark(engine: Engine, change: Change) -> None:
    engine.batch.undo_join(change.sequence)
    change.sequence.state = State.PARKED


def _note(engine: Engine, change: Change) -> None:
    """Nothing was changed."""


_UNDO: Final[dict[str, Callable[[Engine, Change], None]]] = {
    "admit": _admit,
    "adopt": _adopt,
    "grow": _grow,
    "reclaim": _reclaim,
    "preempt": _leave,
    "swap_out": _leave,
    "park": _leave,
    "swap_in": _swap_in,
    "unpark": _unpark,
    **dict.fromkeys(NOTES, _note),
}
