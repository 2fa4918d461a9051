"""A mistake on the command line of `superinfer-sim` is one line, with exit code 2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import Cli
from short_trace import TRACE, left_in, only_error
from typer.main import get_command

from sim.cli.app import app


@pytest.fixture(autouse=True)
def folder(short_trace_folder: Path) -> Path:
    return short_trace_folder


SET = "--set"
BAD_SETTINGS: list[tuple[str, str]] = [
    ("kv_blocks=2", "--set 'kv_blocks=2': expected section.key=value"),
    ("run.kv_blocks", "--set 'run.kv_blocks': expected section.key=value"),
    ("=3", "expected section.key=value"),
    ("run..tp=3", "expected section.key=value"),
    (
        "runn.tp=3",
        "unknown (did you mean 'run'?); sections are: classes, memory, router, run, scheduler",
    ),
    ("run.kvblocks=2", "run.kvblocks: unknown (did you mean 'kv_blocks'?)"),
    ("run.kv_blocks=abc", "run.kv_blocks: expected an integer, got 'abc'"),
    ("run.kv_blocks=1.5", "run.kv_blocks: expected an integer, got 1.5"),
    ("run.kv_blocks=true", "run.kv_blocks: expected an integer, got True"),
    ("run.kv_blocks=1\nx=2", "run.kv_blocks: expected an integer, got '1\\nx=2'"),
    ("run.kv_blocks.b=3", "run.kv_blocks: expected an integer, got {'b': 3}"),
    ("run.kv_blocks=-1", "run.kv_blocks: expected an integer >= 0, got -1"),
    ("run.kv_blocks=" + "9" * 5000, "run.kv_blocks: expected an integer"),
    ("run.kv_blocks=" + "[" * 5000, "run.kv_blocks: expected an integer"),
    ("run.costs=3", "run.costs: expected a text, got 3"),
    ("run.spread=1", "run.spread: expected true or false, got 1"),
    ("run.host_memory_gib=inf", "run.host_memory_gib: expected a number <= "),
    ("run.host_step_ms=nan", "run.host_step_ms: expected a number >= 0, got nan"),
    ("run.gpu_memory_utilization=0", "run.gpu_memory_utilization: expected a number > 0, got 0"),
    ("run.gpu_memory_utilization=0.1", "needs 15.0 GiB of weights per GPU"),
    ("run.lag=2", "run.lag: expected an integer <= 1, got 2"),
    ("run.block_tokens=1000000", "run.block_tokens: expected an integer <= 16384, got 1000000"),
    (
        "run.costs=none",
        "costs='none': expected auto, roofline, calibrated, flexgen or a profile file",
    ),
    ("run.costs=rooflin", "or a profile file (did you mean 'roofline'?)"),
    ("run.costs=t.jsonl", "t.jsonl: expected JSON"),
    ("scheduler.agin=true", "scheduler.agin: unknown (did you mean 'aging'?); rotating takes: "),
    ("scheduler.aging=yes", "scheduler.aging: expected true or false, got 'yes'"),
    (
        "scheduler.lengths=guess",
        "scheduler.lengths: expected one of 'histogram', 'none', 'oracle', got 'guess'",
    ),
    ("scheduler.max_num_seqs=-1", "scheduler.max_num_seqs: expected a number >= 0, got -1"),
    ("scheduler.watermark=nan", "scheduler.watermark: expected a number >= 0, got nan"),
    ("scheduler.length_scale=0", "scheduler.length_scale: expected above 0, got 0"),
    (
        "scheduler.length_scale=1e300",
        "scheduler.length_scale: expected above 0 and at most 1000, got 1e+300",
    ),
    ("scheduler.pace_margin=2", "scheduler.pace_margin: expected above 0 and at most 1, got 2"),
    ("scheduler.max_wait_s=0", "scheduler.max_wait_s: expected above 0, got 0"),
    ("scheduler.aged_share=1", "scheduler.aged_share: expected above 0 and below 1, got 1"),
    ("scheduler.max_num_batched_tokens=9", "max_num_batched_tokens: expected at least max_num_seq"),
    ("scheduler.name=x", "scheduler.name: unknown; rotating takes: "),
    ("memory.size=1", "memory.size: unknown; lru takes: "),
    ("router.size=1", "router.size: unknown; least_loaded takes: nothing\n"),
    ("classes.chat=3", "classes.chat: expected a table, got 3"),
    ("classes.chat.ttft=3", "classes.chat.ttft: expected a known key"),
    ("classes.chat.ttft=3", "delivery) (did you mean 'ttft_ms'?), got 3"),
    ("run.scheduler=own.policies.Mine", "did you mean 'own.policies:Mine'?)"),
    (
        "classes.a.1.ttft_ms=3",
        'classes.a.1: expected quotes around a name with a dot: classes."a.1"',
    ),
    ("classes.chat.ttft_ms=soon", "classes.chat.ttft_ms: expected a number >= 0, got 'soon'"),
    ("classes.chat.delivery=odd", "classes.chat.delivery: expected one of 'strict', 'paced'"),
]


@pytest.mark.parametrize(("setting", "words"), BAD_SETTINGS, ids=[s[:40] for s, _ in BAD_SETTINGS])
def test_bad_settings(cli: Cli, folder: Path, setting: str, words: str) -> None:
    only_error(cli("run", "t.jsonl", SET, setting), 2, words)
    assert left_in(folder) == {"t.jsonl"}


BAD_OPTIONS: list[tuple[list[str], str]] = [
    (["--scheduler", "vlm"], "scheduler 'vlm': unknown (did you mean 'vllm'?)"),
    (["--scheduler", "VLLM"], "did you mean 'vllm'?"),
    (["--scheduler", ""], "scheduler '': unknown"),
    (["--scheduler", "nope.mod:Foo"], "cannot import: No module named 'nope'"),
    (["--scheduler", "..mod:Foo"], "scheduler '..mod:Foo': cannot import"),
    (["--scheduler", ":Foo"], "scheduler ':Foo': cannot import"),
    (["--scheduler", "broken_plugin:Foo"], "cannot import: invalid syntax"),
    (["--scheduler", "sim.run:Foo"], "has no attribute 'Foo'"),
    (["--scheduler", "json:dumps"], "expected a dataclass, got <function dumps"),
    (["--scheduler", "sim.run:SimResult"], "required positional arguments"),
    (["--scheduler", "traces.workload:Workload"], "missing 2 required positional arguments"),
    (["--scheduler", "superinfer.costs:HostCost"], "superinfer.costs:HostCost': "),
    (["--scheduler", "superinfer.memory.lru:LruMemory"], "expected a scheduler with block_tokens"),
    (["--memory", "lur"], "memory 'lur': unknown (did you mean 'lru'?)"),
    (
        ["--memory", "slo_aware", SET, "memory.weights=none.npz"],
        "memory.weights: none.npz: no such file",
    ),
    (["--model", "lama-3.1-8b"], "unknown model 'lama-3.1-8b': no such file"),
    (["--model", "lama-3.1-8b"], "did you mean 'llama-3.1-8b'?"),
    (["--model", "."], "unknown model '.'"),
    (["--model", "t.jsonl"], "t.jsonl: expected JSON"),
    (["--model", "llama-3.1-70b"], "it fits on 2 GPUs"),
    (["--model", "llama-3.1-405b", "--device", "l40s"], "it fits on"),
    (["--device", "h10"], "run.device: unknown device 'h10'"),
    (["--device", "h10"], "did you mean 'h100'?"),
    (["--tp", "3"], "tp=3 does not divide the 32 attention heads of llama-3.1-8b"),
    (["--tp", "0"], "run.tp: expected an integer >= 1, got 0"),
    (["--tp", "-2"], "run.tp: expected an integer >= 1, got -2"),
    (["--tp", "9" * 30], "run.tp: expected an integer <= "),
    (["--tp", "two"], "--tp: expected an integer, got 'two' (see superinfer-sim run --help)"),
    (["--seed", "-1"], "run.seed: expected an integer >= 0, got -1"),
    (["--lag", "2"], "--lag: expected an integer <= 1, got 2 (see superinfer-sim run --help)"),
    (["--limit", "0"], "--limit: expected an integer >= 1, got 0 (see "),
    (["--duration", "long"], "--duration: expected a number, got 'long' (see "),
    (["--limit"], "--limit"),
    (["--sheduler", "vllm"], "No such option: --sheduler (Possible options: "),
    (["more.jsonl"], "unexpected extra argument(s) (more.jsonl)"),
    (["--require", "slo"], "--require 'slo': expected a form like 'slo_attainment>=0.95'"),
    (["--require", "slo>=nan"], "--require 'slo>=nan': expected a form like"),
    (["--config", "none.toml"], "none.toml: cannot read: No such file"),
    (["--config", "."], "cannot read: Is a directory"),
    (["--config", "t.jsonl"], "t.jsonl: expected TOML: "),
    (["--classes", "none.toml"], "none.toml: expected a readable file"),
    (["--classes", "t.jsonl"], "t.jsonl: expected a TOML file"),
    (["--out", ""], "--out: expected the name of a result folder, got '.'"),
    (["--out", "/"], "--out: expected the name of a result folder, got '/'"),
    (["--out", "t.jsonl"], "--out: t.jsonl: expected a folder, got a file"),
    (["--out", "t.jsonl/r"], "--out: t.jsonl/r: cannot write here: Not a directory"),
    (["--out", "/proc/none/r"], "--out: /proc/none/r: cannot write here"),
    (["--out", "x" * 300], "File name too long"),
    (["--out", "r\udcff"], "--out: r\\udcff: expected a name in UTF-8"),
    (["--rate-scale", "1e-300"], "run.rate_scale: expected a number >= 1e-06"),
]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--attainment", "0.99"), "--attainment: expected a number >= 2 (in %), got 0.99"),
        (("--attainment", "nan"), "--attainment: expected a number <= 100 (in %), got nan"),
        (("--attainment", "all"), "--attainment: expected a number (in %), got 'all'"),
        (("--refine", "0.05"), "--refine: expected a number >= 0.1, got 0.05"),
        (("--seeds", "9" * 5000), f"--seeds: expected an integer, got '{'9' * 56}..."),
    ],
)
def test_a_number_of_a_study_that_cannot_be(
    cli: Cli, folder: Path, option: tuple[str, str], words: str
) -> None:
    answer = cli("sweep", "t.jsonl", *option)
    assert answer.err == f"error: {words} (see superinfer-sim sweep --help)\n"
    assert answer.code == 2


def test_the_short_form_of_the_output_and_its_folder(cli: Cli, folder: Path) -> None:
    assert cli("run", "t.jsonl", "-o", "new/here/r", "--no-plots").code == 0
    assert (folder / "new/here/r/summary.json").exists()
    two = ("--schedulers", "vllm,fcfs", "--workers", "1")
    assert cli("compare", "t.jsonl", *two, "-o", "other/c", "--no-plots").code == 0
    assert (folder / "other/c/comparison.json").exists()


@pytest.mark.parametrize("command", ["run", "compare", "sensitivity", "sweep", "tune", "plan"])
def test_a_folder_that_cannot_be_made_is_known_before_the_trace_is_read(
    cli: Cli, folder: Path, command: str
) -> None:
    (folder / "bad.jsonl").write_text("no trace")
    answer = cli(command, "bad.jsonl", "-o", "bad.jsonl/r", "--no-plots")
    only_error(answer, 2, "--out: bad.jsonl/r: cannot write here: Not a directory")


@pytest.mark.parametrize("command", ["sweep", "plan", "tune", "compare", "sensitivity", "run"])
def test_a_default_folder_that_cannot_be_made_is_known_before_a_run(
    cli: Cli, folder: Path, command: str
) -> None:
    (folder / "runs").write_text("a file")
    only_error(cli(command, "t.jsonl"), 2, "--out: runs/t-", "cannot write here")
    assert left_in(folder) == {"t.jsonl", "runs"}


def test_equal_options_have_equal_words() -> None:
    """What several commands take is described alike, whichever of them is asked."""
    commands = vars(get_command(app))["commands"]
    shared = ("run", "compare", "suggest-slo", "sensitivity", "sweep", "tune", "plan")
    words: dict[str, set[object]] = {}
    for name in shared:
        for option in commands[name].params:
            said = (getattr(option, "help", None), option.metavar, tuple(option.opts))
            words.setdefault(option.name, set()).add(said)
    others = {name for name, said in words.items() if len(said) > 1}
    assert others == {"schedulers", "device", "tp", "out"}  # plan tries several devices and degrees


@pytest.mark.parametrize(
    ("options", "words"), BAD_OPTIONS, ids=[" ".join(o) for o, _ in BAD_OPTIONS]
)
def test_bad_options(cli: Cli, folder: Path, options: list[str], words: str) -> None:
    (folder / "broken_plugin.py").write_text("class Foo(:\n")
    only_error(cli("run", "t.jsonl", *options), 2, words)
    assert left_in(folder) <= {"t.jsonl", "broken_plugin.py", "__pycache__"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty.jsonl: expected at least one request, got an empty file"),
        ("{}\n", "empty.jsonl:1: timestamp: expected a number"),
        (TRACE.replace("chat", "chta"), "empty.jsonl:1: class: expected one of "),
        ("time,in,out\n", "empty.jsonl:1: expected a JSON object or TIMESTAMP"),
    ],
)
def test_bad_traces(cli: Cli, folder: Path, text: str, words: str) -> None:
    (folder / "empty.jsonl").write_text(text)
    only_error(cli("run", "empty.jsonl"), 2, words)
    assert not (folder / "runs").exists()


def test_classes_that_are_nested_too_deeply(cli: Cli, folder: Path) -> None:
    (folder / "deep.toml").write_text("x = " + "[" * 100_000)
    answer = cli("run", "t.jsonl", "--classes", "deep.toml")
    only_error(answer, 2, "deep.toml: expected a TOML file, got: ")


def test_missing_traces(cli: Cli) -> None:
    only_error(cli("run", "none.jsonl"), 2, "none.jsonl: expected a trace file, got no such file")
    only_error(cli("run", "."), 2, "expected a trace file, got a directory")
    for trace in ([], [""]):
        only_error(cli("run", *trace), 2, "TRACE: expected a trace file here or as run.trace")
    only_error(cli("run", "-", "--limit", "3", stdin=b""), 2, "<stdin>: expected at least one")


def test_a_trace_name_that_is_no_text(cli: Cli) -> None:
    only_error(cli("run", "caf\udce9.jsonl"), 2, "run.trace: expected UTF-8 text")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[run\n", "x.toml: expected TOML: "),
        ("[runn]\n", "x.toml: [runn]: unknown (did you mean 'run'?); sections are: "),
        ("run = 3\n", "x.toml: run: expected a table, got 3"),
        ("tp = 3\n", "x.toml: [tp]: unknown"),
        ("[run]\ntp = 'a'\n", "x.toml: run.tp: expected an integer, got 'a'"),
        ("[run]\ntpp = 1\n", "x.toml: run.tpp: unknown (did you mean 'tp'?)"),
        ("[run]\nscheduler = 'vlm'\n", "x.toml: scheduler 'vlm': unknown (did you mean 'vllm'?)"),
        (
            "[scheduler]\nmax_num_seq = 1\n",
            "x.toml: scheduler.max_num_seq: unknown (did you mean 'max_num_seqs'?)",
        ),
        ("[memory]\npreemption = 'x'\n", "x.toml: memory.preemption: expected one of 'recompute'"),
        ("[classes]\nchat = 3\n", "x.toml: classes.chat: expected a table, got 3"),
        ("[classes.chat]\nttft_ms = -1\n", "x.toml: classes.chat.ttft_ms: expected a number"),
    ],
)
def test_bad_configuration_files(cli: Cli, folder: Path, text: str, words: str) -> None:
    (folder / "x.toml").write_text(text)
    only_error(cli("run", "t.jsonl", "--config", "x.toml"), 2, words)
    only_error(cli("compare", "t.jsonl", "--config", "x.toml"), 2, words)


def test_a_configuration_that_is_no_text(cli: Cli, folder: Path) -> None:
    (folder / "x.toml").write_bytes(b"[run]\nmodel = '\xe9'\n")
    only_error(cli("run", "t.jsonl", "--config", "x.toml"), 2, "x.toml: expected TOML: ")


def test_a_bad_class_file(cli: Cli, folder: Path) -> None:
    (folder / "c.toml").write_text("[classes.mine]\nttft = 5\n")
    words = "c.toml: classes.mine.ttft: expected a known key"
    only_error(cli("run", "t.jsonl", "--classes", "c.toml"), 2, words)


def test_unknown_commands(cli: Cli) -> None:
    only_error(cli("rnu", "t.jsonl"), 2, "No such command 'rnu'")
    only_error(cli("traces", "stat"), 2, "No such command 'stat'")


@pytest.mark.parametrize("command", [[], ["traces"]])
def test_no_arguments_give_the_help(cli: Cli, command: list[str]) -> None:
    answer, asked = cli(*command), cli(*command, "--help")
    assert (answer.code, asked.code, answer.out) == (2, 0, "")
    assert answer.err == asked.out
    assert answer.err.startswith("Usage: superinfer-sim ")


@pytest.mark.parametrize("command", ["run", "compare"])
def test_help_names_every_option(cli: Cli, command: str) -> None:
    text = cli(command, "--help").out
    for option in ("--config", "--set", "--classes", "--no-prefix-caching", "--lag", "--out"):
        assert option in text
    assert "draws nothing at random" in " ".join(text.split())


def test_requests_that_nothing_serves_fail_the_run(cli: Cli, folder: Path) -> None:
    none = ("--scheduler", "harness:IdleScheduler", "--out", "r")
    only_error(cli("run", "t.jsonl", *none), 1, "12 requests can never run")
    assert left_in(folder) == {"t.jsonl"}


def test_a_result_that_cannot_be_written_is_still_shown(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from superinfer.lab import results

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "_write_files", full)
    answer = cli("run", "t.jsonl", "--json", "--out", "r")
    assert (answer.code, answer.json["completed"]) == (1, 12)
    assert answer.err == "error: cannot write r: No space left on device\n"
    assert left_in(folder) == {"t.jsonl"}


EACH = ": each configuration to compare goes behind an --arm of its own (see superinfer-sim "


@pytest.mark.parametrize("command", ["compare", "sweep"])
def test_configurations_in_place_of_arms(cli: Cli, command: str) -> None:
    Path("a.toml").write_text('[run]\nscheduler = "vllm"\n')
    only_error(cli(command, "a.toml", "b.toml"), 2, f"(b.toml){EACH}{command} --help)")
    answer = cli(command, "a.toml", "b.txt")
    only_error(answer, 2, "extra argument")
    assert "--arm" not in answer.err
    answer = cli("run", "t.jsonl", "b.toml")
    only_error(answer, 2, "extra argument")
    assert "--arm" not in answer.err


@pytest.mark.parametrize("command", ["compare", "run"])
def test_a_configuration_in_place_of_a_trace(cli: Cli, command: str) -> None:
    Path("a.toml").write_text('[run]\nscheduler = "vllm"\n')
    words = "a.toml: expected a specification of a workload, got a configuration (--config FILE"
    only_error(cli(command, "a.toml"), 2, words)


TALK = '{"id": "x", "conversations": [{"from": "human", "value": "a"}]}'


@pytest.mark.parametrize("text", [TALK, f"[{TALK}]", f"[\n {TALK}\n]"])
def test_conversations_in_place_of_a_trace(cli: Cli, text: str) -> None:
    Path("talk.json").write_text(text)
    answer = cli("run", "talk.json")
    hint = 'conversations are lengths = { sharegpt = "FILE" } of a specification'
    only_error(answer, 2, "talk.json:1: expected ", hint)
    assert "from-log" not in answer.err


@pytest.mark.parametrize("option", ["--config", "--classes"])
def test_settings_do_not_come_through_a_pipe(cli: Cli, folder: Path, option: str) -> None:
    """Each arm reads them again, and would find nothing."""
    os.mkfifo(folder / "pipe.toml")
    answer = cli("run", "t.jsonl", option, "pipe.toml")
    only_error(answer, 2, "pipe.toml: expected a file, got a pipe, which can be read only once")
