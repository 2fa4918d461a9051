"""Whether policies from outside left alone what only the engine may change.

A policy sees the objects that a run is counted from: a request whose prompt it shortens, or a
sequence to which it adds tokens, gives figures that nobody would notice to be wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, Final

from sim.oracle import Oracle
from superinfer.engine import Engine
from superinfer.errors import PlanError
from superinfer.request import Request
from superinfer.sequence import Sequence as Live

_ALL: Final = tuple(field.name for field in fields(Request))
_COPIED: Final = tuple(name for name in _ALL if name not in ("arrival_s", "delay_s"))
"""Of a request that is sent as a copy, too, as those of a load that is not open are: it comes when
its client sends it.
"""


class Untouched:
    """Requests as they are before a run, to be held against what is there afterwards."""

    def __init__(self, requests: Sequence[Request], answers: list[int]) -> None:
        """`answers` are the true lengths by the index of a request, in tokens."""
        self._requests = requests
        self._answers = answers
        self._before = [_facts(request) for request in requests]
        indices = (request.index for request in requests)
        self._by_index = dict(zip(indices, self._before, strict=True))

    def check(self, engines: Iterable[Engine]) -> None:
        """PlanError that names the first request which was changed, or whose answer was."""
        for request, before in zip(self._requests, self._before, strict=True):
            _compare(request, before, _ALL)
        for engine in engines:
            oracle = Oracle(self._answers, engine.config.max_model_len)
            for seq in engine.recorder.sequences:
                self._check_sequence(seq, oracle)

    def _check_sequence(self, seq: Live, oracle: Oracle) -> None:
        request = seq.request
        _compare(request, self._by_index.get(request.index, {}), _COPIED)
        wanted = oracle.target(request)
        if seq.outcome == "finished" and seq.output_tokens != wanted:
            raise _changed(request, "output_tokens", seq.output_tokens, wanted)


def _facts(request: Request) -> dict[str, Any]:
    return {name: getattr(request, name) for name in _ALL}


def _compare(request: Request, before: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        now, was = getattr(request, name), before.get(name)
        if now != was:
            raise _changed(request, name, now, was)


def _changed(request: Request, name: str, now: object, was: object) -> PlanError:
    place = f"request {request.request_id}: {name}"
    return PlanError(
        f"{place}: expected {was}, got {now} after the run: only the engine changes it"
    )
