"""The profile format: what is read, what is refused and how it is written."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from superinfer.costs import list_profiles
from superinfer.costs.profile_file import load_profile, parse_profile, profile_json, write_profile
from superinfer.errors import InputError

PROFILE: dict[str, Any] = {
    "version": 1,
    "device": "a100-80g",
    "model": "gpt2",
    "dtype": "bf16",
    "tp": 1,
    "kernels": {
        "gemm_qkv": {"axes": {"tokens": [1, 2]}, "seconds": [1e-6, 2e-6], "model": None},
        "attention_decode_16": {
            "axes": {"sequences": [1, 2], "context_tokens": [1, 8]},
            "seconds": [[1e-6, 2e-6], [2e-6, 4e-6]],
            "model": None,
        },
        "sample": {
            "axes": {},
            "seconds": None,
            "model": "linear",
            "coefficients": {"base_s": 1e-6, "per_unit_s": 1e-7},
        },
    },
    "links": {"h2d": {"bytes_per_s": 1e9, "setup_s": 0}, "d2h": {"bytes_per_s": 1e9, "setup_s": 0}},
    "host": {"step_s": 0.0, "per_sequence_s": 0.0, "origin": "measured"},
}


LINK = {"bytes_per_s": 1e9, "setup_s": 0}
GRAPHS = {"decodes": [1, 2], "mixed": [[8, 4]], "chunks": 1}


def changed(path: str, value: object) -> dict[str, Any]:
    data = copy.deepcopy(PROFILE)
    *parents, last = path.split("/")
    inner = data
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return data


def test_round_trip(tmp_path: Path) -> None:
    first = parse_profile(PROFILE)
    write_profile(first, tmp_path / "p.json")
    again = load_profile(tmp_path / "p.json")
    assert profile_json(again) == profile_json(first)
    assert json.loads((tmp_path / "p.json").read_text())["version"] == 1
    assert again.kernels["attention_decode_16"].seconds == ((1e-6, 2e-6), (2e-6, 4e-6))


def test_a_profile_knows_the_hash_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(PROFILE))
    first = load_profile(path)
    assert first.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text(json.dumps(PROFILE, indent=1))
    assert load_profile(path).sha256 not in (first.sha256, "")
    assert load_profile(path) == first  # one calibration, in other bytes
    assert parse_profile(PROFILE).sha256 == ""


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("version", 2, "version: expected 1, found 2"),
        ("device", 3, "device: expected a string, found 3"),
        ("tp", 0, "tp: expected a whole number >= 1, found 0"),
        ("tp", 1.5, "tp: expected a whole number >= 1, found 1.5"),
        ("tp", "1", "tp: expected a whole number >= 1, found '1'"),
        ("made_s", "x", "made_s: expected a number >= 0, found 'x'"),
        ("versions", [1], r"versions: expected an object, found \[1\]"),
        ("versions", {"vllm": 1}, "versions.vllm: expected a string, found 1"),
        ("sources", "abc", "sources: expected a list of strings, found 'abc'"),
        ("sources", [1], "sources: expected a list of strings"),
        ("kernels", [], r"kernels: expected an object, found \[\]"),
        ("kernels/gemm_qkv/seconds", [1.0], "kernels.gemm_qkv.seconds: expected 2 numbers"),
        ("kernels/gemm_qkv/seconds", [1.0, -1.0], "gemm_qkv.seconds: expected numbers >= 0"),
        ("kernels/gemm_qkv/seconds", [1.0, float("nan")], "seconds: expected numbers >= 0"),
        ("kernels/gemm_qkv/axes", {"bytes": [1, 2]}, "gemm_qkv.axes: expected tokens"),
        ("kernels/gemm_qkv/axes/tokens", [2, 2], "axes.tokens: expected increasing numbers"),
        ("kernels/gemm_qkv/axes/tokens", [], "axes.tokens: expected a list of numbers"),
        ("kernels/attention_decode_16/seconds", [[1.0, 2.0]], "seconds: expected 2 rows"),
        ("kernels/attention_decode_16/seconds", [[1.0], [2.0]], "seconds.0: expected 2 numbers"),
        ("kernels/sample/model", "magic", "kernels.sample.model: expected linear, found 'magic'"),
        ("kernels/sample/model", "causal_linear", "sample.model: expected linear, found 'causal"),
        ("kernels/attention_uneven", {"model": "causal_linear"}, "uneven.model: expected linear"),
        ("kernels/attention_idle", {"model": "causal_linear"}, "idle.model: expected linear"),
        ("kernels/attention_mixed_16", {"model": "linear"}, "mixed_16.model: expected a table"),
        ("kernels/attention_prefill", {"model": "linear"}, "prefill.model: expected causal_linear"),
        (
            "kernels/attention_idle",
            {"axes": {"sequence_tokens": [1, 2]}, "seconds": [2, 1]},
            "attention_idle.seconds: expected numbers that do not fall",
        ),
        ("kernels/gemm_qkv/seconds", [1, 10**309], "gemm_qkv.seconds: expected numbers >= 0"),
        ("kernels/gemm_qkv/axes/tokens", [1, 10**309], "axes.tokens: expected numbers >= 0"),
        ("kernels/sample/coefficients", {}, "coefficients.base_s: expected a number >= 0"),
        ("links/h2d/bytes_per_s", 0, "links.h2d.bytes_per_s: expected a number >= 1, found 0"),
        (
            "links/h2d/bytes_per_s",
            10**309,
            "h2d.bytes_per_s: expected a number >= 1, found 1000",
        ),
        ("links", {"d2h": LINK}, "links.h2d: expected an object"),
        ("links", {"h2d": LINK}, "links.d2h: expected an object"),
        ("links/both", False, "links.both: expected an object, found False"),
        ("links/both", {"setup_s": 0}, "links.both.bytes_per_s: expected a number >= 1000"),
        ("links/both", LINK | {"bytes_per_s": 1e-7}, "both.bytes_per_s: expected a number >= 1000"),
        ("graphs", [], r"graphs: expected an object, found \[\]"),
        ("graphs", 0, "graphs: expected an object, found 0"),
        ("graphs", {}, "graphs.decodes: expected a list of numbers"),
        ("graphs", GRAPHS | {"decodes": [1.5, 2.7]}, "graphs.decodes: expected whole numbers >= 1"),
        ("graphs", GRAPHS | {"chunks": 1.5}, "graphs.chunks: expected a whole number >= 0"),
        ("graphs", GRAPHS | {"chunks": 10**309}, "graphs.chunks: expected a whole number >= 0"),
        ("graphs", GRAPHS | {"mixed": [[10**309, 1]]}, "graphs.mixed: expected pairs of whole"),
        ("host/origin", "guess", "host.origin: expected one of measured, published, assumed"),
        ("quality", {"8": 3}, "quality.8: expected an object, found 3"),
        (
            "quality",
            {"4": {"kl": "low"}},
            "quality.4.kl: expected a number >= 0 or null, found 'lo",
        ),
        ("quality", {"4": {"perplexity_change": -2}}, "change: expected a number >= -1 or null"),
        (
            "links/d2h/bytes_per_s",
            1e-308,
            "d2h.bytes_per_s: expected a number >= 1, found 1e",
        ),
        ("links/h2d/setup_s", 1e308, "h2d.setup_s: expected a number of seconds <= 1000, found 1e"),
        ("host/chunked_s", 1e308, "host.chunked_s: expected a number of seconds <= 1000, found 1"),
        (
            "kernels/gemm_qkv/seconds",
            [1.0, 1e308],
            "qkv.seconds: expected numbers of seconds <= 1",
        ),
        ("kernels/sample/coefficients/base_s", 1e308, "base_s: expected a number of seconds <= 1"),
        ("host/step_s", None, "host.step_s: expected a number >= 0"),
    ],
)
def test_bad_fields_are_named(path: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_profile(changed(path, value), "p.json")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        load_profile(tmp_path / "none.json")
    for text in ("{", "[" * 100_000):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match=r"bad\.json: expected JSON"):
            load_profile(tmp_path / "bad.json")
    with pytest.raises(InputError, match="expected an object"):
        parse_profile([])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("later", {"kernels": 1}),
        ("kernels/warp", {"axes": "none"}),
        ("kernels/gemm_qkv/unit", "s"),
        ("kernels/sample/coefficients/per_pair_s", "x"),
        ("links/bth", LINK),
        ("links/h2d/lanes", 16),
        ("host/chunkd_s", -1),
        ("graphs", GRAPHS | {"foo": 1}),
    ],
)
def test_what_is_not_known_is_left_out_and_named(tmp_path: Path, path: str, value: object) -> None:
    """A later calibration may say more."""
    file = tmp_path / "p.json"
    file.write_text(json.dumps(changed(path, value)))
    found = load_profile(file)
    place = "graphs.foo" if path == "graphs" else path.replace("/", ".")
    assert found.notes == (f"{file}: ignored as unknown: {place}",)
    known = changed("graphs", GRAPHS) if path == "graphs" else PROFILE
    assert profile_json(found) == profile_json(parse_profile(known))


def test_all_that_is_not_known_is_named_in_one_line() -> None:
    data = changed("kernels/warp", {}) | {"later": 1, "memory": {"banks": 2}}
    found = parse_profile(data, "p.json")
    assert found.notes == ("p.json: ignored as unknown: later, kernels.warp",)
    assert found.memory == {"banks": 2}  # an open table
    assert parse_profile(PROFILE).notes == ()


def test_shipped_profiles_say_nothing_that_is_not_known() -> None:
    assert [name.path for name in list_profiles() if load_profile(name.path).notes] == []


@pytest.mark.parametrize("path", ["links/both", "graphs", "sources", "versions", "made_s", "top"])
def test_null_is_absent(path: str) -> None:
    assert profile_json(parse_profile(changed(path, None))) == profile_json(parse_profile(PROFILE))


def test_a_speed_both_ways_that_was_not_measured_may_be_empty() -> None:
    assert parse_profile(changed("links/both", {})).links.keys() == {"h2d", "d2h"}
