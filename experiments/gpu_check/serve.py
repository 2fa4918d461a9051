"""A server with the model behind it: clients at once, one that hangs up, and the end.

The command itself, in a process of its own, asked by clients of this one. What a step takes beyond
that of `floors` at as many rows is what serving costs; what it costs without a device, whose steps
take as long as they are told, is in `experiments.http_cost`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from prometheus_client.parser import text_string_to_metric_families as parsed

from experiments.gpu_check.checks import Check, Context, Result, end_with
from experiments.gpu_check.floors import rows_of
from experiments.gpu_check.small import tiny_config
from experiments.studykit.http_client import HOST, asked

COMPLETIONS = "/v1/completions"
STREAMS, TINY_STREAMS = (1, 32, 128), (1, 3)
PROMPT_TOKENS, ANSWER_TOKENS = 256, 200
TINY_TOKENS = 8
LONG_TOKENS = 240
"""Of the answer that a client does not wait for."""
HELD = "num_requests_running", "kv_cache_usage_perc"
POLL_S = 0.05
LEAVING_S = 10.0
"""For blocks of one that hung up to come back, at the most."""
ENDING_S = 30.0
"""For a server that was told to end: for the answer under way, and then for itself."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one client saw, on the clock of `time.perf_counter`."""

    asked_s: float
    first_s: float
    last_s: float
    tokens: int

    @property
    def tpot_s(self) -> float:
        """Mean time of a token after the first."""
        return (self.last_s - self.first_s) / max(self.tokens - 1, 1)


def served(context: Context) -> Result:
    """Answers in full to so many streams at once; blocks of one that hangs up come back; told to
    end, the server ends what is under way first.
    """
    with server(context) as (process, said):
        begin_s = time.monotonic()
        port = listening(process, said, begin_s + context.left_s)
        opened_s = time.monotonic() - begin_s
        tokens = TINY_TOKENS if context.tiny else ANSWER_TOKENS
        asyncio.run(streamed(port, 1, tokens))
        counts = TINY_STREAMS if context.tiny else STREAMS
        rows = context.kept(row(port, count, tokens) for count in counts)
        wrong = asyncio.run(hung_up(port))
        limit_s = min(ENDING_S, context.left_s)
        wrong = wrong or asyncio.run(ended(process, port, tokens, limit_s))
        wrong = wrong or next((found["wrong"] for found in rows if "wrong" in found), "")
        failed = {"ok": False, "error": wrong} if wrong else {}
        return {**rows_of(rows, opened_s=opened_s), **failed}


CHECKS: dict[str, Check] = {"served": served}

# -- the server ------------------------------------------------------------------------------------


@contextmanager
def server(context: Context) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The command, and the file with what it says; killed afterwards if it is still there."""
    model = tiny_config(context) if context.tiny else "llama-3.1-8b"
    size = ["--kv-blocks", "200", "--max-model-len", "512"] if context.tiny else []
    options = ["--model", model, "--random-weights", "--device", context.device, *size]
    said = context.work / "served.txt"
    command = [sys.executable, "-m", "executor", "serve", "--port", "0", *options]
    ends = partial(end_with, os.getpid())
    with (
        said.open("wb") as out,
        subprocess.Popen(command, stdout=out, stderr=out, preexec_fn=ends) as process,  # noqa: PLW1509
    ):
        try:
            yield process, said
        finally:
            process.kill()


def listening(process: subprocess.Popen[bytes], said: Path, end_s: float) -> int:
    """The port, once the server names it. RuntimeError with its last line if it ends before,
    TimeoutError if it takes longer.
    """
    while time.monotonic() < end_s:
        words = said.read_text(encoding="utf-8", errors="replace")
        if found := re.search(rf"http://{re.escape(HOST)}:(\d+)/v1", words):
            return int(found[1])
        if process.poll() is not None:
            last = words.strip().rpartition("\n")[2]
            raise RuntimeError(f"exit {process.returncode}: {last}\n{words[-1500:]}")
        time.sleep(POLL_S)
    raise TimeoutError("the server does not listen yet")


# -- clients ---------------------------------------------------------------------------------------


def row(port: int, count: int, tokens: int) -> dict[str, Any]:
    """What so many clients at once saw; `wrong` if one of them has not all of its answer."""
    answers = asyncio.run(streamed(port, count, tokens))
    whole_s = max(answer.last_s for answer in answers) - min(answer.asked_s for answer in answers)
    short = [answer.tokens for answer in answers if answer.tokens != tokens]
    return {
        "streams": count,
        "ttft_s": median(answer.first_s - answer.asked_s for answer in answers),
        "tpot_s": median(answer.tpot_s for answer in answers),
        "longest_tpot_s": max(answer.tpot_s for answer in answers),
        "tokens_per_s": sum(answer.tokens for answer in answers) / whole_s,
        **({"wrong": f"{count} streams: {short[0]} tokens for {tokens}"} if short else {}),
    }


async def streamed(port: int, count: int, tokens: int) -> list[Answer]:
    """So many clients that ask at once, each for another prompt."""
    return await asyncio.gather(*(answer(port, number, tokens) for number in range(count)))


async def answer(port: int, number: int, tokens: int) -> Answer:
    """Read one answer to its end."""
    asked_s = time.perf_counter()
    times: list[float] = []
    found = 0
    async with asked(port, COMPLETIONS, body(number, tokens)) as reply:
        async for line in reply:
            if line.startswith(b"data: {"):
                event = json.loads(line[len(b"data: ") :])
                if event["choices"]:
                    times.append(time.perf_counter())
                found = (event.get("usage") or {}).get("completion_tokens", found)
    if not times:
        raise RuntimeError(f"client {number} got no token")
    return Answer(asked_s, times[0], times[-1], found)


def body(number: int, tokens: int) -> dict[str, Any]:
    """What a client asks: no two prompts begin alike."""
    prompt = [1 + number, *((7 * number + 3 * place) % 250 for place in range(PROMPT_TOKENS - 1))]
    drawn = {"temperature": 0, "max_tokens": tokens, "ignore_eos": True}
    return {"prompt": prompt, "stream": True, "stream_options": {"include_usage": True}, **drawn}


async def hung_up(port: int) -> str:
    """What is wrong when a client leaves in the middle of its answer; nothing if its blocks come
    back before the answer could have ended.
    """
    async with asked(port, COMPLETIONS, body(0, LONG_TOKENS)) as reply:
        async for line in reply:
            if line.startswith(b"data: {"):
                break
    end_s = time.monotonic() + LEAVING_S
    while time.monotonic() < end_s:
        held, left = await metrics(port)
        if not held:
            return "" if left == 1 else f"{left:.0f} requests were left by their clients, and not 1"
        await asyncio.sleep(POLL_S)
    return f"a request whose client left is still there after {LEAVING_S:.0f} s"


async def metrics(port: int) -> tuple[float, float]:
    """Requests on the device and the share of the KV cache that they hold, added; and requests
    whose clients left.
    """
    async with asked(port, "/metrics") as reply:
        page = (await reply.read()).decode().partition("\r\n\r\n")[2]
    found = {
        (sample.name, sample.labels.get("finished_reason")): sample.value
        for metric in parsed(page)
        for sample in metric.samples
    }
    held = sum(found[f"superinfer:{name}", None] for name in HELD)
    return held, found["superinfer:request_success_total", "abort"]


async def ended(
    process: subprocess.Popen[bytes], port: int, tokens: int, limit_s: float = ENDING_S
) -> str:
    """What is wrong with the end of a server that is told to end while it answers."""
    last = asyncio.create_task(answer(port, 0, tokens))
    await asyncio.sleep(POLL_S)
    process.send_signal(signal.SIGTERM)
    try:
        found = await asyncio.wait_for(last, limit_s)
        code = await asyncio.to_thread(process.wait, limit_s)
    except (TimeoutError, subprocess.TimeoutExpired):
        return f"told to end, the server is still there after {limit_s:.0f} s"
    if code:
        return f"told to end, the server ended with {code}"
    return "" if found.tokens == tokens else f"at the end {found.tokens} tokens for {tokens}"
