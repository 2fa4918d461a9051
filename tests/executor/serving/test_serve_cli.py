"""`superinfer-exec serve` as a process: what it says, and how it ends."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from executor_runs import call
from serving_kit import PATIENCE_S, asking, serving, until

from executor.serving.server import listener_at
from executor.serving.service import Rules

ROOT = Path(__file__).parents[3]
NO_PROFILE = (
    "warning: no profile of tiny on cpu: schedulers go by nominal step times, "
    "until they have learned what steps take; "
    "superinfer-exec calibrate makes one for --set run.costs=FILE\n"
)


@contextmanager
def server(*options: object, warned: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that serves, and its address; it has `warned` of something more."""
    command = (sys.executable, "-m", "executor", "serve", "--port", 0, "--device", "cpu", *options)
    with subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == NO_PROFILE
            assert not warned or process.stderr.readline() == f"warning: {warned}\n"
            line = process.stderr.readline()
            match = re.fullmatch(r"tiny at (http://127\.0\.0\.1:\d+)/v1\n", line)
            assert match, line
            yield process, match[1]
        finally:
            process.kill()


def rest(process: subprocess.Popen[str]) -> str:
    """What it says until it ends."""
    return process.communicate(timeout=PATIENCE_S)[1]


@pytest.mark.parametrize(
    ("sent", "code", "last"), [(signal.SIGTERM, 0, ""), (signal.SIGINT, 130, "interrupted\n")]
)
def test_answers_under_way_are_finished(
    tmp_path: Path, sent: signal.Signals, code: int, last: str
) -> None:
    """All processes get the signal, as from a terminal or from a manager of services."""
    record = tmp_path / "asked.jsonl"
    with (
        server("--record", record) as (process, url),
        httpx.stream(
            "POST",
            f"{url}/v1/completions",
            json=asking("a", stream=True, max_tokens=600, ignore_eos=True),
            timeout=PATIENCE_S,
        ) as reply,
    ):
        lines = reply.iter_lines()
        next(lines)
        os.killpg(process.pid, sent)
        text = "".join(
            json.loads(line[6:])["choices"][0]["text"]
            for line in lines
            if line.startswith("data: {")
        )
        assert len(text) > 500
        assert rest(process) == f"1 requests in {record}\n{last}"
        assert process.returncode == code
    assert json.loads(record.read_text())["output_length"] == 600


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_no_rank_ends_before_its_time(sent: signal.Signals) -> None:
    body = asking("a", stream=True, max_tokens=300, ignore_eos=True, frequency_penalty=0.5)
    with (
        server("--tp", 2) as (process, url),
        httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=PATIENCE_S) as reply,
    ):
        lines = reply.iter_lines()
        next(lines)
        os.killpg(process.pid, sent)
        *_, last, done = [line for line in lines if line]
        assert json.loads(last[6:])["choices"][0]["finish_reason"] == "length"
        assert done == "data: [DONE]" and "Traceback" not in rest(process)
        assert process.returncode == (130 if sent == signal.SIGINT else 0)


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [(signal.SIGTERM,), (signal.SIGINT, signal.SIGTERM)])
def test_nobody_is_waited_for_longer_than_was_said(
    tmp_path: Path, kinds: tuple[signal.Signals, ...]
) -> None:
    """By the timeout, or by a second signal. Who is left is told, and the record is whole."""
    record, timeout_s = tmp_path / "asked.jsonl", 30 if len(kinds) > 1 else 0.25
    body = asking("a", stream=True, max_tokens=9000, ignore_eos=True)
    with (
        server("--shutdown-timeout", timeout_s, "--record", record) as (process, url),
        httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=PATIENCE_S) as reply,
    ):
        lines = reply.iter_lines()
        next(lines)
        for kind in kinds:
            process.send_signal(kind)
            time.sleep(0.3)
        *_, last, done = [line for line in lines if line]
        said = rest(process)
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["message"] == "the request was not finished: the server is shutting down"
    assert done == "data: [DONE]"
    assert said.startswith(f"1 requests in {record}\n") and "Traceback" not in said
    assert process.returncode == (130 if signal.SIGINT in kinds else 0)
    assert 0 < json.loads(record.read_text())["output_length"] < 9000


@pytest.mark.slow
def test_an_engine_that_fails_ends_the_server(tmp_path: Path) -> None:
    options = ("--scheduler", "tests.executor.serving.engine.test_clients:Failing", "--lag", 0)
    with server(*options) as (process, url):
        reply = httpx.post(f"{url}/v1/completions", json=asking("a"), timeout=PATIENCE_S)
        assert reply.status_code == 503
        said = rest(process)
        assert process.returncode == 1
    assert said.startswith("error: ") and said.count("\n") == 1 and "no more plans" in said


def engine_of(process: subprocess.Popen[str]) -> int:
    """The process of a server's engine."""
    (engine,) = (
        int(folder.name)
        for folder in Path("/proc").glob("[0-9]*")
        if int((folder / "stat").read_text().rpartition(") ")[2].split()[1]) == process.pid
        and "spawn_main" in (folder / "cmdline").read_text()
    )
    return engine


def is_there(pid: int) -> bool:
    """A process that works, or that nobody has looked after yet."""
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rpartition(") ")[2][0] != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("ranks", [1, 2])
def test_an_engine_that_vanishes_ends_the_server(ranks: int) -> None:
    body = asking("a", stream=True, max_tokens=9000, ignore_eos=True)
    with (
        server("--tp", ranks) as (process, url),
        httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=PATIENCE_S) as reply,
    ):
        lines = reply.iter_lines()
        next(lines)
        os.kill(engine_of(process), signal.SIGKILL)
        *_, last, done = [line for line in lines if line]
        assert "the engine has failed" in last and done == "data: [DONE]"
        assert rest(process) == "error: the engine's process has ended before its time\n"
        assert process.returncode == 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_no_engine_outlives_its_server() -> None:
    with server() as (process, url):
        httpx.post(f"{url}/v1/completions", json=asking("a"), timeout=PATIENCE_S)
        engine = engine_of(process)
        process.kill()
        until(lambda: not is_there(engine))


def test_what_keeps_an_engine_from_starting_is_said() -> None:
    """By its own process, with the exit code that belongs to it, and by nothing else."""
    options = ("--device", "cpu", "--port", "0", "--block-tokens", "5")
    command = [sys.executable, "-m", "executor", "serve", *options]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    wanted = "run.block_tokens: expected one of 16, 32, 64 on a device, got 5"
    assert (done.returncode, done.stderr) == (2, f"error: {wanted}\n")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_an_engine_that_hangs_does_not_keep_its_server() -> None:
    """It is given up some seconds after the server was told to end, and not healthy before."""
    with server("--shutdown-timeout", 0.1, "--health-timeout", 2) as (process, url):
        httpx.post(f"{url}/v1/completions", json=asking("a"), timeout=PATIENCE_S)
        engine = engine_of(process)
        os.kill(engine, signal.SIGSTOP)
        assert httpx.get(f"{url}/metrics", timeout=5).status_code == 200
        until(lambda: httpx.get(f"{url}/health", timeout=5).status_code == 503)
        process.send_signal(signal.SIGTERM)
        assert rest(process) == "error: the engine has not ended its step in 15 s\n"
        assert process.returncode == 1 and not is_there(engine)


def test_a_cache_that_has_less_room_than_the_context_is_told() -> None:
    room = "the KV cache has room for 128 tokens, the context for 10240"
    with server("--kv-blocks", 4, warned=f"{room}: longer requests are refused"):
        pass


def test_who_does_not_read_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest of the answer stays where it is; nothing of that is a fault of the server."""

    def listener_of_little_room(host: str, port: int) -> socket.socket:
        listener = listener_at(host, port)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 12)  # of all that it accepts
        return listener

    monkeypatch.setattr("serving_kit.listener_at", listener_of_little_room)
    monkeypatch.setattr("executor.serving.server.LAST_WORDS_S", 0.1)
    body = json.dumps(asking("a", stream=True, n=50, max_tokens=30, ignore_eos=True))
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        with serving(tmp_path, Rules("tiny", shutdown_s=0.1)) as served:
            place = httpx.URL(served.url)
            client.connect((place.host, place.port))
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            ended = "superinfer:request_success_total"
            until(lambda: sum(n for name, n in served.metrics().items() if ended in name) == 50)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_small_replies_go_at_once() -> None:
    """Every connection that is accepted is without Nagle's algorithm."""
    with listener_at("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_what_cannot_be_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "there.jsonl"
    record.touch()

    def fault(*options: object) -> tuple[int, str]:
        code, text, errors = call(monkeypatch, capsys, "serve", "--device", "cpu", *options)
        assert text == ""
        return code, errors

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: Any = taken.getsockname()[1]
        taken_by = f"error: --host 127.0.0.1 --port {port}: Address already in use\n"
        assert fault("--port", port) == (2, taken_by)
    assert fault("--record", record, "--port", 0) == (
        2,
        f"error: --record: {record} is there already\n",
    )
    code, said = fault("--chat-template", tmp_path / "none.jinja", "--port", 0)
    assert code == 2 and said.endswith("none.jinja: No such file or directory\n")
    code, said = fault("--set", "run.replicas=2", "--port", 0)
    assert code == 2 and "run.replicas" in said
    code, said = fault("--metrics-prefix", "a b", "--port", 0)
    assert code == 2 and said.startswith("error: --metrics-prefix: expected letters")
    for key in ("secret\n", " secret", "sec\nret", " "):
        wanted = "error: --api-key: expected text in one line, without spaces around it\n"
        assert fault("--api-key", key, "--port", 0) == (2, wanted)
    monkeypatch.setenv("SUPERINFER_API_KEY", "from a file\n")
    assert fault("--port", 0) == (2, wanted)
