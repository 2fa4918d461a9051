"""From a specification and a seed to a workload."""

from __future__ import annotations

import math

from superinfer.errors import ConfigError
from superinfer.request import Request, SLOClass
from traces.generate.calls import Call, client_calls
from traces.generate.load import Spec
from traces.generate.text import BlockIds
from traces.resolver import covering_limit
from traces.workload import Workload

MAX_SEED = 2**63 - 1


def generate(spec: Spec, seed: int) -> Workload:
    """The workload of a specification (`seed`: 0 to 2**63 - 1), in order of arrival.

    The same specification and seed give the same workload in any process; each client draws from
    its own random streams. Raises `ConfigError` for a specification that gives no request, too
    many, or one too long, and `InputError` for a bad file that it names.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed: expected an integer from 0 to 2**63 - 1, got {seed}")
    calls = [call for name in spec.clients for call in client_calls(spec, name, seed)]
    if not calls:
        raise ConfigError(f"{spec.file}: expected at least one request in duration_s, got none")
    calls.sort(key=lambda call: call.arrival_s)
    limits = [_max_tokens(call, spec.classes[call.client.class_]) for call in calls]
    block_ids = BlockIds(spec.block_tokens)
    return Workload(
        requests=[
            _request(index, call, limits[index], spec, block_ids)
            for index, call in enumerate(calls)
        ],
        output_tokens=[call.output_tokens for call in calls],
        name=spec.name,
        raised_max_tokens=sum(
            call.client.max_tokens is None and limit > spec.classes[call.client.class_].max_tokens
            for call, limit in zip(calls, limits, strict=True)
        ),
    )


def _max_tokens(call: Call, slo_class: SLOClass) -> int:
    return call.client.max_tokens or covering_limit(slo_class.max_tokens, call.output_tokens)


def _request(index: int, call: Call, max_tokens: int, spec: Spec, block_ids: BlockIds) -> Request:
    slo_class = spec.classes[call.client.class_]
    return Request(
        request_id=str(index + 1),
        arrival_s=_whole_ms(call.arrival_s),
        prompt_tokens=call.prompt_tokens,
        max_tokens=max_tokens,
        slo=slo_class.slo,
        slo_class=slo_class,
        tenant=call.tenant,
        session_id=call.session_id,
        priority=call.client.priority,
        hash_ids=block_ids.of(call.thread, call.prompt_tokens, call.known_tokens),
        hash_block_tokens=spec.block_tokens,
        delay_s=None if call.delay_s is None else _whole_ms(call.delay_s),
        index=index,
    )


def _whole_ms(seconds: float) -> float:
    """Seconds cut to whole milliseconds, so that none is moved past the end of the trace."""
    return math.floor(seconds * 1000) / 1000
