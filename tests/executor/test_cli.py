"""`superinfer-exec` as a user meets it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from executor_runs import LLAMA, call

from executor import cli
from executor.models.text import Text
from executor.steps.runner import Runner
from superinfer import COMPILED
from superinfer.costs import list_profiles, load_profile, load_shape, write_profile
from superinfer.lab.cli import complaints
from superinfer.lab.results import load_run
from superinfer.lab.versions import version_of
from superinfer.schedulers import SCHEDULERS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path):
    """Sizes of a small model."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA, "vocab_size": 256}))
    return path


@pytest.fixture
def trace(tmp_path):
    """Six requests, one of them too long for the model."""
    lengths = [(20, 5), (40, 8), (700, 3), (33, 2), (100, 12), (20, 1)]
    lines = [
        {
            "timestamp": 50 * i,
            "input_length": prompt,
            "output_length": answer,
            "hash_ids": list(range(-(-prompt // 16))),
            "hash_block_size": 16,
        }
        for i, (prompt, answer) in enumerate(lengths)
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_run_begins_with_its_first_request(monkeypatch, capsys, tmp_path, config):
    """Not an hour before it, as in the record of a server that nobody asked for so long."""

    def sleeps(seconds):
        assert seconds == 0, "it waits for the first request"

    lines = [{"timestamp": 3_600_000, "input_length": 9, "output_length": 3} for _ in range(2)]
    trace, out = tmp_path / "late.jsonl", tmp_path / "result"
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr("executor.clocks.clock.time.sleep", sleeps)
    code, text, errors = call(
        monkeypatch,
        capsys,
        *("run", trace, "--model", config, "--random-weights", "--device", "cpu"),
        *("--kv-blocks", 60, "--no-plots", "--json", "--out", out),
    )
    assert code == 0, errors
    assert json.loads(text)["completed"] == 2
    assert (load_run(out).requests.arrival_s == 3600).all(), "the times stay those of the trace"


@pytest.mark.parametrize("lag", [0, 1])
def test_a_run_leaves_a_result_folder(monkeypatch, capsys, tmp_path, config, trace, lag):
    out = tmp_path / "result"
    code, text, errors = call(
        monkeypatch,
        capsys,
        *("run", trace, "--scheduler", "vllm", "--model", config, "--random-weights"),
        *("--device", "cpu", "--kv-blocks", 60, "--lag", lag, "--prefix-caching"),
        *("--as-fast-as-possible", "--no-plots", "--json", "--out", out, "--seed", 3),
    )
    assert code == 0, errors
    summary = json.loads(text)
    assert summary["completed"] == 5 and summary["rejected"] + summary["failed"] == 1
    assert summary["total_output_tokens"] == 28
    assert summary["prefix_hit_rate"] > 0
    assert summary["wall_s"] > 0 and summary["sim_requests_per_wall_s"] is None
    run = summary["run"]
    assert run["hybrid"] is False and run["own_memory"] == ["lru"]
    assert run["simulated"] is False and run["device_name"] and run["dtype"] == "float32"
    assert run["kv_blocks"] == 60 and run["block_tokens"] == 16
    assert run["versions"]["torch"] == version("torch")
    assert summary["trust"]["measured_share"] == 1.0
    stored = json.loads((out / "summary.json").read_text())
    assert stored["completed"] == 5
    assert {"requests.parquet", "config.toml", "timeline.parquet"} <= {
        f.name for f in out.iterdir()
    }
    steps = load_run(out).steps
    chunks = np.concatenate(steps.chunk_tokens.tolist())
    # With lag 1 a step may have been planned for requests that ended before it began.
    empty = summary["steps"] - len(steps)
    assert 0 <= empty <= (5 if lag else 0)
    assert run["opening_s"]["weights"] > 0 and run["compiled_core"] is COMPILED
    assert steps.decodes.sum() + len(chunks) >= summary["total_output_tokens"]
    assert chunks.sum() < summary["total_input_tokens"]  # some were cached
    assert (steps.end_s >= steps.start_s).all() and (steps.start_s.diff()[1:] > 0).all()
    assert "results in" in errors


@pytest.mark.parametrize("learns", ["true", "false"])
def test_learning_is_as_asked_for(monkeypatch, capsys, config, trace, tmp_path, learns):
    code, text, errors = call(
        monkeypatch,
        capsys,
        *("run", trace, "--model", config, "--random-weights", "--device", "cpu"),
        *("--kv-blocks", 60, "--as-fast-as-possible", "--no-plots", "--json"),
        *("--out", tmp_path / "result", "--set", f"run.learn_step_times={learns}"),
    )
    assert code == 0, errors
    learned = json.loads(text)["trust"]["beliefs"]["learned"]
    assert len(learned) == (learns == "true")


@pytest.mark.parametrize("profiled", [True, False])
def test_the_profile_that_predicts_can_be_told(
    monkeypatch, capsys, tmp_path, config, trace, profiled
):
    path, out = tmp_path / "p.json", tmp_path / "result"
    shipped = next(each.path for each in list_profiles() if each.tp == 1)
    mine = {"device": "cpu", "model": load_shape(str(config)).name, "dtype": "fp32"}
    write_profile(replace(load_profile(shipped), **mine), path)
    code, text, errors = call(
        monkeypatch,
        capsys,
        *("run", trace, "--model", config, "--random-weights", "--device", "cpu"),
        *("--kv-blocks", 60, "--as-fast-as-possible", "--no-plots", "--json", "--out", out),
        *(("--set", f"run.costs={path}") if profiled else ()),
    )
    assert code == 0, errors
    expected = hashlib.sha256(path.read_bytes()).hexdigest() if profiled else None
    summary = json.loads(text)
    assert summary["run"]["profile_sha256"] == expected
    beliefs = summary["trust"]["beliefs"]
    assert len(beliefs["learned"]) == (0 if profiled else 1), "who has a profile goes by it"
    assert (beliefs["profile"] == "roofline:cpu") is not profiled
    learns = any("learn" in note for note in summary["notes"])
    assert learns is not profiled
    made_by = tomllib.loads((out / "config.toml").read_text())["made_by"]
    assert made_by.get("profile_sha256") == expected and made_by["torch"] == version("torch")


@pytest.mark.parametrize("memory", ["slo_aware", "lru"])
def test_memory_is_counted_in_slabs_where_blocks_may_lose_bits(
    monkeypatch, capsys, tmp_path, config, trace, memory
):
    """On a CPU of the 32nd part of the arena: 20 of 640 blocks."""
    code, text, errors = call(
        monkeypatch,
        capsys,
        *("run", trace, "--model", config, "--random-weights", "--device", "cpu"),
        *("--memory", memory, "--kv-blocks", 640, "--as-fast-as-possible", "--no-plots"),
        *("--json", "--out", tmp_path / "result"),
    )
    assert code == 0, errors
    summary = json.loads(text)
    size = summary["run"]["block_bytes"] * (20 if memory == "slo_aware" else 1)
    assert summary["peak_slab_bytes"] == -(-summary["peak_kv_bytes"] // size) * size > 0


def test_what_changes_nothing_is_named(monkeypatch, capsys, tmp_path, config):
    """As in the simulator: classes that differ by capitals, and caching where nothing is shared."""
    line = {"timestamp": 0, "input_length": 9, "output_length": 2, "class": "chat"}
    (tmp_path / "t.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "c.toml").write_text("[classes.Chat]\nttft_ms = 20\n[classes.x]\nttft_ms = 20\n")
    code, _, errors = call(
        monkeypatch,
        capsys,
        *("run", tmp_path / "t.jsonl", "--model", config, "--random-weights", "--device", "cpu"),
        *("--classes", tmp_path / "c.toml", "--prefix-caching", "--kv-blocks", 8),
        *("--memory", "radix"),
        *("--as-fast-as-possible", "--no-plots", "--out", tmp_path / "result"),
    )
    assert code == 0, errors
    assert "note: a hybrid: rotating with the memory policy radix (its own: " in errors
    assert [line for line in errors.splitlines() if line.startswith("warning: ")] == [
        "warning: classes.Chat: no request is of class Chat (did you mean 'chat'?)",
        "warning: run.prefix_caching: no request has hash_ids, so no prompts begin alike",
    ]


OWN = """
from superinfer.schedulers.fcfs import FcfsScheduler

class Own(FcfsScheduler):
    {}
"""


@pytest.mark.parametrize(
    ("body", "said", "written"),
    [
        ("def bind(self, machine): machine.blocks", "AttributeError: ", False),
        ("plan = ended = lambda self, *_: self.none", "AttributeError: ", False),
        (
            "plan = lambda self, *_: self.none\n"
            "    def ended(self, seq): raise SystemExit('second')",
            "AttributeError: ",
            False,
        ),
        ("counters = property(lambda self: self.none)", "AttributeError: ", False),
        ("def plan(self, draft, now): draft.note('x', None)", "note: expected one of ", True),
    ],
)
def test_a_policy_of_ones_own_that_breaks(
    monkeypatch, capsys, tmp_path, config, trace, body, said, written
):
    """Named in one line; where it breaks again on hearing of the end nothing more is said."""
    (tmp_path / "own_one.py").write_text(OWN.format(body))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_one", raising=False)
    out = tmp_path / "result"
    code, _, errors = call(
        monkeypatch,
        capsys,
        *("run", trace, "--scheduler", "own_one:Own", "--model", config, "--random-weights"),
        *("--device", "cpu", "--kv-blocks", 200, "--as-fast-as-possible", "--no-plots"),
        *("--out", out),
    )
    assert code == 1, errors
    (line,) = (line for line in errors.splitlines() if line.startswith("error: "))
    assert line.startswith("error: scheduler 'own_one:Own' (") and f"own_one.py:5): {said}" in line
    assert out.exists() == written


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
def test_every_scheduler_runs_on_a_device(monkeypatch, capsys, tmp_path, config, trace, scheduler):
    """Whatever settings it has, and those that it derives from the machine."""
    out = tmp_path / "result"
    code, text, errors = call(
        monkeypatch,
        capsys,
        *("run", trace, "--scheduler", scheduler, "--model", config, "--random-weights"),
        *("--device", "cpu", "--kv-blocks", 200, "--limit", 2, "--as-fast-as-possible"),
        *("--no-plots", "--json", "--out", out),
    )
    assert code == 0, errors
    assert json.loads(text)["completed"] == 2
    assert len(load_run(out).steps) == json.loads(text)["steps"]


@pytest.mark.parametrize(
    ("scheduler", "more", "wanted", "note"),
    [
        ("sglang", (), ("radix", True, 1), ""),
        ("sglang", ("--lag", 0, "--memory", "lru"), ("lru", True, 0), ""),
        ("vllm", (), ("lru", False, 1), "note: run.as_released: vllm is v0.6.0 of 2024; "),
        ("fcfs", (), ("lru", False, 0), "note: run.as_released sets nothing: "),
    ],
)
def test_a_scheduler_as_its_release_ships(
    monkeypatch, capsys, tmp_path, config, trace, scheduler, more, wanted, note
):
    """What is given itself stays, and notes are those of the simulator."""
    code, _, errors = call(
        monkeypatch,
        capsys,
        *("run", trace, "--scheduler", scheduler, "--as-released", *more),
        *("--model", config, "--random-weights", "--device", "cpu", "--kv-blocks", 200),
        *("--limit", 2, "--as-fast-as-possible", "--no-plots", "--out", tmp_path / "result"),
    )
    assert code == 0, errors
    run = tomllib.loads((tmp_path / "result" / "config.toml").read_text())["run"]
    assert (run["memory"], run["prefix_caching"], run["lag"]) == wanted
    assert ("run.as_released" in errors) == bool(note) and note in errors


def test_plots_and_the_report_work_on_a_run(monkeypatch, capsys, tmp_path, config, trace):
    out = tmp_path / "result"
    code, text, errors = call(
        monkeypatch,
        capsys,
        *("run", trace, "--scheduler", "fcfs", "--model", config, "--random-weights"),
        *("--device", "cpu", "--limit", 2, "--out", out),
    )
    assert code == 0, errors
    assert "completed" in text
    assert (out / "report.html").stat().st_size > 1000


def test_generate_prints_text(monkeypatch, capsys, config):
    code, first, errors = call(
        monkeypatch,
        capsys,
        *("generate", "Hello", "--max-tokens", 12, "--model", config, "--random-weights"),
        *("--device", "cpu", "--temperature", 1.5, "--top-p", 0.9, "--seed", 5),
    )
    assert code == 0, errors
    assert first.endswith("\n") and len(first) > 3
    code, whole, errors = call(
        monkeypatch,
        capsys,
        *("generate", "Hello", "--max-tokens", 12, "--model", config, "--random-weights"),
        *("--device", "cpu", "--temperature", 1.5, "--top-p", 0.9, "--seed", 5, "--json"),
    )
    assert code == 0, errors
    told = json.loads(whole)
    assert told.pop("text") + "\n" == first
    assert 0 < told.pop("prompt_tokens") <= 5 and 0 < told.pop("output_tokens") <= 12
    assert told == {"interrupted": False}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "nothing.jsonl", "--device", "cpu"], "nothing.jsonl"),
        (["run"], "TRACE: expected a trace"),
        (["run", "TRACE", "--model", "lama", "--device", "cpu"], "unknown model 'lama'"),
        (["run", "TRACE", "--model", "llama-3.1-8b", "--device", "cpu"], "has no weights"),
        (["run", "TRACE", "--scheduler", "vlm", "--device", "cpu"], "vllm"),
        (["run", "TRACE", "--device", "tpu"], "expected cpu, cuda or one of"),
        (["run", "TRACE", "--device", "cpu", "--dtype", "int3"], "expected one of float32"),
        (["run", "TRACE", "--device", "cpu", "--block-tokens", "24"], "expected one of 16, 32, 64"),
        (["run", "TRACE", "--set", "run.concurrency=4"], "run.concurrency: for superinfer-sim"),
        (["run", "TRACE", "--set", "run.sessions='closed'"], "run.sessions: expected open"),
        (["generate", "", "--device", "cpu"], "at least one token"),
        (["generate", "x" * 600, "--device", "cpu"], "above the context of 512"),
        (
            ["generate", "x", "--top-p", "7", "--device", "cpu"],
            "top_p: expected a number in (0, 1]",
        ),
        (["generate"], "Missing argument"),
        (["generate", "x", "--device", "abacus"], "error: --device: expected cpu, cuda or one of"),
        (["generate", "x", "--stop", ""], "error: --stop: expected text, got an empty one"),
        (["bench", "--device", "abacus"], "error: --device: expected cpu, cuda or one of"),
        (["calibrate", "--device", "abacus"], "error: --device: expected cpu, cuda or one of"),
        (["run", "TRACE", "--device", "cpu", "--out", "/dev/null/a/b"], "/dev/null/a/b: cannot"),
        (["calibrate", "--device", "cpu", "-o", "/dev/null/a"], "/dev/null/a: cannot write here"),
        (["calibrate", "--device", "cpu", "-o", "."], ".: expected a file, got a folder"),
        (["validate", "TRACE", "--profile", "none.json"], "none.json: cannot read: No such file"),
    ],
)
def test_a_mistake_is_one_line(monkeypatch, capsys, config, trace, arguments, expected):
    arguments = [str(trace) if part == "TRACE" else part for part in arguments]
    if "--model" not in arguments and arguments[0] in {"run", "generate"}:
        arguments += ["--model", str(config), "--random-weights"]
    code, text, errors = call(monkeypatch, capsys, *arguments)
    assert code == 2, errors
    assert expected in errors and len(errors.strip().splitlines()) == 1
    assert not text


def test_a_calibration_does_not_write_over_its_model(monkeypatch, capsys, config):
    before = config.read_bytes()
    given = ("--random-weights", "--device", "cpu", "-o", str(config))
    for model in (config, config.parent):
        code, _, errors = call(monkeypatch, capsys, "calibrate", "--model", str(model), *given)
        assert (code, config.read_bytes()) == (2, before)
        assert errors == f"error: {config}: expected another file than the one that is read\n"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"eos_token_id": "</s>"}, "config.json: eos_token_id: expected a token of the vocabulary"),
        ({"eos_token_id": [[2]]}, "config.json: eos_token_id: expected a token of the vocabulary"),
        ({"eos_token_id": 9999}, "eos_token_id: expected a token of the vocabulary, 0 to 255"),
        ({"head_dim": 7}, "config.json: head_dim: expected heads of a multiple of 8"),
        ({"head_dim": -1}, "config.json: head_dim: expected an integer >= 1"),
        ({"rms_norm_eps": float("inf")}, "config.json: rms_norm_eps: expected a number above 0"),
        ({"rms_norm_eps": "small"}, "config.json: rms_norm_eps: expected a number above 0"),
        ({"num_hidden_layers": 0}, "config.json: num_hidden_layers: expected an integer >= 1"),
        ({"vocab_size": 100}, "bytes do not fit into a vocabulary of 100 tokens"),
    ],
)
def test_an_odd_model_is_one_line(monkeypatch, capsys, config, changes, expected):
    config.write_text(json.dumps({**LLAMA, "vocab_size": 256, **changes}))
    settings = ("--model", config, "--random-weights", "--device", "cpu")
    code, text, errors = call(monkeypatch, capsys, "generate", "Hello", *settings)
    assert code == 2 and not text
    assert errors.startswith("error: ") and expected in errors and errors.count("\n") == 1


def test_more_tokens_than_the_context_has_room_for(monkeypatch, capsys, config):
    settings = ("--model", config, "--random-weights", "--device", "cpu", "--max-model-len", 20)
    more = ("--max-tokens", 99)
    code, _, errors = call(monkeypatch, capsys, "generate", "Hello", *settings, *more)
    assert code == 0
    assert errors.startswith("warning: --max-tokens 99: the context has room for 1")


def test_an_output_is_looked_at_before_the_trace(monkeypatch, capsys, tmp_path):
    """And before the model is loaded: nothing has to be done twice."""
    place = ("--out", "/dev/null/a", "--device", "cpu")
    code, _, errors = call(monkeypatch, capsys, "run", tmp_path / "nowhere.jsonl", *place)
    assert code == 2 and errors == "error: /dev/null/a: cannot write here: Not a directory\n"


def test_no_gpu_is_one_line(monkeypatch, capsys, config, trace):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = ("run", trace, "--model", config, "--random-weights", "--device", "cuda")
    code, _, errors = call(monkeypatch, capsys, *arguments)
    assert code == 2 and "no CUDA device" in errors


def test_a_run_that_cannot_be_written_is_shown(monkeypatch, capsys, tmp_path, config, trace):
    """It took its time on the device, and nobody gets that again."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "result"))

    monkeypatch.setattr("executor.replay.write_run", full)
    code, text, errors = call(
        monkeypatch,
        capsys,
        *("run", trace, "--scheduler", "vllm", "--model", config, "--random-weights"),
        *("--device", "cpu", "--kv-blocks", 60, "--as-fast-as-possible", "--json"),
        *("-o", tmp_path / "result"),
    )
    assert code == 1 and "No space left on device" in errors
    assert json.loads(text)["completed"] == 5


def test_a_scheduler_of_ones_own_is_named(monkeypatch, capsys, tmp_path, config, trace):
    """What it raises is one line here, too."""
    (tmp_path / "device_policy.py").write_text(
        "from dataclasses import dataclass\n"
        "from superinfer.schedulers.fcfs import FcfsScheduler\n\n\n"
        "@dataclass\nclass Own(FcfsScheduler):\n"
        "    def plan(self, draft, now):\n        self.nothing\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    code, _, errors = call(
        monkeypatch,
        capsys,
        *("run", trace, "--scheduler", "device_policy:Own", "--model", config),
        *("--random-weights", "--device", "cpu", "--kv-blocks", 60, "--no-plots"),
        *("-o", tmp_path / "result"),
    )
    said = "error: scheduler 'device_policy:Own' (device_policy.py:8): AttributeError: 'Own' object"
    assert code == 1 and errors.splitlines()[-1].startswith(said)


def test_a_run_without_memory_writes_the_results_so_far(
    monkeypatch, capsys, tmp_path, config, trace
):
    """`vllm_v1` shares blocks before they are computed, so no request can be failed alone."""
    launch = Runner.launch

    def hungry(runner, batch):
        if any(chunk.context + len(chunk.tokens) >= 100 for chunk in batch.chunks):
            raise RuntimeError("can't allocate memory: you tried to allocate 1073741824 bytes.")
        return launch(runner, batch)

    monkeypatch.setattr(Runner, "launch", hungry)
    out = tmp_path / "result"
    code, _, errors = call(
        monkeypatch,
        capsys,
        *("run", trace, "--scheduler", "vllm_v1", "--memory", "vllm_v1"),
        *("--model", config, "--random-weights"),
        *("--device", "cpu", "--kv-blocks", 60, "--prefix-caching"),
        *("--as-fast-as-possible", "--no-plots", "--out", out),
    )
    *_, place, said = errors.splitlines()
    assert code == 1 and place == f"results in {out}"
    assert said.startswith("error: out of memory while running a step: no 1.00 GiB left: lower ")
    assert json.loads((out / "summary.json").read_text())["completed"] >= 2


@pytest.mark.slow
def test_interrupting_writes_the_results_so_far(tmp_path, config):
    trace = tmp_path / "long.jsonl"
    lines = [{"timestamp": 0, "input_length": 8, "output_length": n} for n in (2, 500)]
    lines.append({"timestamp": 10_000_000, "input_length": 8, "output_length": 2})
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "result"
    command = [
        *(sys.executable, "-m", "executor", "run", str(trace), "--scheduler", "fcfs"),
        *("--model", str(config), "--random-weights", "--device", "cpu", "--no-plots"),
        *("--json", "--out", str(out)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not _waits_for_the_last(process) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    text, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "stopping: the results so far are written\n" in errors
    assert errors.endswith("\ninterrupted\n")
    assert json.loads(text)["run"]["interrupted"] is True
    assert (out / "requests.parquet").exists()


def _waits_for_the_last(process):
    """True once the process sleeps most of the time: its first requests are done."""

    def used():
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    if not Path("/proc").exists():
        time.sleep(20)
        return True
    before = used()
    time.sleep(1.0)
    return before > 100 and used() - before < 10


def test_text_that_ends_an_answer_is_not_printed():
    class Letters:
        def push(self, token):
            return chr(token)

        def finish(self):
            return ""

    told = []
    text = Text(Letters(), ("END", "\n\n"), told.append)
    stops = [text.push(ord(letter)) for letter in "so E.N END rest"]
    assert "".join(told) == "so E.N " and stops.index(True) == 9
    text.finish()
    assert "".join(told) == "so E.N "
    told.clear()
    text = Text(Letters(), ("END",), told.append)
    for letter in "the EN":
        text.push(ord(letter))
    assert "".join(told) == "the "
    text.finish()
    assert "".join(told) == "the EN"


MISSING = "is missing: pip install 'superinfer"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ModuleNotFoundError("no", name="torch.cuda"), 2, f"torch.cuda {MISSING}[exec]'"),
        (ModuleNotFoundError("no", name="uvicorn"), 2, f"uvicorn {MISSING}[exec,server]'"),
        (MemoryError(), 1, "out of memory"),
    ],
)
def test_what_is_missing_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    line: str,
) -> None:
    def refused(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "application", lambda: refused)
    monkeypatch.setattr(complaints, "close_stdout", lambda: None)
    assert call(monkeypatch, capsys, "run") == (code, "", f"error: {line}\n")


def test_a_reader_who_goes_away_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed: list[bool] = []

    def refused(**_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(cli, "application", lambda: refused)
    monkeypatch.setattr(cli, "close_stdout", lambda: closed.append(True))
    assert call(monkeypatch, capsys, "run") == (1, "", "")
    assert closed


def test_the_version(monkeypatch, capsys):
    found = call(monkeypatch, capsys, "--version")
    assert found == (0, f"superinfer {version_of('superinfer')}\n", "")
