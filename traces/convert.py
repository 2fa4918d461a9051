"""Writing a workload as a native trace."""

from __future__ import annotations

import gzip
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from superinfer.outputs import replacing
from superinfer.request import SLO, Request
from traces.formats.native import MOONCAKE_BLOCK_TOKENS, Record, SloRecord
from traces.resolver import covering_limit
from traces.workload import Workload


def write_lines(data: bytes, path: str | Path) -> None:
    """Write the lines of a trace to `path` (gzip if it ends in .gz, `-`: standard output). The file
    is whole or not there.
    """
    if str(path) == "-":
        sys.stdout.buffer.write(data)
        return
    if str(path).endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    with replacing(Path(path)) as staged:
        staged.write_bytes(data)


def native_bytes(workload: Workload) -> bytes:
    """A workload as the lines of a native trace.

    Reading them with the same classes gives the same workload: fields that equal the reader's
    default are left out.
    """
    return lines_of(_records(workload))


def lines_of(records: Iterable[Record]) -> bytes:
    """The lines of a native trace, the last one with its line end."""
    encode = msgspec.json.Encoder().encode
    return b"".join(encode(record) + b"\n" for record in records)


def record_of(request: Request, output_tokens: int, max_tokens: int | None) -> Record:
    """A request as a record, with its answer; `max_tokens` if the client has declared it."""
    block_tokens = request.hash_block_tokens
    return Record(
        timestamp=milliseconds(request.arrival_s),
        input_length=request.prompt_tokens,
        output_length=output_tokens,
        max_tokens=max_tokens,
        class_name=_unless(request.slo_class.name, "default"),
        tenant=_unless(request.tenant, "default"),
        priority=request.priority or None,
        session_id=request.session_id,
        delay_ms=None if request.delay_s is None else milliseconds(request.delay_s),
        request_id=_unless(request.request_id, str(request.index + 1)),
        namespace=request.namespace or None,
        slo=_slo_record(request.slo, request.slo_class.slo),
        hash_block_size=None if block_tokens == MOONCAKE_BLOCK_TOKENS else block_tokens,
        hash_ids=request.hash_ids or None,
    )


def _records(workload: Workload) -> Iterator[Record]:
    raised_left = workload.raised_max_tokens
    for request, output_tokens in zip(workload.requests, workload.output_tokens, strict=True):
        limit = request.slo_class.max_tokens
        derived = covering_limit(limit, output_tokens)
        # Only as many limits are left for the reader to raise as were raised in the first place.
        declared = request.max_tokens != derived or (derived > limit and not raised_left)
        raised_left -= derived > limit and not declared
        yield record_of(request, output_tokens, request.max_tokens if declared else None)


def _unless(text: str, default: str) -> str | None:
    return None if text == default else text


def _slo_record(slo: SLO, base: SLO) -> SloRecord | None:
    if slo == base:
        return None
    return SloRecord(
        ttft_ms=_target_ms(slo.ttft_s, base.ttft_s),
        tpot_ms=_target_ms(slo.tpot_s, base.tpot_s),
        e2el_ms=_target_ms(slo.e2el_s, base.e2el_s),
        min_tokens_per_s=_changed(slo.min_tokens_per_s, base.min_tokens_per_s),
    )


def _target_ms(target_s: float | None, base_s: float | None) -> float | None:
    changed_s = _changed(target_s, base_s)
    return None if changed_s is None else milliseconds(changed_s)


def _changed(target: float | None, base: float | None) -> float | None:
    """The target if it differs from the class's, with 0 for one that was taken away."""
    return None if target == base else target or 0.0


def milliseconds(seconds: float) -> float:
    """The shortest number of ms that gives `seconds` again, exactly wherever one does."""
    product = seconds * 1000
    if product.is_integer() and product / 1000 == seconds:
        return int(product)
    neighbours = [math.nextafter(product, 0), math.nextafter(product, math.inf)]
    rounded = (round(product, digits) for digits in range(7))
    exact = (ms for ms in [*rounded, product, *neighbours] if ms / 1000 == seconds)
    return next(exact, product)
