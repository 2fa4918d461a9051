"""Presets and the TOML files that add to them."""

from __future__ import annotations

from pathlib import Path

import pytest
from one_line import error_of

from superinfer.errors import ConfigError, InputError
from superinfer.request import DEFAULT_CLASS, SLO, SLOClass
from superinfer.slo_classes import PRESETS, class_from_table, load_classes

MLPERF_TARGETS_S = {
    "mlperf-llama2-70b-server": (2.0, 0.2),
    "mlperf-llama2-70b-interactive": (0.45, 0.04),
    "mlperf-mixtral-8x7b-server": (2.0, 0.2),
    "mlperf-llama3.1-8b-server": (2.0, 0.1),
    "mlperf-llama3.1-8b-interactive": (0.5, 0.03),
    "mlperf-llama3.1-405b-server": (6.0, 0.175),
    "mlperf-llama3.1-405b-interactive": (4.5, 0.08),
    "mlperf-deepseek-r1-server": (2.0, 0.08),
    "mlperf-deepseek-r1-interactive": (1.5, 0.015),
    "mlperf-gpt-oss-120b-server": (3.0, 0.08),
    "mlperf-gpt-oss-120b-interactive": (2.0, 0.015),
}


def write_toml(folder: Path, text: str) -> Path:
    path = folder / "classes.toml"
    path.write_text(text)
    return path


def test_mlperf_presets_are_the_published_table() -> None:
    found = {name: preset for name, preset in PRESETS.items() if name.startswith("mlperf-")}
    targets = {name: (preset.slo.ttft_s, preset.slo.tpot_s) for name, preset in found.items()}
    assert targets == MLPERF_TARGETS_S


def test_presets_carry_their_own_name() -> None:
    assert all(preset.name == name for name, preset in PRESETS.items())
    assert {"default", "chat", "agent", "code", "rag", "batch", "video"} < PRESETS.keys()


def test_the_examples_of_guidellm() -> None:
    assert PRESETS["agent"].slo == SLO(e2el_s=5.0)
    assert PRESETS["code"].slo == SLO(ttft_s=0.5, tpot_s=0.15)
    assert PRESETS["rag"].slo == SLO(ttft_s=0.3, tpot_s=0.1, e2el_s=3.0)


def test_chat_is_the_scenario_class() -> None:
    chat = PRESETS["chat"]
    assert chat.slo == SLO(ttft_s=1.0, tpot_s=0.1)
    assert (chat.max_stall_s, chat.max_tokens, chat.delivery) == (1.0, 1024, "strict")


def test_batch_and_default_have_no_targets() -> None:
    assert PRESETS["batch"].slo.empty
    assert PRESETS["default"] == DEFAULT_CLASS


def test_video_is_paced_and_bounds_no_stall() -> None:
    video = PRESETS["video"]
    assert (video.delivery, video.max_stall_s) == ("paced", None)
    assert video.slo.tpot_s == pytest.approx(0.025)


def test_every_key_is_converted() -> None:
    table = {
        "ttft_ms": 500,
        "tpot_ms": 50.0,
        "e2el_ms": 9000,
        "min_tokens_per_s": 12,
        "weight": 2,
        "max_stall_ms": 250,
        "min_kv_bits": 8,
        "max_tokens": 77,
        "delivery": "paced",
    }
    slo = SLO(0.5, 0.05, 9.0, 12.0)
    assert class_from_table("x", table) == SLOClass("x", slo, 2.0, 0.25, 8, 77, "paced")


def test_an_empty_table_is_the_base_under_a_new_name() -> None:
    assert class_from_table("x", {}) == SLOClass("x")


def test_only_given_keys_override_the_base() -> None:
    changed = class_from_table("chat", {"tpot_ms": 50}, PRESETS["chat"])
    assert changed.slo == SLO(ttft_s=1.0, tpot_s=0.05)
    assert changed.max_stall_s == 1.0


def test_zero_takes_a_target_away() -> None:
    changed = class_from_table("chat", {"ttft_ms": 0, "max_stall_ms": 0}, PRESETS["chat"])
    assert changed.slo.ttft_s is None
    assert changed.max_stall_s is None


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("ttft_ms", "soon", "a number >= 0"),
        ("ttft_ms", True, "a number >= 0"),
        ("tpot_ms", -1, "a number from 0 to 2**53"),
        ("e2el_ms", float("nan"), "a number from 0 to 2**53"),
        ("max_stall_ms", float("inf"), "a number from 0 to 2**53"),
        ("min_tokens_per_s", [1], "a number >= 0"),
        ("weight", 0, "a number > 0"),
        ("weight", -2.0, "a number from 0 to 2**53"),
        ("min_kv_bits", 2, "one of 16, 8, 4"),
        ("min_kv_bits", "16", "one of 16, 8, 4"),
        ("max_tokens", 0, "an integer from 1 to 10000000"),
        ("max_tokens", 1.5, "an integer from 1 to 10000000"),
        ("max_tokens", 10_000_001, "an integer from 1 to 10000000"),
        ("delivery", "fast", "one of 'strict', 'paced'"),
        ("delivery", 1, "one of 'strict', 'paced'"),
        ("ttft", 1, "a known key (one of ttft_ms, tpot_ms"),
    ],
)
def test_a_bad_key_is_named(key: str, value: object, expected: str) -> None:
    message = error_of(lambda: class_from_table("mine", {key: value}), ConfigError)
    assert message.startswith(f"classes.mine.{key}: expected {expected}")
    assert message.endswith(f"got {value!r}")


@pytest.mark.parametrize("name", ["mlperf-llama3.1-8b-server", "v1.2.3"])
def test_a_name_with_a_dot_is_to_be_quoted(name: str, tmp_path: Path) -> None:
    """TOML makes tables within tables of it."""
    path = tmp_path / "c.toml"
    path.write_text(f"[classes.{name}]\nttft_ms = 20\n")
    message = error_of(lambda: load_classes(path), ConfigError)
    words = f'expected quotes around a name with a dot: classes."{name}"'
    assert message == f"{path}: classes.{name}: {words}"
    path.write_text(f'[classes."{name}"]\nttft_ms = 20\n')
    assert load_classes(path)[name].slo.ttft_s == 0.02


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        class_from_table("mine", {"delivery": "x" * 1000})
    assert len(str(caught.value)) < 150


def test_a_class_must_be_a_table() -> None:
    with pytest.raises(ConfigError, match=r"^classes\.mine: expected a table, got 3$"):
        class_from_table("mine", 3)


def test_a_file_adds_to_the_presets(tmp_path: Path) -> None:
    text = 'version = 1\n[classes.mine]\nttft_ms = 250\n[classes.code]\ndelivery = "paced"\n'
    classes = load_classes(write_toml(tmp_path, text))
    assert classes["mine"] == SLOClass("mine", SLO(ttft_s=0.25))
    assert classes["code"].slo == PRESETS["code"].slo
    assert classes["code"].delivery == "paced"
    assert classes.keys() == PRESETS.keys() | {"mine"}
    assert PRESETS["code"].delivery == "strict"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[classes.x]\nttft_ms = 'a'\n", "classes.x.ttft_ms: expected a number >= 0, got 'a'"),
        ("[class.x]\n", "class: expected only [classes.<name>] tables"),
        ("version = 2\n", "version: expected 1, got 2"),
        ("classes = 3\n", "classes: expected [classes.<name>] tables, got 3"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write_toml(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_classes(path)
    assert str(caught.value) == f"{path}: {message}"


@pytest.mark.parametrize("content", [b"[classes.x\n", b"\xff\xfe", b"\n"])
def test_what_is_no_toml_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "classes.toml"
    path.write_bytes(content)
    if content.isspace():
        assert load_classes(path) == PRESETS
        return
    assert error_of(lambda: load_classes(path), InputError).startswith(f"{path}: expected ")


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a readable file, got No such file"):
        load_classes(tmp_path / "nowhere.toml")
