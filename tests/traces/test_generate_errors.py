"""Bad specifications: one line that names the place and what was expected, exit code 2."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from commands import superinfer_sim
from specs import document, write_spec

from superinfer.errors import ConfigError, InputError
from superinfer.settings import parse_settings
from traces.generate import load_spec

CLIENT = {"rate_per_s": 1.0, "prompt": 10, "answer": 10}
GONE = object()
FAMILIES = "fixed, uniform, lognormal, gamma, geometric, values, histogram"
RATES = "rate_per_s, sessions_per_s, requests, servegen"


def changed(key: str, value: Any) -> dict[str, Any]:
    """A good specification with one value set, or taken away."""
    tables = copy.deepcopy(document(10, chat=CLIENT))
    *parents, last = key.split(".")
    table = tables
    for parent in parents:
        table = table.setdefault(parent, {})
    if value is GONE:
        del table[last]
    else:
        table[last] = value
    return tables


def refused(path: Path, *arguments: str) -> str:
    """What `generate` says about a specification, which must be one line."""
    target = path.parent / "out.jsonl"
    result = superinfer_sim("traces", "generate", path, "-o", target, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert not target.exists()
    return result.stderr.removeprefix("error: ").removesuffix("\n")


BAD_DOCUMENTS = [
    ("version", GONE, "version: expected 1, got nothing"),
    ("version", 2, "version: expected 1, got 2"),
    ("nane", "x", "nane: unknown key (did you mean 'name'?); expected one of version, name"),
    ("duration_s", 0, "duration_s: expected a number > 0, got 0"),
    ("duration_s", float("nan"), "duration_s: expected a number > 0, got nan"),
    ("duration_s", float("inf"), "duration_s: expected a number <= 100000000, got inf"),
    ("duration_s", 0.001, "expected at least one request in duration_s, got none"),
    ("block_tokens", 1.5, "block_tokens: expected an integer, got 1.5"),
    ("rate_scale", "x", 'rate_scale: expected a number, got "x"'),
    ("clients", GONE, "clients: expected a table, got nothing"),
    ("clients", {}, "clients: expected a table of at least 1, got an empty table"),
    ("clients.chat", 3, "clients.chat: expected a table, got 3"),
]
LOGNORMAL = {"family": "lognormal"}
BAD_VALUES = [
    ("rate_per_s", -1, "rate_per_s: expected a number > 0, got -1"),
    ("rate_per_s", True, "rate_per_s: expected a number, got true"),
    ("rate_per_s", GONE, f": expected exactly one of {RATES}, got none"),
    ("rate_per_s", 1e6, ": expected a rate that gives at most 5000000 requests, got about 1e+07"),
    ("requests", 3, f": expected exactly one of {RATES}, got rate_per_s and requests"),
    ("rate_per_sec", 1, "rate_per_sec: unknown key (did you mean 'rate_per_s'?); expected one of"),
    ("class", "chatt", "class: expected one of agent, batch, chat"),
    ("class", 3, "class: expected a text, got 3"),
    ("tenants", {"a": -1}, "tenants.a: expected a number > 0, got -1"),
    ("tenants", {"a": "x"}, 'tenants.a: expected a number > 0, got "x"'),
    ("tenants", {}, "tenants: expected a table of at least 1, got an empty table"),
    ("max_tokens", 0, "max_tokens: expected an integer >= 1, got 0"),
    ("start_s", 1, "start_s: expected nothing beside rate_per_s, got a value"),
    ("prompt", GONE, "prompt: expected a distribution of tokens, got nothing"),
    ("prompt", "long", 'prompt: expected a number or a table, got "long"'),
    ("prompt", {}, f"prompt.family: expected one of {FAMILIES}, got nothing"),
    ("prompt", {"family": "x"}, f'prompt.family: expected one of {FAMILIES}, got "x"'),
    ("prompt", 1e8, ": expected prompts and answers of at most 10000000 tokens, got one of 1000"),
    ("lengths", {"pairs": [[1, 2]]}, "prompt: expected nothing beside lengths, got a value"),
    ("gaps", "gamma", 'gaps: expected a table, got "gamma"'),
    ("gaps", {"family": "gamma"}, "gaps.cv: expected a number, got nothing"),
    ("gaps", {"family": "gama"}, "gaps.family: expected one of poisson, gamma, weibull, even, got"),
    ("curve", {"shape": "sine"}, "curve.period_s: expected a number, got nothing"),
    ("bursts", {"on_s": 1}, "bursts.off_s: expected a number, got nothing"),
    ("session", {"turns": 2}, "session.think_s: expected a number or a table, got nothing"),
    ("session.turn", 3, "session.turn: unknown key (did you mean 'turns'?); expected one of"),
    ("system_prompts", [{"tokens": 0}], "system_prompts[0].tokens: expected an integer >= 1"),
    ("system_prompts", {"count": 1}, "system_prompts.tokens: expected a number or a table, got"),
    ("system_prompts", "x", 'system_prompts: expected a table or a list, got "x"'),
]
BAD_DISTRIBUTIONS = [
    (LOGNORMAL | {"mean": 3}, ": expected exactly two of mean, sigma, p50, p99, got mean"),
    (LOGNORMAL | {"mean": -3, "sigma": 1}, ".mean: expected a number > 0, got -3"),
    (LOGNORMAL | {"mean": 3, "p50": 5}, ".mean: expected a number >= p50, got 3"),
    (LOGNORMAL | {"p50": 3, "p99": 2}, ".p99: expected a number >= p50, got 2"),
    (LOGNORMAL | {"mean": 3, "p99": 99}, ".p99: expected 1 to 15.0 times the mean, got 99"),
    ({"family": "gamma"}, ".mean: expected a number, got nothing"),
    (
        {"family": "gamma", "mean": 1, "sigma": 2},
        ".sigma: unknown key; expected one of min, max, times, mean, cv",
    ),
    ({"family": "uniform", "min": 3}, ".max: expected a number >= 0, got nothing"),
    ({"family": "uniform", "min": 3, "max": 2}, ".max: expected a number >= min 3, got 2"),
    (
        {"family": "uniform", "min": 3.1, "max": 3.2},
        ".max: expected a whole number from min to max, got none",
    ),
    ({"family": "values", "values": []}, ".values: expected a list of at least 1, got an empty"),
    ({"family": "values", "values": [1, "x"]}, '.values[1]: expected a number, got "x"'),
    ({"family": "values", "values": [1], "weights": [1, 2]}, ".weights: expected 1 numbers, got 2"),
    ({"family": "histogram", "edges": [1, 2]}, ".weights: expected a list, got nothing"),
    (
        {"family": "histogram", "edges": [1, 1], "weights": [1]},
        ".edges: expected increasing numbers",
    ),
    (
        {"family": "histogram", "edges": [1, 2], "weights": [0]},
        ".weights: expected one above 0, got none",
    ),
]
BAD_CURVES = [
    ({"shape": "sine", "period_s": 1, "amplitude": 2}, ".amplitude: expected a number <= 1, got 2"),
    ({"shape": "linear", "points": [[1, 1], [1, 2]]}, ".points: expected increasing times"),
    ({"shape": "linear", "points": [[0, 1, 2]]}, ".points[0]: expected a list of 2, got a list of"),
    ({"shape": "linear", "points": [[0, 0]]}, ".points: expected a multiplier above 0, got none"),
    (
        {"shape": "linear", "points": [[0, 1], [9, 2]], "period_s": 3},
        ".points: expected times below period_s 3",
    ),
]
BAD_SESSIONS = [
    ({"turns": 0, "think_s": 2}, ".turns: expected an integer >= 1, got 0"),
    (
        {"turns": {"family": "lognormal", "mean": 2, "sigma": 1}, "think_s": 2},
        '.turns.family: expected one of fixed, uniform, geometric, values, got "lognormal"',
    ),
    (
        {"turns": {"family": "geometric", "mean": 2, "times": 2}, "think_s": 2},
        ".turns.times: expected 1 for a geometric count",
    ),
    (
        {"turns": {"family": "geometric", "mean": 2, "max": 0}, "think_s": 2},
        ".turns.max: expected a number >= 1, got 0",
    ),
    (
        {"turns": {"family": "uniform", "min": 1, "max": 1e9}, "think_s": 2},
        ".turns.max: expected a number <= 1e6, got 1e+09",
    ),
    ({"turns": 2, "think_s": 2, "history": "x"}, ".history: expected one of all, none, prompts,"),
]


@pytest.mark.parametrize(("key", "value", "expected"), BAD_DOCUMENTS)
def test_bad_document(tmp_path: Path, key: str, value: Any, expected: str) -> None:
    path = write_spec(tmp_path, changed(key, value))
    assert refused(path).startswith(f"{path}: {expected}")


@pytest.mark.parametrize(("key", "value", "expected"), BAD_VALUES)
def test_bad_client(tmp_path: Path, key: str, value: Any, expected: str) -> None:
    path = write_spec(tmp_path, changed(f"clients.chat.{key}", value))
    dot = "" if expected.startswith(":") else "."
    assert refused(path).startswith(f"{path}: clients.chat{dot}{expected}")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        *(("prompt", value, expected) for value, expected in BAD_DISTRIBUTIONS),
        *(("curve", value, expected) for value, expected in BAD_CURVES),
        *(("session", value, expected) for value, expected in BAD_SESSIONS),
    ],
)
def test_bad_table(tmp_path: Path, key: str, value: Any, expected: str) -> None:
    path = write_spec(tmp_path, changed(f"clients.chat.{key}", value))
    assert refused(path).startswith(f"{path}: clients.chat.{key}{expected}")


def test_keys_that_exclude_each_other(tmp_path: Path) -> None:
    session = {"turns": 2, "think_s": 1}
    tables = document(10, chat={**CLIENT, "session": session, "group": {"size": 2}})
    assert refused(write_spec(tmp_path, tables)).endswith(
        "clients.chat.group: expected nothing beside session, got a value"
    )
    backlog = document(10, chat={"requests": 3, "prompt": 1, "answer": 1, "session": session})
    assert refused(write_spec(tmp_path, backlog)).endswith(
        "clients.chat.session: expected nothing beside requests, got a value"
    )
    both = document(10, chat={"servegen": "x", "prompt": 1, "answer": 1})
    assert refused(write_spec(tmp_path, both)).endswith(
        "clients.chat.prompt: expected nothing beside servegen, got a value"
    )


@pytest.mark.parametrize(
    ("client", "place"),
    [
        ({"rate_per_s": 1, "lengths": {"trace": "no.jsonl"}}, "no.jsonl: "),
        ({"rate_per_s": 1, "lengths": {"sharegpt": "no.json"}}, "no.json: "),
        ({"servegen": "nofolder"}, "nofolder: "),
    ],
)
def test_files_that_are_not_there(tmp_path: Path, client: dict[str, Any], place: str) -> None:
    path = write_spec(tmp_path, document(10, chat=client))
    assert refused(path).startswith(f"{tmp_path}/{place}expected")


def test_files_that_are_no_specification(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    assert refused(path) == f"{path}: expected a readable file, got: No such file or directory"
    path.write_text("version = ")
    assert refused(path).startswith(f"{path}: expected a TOML file, got: ")
    path.write_bytes(b"\xff")
    assert refused(path) == f"{path}: expected UTF-8 text"


def test_a_name_that_is_not_bundled() -> None:
    with pytest.raises(InputError, match=r"chatt: expected a TOML file or one of agent, .*'chat'"):
        load_spec("chatt")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("duration_s", "--set 'duration_s': expected key=value"),
        ("=3", "--set '=3': expected key=value"),
        ("a b=3", "--set 'a b=3': expected key=value"),
        ("duration_s=x", 'chat (settings): duration_s: expected a number, got "x"'),
        ("clients.chat.rate_per_s=-1", "chat (settings): clients.chat.rate_per_s: expected a num"),
        (
            "clients.chat.rate=1",
            "chat (settings): clients.chat.rate: unknown key (did you mean 'rate_per_s' or 'rat",
        ),
        (
            "clients.chatt.rate_per_s=1",
            "chat (settings): clients.chatt: unknown client (did you mean 'chat'?); expected one",
        ),
        ("clients=3", "chat (settings): clients: expected a table, got 3"),
    ],
)
def test_bad_settings(setting: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_spec("chat", parse_settings([setting]))
    assert str(caught.value).startswith(expected)


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="a is not a table"):
        parse_settings(["a=1", "a.b=2"])
