"""`superinfer-sim plan`: the fewest GPUs, what they cost, and why none may be enough."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from inline_engine import Inline
from specs import document, write_spec

from sim.studies.candidates import Candidate, Plan, PlanWish
from sim.studies.plan import reaches
from sim.summaries import simulated
from sim.workload import load_workload
from superinfer.costs import DEVICES, CalibratedCost, build_cost, write_profile
from superinfer.errors import ConfigError, InputError
from superinfer.lab.config import Config, load_config
from superinfer.lab.pictures.goodput import Curve, write_goodput_plot
from superinfer.lab.prices import EXAMPLES, Price, Prices, load_prices
from superinfer.lab.studies.bisect import Fewest
from superinfer.metrics import RunMetrics
from traces.workload import Workload

Call = Callable[..., tuple[int, str, str]]


def trace(prompt: int, requests: int = 40) -> str:
    """Chat in a clump: a single replica makes the last ones wait too long."""
    record = {"input_length": prompt, "output_length": 20, "class": "chat"}
    return "".join(json.dumps({"timestamp": 40 * i, **record}) + "\n" for i in range(requests))


@pytest.fixture(autouse=True)
def folder(work_folder: Path) -> Path:
    """A working folder with a small trace in it."""
    (work_folder / "t.jsonl").write_text(trace(2000))
    return work_folder


@pytest.fixture
def cli(command: Call) -> Call:
    return partial(command, "plan")


# -- the search -----------------------------------------------------------------------------------


def tried(enough: int, most: int, first: int = 1) -> tuple[int | None, list[int]]:
    search, counts = Fewest(most, first), list[int]()
    while (count := search.wanted) is not None:
        counts.append(count)
        search.tell(count >= enough)
    return search.found, counts


@pytest.mark.parametrize(
    ("enough", "most", "first", "found", "counts"),
    [
        (1, 64, 1, 1, [1]),
        (2, 64, 1, 2, [1, 2]),
        (5, 64, 1, 5, [1, 2, 4, 8, 6, 5]),
        (6, 7, 1, 6, [1, 2, 4, 7, 5, 6]),
        (9, 8, 1, None, [1, 2, 4, 8]),
        (2, 1, 1, None, [1]),
        (6, 8, 5, 6, [5, 8, 6]),
        (2, 8, 5, 2, [5, 2, 1]),
    ],
)
def test_fewest(enough: int, most: int, first: int, found: int | None, counts: list[int]) -> None:
    assert tried(enough, most, first) == (found, counts)


@pytest.mark.parametrize("enough", range(1, 20))
def test_what_is_found_rests_on_its_neighbour(enough: int) -> None:
    found, counts = tried(enough, 30)
    assert found == enough
    assert enough == 1 or enough - 1 in counts
    assert len(set(counts)) == len(counts) <= 2 * enough.bit_length() + 1


@pytest.mark.parametrize(("most", "first"), [(0, 1), (3, 4), (3, 0)])
def test_fewest_of_nothing(most: int, first: int) -> None:
    with pytest.raises(ConfigError, match="expected 1 <= first <= most"):
        Fewest(most, first)


# -- prices ---------------------------------------------------------------------------------------


def test_every_device_has_an_example() -> None:
    prices = load_prices()
    assert prices.devices.keys() == DEVICES.keys()
    assert all(price.source.startswith("example") for price in prices.devices.values())
    assert "examples" in EXAMPLES.read_text().splitlines()[0]


def test_what_a_million_tokens_cost(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("version = 1\n[devices.h100]\nper_gpu_hour = 3.6\n")
    prices = load_prices(tmp_path / "p.toml")
    # Four GPUs for 14.4 an hour; 1,000 tokens/s are 3.6 million an hour.
    assert prices.per_million("h100", 4, 1000.0) == pytest.approx(4.0)
    assert prices.devices["h100"].source == "not named"
    assert prices.devices["a100-80g"].source.startswith("example")
    assert prices.per_million("h100", 4, None) is None
    assert prices.per_million("abacus", 4, 1000.0) is None


def test_examples_are_in_one_currency(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(
        'version = 1\ncurrency = "EUR"\n[devices.h100]\nper_gpu_hour = 3\nsource = "contract"\n'
    )
    prices = load_prices(tmp_path / "p.toml")
    assert (prices.currency, list(prices.devices)) == ("EUR", ["h100"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version = ", "expected TOML"),
        ("version = 2\nnew = 3", "version: expected 1, got 2"),
        (
            "version = 1\n[devices.h100]\nper_gpu_hour = -1",
            "devices.h100.per_gpu_hour: expected a number >= 0, got -1",
        ),
        (
            "version = 1\n[devices.h100]\nper_gpu_hour = '3'",
            "devices.h100.per_gpu_hour: expected a number, got '3'",
        ),
        (
            "version = 1\n[devices.h100]\nper_hour = 1",
            "devices.h100.per_hour: unknown.*; expected one of per_gpu_hour, source",
        ),
        (
            "version = 1\n[devices.h100]\nsource = 'x'",
            "devices.h100.per_gpu_hour: expected a number, got nothing",
        ),
        ("version = 1\n[devices]\nh100 = 3", "devices.h100: expected a table, got 3"),
        ("version = 1\ndevices = 3", "devices: expected a table, got 3"),
        ("version = 1\ncurency = 'EUR'", r"curency: unknown \(did you mean 'currency'\?\); expec"),
        ("[devices.h100]\nper_gpu_hour = 1", "version: expected a number, got nothing"),
        (
            "version = 1\n[devices.h10]\nper_gpu_hour = 1",
            "devices.h10: expected a device that is known, got 'h10'.*h100",
        ),
    ],
)
def test_bad_prices(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        load_prices(tmp_path / "p.toml")
    assert "p.toml" in str(caught.value)


def test_prices_of_devices_that_are_wished_for(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("version = 1\n[devices.abacus]\nper_gpu_hour = 2\n")
    prices = load_prices(tmp_path / "p.toml", ["abacus"])
    assert prices.devices["abacus"].per_gpu_hour == 2.0


# -- the plan -------------------------------------------------------------------------------------


def attainment(replicas: int, *settings: str) -> float:
    chosen = load_config(None, settings, trace="t.jsonl", replicas=replicas)
    return float(simulated(chosen, load_workload(chosen))[1]["slo_attainment"])


def test_a_plan_and_how_it_goes_on(cli: Call) -> None:
    arguments = ("t.jsonl", "--tp", "1", "--workers", "1", "--out", "plan", "--json", "--no-plots")
    code, out, err = cli(*arguments)
    plan = json.loads(out)
    assert code == 0
    assert plan == json.loads(Path("plan/plan.json").read_text())
    (found,) = plan["candidates"]
    replicas = plan["answer"]["replicas"]
    assert plan["answer"] == {"device": "a100-80g", "tp": 1, "replicas": replicas, "gpus": replicas}
    assert replicas > 1
    assert attainment(replicas) == found["slo_attainment"] >= 0.95 > attainment(replicas - 1)
    assert found["goodput_per_gpu"] == pytest.approx(found["request_goodput"] / replicas)
    per_hour = replicas * load_prices().devices["a100-80g"].per_gpu_hour
    assert found["per_hour"] == pytest.approx(per_hour)
    tokens = 3600 * found["output_throughput"]
    assert found["per_million_output_tokens"] == pytest.approx(1e6 * per_hour / tokens)
    assert {replicas - 1, replicas} <= {probe["replicas"] for probe in found["probes"]}
    assert "prices of a100-80g are examples" in err
    assert "plan in plan\n" in err and not Path("plan/goodput.png").exists()
    stored = {path: path.stat().st_mtime_ns for path in Path("plan/study").glob("*/summary.json")}
    assert len(stored) == len(found["probes"]) + 1  # and one alone
    assert json.loads(cli(*arguments)[1]) == plan
    again = {path: path.stat().st_mtime_ns for path in Path("plan/study").glob("*/summary.json")}
    assert again == stored


def test_every_draw_has_to_keep_the_targets(cli: Call, folder: Path) -> None:
    """What is shown is of the draw that keeps them least, and one replica less was not enough."""
    burst = {
        "class": "chat",
        "rate_per_s": 20.0,
        "prompt": {"family": "lognormal", "mean": 1500, "sigma": 1.0, "max": 6000},
        "answer": {"family": "fixed", "value": 10},
    }
    write_spec(folder, document(4, chat=burst))
    given = ("spec.toml", "--tp", "1", "--workers", "1", "--no-plots")
    code, shown, err = cli(*given, "--seeds", "3", "--out", "several")
    assert code == 0
    plan = json.loads(Path("several/plan.json").read_text())
    (found,) = plan["candidates"]
    kept = {probe["replicas"]: probe["attainments"] for probe in found["probes"]}
    replicas = found["replicas"]
    assert plan["seeds"] == 3
    assert min(kept[replicas]) == found["slo_attainment"] >= 0.95 > min(kept[replicas - 1])
    assert len(set(kept[replicas - 1])) == 3
    alone = [float(simulated(c, load_workload(c))[1]["slo_attainment"]) for c in drawn(replicas)]
    assert kept[replicas] == alone
    less = f"{100 * min(kept[replicas - 1]):.4g} % do (simulated)."
    told = " ".join(shown.split())
    assert "meet their targets in the worst of 3 draws; with " in told and less in told
    assert f"{100 * found['slo_attainment']:.4g} % meet their targets in the worst of 3" in err


def drawn(replicas: int) -> list[Config]:
    return [load_config(None, trace="spec.toml", replicas=replicas, seed=n) for n in range(3)]


Shares = dict[tuple[int, int], list[float | None]]
"""By the degree and the number of replicas, 0 being alone: what each draw is to give."""


def planned(
    cli: Call, monkeypatch: pytest.MonkeyPatch, shares: Shares, *more: str
) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """What a plan finds out of each degree where runs give these shares, and what it says."""
    write_spec(Path(), document(1, chat={"class": "chat", "rate_per_s": 2.0, **FEW}))

    def with_share(config: Config, workload: Workload) -> tuple[RunMetrics, dict[str, Any]]:
        metrics, summary = simulated(config, workload)
        run = config.run
        share = shares[run.tp, 0 if run.concurrency else run.replicas][run.seed]
        return metrics, {**summary, "slo_attainment": share}

    monkeypatch.setattr("sim.studies.plan.simulated", with_share)
    monkeypatch.setattr("superinfer.lab.studies.study.Processes", lambda _: Inline())
    degrees = ",".join(str(tp) for tp in sorted({tp for tp, _ in shares}))
    given = ("--tp", degrees, "--seeds", "2", "--out", "plan", "--json", *more)
    code, out, err = cli("spec.toml", *given)
    assert code == 0, err
    return {each["tp"]: each for each in json.loads(out)["candidates"]}, err.splitlines()


FEW = {
    "prompt": {"family": "fixed", "value": 20},
    "answer": {"family": "fixed", "value": 2},
}


def test_alone_too_the_worst_draw_counts(cli: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in which nobody is judged is as bad as one in which all are late."""
    found, _ = planned(
        cli,
        monkeypatch,
        {(1, 0): [0.9, 1.0], (2, 0): [1.0, None], (4, 0): [1.0, 0.95], (4, 1): [1.0, 1.0]},
        "--no-plots",
    )
    assert [each["alone_attainment"] for each in found.values()] == [0.9, None, 0.95]
    assert [each["replicas"] for each in found.values()] == [None, None, 1]


def test_the_most_gpus_bound_the_replicas(cli: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture is over GPUs, too."""
    drawn = []
    write = "superinfer.lab.pictures.goodput.write_goodput_plot"
    monkeypatch.setattr(write, lambda curves, *_: drawn.extend(curves))
    shares: Shares = {(4, 0): [1.0, 1.0], (4, 1): [0.5, 0.4], (4, 2): [0.9, 1.0]}
    found, err = planned(cli, monkeypatch, shares, "--max-gpus", "11")
    assert (found[4]["replicas"], [each["gpus"] for each in found[4]["probes"]]) == (None, [4, 8])
    assert "a100-80g, tp 4, 1 replica: 40 % meet their targets in the worst of 2 draws" in err
    assert [(curve.gpus, curve.attainment) for curve in drawn] == [([4, 8], [0.4, 0.9])]


def test_a_candidate_that_does_not_fit_is_not_run(
    cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: Shares = {(1, 0): [], (4, 0): [1.0, 1.0], (4, 1): [1.0, 1.0]}
    found, err = planned(cli, monkeypatch, shares, "--model", "llama-3.1-70b", "--no-plots")
    assert (found[1]["failure"], found[4]["replicas"]) == (None, 1)
    assert f"warning: a100-80g, tp 1: left out: {found[1]['unfit']}" in err


def test_a_share_that_rounding_put_below_is_reached() -> None:
    wish = PlanWish(("any",), attainment=0.1 + 0.2)
    assert wish.attainment > 0.3 and reaches({"slo_attainment": 0.3}, wish)
    assert not reaches({"slo_attainment": 0.3 - 1e-9}, wish)


def test_of_equally_many_gpus_the_cheapest_comes_first_and_the_unpriced_last() -> None:
    config = load_config(None, [], trace="t.jsonl")
    prices = Prices("USD", {"dear": Price(3.0), "free": Price(0.0), "cheap": Price(2.0)})
    candidates = []
    for device in ("unpriced", "dear", "cheap", "free"):
        search = Fewest(8)
        search.tell(True)
        candidates.append(Candidate(device, 1, config, search=search))
    plan = Plan(config, PlanWish(("any",)), prices, candidates)
    assert [each.device for each in plan.found()] == ["free", "cheap", "dear", "unpriced"]


def test_gpus_are_counted_and_paid_rather_than_replicas() -> None:
    """Two replicas of four GPUs at 3.6 an hour each: 28.8 an hour, in which 1,000 tokens a second
    make 3.6 million. Three replicas of one GPU are fewer; the last candidate keeps no target.
    """
    config = load_config(None, [], trace="t.jsonl")
    told = {4: [False, True], 1: [False, False, True, True], 2: [False] * 4}
    candidates = []
    for tp, answers in told.items():
        search = Fewest(8)
        for kept in answers:
            search.tell(kept)
        probes: dict[int, Any] = {2: {"rate": 1000.0}, 3: {"rate": 500.0}}
        candidates.append(Candidate("dear", tp, config, search=search, probes=probes))
    four, one, none = candidates
    plan = Plan(config, PlanWish(("any",)), Prices("USD", {"dear": Price(3.6)}), candidates)
    assert [(each.tp, each.replicas, each.gpus) for each in plan.found()] == [(1, 3, 3), (4, 2, 8)]
    assert plan.per_hour(four) == pytest.approx(28.8)
    assert plan.per_million(four, "rate") == pytest.approx(8.0)
    assert plan.per_million(one, "rate") == pytest.approx(6.0)
    assert (none.gpus, plan.per_hour(none), plan.per_million(none, "rate")) == (None, None, None)


def test_targets_that_no_number_of_replicas_keeps(cli: Call) -> None:
    given = ("t.jsonl", "--tp", "1", "--limit", "4", "--workers", "1", "--out", "plan")
    given += ("--set", "classes.chat.ttft_ms=20")
    assert "No candidate of up to 1 GPU keeps the targets." in cli(*given, "--max-gpus", "1")[1]
    code, out, err = cli(*given)
    assert code == 0
    assert "No candidate of up to 64 GPUs keeps the targets." in out
    assert "a100-80g, tp 1: no number of replicas helps: alone on an empty machine 0 %" in err
    assert "class chat misses TTFT 20 ms in 100 % of its requests (a prompt of 2,000" in err
    assert Path("plan/goodput.png").exists()
    assert len(list(Path("plan/study").glob("*/summary.json"))) == 1


def test_candidates_on_which_the_model_does_not_fit(cli: Call) -> None:
    given = ("t.jsonl", "--model", "llama-3.1-70b", "--out", "plan")
    code, out, err = cli(*given, "--device", "l40s", "--tp", "1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "no candidate can run: l40s, tp 1: " in err
    assert not Path("plan").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--device", "h10"), "unknown device 'h10'"),
        (("--device", "h10"), "(did you mean 'h100'?)"),
        (("--model", "lama-3.1-8b"), "(did you mean 'llama-3.1-8b'?)"),
        (("--device", ","), "--device: expected names"),
        (("--tp", "two"), "--tp: expected whole numbers above 0, got 'two'"),
        (("--tp", "0"), "--tp: expected"),
        (("--max-gpus", "2", "--tp", "4"), "--max-gpus 2: expected at least the smallest --tp"),
        (("--attainment", "0.99"), "--attainment"),
        (("--seeds", "2"), "--seeds 2: t.jsonl is the same for every seed"),
        (("--prices", "none.toml"), "none.toml"),
        (("--router", "nearest"), "router 'nearest'"),
        (("--set", "run.without_slo=true"), "t.jsonl: expected requests with targets"),
        (("--set", "run.slow_replicas.0=2"), "run.slow_replicas: expected none"),
        (("--out", "."), "--out: expected"),
    ],
)
def test_bad_input_is_one_line(cli: Call, arguments: Sequence[str], words: str) -> None:
    out = () if "--out" in arguments else ("--out", "plan")
    code, printed, err = cli("t.jsonl", *arguments, *out)
    assert (code, printed, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert words in err
    assert not Path("plan").exists()


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (
            "replicas = 4\ndevice = 'h200'\ntp = 16",
            [
                "note: run.replicas: 4 is not used: a plan looks for their number",
                "note: run.device: h200 is not tried: --device has h100, a100-80g",
                "note: run.tp: 16 is not tried: --tp has 1, 2",
            ],
        ),
        ("device = 'H100'\ntp = 2", []),
        ("", []),
    ],
)
def test_what_a_configuration_says_of_the_machine_and_a_plan_leaves_out(
    cli: Call, table: str, told: list[str]
) -> None:
    """A mistake ends it before anything runs."""
    Path("run.toml").write_text(f"[run]\n{table}\n")
    wish = ("--device", "h100,a100-80g", "--tp", "1,2", "--seeds", "2", "--config", "run.toml")
    code, _, err = cli("t.jsonl", *wish)
    assert (code, err.splitlines()[:-1]) == (2, told)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("--duration", "0.01"), "--duration 0.01"),
        (("--set", "run.window_s=[0, 0.01]"), "run.window_s = [0.0, 0.01]"),
    ],
)
def test_a_run_that_judges_nobody_is_one_line(cli: Call, given: Sequence[str], named: str) -> None:
    """What is judged ends before anybody comes."""
    Path("late.jsonl").write_text(trace(2000, 4).replace('"timestamp": ', '"timestamp": 9'))
    code, out, err = cli("late.jsonl", "--tp", "1", *given, "--workers", "1", "--out", "plan")
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line == (
        f"error: a100-80g, tp 1, 1 replica with {named}: expected a request with targets "
        "that can be judged, got none"
    )


@pytest.fixture
def weak_costs() -> str:
    """A profile with a kernel of an assumed shape, measured on very short prompts only."""
    cost = build_cost("llama-3.1-8b", "a100-80g", 1, "calibrated")
    assert isinstance(cost, CalibratedCost)
    narrow = {"attention_prefill": {"chunk_tokens": [1, 8]}}
    write_profile(replace(cost.profile, assumed={"norm": "a guess"}, range=narrow), Path("p.json"))
    return "run.costs=p.json"


def test_a_plan_warns_of_kernels_that_are_assumed(cli: Call, weak_costs: str) -> None:
    code, _, err = cli(
        *("t.jsonl", "--tp", "1", "--limit", "4", "--workers", "1", "--out", "plan"),
        *("--set", weak_costs, "--no-plots"),
    )
    assert code == 0
    assert "warning: a100-80g, tp 1: " in err and "assumes norm" in err


HOPELESS = "[classes.default]\nttft_ms = 0.001\n"
TOO_MUCH = "[classes.default]\nttft_ms = 400\n"


@pytest.mark.parametrize(("targets", "most"), [(HOPELESS, "64"), (TOO_MUCH, "1")])
def test_and_of_those_of_candidates_that_are_out(
    cli: Call, weak_costs: str, targets: str, most: str
) -> None:
    """Why they are out rests on the same step times: out alone, and out with the most replicas."""
    Path("classes.toml").write_text(targets)
    record = '{"timestamp":0,"input_length":3000,"output_length":4}\n'
    Path("crowd.jsonl").write_text(record * 20)
    code, out, err = cli(
        *("crowd.jsonl", "--tp", "1", "--workers", "1", "--out", "plan", "--json", "--no-plots"),
        *("--classes", "classes.toml", "--max-gpus", most, "--set", weak_costs),
    )
    assert code == 0
    plan = json.loads(out)
    assert plan["answer"] is None
    words = [line for line in plan["warnings"] if line.startswith("a100-80g, tp 1: ")]
    assert any("assumes norm" in line for line in words)
    assert any("of the step time is extrapolated from a100-80g" in line for line in words)
    assert all(f"warning: {line}" in err for line in words)
    reason = "no number of replicas helps" if most == "64" else "1 replica is not enough"
    assert any(reason in line for line in words)


def test_waits_that_grow_are_told_in_one_line(cli: Call) -> None:
    Path("much.jsonl").write_text(trace(8000, 200))
    Path("classes.toml").write_text("[classes.chat]\nttft_ms = 1e6\n")
    code, out, err = cli(
        *("much.jsonl", "--tp", "1,2", "--workers", "1", "--out", "plan", "--no-plots"),
        *("--classes", "classes.toml"),
    )
    assert code == 0 and "(simulated)" in " ".join(out.split())
    (line,) = (line for line in err.splitlines() if "grow through the run" in line)
    named = "a100-80g, tp 1: chat; a100-80g, tp 2: chat"
    assert line.startswith(f"warning: waits grow through the run ({named}): the load seems to be ")


def test_a_class_that_stays_below_is_told(cli: Call, folder: Path) -> None:
    """Where many short requests make up for few that are late."""
    lines = [{"timestamp": 9 * i, "input_length": 9, "output_length": 2} for i in range(400)]
    rows = [{**line, "class": "chat" if i % 20 else "code"} for i, line in enumerate(lines)]
    for row in rows[::40]:
        row["slo"] = {"ttft_ms": 1}
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = cli("t.jsonl", "--tp", "1", "--attainment", "97", "--no-plots")
    told = "warning: 97 % of all requests is not 97 % of each class: a100-80g, tp 1: code 50 %\n"
    assert (code, told in err) == (0, True), err
    code, _, err = cli("t.jsonl", "--tp", "1", "--attainment", "40", "--no-plots")
    assert (code, "of each class" in err) == (0, False)


def test_step_times_from_nominal_figures_are_told(cli: Call) -> None:
    wish = ("t.jsonl", "--device", "a100-80g,h100", "--workers", "1", "--no-plots", "--json")
    for degrees, words in (
        ("1", ""),
        ("2", "a100-80g, tp 2; h100, tp 2: step times are nominal figures, and no real step is"),
        ("1,2", "as fast; those of the others are from profiles"),
    ):
        code, out, _ = cli(*wish, "--tp", degrees, "--out", f"plan-{degrees}")
        assert code == 0
        told = [line for line in json.loads(out)["warnings"] if "nominal" in line]
        assert len(told) == bool(words) and words in "".join(told)


def test_a_plan_of_the_configuration_of_a_run(cli: Call) -> None:
    """Its device is that of the plan; replicas and the GPUs of each are what is looked for."""
    Path("run.toml").write_text('[run]\ntrace = "t.jsonl"\ndevice = "h100"\nreplicas = 3\ntp = 2\n')
    wish = ("--config", "run.toml", "--tp", "1", "--limit", "4", "--workers", "1", "--no-plots")
    code, out, err = cli(*wish, "--json", "--out", "plan")
    assert code == 0
    assert json.loads(out)["answer"] == {"device": "h100", "tp": 1, "replicas": 1, "gpus": 1}
    assert "note: run.replicas: 3 is not used: a plan looks for their number\n" in err
    assert "note: run.tp: 2 is not tried: --tp has 1\n" in err
    _, out, err = cli(*wish, "--device", "a100-80g", "--json", "--out", "other")
    assert json.loads(out)["answer"]["device"] == "a100-80g"
    assert "note: run.device: h100 is not tried: --device has a100-80g\n" in err


def test_a_candidate_whose_run_fails_is_out(cli: Call) -> None:
    stuck = ("--scheduler", "harness:IdleScheduler", "--out", "plan", "--no-plots")
    code, out, err = cli("t.jsonl", "--tp", "1", *stuck)
    assert (code, "No candidate of up to 64 GPUs" in out) == (1, True)
    assert "warning: a100-80g, tp 1: left out: scheduler 'harness:IdleScheduler' (" in err


def test_a_folder_that_is_no_plan_is_left_alone(cli: Call) -> None:
    Path("other").mkdir()
    Path("other/notes.txt").write_text("mine")
    code, _, err = cli("t.jsonl", "--out", "other")
    assert code == 2
    assert "expected a new folder, or one to go on with: other" in err


@pytest.mark.parametrize("curves", [0, 2])
def test_the_picture(tmp_path: Path, curves: int) -> None:
    drawn: list[Any] = [
        Curve(f"device $x$, tp {i}", [1, 2, 4], [1.0, 2.0, 3.0], [0.4, 0.8, 1.0], 4)
        for i in range(curves)
    ]
    path = write_goodput_plot(drawn, 0.95, tmp_path / "goodput.png")
    assert path.read_bytes().startswith(b"\x89PNG")
