"""What a plan asks of the device is possible: checked when the engine commits a draft."""

from __future__ import annotations

from superinfer.errors import PlanError
from superinfer.plan import PrefillChunk, Work
from superinfer.sequence import State


def check_work(padded: Work | None, chunks: list[PrefillChunk], decodes: int, steps: int) -> None:
    """Raises PlanError if the chunks, or the padding of the whole, cannot be computed."""
    if chunks:
        _check_chunks(chunks, steps)
    if padded is not None:
        _check_padding(padded, len(chunks), decodes, steps)


def _check_chunks(chunks: list[PrefillChunk], steps: int) -> None:
    """One chunk a sequence, only for those that are still resident; alone if it repeats."""
    for seq, _, _, _ in chunks:
        if seq.state is not State.PREFILLING:
            raise PlanError(f"{seq!r}: a chunk in the plan that takes it away")
    if len(chunks) > 1:
        if steps > 1:
            raise PlanError("a slice of several steps has one chunk at most")
        if len({chunk.sequence for chunk in chunks}) < len(chunks):
            raise PlanError("a sequence has two chunks in one plan")


def _check_padding(padded: Work, chunks: int, decodes: int, steps: int) -> None:
    """The device computes at least what the plan asks for, and a padded prefill once."""
    if len(padded.chunks) < chunks or padded.decodes < decodes:
        work = f"{len(padded.chunks)} chunks and {padded.decodes} decodes"
        raise PlanError(f"padding to {work} is less than {chunks} and {decodes}")
    if padded.chunks and steps > 1:
        raise PlanError("a slice of several steps has no padded chunks")
