"""Reports: complete, well-formed, safe from what users write, and the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pages import HURT, STEPS, Bounds, Page, compared, stored
from records import Job, build, large_record, wave

from superinfer.errors import ConfigError, InputError
from superinfer.lab import report as report_module
from superinfer.lab.pictures.data import PlotData
from superinfer.lab.report import write_compare_report, write_report
from superinfer.lab.results import load_run
from superinfer.metrics import Window
from superinfer.records.run import RunRecord
from superinfer.request import SLO

NASTY = "<script>alert('x')</script>&amp; $\\frac{1}{ \u202e\x07 \u65e5\u672c _"


@pytest.fixture(scope="module")
def report(usual: Path) -> Path:
    return write_report(usual)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    record = large_record(requests=300, steps=4000, mean_tokens=40)
    return stored(tmp_path_factory.mktemp("usual") / "run", record)


# -- one run --------------------------------------------------------------------------------------


def test_all_parts_of_a_run(usual: Path, report: Path) -> None:
    assert report == usual / "report.html"
    page = Page(report)
    parts = ("metrics", "attainment", "latency", "load", "traffic", "tenants", "hurt", "trust")
    assert set(parts) <= set(page.ids)
    assert page.tags.count("svg") == page.tags.count("figure") == 8
    assert page.tags.count("table") == page.tags.count("caption")
    assert "vllm on day.jsonl simulated" in page.words
    headline = "simulated Step times: a100_m-8b; 8.00 % mean error of its worst kernel; 25 %"
    assert headline in page.words.replace("\u00a0", " ")
    for words in ("beyond it 25.00 %", "at points held out 8.00 %", "host time of a step assumed"):
        assert words in page.words.replace("\u00a0", " ")
    assert "went for no single request, and are in the row of all alone" in page.words
    for word in ("day.jsonl", "vllm", "m-8b", "a100, tensor parallel 2", "9.9.9", "assumed"):
        assert word in page.words


def test_copies_are_drawn_only_where_there_were_any(usual: Path, tmp_path: Path) -> None:
    """Nothing moved, or the folder is of an earlier version, which did not say when."""
    assert {"rotations-title", "copies-title"} <= set(Page(write_report(usual)).ids)
    for number, columns in enumerate(({}, {"d2h_bytes": 0, "h2d_bytes": 0, "rotations": 0})):
        run = report_module.load_run(shutil.copytree(usual, tmp_path / str(number)))
        moved = ["d2h_bytes", "h2d_bytes", "rotations"]
        run.timeline = run.timeline.drop(columns=moved).assign(**columns)
        page = Page(write_report(run))
        assert page.tags.count("figure") == 6
        assert not {"rotations-title", "copies-title"} & set(page.ids)


def test_a_moment_is_at_one_place_in_all_panels(usual: Path, tmp_path: Path) -> None:
    """However wide the numbers beside them are."""
    run = report_module.load_run(shutil.copytree(usual, tmp_path / "run"))
    run.timeline = run.timeline.assign(running=54_321)
    text = write_report(run).read_text()
    frame = r'id="{}-patch_2">\s*<path d="M ([\d.]+) [\d.]+ ([\d.]+) '
    ends = {
        re.search(frame.format(name), text).groups()  # type: ignore[union-attr]
        for name in ("queue", "kv", "rotations", "copies")
    }
    assert len(ends) == 1


def test_counts_are_whole_and_shared_targets_are_shown(usual: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(usual, folder)
    summary = json.loads((folder / "summary.json").read_text())
    counters = {"rises": 6.0, "mean_wait": 6.5, "nothing_to_count": None}
    summary |= {"counters": counters, "slo": {"ttft_ms": 1234.0}}
    (folder / "summary.json").write_text(json.dumps(summary))
    words = Page(write_report(folder)).words.replace("\u00a0", " ")
    assert "rises 6 mean_wait 6.50 nothing_to_count \N{EN DASH}" in words
    assert words.count("TTFT \N{LESS-THAN OR EQUAL TO} 1,234 ms") == 1


def test_a_page_says_of_what_bytes_are(usual: Path, tmp_path: Path) -> None:
    """Those of a cluster are no GPU's, for its replicas are added up."""
    folder = shutil.copytree(usual, tmp_path / "run")
    assert Page(write_report(folder)).words.count("Bytes are per GPU.") == 1
    summary = json.loads((folder / "summary.json").read_text())
    summary["replicas"] = [{"replica": 0}, {"replica": 1}]
    (folder / "summary.json").write_text(json.dumps(summary))
    words = Page(write_report(folder)).words
    assert "Bytes are per GPU, the sum of all replicas." in words
    assert "Bytes are per GPU." not in words


def test_figures_of_the_page_are_those_of_the_summary(usual: Path, report: Path) -> None:
    summary = PlotData.of_run(report_module.load_run(usual)).summary
    words = Page(report).words.replace("\u00a0", " ")
    assert f"SLO attainment {100 * summary['slo_attainment']:.2f} %" in words
    assert f"TTFT {summary['mean_ttft_ms']:,.0f}" in words
    assert f"output tokens/s {summary['output_throughput']:,.0f}" in words
    assert f"Jain index of their shares: {summary['jain_index']:.3f}" in words
    assert f"{summary['vtc_gap']:,.0f} weighted tokens" in words
    for name, group in summary["classes"].items():
        stall, wait = (f"{group[f'worst_{kind}_ms']:,.0f}" for kind in ("stall", "wait"))
        assert f"{name} {stall} {wait}" in words


def test_a_page_needs_nothing_from_outside(report: Path) -> None:
    page = Page(report)
    assert "script" not in page.tags
    inside = {link for link in page.links if link.startswith("#")}
    assert set(page.links) - inside == {"data:,"}
    assert {link[1:] for link in inside} <= set(page.ids)
    assert (
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\""
        in report.read_text()
    )
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", report.read_text())


def test_ids_are_unique_and_references_have_their_target(report: Path) -> None:
    ids = Page(report).ids
    assert len(ids) == len(set(ids))
    pointed = re.findall(r"url\(#([^)]+)\)", report.read_text())
    assert pointed
    assert set(pointed) <= set(ids)


def test_the_same_folder_gives_the_same_bytes_in_another_process(usual: Path) -> None:
    first = hashlib.sha256(write_report(usual).read_bytes()).hexdigest()
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    program = (
        "import sys, hashlib; from pathlib import Path\n"
        "from superinfer.lab.report import write_report\n"
        "print(hashlib.sha256(write_report(Path(sys.argv[1])).read_bytes()).hexdigest())"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(usual)],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == first


def test_names_of_users_are_text_and_nothing_else(tmp_path: Path) -> None:
    jobs = [
        Job(i, 10, 1, 9 + i, 9 + i, group=NASTY, tenant=f"{NASTY}{i}", slo=SLO(ttft_s=0.5 + i % 2))
        for i in range(4)
    ]
    jobs += [Job(0, 9, 0, finish_s=0, state="rejected", group="</table>", slo=SLO(ttft_s=1))]
    folder = stored(tmp_path / "run", build(jobs, [], timeline=wave(9)), trace=NASTY)
    page = Page(write_report(folder))
    assert "script" not in page.tags
    assert page.words.count("<script>alert('x')</script>&amp; $\\frac{1}{") > 10
    assert "\u202e" not in page.words
    assert "\x07" not in page.words
    compared = Page(write_compare_report([(NASTY, folder), ("b", folder)], tmp_path / "c.html"))
    assert "script" not in compared.tags


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (build([], []), "was not sampled"),
        (build([Job(0, 9, 0, finish_s=0, state="rejected")] * 3, []), "too long"),
        (build([Job(0, 9, 1, 1, 1)], []), "No request has a service-level objective"),
        (build([Job(0, 9, 1, 1, 1, slo=SLO(ttft_s=2))], []), "Every finished request met"),
        (build([Job(0, 9, 1, 0, 0, scheduled_s=0)], [], timeline=wave(1)), "requests waiting"),
    ],
    ids=["empty", "rejected", "no-slo", "all-met", "at-zero"],
)
def test_runs_with_little_to_show(record: RunRecord, said: str, tmp_path: Path) -> None:
    folder = stored(tmp_path / "run", record)
    assert said.lower() in Page(write_report(folder)).words.lower()
    runs = [("a", folder), ("b", folder)]
    Page(write_compare_report(runs, tmp_path / "compare.html"))


def test_a_summary_that_says_little_is_enough(usual: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in usual.glob("*.parquet"):
        (bare / path.name).write_bytes(path.read_bytes())
    (bare / "summary.json").write_text("{}")
    words = Page(write_report(bare)).words
    assert "Run unknown origin Step times: of unknown origin" in words


def test_a_page_says_what_was_extrapolated_and_how_far(usual: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(usual, folder)
    summary = json.loads((folder / "summary.json").read_text())
    summary["trust"]["left_range"] = [
        {"what": "decode sequences", "limit": 2048, "largest": 3000, "share": 0.25},
        {"what": "step tokens", "limit": 4096, "largest": 4097, "share": 0.00002},
    ]
    summary["trust"]["assumed"] = {"gemm_o": "the nearest shape"}
    (folder / "summary.json").write_text(json.dumps(summary))
    words = Page(write_report(folder)).words
    assert "25 % of the step time extrapolated" in words
    assert "gemm_o of a shape that was not measured" in words
    assert "Shapes that were not measured kernel stands in gemm_o the nearest shape" in words
    table = words[words.index("Outside the measured range") :]
    head = "measured up to run went to share of the step time"
    rows = "decode sequences 2,048 3,000 25 % step tokens 4,096 4,097 < 0.01 %"
    assert f"{head} {rows}" in table
    assert "left range" not in words
    assert "Outside the measured range" not in Page(write_report(usual)).words


def test_a_folder_without_tables_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(InputError, match=r"requests\.parquet"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_report_is_written_whole_or_not_at_all(
    usual: Path, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = report.read_bytes()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_report(usual)
    assert report.read_bytes() == before
    assert not list(usual.glob("*.tmp*"))


def test_requests_that_latencies_leave_out_are_named(usual: Path, tmp_path: Path) -> None:
    jobs = [Job(0, 9, 1, 1, 1), Job(0, 9, 0, finish_s=0, state="rejected")]
    jobs += [Job(0, 9, 0, finish_s=0, state="failed")] * 2
    words = Page(write_report(stored(tmp_path / "run", build(jobs, [])))).words
    assert "3 of 4 requests did not finish (1 rejected, 2 failed)." in words
    assert "did not finish (" not in Page(write_report(usual)).words


def test_targets_are_explained_where_there_are_any(tmp_path: Path) -> None:
    def words(slo: SLO) -> str:
        run = build([Job(0, 9, 2, 1, 2, slo=slo)], [])
        return Page(write_report(stored(tmp_path / f"{slo.ttft_s}", run))).words

    assert "Dotted: targets." in words(SLO(ttft_s=2))
    assert "Dotted" not in words(SLO())


@pytest.mark.parametrize("table", ["requests", "timeline", "itl"])
def test_a_report_after_the_tables_were_read(tmp_path: Path, table: str) -> None:
    """A frame has pandas' NA where a request has no target; the page is the same."""
    jobs = [Job(0, 9, 2, 1, 2, slo=SLO(ttft_s=2)), Job(0, 9, 2, 1, 2, slo=SLO(), group="batch")]
    folder = stored(tmp_path / "run", build(jobs, [], timeline=wave(20)))
    before = write_report(folder).read_bytes()
    run = load_run(folder)
    frame = getattr(run, table)
    assert table != "requests" or frame["slo_met"].isna().sum() == 1
    assert write_report(run).read_bytes() == before


def test_a_measured_window_is_named_and_shaded(tmp_path: Path) -> None:
    record = build(HURT, STEPS, timeline=wave(20))
    page = Page(write_report(stored(tmp_path / "run", record, Window(0.5, 2.0))))
    assert "measured from 0.500 to 2.00 s" in page.words
    assert page.words.count("measured window") >= 2  # shaded in both pictures over time


# -- several runs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arms(usual: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Path]]:
    record = large_record(requests=300, steps=4000, mean_tokens=40, preempted=0.5)
    folder = tmp_path_factory.mktemp("arms")
    return [("base", usual), ("other", stored(folder / "run", record, scheduler="fcfs"))]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Path]]:
    """Two runs of one class."""
    folder = tmp_path_factory.mktemp("small")
    names = ("base", "other")
    runs = [build([replace(HURT[0], preemptions=2 + i)] * 4, []) for i in range(len(names))]
    return [(n, stored(folder / n, run)) for n, run in zip(names, runs, strict=True)]


def test_all_parts_of_a_comparison(arms: list[tuple[str, Path]], tmp_path: Path) -> None:
    page = Page(write_compare_report(arms, tmp_path / "deep" / "compare.html"))
    assert {"metrics", "attainment", "latency", "classes", "load", "hurt", "config"} <= set(
        page.ids
    )
    assert page.tags.count("svg") == 3 + 3 * 3
    assert len(page.ids) == len(set(page.ids))
    assert "Trace: day.jsonl; 300 requests. Reference: base." in page.words
    assert "run.scheduler vllm fcfs" in page.words
    assert re.search(r"preemptions \d+ \d+ \+\S+ % worse", page.words.replace("\u00a0", " "))
    assert "not of the same trace" not in page.words


def test_intervals_stand_beside_their_differences(
    small: list[tuple[str, Path]], tmp_path: Path
) -> None:
    given = [
        compared("slo_attainment", 0.5, 0.45, Bounds(-0.1, 0.2)),
        compared("preemptions", 12, 8, Bounds(2, 6), by_seed=(3.0, 5.0)),
        compared("recompute_tax", 0.5, 0.25, None),
    ]
    words = Page(write_compare_report(small, tmp_path / "c.html", given)).words
    words = words.replace("\u00a0", " ")
    assert "SLO attainment 45.00 % 50.00 % +5.00 points [\u221210.00, +20.00] unclear" in words
    assert "recompute tax 25.00 % 50.00 % +25.00 points worse" in words
    assert "means over 2 seeds" in words
    assert "preemptions 8 12 +50.00 % [+25.00, +75.00] worse" in words
    assert "(95 %, paired t)" in words


def test_unclear_is_explained_where_no_difference_has_an_interval(
    small: list[tuple[str, Path]], tmp_path: Path
) -> None:
    """As where the runs did not meet the same requests."""
    given = [replace(compared("p99_ttft_ms", 500, 450, None), few=True)]
    words = Page(write_compare_report(small, tmp_path / "c.html", given)).words
    why = "Unclear: fewer than ten requests lie beyond a quantile, so the difference may be chance."
    assert why in words and "In brackets" not in words
    plainly = Page(write_compare_report(small, tmp_path / "d.html")).words
    assert "fewer than ten requests" not in plainly


def test_with_seeds_groups_are_means_and_the_rest_is_said_to_be_of_the_first(
    arms: list[tuple[str, Path]], tmp_path: Path
) -> None:
    key = "classes.chat.slo_attainment"
    given = [compared(key, 0.125, 0.625, None, by_seed=(1.0, 2.0))]
    words = Page(write_compare_report(arms, tmp_path / "c.html", given)).words.replace("\xa0", " ")
    assert "300 requests with the first of 2 seeds." in words
    assert words.count("Of the first of 2 seeds.") == 3
    assert "62.5" in words  # the bar
    assert "12.50 % \u221250.00 points worse" in words


def test_who_fared_worse_than_in_the_reference(tmp_path: Path) -> None:
    def run(name: str, *ttft_s: float) -> tuple[str, Path]:
        jobs = [Job(0, 9, 1, s, s, slo=SLO(ttft_s=1.0), group="chat") for s in ttft_s]
        jobs += [Job(0, 9, 0, finish_s=0, state="rejected", slo=SLO(ttft_s=1.0), group="chat")]
        return name, stored(tmp_path / name, build(jobs, []))

    arms = [run("base", 0.5, 3.0, 0.5), run("other", 2.0, 0.5, 8.0)]
    words = Page(write_compare_report(arms, tmp_path / "c.html")).words.replace("\xa0", " ")
    assert "base 4 2 1 \xd73.00 \xd73.00" in words
    assert "other 4 3 1 \xd75.00 \xd78.00" in words
    assert "other chat 4 0 1 2 1 Gained" in words
    assert "TTFT 8,000 ms, target 1,000 ms met \xd78.00 8.00 0.500" in words


def test_a_run_with_a_report_is_linked(small: list[tuple[str, Path]]) -> None:
    folder = small[1][1]
    inside = folder.parent / "compare.html"
    assert "other/report.html" not in Page(write_compare_report(small, inside)).links
    (folder / "report.html").write_text("")
    assert "other/report.html" in Page(write_compare_report(small, inside)).links
    (folder / "report.html").unlink()


def test_hybrids_are_marked_and_explained(tmp_path: Path) -> None:
    names = {"base": "radix", "other": "lru"}
    arms = []
    for name, memory in names.items():
        run = {"scheduler": "sglang", "memory": memory}
        arms.append((name, stored(tmp_path / name, build(HURT, STEPS), **run)))
    mark_hybrid(arms[1][1])
    page = Page(write_compare_report(arms, tmp_path / "c.html"))
    assert "* A hybrid: sglang with the memory policy lru (its own: radix)." in page.words
    assert page.texts.count("other *") == 2, "among the runs, and over their metrics"
    assert "base *" not in page.texts
    words = Page(write_report(arms[1][1])).words
    assert "lru, which makes it a hybrid: sglang has radix" in words
    assert "hybrid" not in Page(write_report(arms[0][1])).words


def mark_hybrid(folder: Path) -> None:
    """Let a stored summary say so, as both drivers do."""
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    summary["run"] |= {"hybrid": True, "own_memory": ["radix"]}
    path.write_text(json.dumps(summary))


def test_runs_of_other_traces_are_named(small: list[tuple[str, Path]], tmp_path: Path) -> None:
    odd = stored(tmp_path / "odd", build(HURT[:2], []), trace="night.jsonl")
    words = Page(write_compare_report([small[0], ("odd", odd)], tmp_path / "c.html")).words
    assert "day.jsonl, night.jsonl; 2 or 4 requests." in words
    assert "not of the same trace" in words


@pytest.mark.parametrize(
    ("pick", "given", "message"),
    [
        ([0], [], "expected two or more runs, got 1"),
        ([0, 0], [], "expected different names, got 'base' twice"),
        (
            [0, 1],
            [compared("preemptions", 1, 1, None, arm="third")],
            "expected differences of base, other, got 'third'",
        ),
    ],
)
def test_comparisons_that_make_no_sense(
    small: list[tuple[str, Path]],
    pick: Sequence[int],
    given: Any,
    message: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=message):
        write_compare_report([small[i] for i in pick], tmp_path / "c.html", given)
    assert not list(tmp_path.iterdir())


def test_more_runs_than_looks_stay_apart(small: list[tuple[str, Path]], tmp_path: Path) -> None:
    many = [(f"run {i}", small[0][1]) for i in range(8)]
    text_of_page = write_compare_report(many, tmp_path / "c.html").read_text()
    first = text_of_page[text_of_page.index('aria-labelledby="cdf-0-ttft') :]
    lines = re.findall(r'style="fill: none; (stroke[^"]+)"', first[: first.index("</svg>")])
    looks = {line for line in lines if "1.5" in line}
    assert len(looks) == 8
