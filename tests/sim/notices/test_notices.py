"""What is said of a run beside its summary: no targets, nobody served, nobody measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from specs import document, write_spec

from sim.notices.before import MOST_NAMED

Command = Callable[..., tuple[int, str, str]]
NOTE = "note: no request has a target"


def test_no_targets_are_said_once_and_nothing_empty_is_drawn(
    command: Command, work_folder: Path
) -> None:
    record = {"input_length": 100, "output_length": 4}
    lines = [json.dumps({"timestamp": 100 * i, **record}) for i in range(5)]
    (work_folder / "t.jsonl").write_text("\n".join(lines) + "\n")
    _, _, error = command("run", "t.jsonl", "--out", "r")
    assert error.count(NOTE) == 1
    assert not (work_folder / "r" / "slo_attainment.png").exists()
    _, _, error = command("compare", "t.jsonl", "--schedulers", "vllm,fcfs", "--out", "c")
    assert error.count(NOTE) == 1
    _, _, error = command("run", "t.jsonl", "--without-slo", "--no-plots", "--out", "w")
    assert NOTE not in error, "it was asked for"
    (work_folder / "c.toml").write_text("version = 1\n[classes.default]\nttft_ms = 500\n")
    _, _, error = command("run", "t.jsonl", "--classes", "c.toml", "--out", "s")
    assert NOTE not in error
    assert (work_folder / "s" / "slo_attainment.png").exists()


def test_who_was_not_served_and_that_nobody_was_measured(
    command: Command, work_folder: Path
) -> None:
    lengths = (50, 50_000)
    lines = [json.dumps({"timestamp": 0, "input_length": n, "output_length": 5}) for n in lengths]
    (work_folder / "t.jsonl").write_text("\n".join(lines) + "\n")
    settings = ("--set", "run.kv_blocks=40", "--no-plots", "--out")
    _, _, error = command("run", "t.jsonl", *settings, "r", "--set", "run.window_s=[100,200]")
    assert "turned away or failed, by rule: exceeds_kv_capacity 1\n" in error
    assert "warning: no request arrives from 100 to 200 s (run.window_s)\n" in error
    _, _, error = command("run", "t.jsonl", *settings, "w")
    assert "no request arrives" not in error


CUT = ("--limit", "20", "--no-plots")
UNFINISHED = "the unfinished are in no latency, and with a target count as missed"


def test_a_cut_off_run_says_whom_it_left_open(command: Command, work_folder: Path) -> None:
    _, shown, error = command("run", "mixed", *CUT, "--duration", "0.3", "--out", "r")
    summary = json.loads((work_folder / "r" / "summary.json").read_text())
    left, submitted = summary["unfinished"], summary["submitted"]
    assert 0 < left <= submitted < 20
    assert ["unfinished", str(left)] in [line.split() for line in shown.splitlines()]
    line = f"{left} of {submitted} requests had not finished; {20 - submitted} of 20 had not been"
    assert f"note: cut off at 0.3 s (run.duration_s): {line} sent; {UNFINISHED}\n" in error
    _, shown, error = command("run", "mixed", *CUT, "--duration", "500", "--out", "w")
    assert "cut off" not in error and "unfinished" not in shown, "all came and finished"


def test_a_cut_off_comparison_says_it_once(command: Command, work_folder: Path) -> None:
    names = ("--schedulers", "vllm,fcfs", "--duration", "0.5")
    _, shown, error = command("compare", "mixed", *CUT, *names, "--out", "c")
    assert error.count(f"note: cut off at 0.5 s (run.duration_s): {UNFINISHED}\n") == 1
    assert "unfinished" in [line.split()[0] for line in shown.splitlines() if line.strip()]


def test_a_window_leaves_out_who_came_at_other_times(command: Command, work_folder: Path) -> None:
    window = ("--duration", "0.5", "--set", "run.window_s=[0,0.4]", "--out", "r")
    _, _, error = command("run", "mixed", *CUT, *window)
    assert "requests had not finished" in error and "had not been sent" not in error


def test_targets_that_are_in_seconds(command: Command, work_folder: Path) -> None:
    """The quickest request, not the usual one, has to be far away; tokens/s are no time."""
    head = "version = 1\n[classes.chat]\n"
    (work_folder / "s.toml").write_text(
        f"{head}ttft_ms = 1\ntpot_ms = 0.02\nmin_tokens_per_s = 9\n"
    )
    *_, error = command("run", "mixed", *CUT, "--classes", "s.toml", "--out", "s")
    told = [line for line in error.splitlines() if line.startswith("warning: class ")]
    assert [line.partition(": the quickest request took ")[0] for line in told] == [
        "warning: class chat is far from its ttft_ms of 1",
        "warning: class chat is far from its tpot_ms of 0.02",
    ]
    (work_folder / "h.toml").write_text(f"{head}ttft_ms = 30\n")
    assert (
        "is far from" not in command("run", "mixed", *CUT, "--classes", "h.toml", "--out", "h")[2]
    )
    huge = ("--set", "run.kv_blocks=1", "--out", "n")
    assert "is far from" not in command("run", "mixed", *CUT, *huge)[2], "nobody was served"


def test_answers_of_one_token_are_not_far_from_a_tpot(command: Command, work_folder: Path) -> None:
    record = {"timestamp": 0, "input_length": 50, "output_length": 1, "slo": {"tpot_ms": 0.01}}
    (work_folder / "t.jsonl").write_text(json.dumps(record) + "\n")
    assert "is far from" not in command("run", "t.jsonl", "--no-plots", "--out", "r")[2]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["chat", "default"], ""),
        (["chta"], "no request is of class chta (did you mean 'chat'?); the classes here are "),
        (["chat", "one", "two"], "no request is of class one, two; the classes here are "),
    ],
)
def test_classes_of_nobody(
    names: list[str], told: str, command: Command, work_folder: Path
) -> None:
    text = "".join(f"[classes.{name}]\nttft_ms = 900\n" for name in names)
    (work_folder / "c.toml").write_text(f"version = 1\n{text}")
    for words in (("run",), ("compare", "--schedulers", "vllm,fcfs")):
        *_, error = command(*words, "mixed", *CUT, "--classes", "c.toml", "--out", words[0])
        found = [line for line in error.splitlines() if "no request is of class" in line]
        assert [line.startswith(f"note: {told}") for line in found] == [True] * bool(told)


LETTER = "\U0010fffd"
"""One that no font has."""


def test_names_that_pictures_cannot_show(command: Command, work_folder: Path) -> None:
    record = {"timestamp": 0, "input_length": 50, "output_length": 5, "tenant": f"a{LETTER}"}
    (work_folder / "t.jsonl").write_text(json.dumps(record) + "\n")
    note = f"note: no font here has {LETTER}: the pictures show boxes instead"
    assert command("run", "t.jsonl", "--out", "r")[2].count(note) == 1
    assert command("report", "r")[2].count(note) == 1
    assert note not in command("run", "t.jsonl", "--no-plots", "--out", "w")[2]
    compare = ("compare", "t.jsonl", "--schedulers", "vllm,fcfs", "--out", "c")
    assert command(*compare)[2].count(note) == 1
    assert command("report", "c")[2].count(note) == 1


def prioritised(folder: Path, *priorities: int) -> None:
    """`t.jsonl`, a request of each priority."""
    record = {"timestamp": 0, "input_length": 50, "output_length": 5}
    lines = [json.dumps({**record, "priority": each}) for each in priorities]
    (folder / "t.jsonl").write_text("\n".join(lines) + "\n")


PRIORITIES = "the scheduler does not go by the priorities in the trace"


def test_priorities_that_do_not_count(command: Command, work_folder: Path) -> None:
    prioritised(work_folder, 0, 1)
    run = ("run", "t.jsonl", "--no-plots", "--scheduler")
    assert f"\nnote: {PRIORITIES} (priority, " in "\n" + command(*run, "fcfs")[2]
    assert PRIORITIES not in command(*run, "priority")[2]


def test_a_comparison_says_in_which_arms(command: Command, work_folder: Path) -> None:
    prioritised(work_folder, 0, 1)
    compare = ("compare", "t.jsonl", "--no-plots", "--workers", "1", "--schedulers")
    _, _, some = command(*compare, "vllm,priority,fcfs")
    assert f"note: arms vllm, fcfs: {PRIORITIES}" in some
    _, _, one = command(*compare, "priority,fcfs")
    assert f"note: arm fcfs: {PRIORITIES}" in one
    _, _, everybody = command(*compare, "vllm,fcfs")
    assert f"note: {PRIORITIES}" in everybody and everybody.count(PRIORITIES) == 1


def test_releases_as_they_ship(command: Command, work_folder: Path) -> None:
    record = {"timestamp": 0, "input_length": 50, "output_length": 5, "hash_ids": [7]}
    (work_folder / "t.jsonl").write_text(f"{json.dumps(record)}\n" * 2)
    off = "note: arm rotating: prompts begin alike by their hash_ids, and --prefix-caching is off"
    unknown = "note: arm rotating: run.as_released sets nothing"
    arms = ("sglang", "rotating")
    compare = ("compare", "t.jsonl", "--schedulers", ",".join(arms), "--no-plots", "--workers")
    code, _, error = command(*compare, "1", "--as-released", "--out", "c")
    assert not code and off in error and unknown in error
    stored = {each: (work_folder / "c" / each / "config.toml").read_text() for each in arms}
    assert 'memory = "radix"' in stored["sglang"] and "lag = 1" in stored["sglang"]
    assert 'memory = "lru"' in stored["rotating"] and "lag = 0" in stored["rotating"]


ALIKE = "prompts begin alike by their hash_ids, and --prefix-caching is off"
HYBRID = "sglang with the memory policy slo_aware (its own: radix, hicache)"
ONE = ("--scheduler", "sglang", "--memory", "slo_aware")
BOTH = ("--schedulers", "sglang,fcfs", "--memory", "slo_aware", "--workers", "1", "--no-plots")
TRIALS = ("--trials", "1", "--params", "schedule_conservativeness", "--workers", "1", "--no-plots")


@pytest.fixture
def alike(work_folder: Path) -> Path:
    """`t.jsonl`, requests with a target whose prompts begin alike."""
    record = {"input_length": 50, "output_length": 5, "hash_ids": [7], "class": "chat"}
    lines = [json.dumps({"timestamp": 100 * i, **record}) for i in range(4)]
    (work_folder / "t.jsonl").write_text("\n".join(lines) + "\n")
    return work_folder


@pytest.mark.parametrize(
    ("study", "arm"),
    [
        (("suggest-slo", *ONE), ""),
        (("plan", *ONE, "--tp", "1", "--workers", "1", "--no-plots"), ""),
        (("tune", *ONE, *TRIALS), ""),
        (("sweep", *BOTH, "--over", "rate=1,2"), "arm sglang: "),
        (("sensitivity", *BOTH, "--part", "host"), "arm sglang: "),
    ],
    ids=lambda given: given and given[0],
)
def test_every_study_says_what_a_run_says(
    study: tuple[str, ...], arm: str, command: Command, alike: Path
) -> None:
    name, *settings = study
    code, _, error = command(name, "t.jsonl", *settings)
    assert code == 0
    assert error.count(f"note: {arm}a hybrid: {HYBRID}\n") == 1
    assert error.count(f"note: {ALIKE}\n") == 1


MANY = ("--set", "run.kv_blocks=18000")
ONE_BY_ONE = ("--workers", "1", "--no-plots")


@pytest.mark.parametrize(
    ("study", "whose"),
    [
        (("run", *MANY, "--no-plots"), ""),
        (("suggest-slo", *MANY), ""),
        (
            ("plan", *MANY, "--device", "a100-80g,h200", "--tp", "1,2", *ONE_BY_ONE),
            "arm a100-80g, tp 1: ",
        ),
        (("compare", *MANY, "--schedulers", "fcfs,edf", *ONE_BY_ONE), ""),
        (
            ("sweep", "--schedulers", "fcfs", "--over", "run.kv_blocks=9,18000", "--workers", "1"),
            "arm fcfs at run.kv_blocks=18000: ",
        ),
    ],
    ids=lambda given: given and given[0],
)
def test_more_blocks_than_there_is_memory_for(
    study: tuple[str, ...], whose: str, command: Command, alike: Path
) -> None:
    name, *settings = study
    code, _, error = command(name, "t.jsonl", *settings)
    assert code == 0
    line = f"warning: {whose}run.kv_blocks: 18,000 blocks take 70.3 GiB of each a100-80g at tp 1"
    assert error.count(line) == error.count("blocks take") == 1


def test_a_sweep_names_the_points(command: Command, alike: Path) -> None:
    """Those of an arm that are not all of its points; past so many only how many there are."""
    sweep = ("sweep", "t.jsonl", "--schedulers", "fcfs,sglang", "--workers", "1", "--no-plots")
    _, _, error = command(*sweep, "--over", "run.prefix_caching=true,false", "--over", "rate=1,2")
    off = [
        f"{arm} at run.prefix_caching=false rate={r}" for arm in ("fcfs", "sglang") for r in "12"
    ]
    assert f"note: arms {', '.join(off)}: {ALIKE}\n" in error
    _, _, error = command(
        *sweep, "--over", "rate=1:20:1", "--over", "run.prefix_caching=false,true"
    )
    assert f" and {2 * 20 - MOST_NAMED} more: {ALIKE}\n" in error


def test_settings_that_are_idle_in_some_arms_only(command: Command, work_folder: Path) -> None:
    prioritised(work_folder, 0, 0)
    compare = ("compare", "t.jsonl", "--schedulers", "vllm,vllm_v1", "--as-released", "--no-plots")
    _, _, error = command(*compare, "--workers", "1")
    assert "warning: arm vllm_v1: run.prefix_caching: no request has hash_ids" in error


@pytest.mark.parametrize(("replicas", "said"), [("1", 1), ("1,2", 0)])
def test_a_router_without_replicas(replicas: str, said: int, command: Command, alike: Path) -> None:
    sweep = ("sweep", "t.jsonl", "--schedulers", "fcfs", "--workers", "1", "--no-plots")
    over = ("--router", "round_robin", "--over", f"run.replicas={replicas}")
    code, _, error = command(*sweep, *over)
    unused = "warning: run.router: round_robin is not used with one replica\n"
    assert code == 0 and error.count(unused) == said


def test_a_hybrid_is_named_in_the_summary_and_beside_it(
    command: Command, short_trace_folder: Path
) -> None:
    settings = ("--prefix-caching", "--no-plots", "--out")
    _, text, error = command("run", "t.jsonl", "--scheduler", "sglang", *settings, "r", "--json")
    run = json.loads(text)["run"]
    assert (run["hybrid"], run["own_memory"]) == (True, ["radix", "hicache"])
    note = "sglang with the memory policy lru (its own: radix, hicache)"
    assert error.count("hybrid") == 1 and f"note: a hybrid: {note}\n" in error
    _, text, error = command("run", "t.jsonl", "--scheduler", "vllm", *settings, "v", "--json")
    assert json.loads(text)["run"]["hybrid"] is False and "hybrid" not in error
    _, text, error = command("compare", "t.jsonl", "--schedulers", "vllm,sglang", *settings, "c")
    assert error.count("hybrid") == 1 and f"note: arm sglang: a hybrid: {note}\n" in error
    assert "sglang *" in text and "vllm *" not in text
    assert "* A hybrid:" in text


@pytest.mark.parametrize(
    ("scheduler", "own"),
    [("sglang", "radix"), ("sglang", "hicache"), ("tensorrt_llm", "retention")],
)
def test_without_prefix_caching_lru_is_what_belongs(
    scheduler: str, own: str, command: Command, chat_trace: Callable[[int], str], work_folder: Path
) -> None:
    """Which is why such a pair is no hybrid."""
    (work_folder / "t.jsonl").write_text(chat_trace(10))
    little = "2100" if scheduler == "sglang" else "40"
    common = ("t.jsonl", "--scheduler", scheduler, "--set", f"run.kv_blocks={little}")
    for memory in ("lru", own):
        command("run", *common, "--memory", memory, "--no-plots", "--out", memory)
    tables = [(work_folder / memory / "requests.parquet").read_bytes() for memory in ("lru", own)]
    assert tables[0] == tables[1]


def test_a_mark_over_several_seeds(command: Command, work_folder: Path) -> None:
    fixed = {"family": "fixed", "value": 60}
    chat = {"class": "chat", "rate_per_s": 4.0, "prompt": fixed, "answer": fixed}
    write_spec(work_folder, document(4, chat=chat))
    settings = ("--seeds", "2", "--workers", "1", "--prefix-caching", "--no-plots", "--out", "c")
    _, text, _ = command("compare", "spec.toml", "--schedulers", "vllm,sglang", *settings)
    assert "sglang *" in text and "* A hybrid: sglang" in text
