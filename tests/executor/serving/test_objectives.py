"""What a request was promised: headers over the body over the class."""

from __future__ import annotations

from typing import Any

import pytest

from executor.serving.http.bodies import CompletionBody
from executor.serving.objectives import (
    LEAST_URGENT,
    NO_TENANT,
    OPENAI_TIERS,
    OTHERS,
    Tenants,
    objective_of,
    urgency,
)
from superinfer.errors import InputError
from superinfer.request import DEFAULT_CLASS, SLO, SLOClass
from superinfer.slo_classes import PRESETS


def objective(headers: dict[str, str] | None = None, **body: Any) -> Any:
    return objective_of(headers or {}, CompletionBody(prompt="a", **body), PRESETS)


def test_nothing_is_promised_by_default() -> None:
    found = objective()
    assert found.slo.empty and found.slo_class.name == "default"
    assert (found.tenant, found.priority, found.session_id) == (NO_TENANT, 0, None)


def test_a_class_by_tier_or_by_objective() -> None:
    assert objective(service_tier="chat").slo == PRESETS["chat"].slo
    both = objective({"x-llm-d-inference-objective": "code"}, service_tier="chat")
    assert both.slo_class.name == "code"
    older = objective({"x-gateway-inference-objective": "code"})
    assert older.slo_class.name == "code"


@pytest.mark.parametrize("tier", [None, *OPENAI_TIERS])
def test_tiers_of_openai_are_classes_where_there_are_such(tier: str | None) -> None:
    """Else they are the default one."""
    assert objective(service_tier=tier).slo_class == PRESETS["default"]
    own = SLOClass(str(tier), SLO(ttft_s=9.0))
    found = objective_of({}, CompletionBody(prompt="a", service_tier=tier), {str(tier): own})
    assert found.slo_class == (own if tier else DEFAULT_CLASS)


def test_how_urgent_a_request_is() -> None:
    """By its priority first, then by whether it has targets."""
    ranked = [
        objective(priority=-5, service_tier="chat"),
        objective(priority=-1),
        objective({"x-slo-tpot-ms": "40"}),
        objective(service_tier="batch"),
        objective(priority=1, service_tier="chat"),
        objective(priority=7),
    ]
    found = [urgency(each) for each in ranked]
    assert found == sorted(set(found)) and found[-1] == LEAST_URGENT
    assert urgency(objective(priority=9)) == found[-1], "few queues, however many priorities"


def test_own_targets_replace_those_of_the_class() -> None:
    found = objective(
        {"x-llm-d-slo-ttft-ms": "250"},
        service_tier="chat",
        slo={"ttft_ms": 700, "e2el_ms": 5000, "tpot_ms": 0},
    )
    assert found.slo == SLO(ttft_s=0.25, e2el_s=5.0), "0 has taken the class's TPOT away"
    assert objective({"x-slo-tpot-ms": "40"}).slo == SLO(tpot_s=0.04)
    newer = {"x-slo-tpot-ms": "40", "x-llm-d-slo-tpot-ms": "50"}
    assert objective(newer).slo == SLO(tpot_s=0.05)


def test_a_tenant_by_header_or_by_user() -> None:
    assert objective(user="ann").tenant == "ann"
    header = {"x-llm-d-inference-fairness-id": "shop", "x-session-id": "s1"}
    found = objective(header, user="ann", priority=-3)
    assert (found.tenant, found.session_id, found.priority) == ("shop", "s1", -3)


@pytest.mark.parametrize("name", ["Büro", "東京"])
def test_a_name_with_letters_of_utf_8(name: str) -> None:
    """The same tenant by header as by body, however the server reads the bytes of a header."""
    for text in (name, name.encode().decode("latin-1")):
        assert objective({"x-llm-d-inference-fairness-id": text}).tenant == name
    latin = {"x-llm-d-inference-fairness-id": "Stra\xdfe"}  # no UTF-8: as it is
    assert objective(latin).tenant == "Straße"


def test_tenants_beyond_a_number_share_an_account() -> None:
    tenants = Tenants(most=2)
    assert [tenants.known(name) for name in ("a", "b", "a", "c", "b")] == [
        *("a", "b", "a"),
        *(OTHERS, "b"),
    ]


@pytest.mark.parametrize("text", ["a\tb", "x" * 513])
def test_names_that_cannot_be_written_down(text: str) -> None:
    with pytest.raises(InputError, match="x-session-id: expected text in one line"):
        objective({"x-session-id": text})


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", "1e300"])
def test_a_target_that_is_no_number(text: str) -> None:
    with pytest.raises(InputError, match="x-slo-ttft-ms: expected a number of ms"):
        objective({"x-slo-ttft-ms": text})


def test_a_class_that_is_not_configured() -> None:
    with pytest.raises(InputError, match=r"x-llm-d-inference-objective: 'chta': unknown \(did you"):
        objective({"x-llm-d-inference-objective": "chta"})
    with pytest.raises(InputError, match=r"x-llm-d-inference-objective: 'flex': unknown"):
        objective({"x-llm-d-inference-objective": "flex"})
