"""The request that a record becomes: its class, targets and answer limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from superinfer.request import DEFAULT_CLASS, SLO, Request, SLOClass
from traces.formats.native import MOONCAKE_BLOCK_TOKENS, Record, SloRecord


class Resolver:
    """Finds a record's class, targets and answer limit; equal ones share one object."""

    def __init__(self, classes: Mapping[str, SLOClass], without_slo: bool) -> None:
        self.raised_max_tokens = 0
        self._classes = {"default": DEFAULT_CLASS, **classes}
        self._without_slo = without_slo
        self._merged: dict[tuple[object, ...], SLO] = {}

    def request(self, index: int, line_id: str, record: Record, arrival_s: float) -> Request:
        """The request of a record; `line_id` names it where the record does not."""
        slo_class = self._classes[record.class_name or "default"]
        return Request(
            line_id if record.request_id is None else record.request_id,
            arrival_s,
            record.input_length,
            record.max_tokens or self._max_tokens(slo_class.max_tokens, record.output_length),
            slo_class.slo if record.slo is None else self._slo(record.slo, slo_class.slo),
            slo_class,
            "default" if record.tenant is None else record.tenant,
            record.session_id,
            record.priority or 0,
            record.namespace or "",
            record.hash_ids or (),
            record.hash_block_size or MOONCAKE_BLOCK_TOKENS,
            None if record.delay_ms is None else record.delay_ms / 1000,
            index,
        )

    def _max_tokens(self, class_limit: int, output_tokens: int) -> int:
        if output_tokens <= class_limit:
            return class_limit
        self.raised_max_tokens += 1
        return covering_limit(class_limit, output_tokens)

    def _slo(self, targets: SloRecord, base: SLO) -> SLO:
        if self._without_slo:
            return base
        key = (base, targets.ttft_ms, targets.tpot_ms, targets.e2el_ms, targets.min_tokens_per_s)
        if key not in self._merged:
            self._merged[key] = _merge(base, targets)
        return self._merged[key]


def covering_limit(max_tokens: int, output_tokens: int) -> int:
    """`max_tokens`, doubled until it is at least `output_tokens`."""
    while max_tokens < output_tokens:
        max_tokens *= 2
    return max_tokens


def _merge(base: SLO, targets: SloRecord) -> SLO:
    def pick(value: float | None, units: int, inherited: float | None) -> float | None:
        return inherited if value is None else value / units or None

    return SLO(
        ttft_s=pick(targets.ttft_ms, 1000, base.ttft_s),
        tpot_s=pick(targets.tpot_ms, 1000, base.tpot_s),
        e2el_s=pick(targets.e2el_ms, 1000, base.e2el_s),
        min_tokens_per_s=pick(targets.min_tokens_per_s, 1, base.min_tokens_per_s),
    )


def without_targets(classes: Mapping[str, SLOClass], without_slo: bool) -> Mapping[str, SLOClass]:
    """The classes, with `without_slo` none of them with a target."""
    if not without_slo:
        return classes
    return {name: replace(slo_class, slo=SLO()) for name, slo_class in classes.items()}
