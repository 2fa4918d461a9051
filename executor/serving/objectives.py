"""Whose request it is, and what it was promised: from headers and body to class, targets, tenant.

Headers are those of llm-d's gateway (`x-llm-d-*`); their names before that project had its own are
taken, too. In the body `service_tier` names a class or is one of OpenAI's tiers, `user` names a
tenant, and `priority` has vLLM's direction, as inside: lower runs first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from executor.serving.http.bodies import Body, Slo, line
from superinfer.errors import InputError
from superinfer.request import DEFAULT_CLASS, SLO, Request, SLOClass
from superinfer.settings import unknown
from traces.formats.native import MAX_NUMBER

CLASS = ("x-llm-d-inference-objective", "x-gateway-inference-objective")
TENANT = ("x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id")
TTFT = ("x-llm-d-slo-ttft-ms", "x-slo-ttft-ms")
TPOT = ("x-llm-d-slo-tpot-ms", "x-slo-tpot-ms")
SESSION = ("x-session-id",)
NO_TENANT, OTHERS = "default-flow", "(others)"
MOST_TENANTS = 4096
OPENAI_TIERS = ("auto", "default", "flex", "priority", "scale", "fast")
"""Values of `service_tier` that clients of OpenAI send: without a class of that name they mean the
default one, and the answer says so.
"""
Urgency = tuple[int, bool]
LEAST_URGENT: Urgency = (1, True)


@dataclass(frozen=True, slots=True)
class Objective:
    """What the engine is told of a request besides its lengths."""

    slo: SLO
    slo_class: SLOClass
    tenant: str
    priority: int
    session_id: str | None


def urgency(asked: Objective | Request) -> Urgency:
    """How full queues tell requests apart, the most urgent first: by a priority below, at or above
    0, then those with targets before those without. These are few values, and so few queues.
    """
    sign = (asked.priority > 0) - (asked.priority < 0)
    return sign, asked.slo.empty


class Tenants:
    """Schedulers keep accounts of tenants for ever: those beyond a number share one."""

    def __init__(self, most: int = MOST_TENANTS) -> None:
        self._names: set[str] = set()
        self._most = most

    def known(self, name: str) -> str:
        """The tenant, or who stands for the others."""
        if name not in self._names:
            if len(self._names) >= self._most:
                return OTHERS
            self._names.add(name)
        return name


def objective_of(
    headers: Mapping[str, str], body: Body, classes: Mapping[str, SLOClass]
) -> Objective:
    """By headers, then by the body, then by the class. InputError for a class that is neither
    configured nor one of OpenAI's tiers, and for a target that is no number.
    """
    slo_class = _class(headers, body, classes)
    return Objective(
        slo=_slo(headers, body.slo, slo_class.slo),
        slo_class=slo_class,
        tenant=_header(headers, TENANT)[1] or body.user or NO_TENANT,
        priority=body.priority or 0,
        session_id=_header(headers, SESSION)[1] or None,
    )


# -- inside ---------------------------------------------------------------------------------------


def _header(headers: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    """The first of several names of a header that there is, with its value; the first one and
    nothing where there is none.
    """
    found = next((name for name in names if headers.get(name)), None)
    if found is None:
        return names[0], ""
    try:
        return found, line(_letters(headers[found]))
    except ValueError as error:
        raise InputError(str(error), field=found) from None


def _letters(value: str) -> str:
    """A header's text: its bytes were taken for Latin-1, and who has other letters sends UTF-8."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def _class(headers: Mapping[str, str], body: Body, classes: Mapping[str, SLOClass]) -> SLOClass:
    where, name = _header(headers, CLASS)
    if not name:
        where, name = "service_tier", body.service_tier or "default"
    if name not in classes and where == "service_tier" and name in OPENAI_TIERS:
        return classes.get("default", DEFAULT_CLASS)
    if name not in classes:
        raise InputError(unknown(repr(name), name, classes, "known classes"), field=where)
    return classes[name]


def _slo(headers: Mapping[str, str], own: Slo | None, base: SLO) -> SLO:
    """The targets of the class, with those of the body and of the headers laid over them."""
    own = own or Slo()
    return replace(
        base,
        ttft_s=_laid_over(base.ttft_s, _seconds(own.ttft_ms), _header_s(headers, TTFT)),
        tpot_s=_laid_over(base.tpot_s, _seconds(own.tpot_ms), _header_s(headers, TPOT)),
        e2el_s=_laid_over(base.e2el_s, _seconds(own.e2el_ms)),
        min_tokens_per_s=_laid_over(base.min_tokens_per_s, own.min_tokens_per_s),
    )


def _laid_over(*targets: float | None) -> float | None:
    """The last target that is named; None if that takes it away."""
    named = [target for target in targets if target is not None]
    return (named[-1] or None) if named else None


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _header_s(headers: Mapping[str, str], names: tuple[str, ...]) -> float | None:
    name, text = _header(headers, names)
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= MAX_NUMBER:
        raise InputError(f"expected a number of ms, got {text[:40]!r}", field=name)
    return number / 1000
