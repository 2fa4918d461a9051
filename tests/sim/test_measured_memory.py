"""The KV blocks that a profile says were measured, and who uses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from one_line import error_of
from short_trace import TRACE

from sim.run import build_engine, run_simulation
from sim.workload import load_workload
from superinfer.costs import list_profiles, load_profile
from superinfer.lab.config import Config, load_config

MEASURED = {"kv_blocks": 1001, "block_tokens": 32}


def profile(folder: Path, memory: dict[str, Any], **changes: Any) -> Path:
    """The shipped profile of the default machine, calibrated anew."""
    shipped = next(each for each in list_profiles() if each[:2] == ("a100-80g", "llama-3.1-8b"))
    path = folder / "p.json"
    data = json.loads(shipped.path.read_text()) | {"memory": memory} | changes
    path.write_text(json.dumps(data))
    return path


def blocks(costs: object, *settings: str, **run: Any) -> int:
    return build_engine(config(costs, *settings, **run))[0].config.total_blocks


def config(costs: object, *settings: str, **run: Any) -> Config:
    return load_config(None, settings, costs=str(costs), **run)


@pytest.mark.parametrize(
    ("block_tokens", "expected"), [(32, 1001), (16, 2002), (48, 667), (64, 500), (1, 32_032)]
)
def test_a_run_has_as_many_tokens_as_were_measured(
    tmp_path: Path, block_tokens: int, expected: int
) -> None:
    path = profile(tmp_path, MEASURED)
    assert blocks(path, block_tokens=block_tokens, scheduler="vllm") == expected


@pytest.mark.parametrize(
    ("settings", "run"),
    [
        (("run.gpu_memory_utilization=0.8",), {}),
        ((), {"scheduler": "tensorrt_llm"}),
        ((), {"scheduler": "flexgen"}),
    ],
)
def test_memory_that_is_stated_otherwise_wins(
    tmp_path: Path, settings: tuple[str, ...], run: dict[str, Any]
) -> None:
    assert blocks(profile(tmp_path, MEASURED), *settings, **run) == blocks("auto", *settings, **run)
    assert blocks(profile(tmp_path, MEASURED), *settings, "run.kv_blocks=77", **run) == 77


@pytest.mark.parametrize("memory", [{}, {"kv_blocks": None, "block_tokens": 16}, {"kv_blocks": 0}])
def test_what_was_not_measured_is_computed(tmp_path: Path, memory: dict[str, Any]) -> None:
    assert blocks(profile(tmp_path, memory)) == blocks("auto")


@pytest.mark.parametrize("scheduler", ["vllm", "tensorrt_llm", "flexgen"])
def test_a_preset_has_the_memory_that_was_measured(tmp_path: Path, scheduler: str) -> None:
    """A GiB less, of which nine tenths are for everybody's blocks."""
    nominal = 80 * 2**30
    found = {
        size: blocks(
            profile(tmp_path, {"device_bytes": size}), scheduler=scheduler, block_tokens=16
        )
        for size in (nominal, nominal - 2**30, None, 0)
    }
    named = blocks("auto", scheduler=scheduler, block_tokens=16)
    assert found[nominal] == found[None] == found[0] == named
    assert found[nominal] - found[nominal - 2**30] == pytest.approx(0.9 * 2**30 / 2**21, abs=1)


def test_a_device_of_ones_own_keeps_its_memory(tmp_path: Path) -> None:
    """What a file of figures says was stated for this very run."""
    device = tmp_path / "mine.toml"
    figures = "memory_gib = 70\nmemory_gb_per_s = 2039\nbf16_tflops = 312\nhost_gb_per_s = 25\n"
    device.write_text(f"version = 1\n{figures}")
    plain = blocks("roofline", device=str(device))
    path = profile(tmp_path, {"device_bytes": 80 * 2**30}, device="mine")
    assert blocks(path, device=str(device)) == plain


def test_shipped_profiles_leave_memory_as_it_is() -> None:
    memories = [load_profile(name.path).memory for name in list_profiles()]
    assert not any(memory["kv_blocks"] for memory in memories)


def test_a_device_whose_memory_nobody_knows_has_what_was_measured(tmp_path: Path) -> None:
    path = profile(tmp_path, MEASURED, device="cpu")
    assert blocks(path, device="cpu", scheduler="vllm") == 2002
    path = profile(tmp_path, {}, device="cpu")
    assert "its memory is not known: set run.kv_blocks" in error_of(
        lambda: blocks(path, device="cpu")
    )


def test_another_degree_of_parallelism_is_refused(tmp_path: Path) -> None:
    path = profile(tmp_path, MEASURED)
    assert "not for a100-80g at tp=2" in error_of(lambda: blocks(path, tp=2))


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_note_says_where_the_number_is_from(tmp_path: Path, replicas: int) -> None:
    (tmp_path / "t.jsonl").write_text(TRACE)
    path = profile(tmp_path, MEASURED)
    found = {}
    for settings in ((), ("run.kv_blocks=2002",)):
        chosen = config(path, *settings, trace=str(tmp_path / "t.jsonl"), replicas=replicas)
        found[settings] = run_simulation(chosen, load_workload(chosen)).record
    measured, stated = found.values()
    told = "1,001 KV blocks of 32 tokens, as measured (run.kv_blocks sets another number)"
    assert measured.notes == [f"{path}: {told}"]
    assert measured.total_blocks == 1001 * replicas
    assert stated.notes == []


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        ({"kv_blocks": "many"}, "memory.kv_blocks: expected a number >= 0 or null, found 'many'"),
        ({"kv_blocks": 1.5}, "memory.kv_blocks: expected a whole number >= 1, found 1.5"),
        ({"kv_blocks": 7}, "memory.block_tokens: expected a whole number >= 1"),
        ({"kv_blocks": 7, "block_tokens": 0}, "memory.block_tokens: expected a whole number >= 1"),
        ({"device_bytes": "all"}, "memory.device_bytes: expected a number >= 0 or null"),
    ],
)
def test_a_bad_memory_is_one_line(tmp_path: Path, memory: dict[str, Any], words: str) -> None:
    assert words in error_of(lambda: blocks(profile(tmp_path, memory)))
