"""`superinfer-sim sensitivity`: which conclusion survives errors of the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from pages import text
from specs import document, write_spec

from sim.run import build_engine
from sim.studies import sensitivity
from sim.studies.compare import simulate_into
from sim.studies.sensitivity_page import conclusion, sensitivity_table
from sim.studies.variations import Vary, variations
from superinfer.costs import load_profile, write_profile
from superinfer.costs.profile import HOST_TIMES, Kernel
from superinfer.lab.config import Config, load_config
from superinfer.lab.pictures.tornado import Bar, tornado_panel, write_tornado
from superinfer.lab.studies.study import Study, StudyResult

RECORD = '{{"timestamp":{at},"input_length":{prompt},"output_length":{answer},"class":"chat"}}\n'
TRACE = "".join(
    RECORD.format(at=30 * i, prompt=300 + 70 * (i % 11), answer=5 + i % 40) for i in range(80)
)

Called = tuple[int, str, list[str]]


@pytest.fixture
def call(work_folder: Path, command_lines: Callable[..., Called]) -> Callable[..., Called]:
    (work_folder / "t.jsonl").write_text(TRACE)
    return partial(command_lines, "sensitivity")


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies run in this process: a worker takes longer to start than these runs take."""

    def run_here(study: Study, report: object) -> StudyResult:
        folders: dict[str, list[Path]] = {}
        for run in study.plan():
            folder = study.root / run.key
            if not folder.exists():
                simulate_into(run.config, folder)
            folders.setdefault(run.arm, []).append(folder)
        return StudyResult(folders)

    monkeypatch.setattr(sensitivity, "run_study", run_here)


# -- parts ----------------------------------------------------------------------------------------


def parts_of(**run: Any) -> tuple[Config, dict[str, Vary]]:
    config = load_config(None, (), None, trace="t.jsonl", **run)
    return config, variations(build_engine(config)[1])


def step_s(config: Config) -> float:
    cost = build_engine(config)[1]
    return cost.step_s((), 8, 8000) + cost.host_s(8)


def test_every_kernel_the_host_the_links_lengths_and_arrivals_are_parts() -> None:
    _, parts = parts_of()
    assert {"gemm_qkv", "attention_prefill", "attention_decode_16", "sample"} < parts.keys()
    assert list(parts)[-4:] == ["host", "links", "length estimate", "burstiness"]


def test_a_kernel_takes_longer_and_nothing_else_does(tmp_path: Path) -> None:
    config, parts = parts_of()
    slower = parts["gemm_down"](config, 1.5, tmp_path / "p.json")
    profile, before = load_profile(slower.run.costs), build_engine(config)[1].profile
    assert profile.kernels["gemm_down"].seconds == pytest.approx(
        [1.5 * value for value in before.kernels["gemm_down"].seconds or ()]
    )
    assert profile.kernels["gemm_o"] == before.kernels["gemm_o"]
    assert step_s(slower) > 1.05 * step_s(config)


def test_the_host_takes_longer(tmp_path: Path) -> None:
    config, parts = parts_of()
    slower = parts["host"](config, 2.0, tmp_path / "p.json")
    was, is_now = (build_engine(each)[1] for each in (config, slower))
    assert is_now.host_s(7) == pytest.approx(2.0 * was.host_s(7))
    assert is_now.step_s((), 8, 8000) == was.step_s((), 8, 8000)


def slow_host(tmp_path: Path, **run: Any) -> tuple[Config, dict[str, Vary]]:
    """A profile whose host has every kind of time."""
    profile = build_engine(parts_of()[0])[1].profile
    host = replace(profile.host, launch_s=0.02, chunked_s=0.003, next_chunk_s=0.001)
    write_profile(replace(profile, host=host), tmp_path / "host.json")
    return parts_of(costs=str(tmp_path / "host.json"), **run)


@pytest.mark.parametrize("given", [{}, {"host_step_ms": 7.0}, {"host_per_sequence_us": 50.0}])
def test_every_host_time_is_multiplied(tmp_path: Path, given: dict[str, float]) -> None:
    config, parts = slow_host(tmp_path, **given)
    slower = parts["host"](config, 1.5, tmp_path / "p.json")
    was, is_now = (build_engine(each)[1].host for each in (config, slower))
    for name in HOST_TIMES:
        assert getattr(is_now, name) == pytest.approx(1.5 * getattr(was, name)), name
    assert (was.launch_s, was.chunked_s, was.next_chunk_s) == (0.02, 0.003, 0.001)


@pytest.mark.parametrize("link", [None, 100.0])
def test_setting_up_a_copy_takes_longer(tmp_path: Path, link: float | None) -> None:
    config, parts = parts_of(host_link_gb_per_s=link)
    slower = parts["links"](config, 1.25, tmp_path / "p.json")
    was, is_now = (build_engine(each)[1].transfer_s(1, 10, "h2d") for each in (config, slower))
    assert is_now == pytest.approx(1.25 * was) and was > 0


@pytest.mark.parametrize("link", [None, 100.0])
def test_copies_take_longer(tmp_path: Path, link: float | None) -> None:
    config, parts = parts_of(host_link_gb_per_s=link)
    slower = parts["links"](config, 1.25, tmp_path / "p.json")
    was, is_now = (build_engine(each)[1].transfer_s(10**9, 1, "h2d") for each in (config, slower))
    assert is_now == pytest.approx(1.25 * was, rel=1e-3)


def test_only_who_estimates_lengths_estimates_longer_ones(tmp_path: Path) -> None:
    config, parts = parts_of(scheduler="rotating")
    varied = parts["length estimate"](config, 1.1, tmp_path / "p.json")
    assert varied.build_scheduler().length_scale == pytest.approx(1.1)
    plain, parts = parts_of(scheduler="vllm")
    assert parts["length estimate"](plain, 1.1, tmp_path / "p.json") == plain


def test_arrivals_get_burstier(tmp_path: Path) -> None:
    config, parts = parts_of()
    varied = parts["burstiness"](config, 1.1, tmp_path / "p.json")
    assert varied.run.burstiness == pytest.approx(1.1)


# -- the command ----------------------------------------------------------------------------------

FEW = ("--part", "gemm_gate_up", "--part", "host", "--part", "burstiness")


@pytest.mark.usefixtures("inline")
def test_the_outcome_is_written_shown_and_drawn(call: Callable[..., Called]) -> None:
    code, out, err = call("t.jsonl", "--schedulers", "vllm,fcfs", *FEW, "--out", "s", "--json")
    assert code == 0 and err[-1] == "results in s"
    told = json.loads(out)
    assert told == json.loads(Path("s/sensitivity.json").read_text())
    assert told["schedulers"] == ["vllm", "fcfs"] and told["metric"] == "slo_attainment"
    assert {each["part"] for each in told["parts"]} == {"gemm_gate_up", "host", "burstiness"}
    assert [each["swing"] for each in told["parts"]] == sorted(
        (each["swing"] for each in told["parts"]), reverse=True
    )
    assert Path("s/tornado.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in Path("s/tornado.svg").read_text()
    assert sorted(path.name for path in Path("s").iterdir()) == [
        "sensitivity.json",
        "tornado.png",
        "tornado.svg",
    ]


@pytest.mark.usefixtures("inline")
def test_a_table_names_metric_and_winner(call: Callable[..., Called]) -> None:
    code, out, _ = call(
        *("t.jsonl", "--schedulers", "vllm,fcfs", "--metric", "p99_ttft_ms", "--by", "20"),
        *("--part", "host", "--out", "s", "--no-plots"),
    )
    assert code == 0
    assert "p99_ttft_ms: fcfs less vllm" in out and "-20 %" in out and "host" in out
    assert [path.name for path in Path("s").iterdir()] == ["sensitivity.json"]


@pytest.mark.usefixtures("inline")
def test_seeds_pair_the_draws(call: Callable[..., Called], tmp_path: Path) -> None:
    chat = {
        "class": "chat",
        "rate_per_s": 6.0,
        "prompt": {"family": "fixed", "value": 900},
        "answer": {"family": "uniform", "min": 10, "max": 40},
    }
    spec = write_spec(tmp_path, document(5, chat=chat))
    code, out, _ = call(
        *(str(spec), "--schedulers", "vllm,fcfs", "--metric", "mean_ttft_ms", "--seeds", "2"),
        *("--part", "host", "--json", "--no-plots"),
    )
    assert code == 0
    told = json.loads(out)
    assert told["seeds"] == 2 and len(told["base"]["interval"]) == 2


@pytest.mark.usefixtures("inline")
def test_what_changes_nothing_does_not_apply(call: Callable[..., Called]) -> None:
    code, out, _ = call(
        *("t.jsonl", "--schedulers", "vllm,fcfs", "--concurrency", "4", "--metric", "mean_e2el_ms"),
        *("--part", "burstiness", "--part", "length estimate", "--part", "host"),
        *("--out", "s", "--json", "--no-plots"),
    )
    assert code == 0
    told = {each["part"]: each for each in json.loads(out)["parts"]}
    assert {name: each["applies"] for name, each in told.items()} == {
        "burstiness": False,
        "length estimate": False,
        "host": True,
    }
    assert told["burstiness"]["survives"] is told["length estimate"]["survives"] is None
    assert told["host"]["survives"] in (True, False)


@pytest.mark.usefixtures("inline")
def test_arms_may_have_other_kernels_and_any_name(call: Callable[..., Called]) -> None:
    """The second profile lacks a kernel and has the others in another order."""
    profile = build_engine(parts_of()[0])[1].profile
    kernels = dict(reversed(list(profile.kernels.items())))
    write_profile(replace(profile, kernels=kernels), Path("other.json"))
    more = {**profile.kernels, "attention_uneven": Kernel({"sequences": (1.0, 64.0)}, (1e-7, 2e-7))}
    write_profile(replace(profile, kernels=more), Path("more.json"))
    Path("a | host -.toml").write_text('[run]\nscheduler = "vllm"\ncosts = "other.json"\n')
    Path("a.toml").write_text('[run]\nscheduler = "fcfs"\ncosts = "more.json"\n')
    code, out, err = call(
        *("t.jsonl", "--arm", "a.toml", "--arm", "a | host -.toml", "--metric", "mean_e2el_ms"),
        *("--part", "host", "--part", "gemm_down", "--part", "attention_uneven"),
        *("--out", "s", "--json", "--no-plots"),
    )
    assert code == 0, err
    told = json.loads(out)
    assert told["schedulers"] == ["a", "a | host -"]
    found = {each["part"]: each["slower"]["values"] for each in told["parts"]}
    base = told["base"]["values"]
    assert all(value > was for value, was in zip(found["gemm_down"], base, strict=True))
    assert found["attention_uneven"][1] == base[1]


@pytest.mark.usefixtures("inline")
def test_it_warns_of_what_an_arm_assumes_and_left(call: Callable[..., Called]) -> None:
    profile = build_engine(parts_of()[0])[1].profile
    narrow = {**profile.range, "norm": {"tokens": [1, 64]}}
    write_profile(replace(profile, assumed={"norm": "a guess"}, range=narrow), Path("p.json"))
    code, _, err = call(
        *("t.jsonl", "--schedulers", "vllm,fcfs", "--set", "run.costs=p.json"),
        *("--part", "host", "--out", "s", "--no-plots"),
    )
    assert code == 0
    for name in ("vllm", "fcfs"):
        found = [line for line in err if line.startswith(f"warning: arm {name}: ")]
        assert len(found) == 2
        assert "of the step time is extrapolated" in found[0] and "assumes norm" in found[1]


def test_a_metric_is_looked_for_before_anything_runs(
    call: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "run_study", lambda *_: pytest.fail("ran"))
    for metric in ("nope", "classes.chat.nope", "classes.nobody.p99_ttft_ms", "trust"):
        code, _, err = call("t.jsonl", "--metric", metric, "--out", "s")
        assert (
            code == 2 and f"--metric: expected a number of the summary, got {metric!r}" in err[-1]
        )
    assert not Path("s").exists()


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_stopped(
    call: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With worker processes; the first try ends when the runs are done, before the conclusion."""
    arguments = ("t.jsonl", "--schedulers", "vllm,fcfs", "--part", "host", "--out", "s", "--json")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sensitivity, "_conclude", stop)
        assert call(*arguments)[0] == 130
    kept = {path.stat().st_ino for path in Path("s/.study").glob("*/summary.json")}
    assert len(kept) == 6
    monkeypatch.setattr(sensitivity, "finish", lambda root: None)
    code, out, _ = call(*arguments)
    assert code == 0 and json.loads(out)["parts"][0]["part"] == "host"
    assert {path.stat().st_ino for path in Path("s/.study").glob("*/summary.json")} == kept


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none.jsonl",), "none.jsonl: expected a trace file, got no such file"),
        (("t.jsonl", "--schedulers", "vllm"), "sensitivity: expected two or more"),
        (("t.jsonl", "--schedulers", "vllm,fcfs,priority"), "expected two schedulers or arms"),
        (("t.jsonl", "--part", "gemm_qkx"), "--part: expected one of .*gemm_qkx.*gemm_qkv"),
        (("t.jsonl", "--device", "l40s"), "run.costs: expected a profile, got roofline:l40s"),
        (("t.jsonl", "--seeds", "2"), "t.jsonl is the same for every seed"),
        (("t.jsonl", "--by", "100"), "by"),
        (
            ("t.jsonl", "--part", "host", "--metric", "ttft"),
            "--metric: expected a number of the summary",
        ),
    ],
)
def test_a_mistake_takes_one_line(
    call: Callable[..., Called], arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = call(*arguments, "--out", "s")
    assert (code, out) == (2, "")
    (line,) = [line for line in err if line.startswith("error: ")]
    assert pytest.raises(AssertionError, match=words).matches(AssertionError(line)), line


# -- the outcome ----------------------------------------------------------------------------------


def outcome(**changes: Any) -> dict[str, Any]:
    ends = {
        "faster": {"values": [1.0, 2.0], "difference": 1.0, "interval": None, "winner": "a"},
        "slower": {"values": [1.0, 0.5], "difference": -0.5, "interval": None, "winner": "b"},
    }
    part = {"part": "gemm_o", **ends, "survives": False, "swing": 1.5}
    base = {"values": [1.0, 1.5], "difference": 0.5, "interval": None, "winner": "a"}
    return {
        "metric": "mean_ttft_ms",
        "by": 0.1,
        "schedulers": ["a", "b"],
        "base": base,
        "parts": [part],
    } | changes


def test_the_table_says_where_the_winner_changes() -> None:
    told = outcome()
    shown = text(sensitivity_table(told), 100)
    assert "a / b" in shown and "NO" in shown and "+1" in shown and "-0.5" in shown
    assert conclusion(told) == "a is better, but not under an error of 10 % of: gemm_o."


def test_conclusions_in_words() -> None:
    survives = {**outcome()["parts"][0], "survives": True}
    idle = {**survives, "part": "burstiness", "survives": None}
    assert conclusion(outcome(parts=[survives, idle])) == (
        "a is better under every error of 10 % of 1 part. Nothing here depends on: burstiness."
    )
    assert conclusion(outcome(parts=[survives])) == (
        "a is better under every error of 10 % of 1 part."
    )
    both = conclusion(outcome(parts=[survives, survives]))
    assert both == "a is better under every error of 10 % of 2 parts."
    tie = {"values": [1.0, 1.0], "difference": 0.0, "interval": None, "winner": None}
    assert "do not differ" in conclusion(outcome(base=tie))


@pytest.mark.parametrize(
    ("base", "ends", "words", "lines"),
    [
        (-10.0, (-14.0, -6.0), "(red: no difference)", 2),
        (-10.0, (-14.0, 1.0), "(red: no difference)", 2),
        (-300.0, (-310.0, -290.0), "(0, no difference, is far to the right)", 1),
        (300.0, (310.0, 290.0), "(0, no difference, is far to the left)", 1),
        (-300.0, (-300.0, -300.0), "(red: no difference)", 2),
    ],
)
def test_bars_are_no_slivers_beside_a_zero_far_away(
    base: float, ends: tuple[float, float], words: str, lines: int
) -> None:
    axes = Figure().subplots()
    told = outcome(base={**outcome()["base"], "difference": base})
    tornado_panel(axes, told, [Bar("host", *ends, survives=True)])
    assert axes.get_xlabel().endswith(words)
    assert len(axes.lines) == lines


def test_the_same_outcome_gives_the_same_picture(tmp_path: Path) -> None:
    told = outcome()
    pictures = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        pictures.append([path.read_bytes() for path in write_tornado(told, tmp_path / name)])
    assert pictures[0] == pictures[1]
