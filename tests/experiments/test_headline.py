"""The article's table: arms that meet the same, claims that are judged right, pages as recorded."""

from __future__ import annotations

import csv
import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.headline import __main__ as main
from experiments.headline.claims import (
    CLAIMS,
    MEAN_ONLY,
    NOT_REACHED,
    REACHED,
    findings,
)
from experiments.headline.measures import ATTAINMENT, E2E, PEAK, TOKENS, measures_of
from experiments.headline.plot import write_pictures
from experiments.headline.settings import (
    OURS,
    OURS_KV4,
    VLLM,
    Extent,
    arms_of,
    config_of,
)
from experiments.headline.study import Reference, compare
from experiments.headline.table import TABLES, better_and_worse, overview, page
from experiments.headline.tune import FILE, tune_part, tuned_of
from experiments.headline.workloads import HERE, MIXTRAL_PROFILE, WORKLOADS
from experiments.scenarios.arms import PREFILL_FIRST
from experiments.studykit.kv_memory import fitting_tokens
from experiments.studykit.record import SIMULATED
from experiments.studykit.run_cache import RunCache
from sim.run import build_engine
from sim.studies.arms import WORKLOAD_KEYS
from superinfer.costs import load_profile, load_shape
from superinfer.errors import ConfigError
from superinfer.lab.profiles.build import build_profile

ROOT = Path(main.__file__).parents[2]
RESULTS = SIMULATED / "headline"
TINY = Extent(2, 1, 1, (1.0, 1.5), 0.5, time_scale=0.05)


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / "summary.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", WORKLOADS)
def test_all_arms_meet_the_same(name: str) -> None:
    workload = WORKLOADS[name]
    configs = {
        arm: config_of(workload, each, 1.25)
        for arm, each in arms_of(workload, tuned_of(workload)).items()
    }
    first = configs[VLLM]
    for config in configs.values():
        assert config.workload == first.workload
        for key in (*WORKLOAD_KEYS, "model", "device", "tp", "costs", "prefix_caching"):
            assert getattr(config.run, key) == getattr(first.run, key), key
        sizes = build_engine(config)[0].config
        room = sizes.total_blocks * sizes.block_tokens
        assert 0 <= fitting_tokens(*workload.machine) - room < sizes.block_tokens
    low_s, high_s = workload.window_s
    assert 0 < low_s < high_s < workload.duration_s
    assert first.workload["rate_scale"] == 1.25


def test_the_arms_are_what_they_say() -> None:
    """Ours have the memory manager; the defaults change nothing that their makers ship."""
    workload = WORKLOADS["70b"]
    arms = arms_of(workload, tuned_of(workload))
    assert config_of(workload, arms[OURS], 1.0).run.memory == "slo_aware"
    assert arms[VLLM].settings == ()
    assert list(arms)[-1] == OURS and len(arms) == 8


def test_settings_of_ours_reach_ours_alone() -> None:
    workload = WORKLOADS["70b"]
    plain = arms_of(workload, tuned_of(workload))
    changed = arms_of(workload, tuned_of(workload), ["scheduler.paced_chunks=false"])
    assert {name for name in plain if plain[name] != changed[name]} == {OURS, OURS_KV4}
    for name in (OURS, OURS_KV4):
        before, after = (config_of(workload, arms[name], 1.0) for arms in (plain, changed))
        assert before.run == after.run
        assert after.scheduler == {**before.scheduler, "paced_chunks": False}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scheduler.paced_chunks=false"], "--ours: expected another --out"),
        (["scheduler.pacedchunks=1", "--out", "o"], "--ours: scheduler.pacedchunks: unknown"),
        (["paced", "--out", "o"], "--ours: --set 'paced': expected"),
    ],
)
def test_bad_settings_of_ours_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.setattr("sys.argv", ["headline", "--only", "video", "--ours", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_nothing_is_tuned_for_an_unknown_part(tmp_path: Path) -> None:
    unknown = replace(WORKLOADS["video"], name="cartoons")
    with pytest.raises(ConfigError, match="nothing for cartoons: run `python -m"):
        tuned_of(unknown)
    with pytest.raises(ConfigError, match=r"run `python -m experiments\.headline\.tune`"):
        tuned_of(WORKLOADS["video"], tmp_path / "absent.toml")


def test_an_unknown_part_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["headline", "--only", "70b,opera"])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == 2
    assert "expected some of 70b, chat-agents" in capsys.readouterr().err


# -- claims and tables, by hand -------------------------------------------------------------------


def _part(attainment: tuple[float, float, float], change: tuple[float, float, float]) -> Any:
    """A part in which ours has this attainment, and differs by this in everything."""
    low, mean, high = change
    keys = [each.key for each in measures_of(WORKLOADS["70b"])]
    difference = {"difference": mean, "low": low, "high": high}
    difference |= {"relative": mean, "relative_low": low, "relative_high": high}
    over = dict.fromkeys(keys, difference)
    numbers = dict(zip(("low", "mean", "high"), attainment, strict=True))
    arms = {name: dict.fromkeys(keys, numbers) for name in (VLLM, "vllm-tuned", "sglang", OURS)}
    rivals = {name: over for name in arms if name != OURS}
    return {"title": "T", "arms": arms, "ours_over": rivals, "variants": {}}


@pytest.mark.parametrize(
    ("attainment", "change", "words"),
    [
        ((0.97, 0.98, 0.99), (-0.6, -0.5, -0.45), [REACHED, REACHED, REACHED, NOT_REACHED]),
        ((0.95, 0.97, 0.99), (-0.6, -0.5, -0.30), [MEAN_ONLY, MEAN_ONLY, MEAN_ONLY, NOT_REACHED]),
        ((0.90, 0.92, 0.99), (-0.3, -0.2, -0.1), [NOT_REACHED] * 4),
    ],
)
def test_claims_are_judged_by_their_intervals(
    attainment: tuple[float, float, float], change: tuple[float, float, float], words: list[str]
) -> None:
    found = [each for each in findings(_part(attainment, change)) if each.rival == VLLM]
    assert [each.claim for each in found] == list(CLAIMS)
    assert [each.reached for each in found[:4]] == words
    # Peak KV: -33 % within the third interval's mean only where all of it is below.
    assert found[4].reached == {-0.45: REACHED, -0.3: MEAN_ONLY, -0.1: NOT_REACHED}[change[2]]


def test_better_and_worse_need_a_whole_interval() -> None:
    def found(low: float | None, high: float | None) -> dict[str, Any]:
        return {"low": low, "high": high}

    numbers = {
        ATTAINMENT.key: found(0.1, 0.2),
        E2E.key: found(0.1, 0.2),
        TOKENS.key: found(-0.1, 0.2),
        PEAK.key: found(None, None),
    }
    shown = (ATTAINMENT, E2E, TOKENS, PEAK)
    assert better_and_worse(numbers, shown) == ("attainment", "P99 E2E")


def test_the_overview_names_the_best_rival() -> None:
    part = _part((0.5, 0.6, 0.7), (-0.1, 0.0, 0.1))
    (row,) = list(overview({"parts": {"70b": part}}))[2:]
    assert "60.0 (SGLang (default))" in row and "+0.0 [-10.0, +10.0]" in row


# -- as recorded ----------------------------------------------------------------------------------


def test_the_page_is_that_of_the_recorded_numbers(recorded: dict[str, Any]) -> None:
    assert page(recorded) == (RESULTS / "results.md").read_text(encoding="utf-8")
    assert list(recorded["parts"]) == list(WORKLOADS)


@pytest.mark.parametrize("name", TABLES)
def test_the_document_shows_the_recorded_tables(name: str, recorded: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "headline.md").read_text(encoding="utf-8")
    _, found, rest = text.partition(f"<!-- table: {name} -->\n")
    assert found, f"no place for {name}"
    assert rest.partition("<!-- end -->")[0].strip() == "\n".join(TABLES[name](recorded))


def test_recorded_arms_are_tuned_as_the_file_says(recorded: dict[str, Any]) -> None:
    for name, part in recorded["parts"].items():
        tuned = tuned_of(WORKLOADS[name], FILE)
        assert part["tuned"] == {arm: list(each.settings) for arm, each in tuned.items()}


# -- end to end -----------------------------------------------------------------------------------


def test_a_part_that_came_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: dict[str, Any]
) -> None:
    """Two processes that make parts of one result at the same time."""
    rests_on = recorded["made_by"]

    def compared(*_: Any) -> Any:
        main.write(tmp_path, {"code": recorded["parts"]["code"]}, rests_on)
        return dict(recorded["parts"]["video"])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main, "compare", compared)
    monkeypatch.setattr("sys.argv", ["headline", "--only", "video", "--out", str(tmp_path)])
    assert main.main() == 0
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert list(found["parts"]) == ["video", "code"], "in the order of the page"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["70b", "mixtral", "flan-t5"])
def test_a_part_end_to_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of every run: all files are there, and the page names every arm."""
    workload, cache = WORKLOADS[name], RunCache(tmp_path / "runs", 1)
    if name != "flan-t5":  # the others have too few requests in seconds to look for a load
        load = Reference(workload.search_from[0], PREFILL_FIRST, {})
        monkeypatch.setattr("experiments.headline.study.reference_load", lambda *_: load)
    part = compare(cache, workload, tuned_of(workload), TINY)
    rests_on = {"command": "x", "versions": {"numpy": "1"}, "source": "s"}
    main.write(tmp_path, {name: part | {"made_by": rests_on}}, rests_on)
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    for arm in arms_of(workload, tuned_of(workload)).values():
        assert arm.label in text
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert ("skew" in part) == (name == "mixtral")
    before = cache.stored
    assert compare(cache, workload, tuned_of(workload), TINY) == part
    assert cache.stored == before
    write_pictures({"parts": {name: part}}, tmp_path)


@pytest.mark.slow
def test_tuning_writes_what_the_study_reads(tmp_path: Path) -> None:
    from experiments.headline.tune import GRIDS

    workload, path = WORKLOADS["flan-t5"], tmp_path / "tuned.toml"
    grids = {name: grid[:2] for name, grid in GRIDS.items()}
    tune_part(RunCache(tmp_path / "runs", 1), workload, TINY, path, grids, (100, 101))
    found = tuned_of(workload, path)
    assert all(found[name].settings in {arm.settings for arm in grids[name]} for name in grids)


# -- sources --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_profile_of_mixtral_is_what_the_data_gives(data_dir: Path) -> None:
    shipped = load_profile(MIXTRAL_PROFILE)
    built = build_profile(data_dir / "profiles", "a100-80g", load_shape("mixtral-8x7b"), 2)
    assert shipped.sources == built.sources and shipped.assumed == built.assumed
    for name, kernel in built.kernels.items():
        found = shipped.kernels[name]
        assert found.axes == kernel.axes and found.model == kernel.model
        assert found.coefficients == pytest.approx(kernel.coefficients, rel=1e-3), name
        if kernel.seconds is not None:  # four digits are written
            np.testing.assert_allclose(found.seconds or (), kernel.seconds, 1e-3)


@pytest.mark.parametrize(
    ("spec", "client", "trace"),
    [("chat-agents", "chat", "conv"), ("code-completion", "code", "code")],
)
def test_lengths_are_those_of_azure(spec: str, client: str, trace: str, data_dir: Path) -> None:
    """Nine of ten bins end where a tenth more of the trace's lengths lies below."""
    table = tomllib.loads((HERE / "specs" / f"{spec}.toml").read_text())["clients"][client]
    path = data_dir / "traces" / "azure2023" / f"AzureLLMInferenceTrace_{trace}.csv"
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for part, column in (("prompt", "ContextTokens"), ("answer", "GeneratedTokens")):
        lengths = np.array([int(row[column]) for row in rows])
        tenths = np.percentile(lengths, range(10, 100, 10), method="lower").astype(int) + 1
        assert table[part]["edges"][1:10] == tenths.tolist()
        assert table[part]["weights"][:9] == [10] * 9
