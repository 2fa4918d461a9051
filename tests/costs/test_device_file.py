"""A device by a TOML file of its nominal figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.run import build_engine
from superinfer.costs import find_device
from superinfer.errors import ConfigError, InputError
from superinfer.lab.config import load_config
from superinfer.lab.studies.content import Keys

FIGURES = "memory_gib = 80\nmemory_gb_per_s = 2039\nbf16_tflops = 312\nhost_gb_per_s = 25\n"
BOUNDS = "expected a number from 0.001 to 1000000000"


def written(tmp_path: Path, text: str, name: str = "mine.toml") -> str:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_figures_of_a_preset(tmp_path: Path) -> None:
    """Those of the A100 by a file are the preset's, but for the name."""
    more = "peer_gb_per_s = 300\nall_reduce_latency_us = 6\nsource = 'datasheet'\nversion = 1\n"
    found, preset = find_device(written(tmp_path, FIGURES + more)), find_device("a100-80g")
    assert found.name == "mine"
    assert (found.memory_bytes, found.memory_bytes_per_s) == (
        preset.memory_bytes,
        preset.memory_bytes_per_s,
    )
    assert (found.bf16_flops, found.h2d, found.d2h) == (preset.bf16_flops, preset.h2d, preset.d2h)
    assert found.peer_bytes_per_s == preset.peer_bytes_per_s
    assert found.all_reduce_latency_s == pytest.approx(preset.all_reduce_latency_s)


def test_what_may_be_left_out(tmp_path: Path) -> None:
    found = find_device(written(tmp_path, "name = 'my-gpu.2'\n" + FIGURES))
    assert found.name == "my-gpu.2"
    assert (found.peer_bytes_per_s, found.all_reduce_latency_s) == (25e9, 20e-6)


def test_a_mark_of_utf_8_says_nothing(tmp_path: Path) -> None:
    """Editors of Windows put one in front."""
    assert find_device(written(tmp_path, "\ufeff" + FIGURES)).bf16_flops == 312e12


def test_a_run_on_it(tmp_path: Path) -> None:
    """Times are those of nominal figures, and an edit of the file is another run."""
    path = written(tmp_path, FIGURES)
    config = load_config(None, [], device=path, trace="chat")
    engine, cost = build_engine(config)
    same, nominal = build_engine(load_config(None, [], device="a100-80g", costs="roofline"))
    assert engine.pool.total == same.pool.total
    assert cost.step_s([], 8, 10_000) == nominal.step_s([], 8, 10_000)
    before = Keys("sim.studies.compare:simulate_into").key(config)
    written(tmp_path, FIGURES.replace("312", "624"))
    assert Keys("sim.studies.compare:simulate_into").key(config) != before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "memory_gib: expected a number (usable memory, GiB), got nothing"),
        (FIGURES.replace("312", "-1"), f"bf16_tflops: {BOUNDS}, got -1"),
        (FIGURES.replace("312", "true"), f"bf16_tflops: {BOUNDS}, got True"),
        (FIGURES.replace("312", str(10**400)), f"bf16_tflops: {BOUNDS}, got 1000"),
        (FIGURES.replace("312", "inf"), f"bf16_tflops: {BOUNDS}, got inf"),
        (FIGURES.replace("= 80", "= 1e300"), f"memory_gib: {BOUNDS}, got 1e+300"),
        (FIGURES.replace("2039", "1e-300"), f"memory_gb_per_s: {BOUNDS}, got 1e-300"),
        (FIGURES + "all_reduce_latency_us = 1e10", f"all_reduce_latency_us: {BOUNDS}, got 1"),
        (FIGURES + "memory_gb = 3", "memory_gb: unknown (did you mean 'memory_gib'?)"),
        (FIGURES + "name = 'H100'", "name: expected one that no preset has, got 'H100'"),
        (FIGURES + "name = 'a b'", "name: expected letters, digits, dots and dashes, got 'a b'"),
        (FIGURES + "version = 2", "version: expected 1, got 2"),
        (FIGURES + "= 3", "expected TOML: "),
        pytest.param("x = " + "[" * 100_000, "expected TOML: ", id="nested"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        find_device(written(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path / 'mine.toml'}: {words}")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the device: No such file"):
        find_device(str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match=r"or a TOML file of its figures"):
        find_device("b300")
