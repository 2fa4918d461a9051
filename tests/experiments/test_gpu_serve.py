"""What a GPU check asks of a server, on a CPU."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")

from experiments.gpu_check import serve
from experiments.gpu_check.checks import Context, run_check
from experiments.gpu_check.serve import Answer

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def context(folder: Path) -> Context:
    """As the command line gives it."""
    return Context("cpu", 60.0, {"fast": True}, folder)


def test_a_server_and_its_end(tmp_path: Path) -> None:
    """All streams in full, and one that leaves."""
    found = run_check(serve.CHECKS["served"], context(tmp_path))
    assert found["ok"], found
    assert [row["streams"] for row in found["rows"]] == list(serve.TINY_STREAMS)
    assert all(row["ttft_s"] > 0 and row["tokens_per_s"] > 0 for row in found["rows"])


def test_answers_that_are_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told once all else has been looked at, with rows that were measured."""
    whole = serve.streamed

    async def cut(port: int, count: int, tokens: int) -> list[Answer]:
        return await whole(port, count, tokens - (count > 1))

    monkeypatch.setattr(serve, "streamed", cut)
    found = run_check(serve.CHECKS["served"], context(tmp_path))
    assert not found["ok"] and found["error"] == "3 streams: 7 tokens for 8"
    assert len(found["rows"]) == 2


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    """Its last words are in the error; one that says nothing is not waited for beyond the time."""
    said = tmp_path / "said"
    said.write_text("warning: this is a test\nerror: no such model\n")
    with subprocess.Popen([sys.executable, "-c", "exit(2)"]) as process:
        process.wait()
        with pytest.raises(RuntimeError, match="exit 2: error: no such model"):
            serve.listening(process, said, time.monotonic() + 10)
    with pytest.raises(TimeoutError):
        serve.listening(process, said, time.monotonic())


def test_a_request_that_stays_after_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told, and so is one that counts for two."""
    monkeypatch.setattr(serve, "LEAVING_S", 0.1)

    async def left(held: float, aborted: float) -> str:
        async def metrics(port: int) -> tuple[float, float]:
            return held, aborted

        monkeypatch.setattr(serve, "metrics", metrics)
        async with await asyncio.start_server(_first_token, "127.0.0.1", 0) as listener:
            return await serve.hung_up(listener.sockets[0].getsockname()[1])

    assert "still there" in asyncio.run(left(1.01, 0.0))
    monkeypatch.setattr(serve, "LEAVING_S", 60.0)
    assert asyncio.run(left(0.0, 2.0)) == "2 requests were left by their clients, and not 1"
    assert asyncio.run(left(0.0, 1.0)) == ""


@pytest.mark.parametrize("heeds", [True, False])
def test_a_server_that_does_not_end(monkeypatch: pytest.MonkeyPatch, heeds: bool) -> None:
    """Is not waited for without end, nor is its last answer."""

    async def answer(port: int, number: int, tokens: int) -> Answer:
        if heeds:  # the process ends, and its client hears nothing of it
            await asyncio.Event().wait()
        return Answer(0.0, 0.0, 0.0, tokens)

    monkeypatch.setattr(serve, "answer", answer)
    deaf = "" if heeds else "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    program = f"import signal, time; {deaf}print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        try:
            said = asyncio.run(serve.ended(process, 0, 8, limit_s=0.2))
        finally:
            process.kill()
    assert said == "told to end, the server is still there after 0 s"


async def _first_token(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\n\r\ndata: {"choices": [{}]}\n\n')
    await writer.drain()
    writer.close()
