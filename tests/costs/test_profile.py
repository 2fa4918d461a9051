"""The profile format: what is read, what is refused and how it is written."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from superinfer.costs.profile import load_profile, parse_profile, profile_json, write_profile
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


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("version", 2, "version: expected 1, found 2"),
        ("device", 3, "device: expected a string, found 3"),
        ("tp", 0, "tp: expected a number >= 1, found 0"),
        ("kernels", [], r"kernels: expected an object, found \[\]"),
        ("kernels/warp", {}, "kernels.warp: unknown kernel; known: gemm_qkv"),
        ("kernels/gemm_qkv/seconds", [1.0], "kernels.gemm_qkv.seconds: expected 2 numbers"),
        ("kernels/gemm_qkv/seconds", [1.0, -1.0], "gemm_qkv.seconds: expected numbers >= 0"),
        ("kernels/gemm_qkv/seconds", [1.0, float("nan")], "seconds: expected numbers >= 0"),
        ("kernels/gemm_qkv/axes", {"bytes": [1, 2]}, "gemm_qkv.axes: expected tokens"),
        ("kernels/gemm_qkv/axes/tokens", [2, 2], "axes.tokens: expected increasing numbers"),
        ("kernels/gemm_qkv/axes/tokens", [], "axes.tokens: expected a list of numbers"),
        ("kernels/attention_decode_16/seconds", [[1.0, 2.0]], "seconds: expected 2 rows"),
        ("kernels/attention_decode_16/seconds", [[1.0], [2.0]], "seconds.0: expected 2 numbers"),
        ("kernels/sample/model", "magic", "model: expected one of linear, causal_linear"),
        ("kernels/sample/coefficients", {}, "coefficients.base_s: expected a number >= 0"),
        ("links/h2d/bytes_per_s", 0, "links.h2d.bytes_per_s: expected a number > 0"),
        ("host/origin", "guess", "host.origin: expected one of measured, published, assumed"),
        ("quality", {"8": 3}, "quality.8: expected an object, found 3"),
        ("quality", {"4": {"kl": "low"}}, "quality.4.kl: expected a number >= 0 or null, found lo"),
        ("quality", {"4": {"perplexity_change": -2}}, "change: expected a number >= -1 or null"),
        ("host/step_s", None, "host.step_s: expected a number >= 0"),
    ],
)
def test_bad_fields_are_named(path: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_profile(changed(path, value), "p.json")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        load_profile(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match=r"bad\.json: expected JSON"):
        load_profile(tmp_path / "bad.json")
    with pytest.raises(InputError, match="expected an object"):
        parse_profile([])


def test_an_empty_link_is_absent() -> None:
    assert set(parse_profile(changed("links/both", {})).links) == {"h2d", "d2h"}
