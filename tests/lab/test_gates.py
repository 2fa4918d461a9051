"""Gates: `--require` expressions and their verdicts."""

from __future__ import annotations

import pytest

from superinfer.errors import ConfigError
from superinfer.lab.gates import Gate, check_gates, look_up, parse_gate

SUMMARY = {
    "slo_attainment": 0.95,
    "paced_attainment": None,
    "p99_ttft_ms": 1234.5,
    "classes": {"chat": {"p99_ttft_ms": 900.0}, "v1.5": {"failed": 0}},
    "run": {"seed": 7, "scheduler": "rotating"},
}


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("slo_attainment>=0.95", Gate("slo_attainment", ">=", 0.95)),
        (" p99_ttft_ms <= 1e3 ", Gate("p99_ttft_ms", "<=", 1000.0)),
        ("failed==0", Gate("failed", "==", 0.0)),
        ("classes.chat.p99_ttft_ms<900", Gate("classes.chat.p99_ttft_ms", "<", 900.0)),
        ("classes.v1.5.failed > -1", Gate("classes.v1.5.failed", ">", -1.0)),
    ],
)
def test_parse(text: str, gate: Gate) -> None:
    assert parse_gate(text) == gate
    assert parse_gate(str(gate)) == gate


@pytest.mark.parametrize(
    "text",
    [
        "",
        "slo_attainment",
        "a>=",
        ">=1",
        "a>=b",
        "a=1",
        "a=>1",
        "a>1>2",
        "a>=0.9 5",
        "a<>1",
        "a>nan",
    ],
)
def test_bad_expressions_show_the_form(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a form like 'slo_attainment>=0\.95'"):
        parse_gate(text)


@pytest.mark.parametrize("bound", ["inf", "-inf", "1e999"])
def test_a_bound_is_finite(bound: str) -> None:
    with pytest.raises(ConfigError, match=f"^--require .*: expected a finite number, got {bound}$"):
        parse_gate(f"a >= {bound}")


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("slo_attainment>=0.95", True),
        ("slo_attainment>0.95", False),
        ("slo_attainment==0.95", True),
        ("p99_ttft_ms<1234.5", False),
        ("p99_ttft_ms<=1234.5", True),
        ("classes.chat.p99_ttft_ms<1000", True),
        ("classes.v1.5.failed==0", True),
        ("run.seed==7", True),
        ("paced_attainment>=0", False),
        ("paced_attainment<=1", False),
    ],
)
def test_verdicts(text: str, passed: bool) -> None:
    (result,) = check_gates([text], SUMMARY)
    assert result.passed is passed
    assert str(result).startswith("pass" if passed else "FAIL")


def test_null_says_so() -> None:
    (result,) = check_gates([parse_gate("paced_attainment>=0.5")], SUMMARY)
    assert str(result) == "FAIL: paced_attainment>=0.5 (found null)"


@pytest.mark.parametrize(
    ("key", "close"),
    [
        ("slo_atainment", "slo_attainment"),
        ("classes.chatt.p99_ttft_ms", "classes.chat.p99_ttft_ms"),
        ("p99_ttft", "p99_ttft_ms"),
    ],
)
def test_unknown_keys_name_close_ones(key: str, close: str) -> None:
    with pytest.raises(ConfigError, match=f"'{key}'.*close: .*{close}"):
        look_up(SUMMARY, key)


@pytest.mark.parametrize("key", ["classes", "classes.chat", "run.scheduler"])
def test_only_numbers_can_be_required(key: str) -> None:
    with pytest.raises(ConfigError, match="no number called"):
        look_up(SUMMARY, key)
