"""From a profile's table of qualities to figures for each class."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pages import text

from sim.commands import RunOptions
from sim.studies.compare import compare_command
from sim.summaries import simulated
from sim.workload import load_workload
from superinfer.costs import list_profiles, load_profile
from superinfer.costs.profile_file import write_profile
from superinfer.errors import ConfigError
from superinfer.lab.config import load_config
from superinfer.lab.tables import summary_table

QUALITY = {
    "8": {"kl": 1e-3, "perplexity_change": 0.25},
    "4": {"kl": 1e-2, "perplexity_change": 0.5},
}
"""Nothing that was measured."""
SETTINGS = (
    "run.memory=slo_aware",
    "run.kv_blocks=90",
    "classes.batch.min_kv_bits=4",
    "memory.shrink_8_at=0.1",
    "memory.shrink_4_at=0.3",
)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "t.jsonl"
    line = {"input_length": 400, "output_length": 200, "max_tokens": 200}
    with path.open("w") as file:
        for i in range(12):
            slo_class = "batch" if i % 2 else "chat"
            print(json.dumps({"timestamp": 10 * i, "class": slo_class, **line}), file=file)
    return path


def summary_of(trace: Path, *settings: str) -> dict[str, Any]:
    config = load_config(None, [*SETTINGS, *settings], trace=str(trace))
    return dict(simulated(config, load_workload(config))[1])


def test_a_comparison_shows_the_bits_of_each_class(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = {
        name: load_config(None, SETTINGS, trace=str(trace), scheduler=name)
        for name in ("fcfs", "rotating")
    }
    assert compare_command(arms, RunOptions(tmp_path / "c", plots=False), workers=1) == 0
    table = capsys.readouterr().out.partition("Precision of the KV cache")[2]
    rows = [line.split()[:2] for line in table.splitlines()]
    assert [row for row in rows if row and row[0] in {"chat", "batch"}] == [
        [name, arm] for name in ("batch", "chat") for arm in arms
    ]


def test_a_profile_with_qualities_gives_figures_by_class(trace: Path, tmp_path: Path) -> None:
    shipped = next(p for p in list_profiles() if (p.model, p.tp) == ("llama-3.1-8b", 1))
    measured = replace(load_profile(shipped.path), quality=QUALITY)
    write_profile(measured, tmp_path / "measured.json")
    classes = summary_of(trace, f"run.costs={tmp_path / 'measured.json'}")["classes"]
    chat, batch = classes["chat"], classes["batch"]
    assert (chat["kv_bits_mean"], chat["kv_kl"], chat["kv_perplexity_change"]) == (16.0, 0.0, 0.0)
    assert 4.0 < batch["kv_bits_mean"] < 16.0
    # Two unknown shares, of 8 and of 4 bits: they follow from one measure and give the other.
    kl, bits = batch["kv_kl"], batch["kv_bits_mean"]
    four = (kl / 1e-3 - (16 - bits) / 8) / (10 - 1.5)
    eight = (16 - bits) / 8 - 1.5 * four
    assert 0.0 < four < 1.0 and eight > -1e-9
    assert batch["kv_perplexity_change"] == pytest.approx(0.25 * eight + 0.5 * four)


def test_without_a_table_it_is_unmeasured_and_still_shown(trace: Path) -> None:
    summary = summary_of(trace, "run.device=a100-80g")
    assert summary["classes"]["batch"]["kv_kl"] == "unmeasured"
    assert "unmeasured" in text(summary_table(summary))


def one_byte_profile(folder: Path, quality: dict[str, Any]) -> Path:
    """The shipped profile with a cache of 8 bits; attention takes the time of 16."""
    shipped = next(p for p in list_profiles() if (p.model, p.tp) == ("llama-3.1-8b", 1))
    profile = load_profile(shipped.path)
    kernels = profile.kernels | {"attention_decode_8": profile.kernels["attention_decode_16"]}
    path = folder / "fp8.json"
    write_profile(replace(profile, kernels=kernels, kv_dtype="fp8", quality=quality), path)
    return path


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize(
    ("quality", "kl", "change"),
    [(QUALITY, 1e-3, 0.25), ({}, "unmeasured", "unmeasured")],
    ids=["measured", "unmeasured"],
)
def test_a_cache_of_8_bits_says_so(
    trace: Path, tmp_path: Path, replicas: int, quality: Any, kl: Any, change: Any
) -> None:
    path = one_byte_profile(tmp_path, quality)
    summary = summary_of(trace, f"run.costs={path}", f"run.replicas={replicas}")
    assert summary["kv_bits_mean"] == 8.0
    assert (summary["kv_kl"], summary["kv_perplexity_change"]) == (kl, change)
    assert {group["kv_bits_mean"] for group in summary["classes"].values()} == {8.0}


def test_a_class_that_demands_more_than_the_cache_has_is_refused(
    trace: Path, tmp_path: Path
) -> None:
    path = one_byte_profile(tmp_path, {})
    told = "classes.batch.min_kv_bits: expected at most 8, what the cache has by the kv_dtype"
    with pytest.raises(ConfigError, match=told):
        summary_of(trace, f"run.costs={path}", "classes.batch.min_kv_bits=16")
    summary = summary_of(trace, f"run.costs={path}", "classes.batch.min_kv_bits=8")
    assert summary["kv_bits_mean"] == 8.0


def flexgen(trace: Path, *settings: str) -> dict[str, Any]:
    """The summary of FlexGen on an A100."""
    given = ["run.device=a100-80g", *settings]
    config = load_config(None, given, trace=str(trace), scheduler="flexgen")
    return dict(simulated(config, load_workload(config))[1])


PACKED = "scheduler.compress_cache=true"


def test_a_packed_cache_of_flexgen_says_so(trace: Path, tmp_path: Path) -> None:
    """A profile tells nothing of its quality: there 4 bits are blocks of another kind."""
    shipped = next(p for p in list_profiles() if (p.model, p.tp) == ("llama-3.1-8b", 1))
    path = tmp_path / "measured.json"
    write_profile(replace(load_profile(shipped.path), quality=QUALITY), path)
    summary = flexgen(trace, PACKED, f"run.costs={path}")
    assert summary["kv_bits_mean"] == 4.0
    assert {group["kv_bits_mean"] for group in summary["classes"].values()} == {4.0}
    assert summary["kv_kl"] == summary["kv_perplexity_change"] == "unmeasured"
    assert flexgen(trace)["kv_bits_mean"] == 16.0


def test_a_class_that_demands_more_than_flexgen_packs_is_refused(trace: Path) -> None:
    told = r"batch.min_kv_bits: expected at most 4, .* by scheduler.compress_cache, got 8"
    with pytest.raises(ConfigError, match=told):
        flexgen(trace, PACKED, "classes.batch.min_kv_bits=8")
    assert flexgen(trace, PACKED, "classes.batch.min_kv_bits=4")["kv_bits_mean"] == 4.0


def test_flexgen_packs_no_cache_of_8_bits(trace: Path, tmp_path: Path) -> None:
    told = "scheduler.compress_cache: expected a cache of 16 bits, not the fp8 of the profile"
    with pytest.raises(ConfigError, match=told):
        flexgen(trace, PACKED, f"run.costs={one_byte_profile(tmp_path, {})}")
