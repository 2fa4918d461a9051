"""Clients that leave, come in crowds, or are there when the engine ends."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from serving_kit import Served, asking, held, serving, until

from executor.serving import server
from executor.serving.engine import clients
from executor.serving.engine.engine_client import Closed
from executor.serving.engine.letters import Leave, Wish
from executor.serving.http.bodies import CompletionBody
from executor.serving.http.exchange import Exchange
from executor.serving.http.replies import COMPLETION, Envelope
from executor.serving.service import Rules, Service
from superinfer.schedulers.fcfs import FcfsScheduler

REFUSED = (
    "superinfer:request_refused_total"
    "[('engine', '0'), ('model_name', 'tiny'), ('reason', 'overloaded')]"
)
LONG = {"max_tokens": 4000, "ignore_eos": True}


class JustTooLate(deque[Any]):
    """Letters that are looked for in vain, and one of which comes right after that."""

    taken = 0

    def popleft(self) -> Any:
        self.taken += 1
        return super().popleft()

    def __bool__(self) -> bool:
        found = len(self) > 0
        if not found:
            self.append(Leave(7))
        return found


def idle(served: Served) -> None:
    """Nobody is served, and no request holds a block."""
    served.until_idle()
    engine = served.session.engine
    until(lambda: not engine.live and not engine.pool.referenced)


def wishes_of(service: Service, body: CompletionBody) -> list[Wish]:
    """What a body without headers asks for."""
    return service.reader.completions(body, service.reader.objective(body, {}))


def test_the_engine_hears_of_every_letter_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a long slice would go on without whoever has just come."""
    crowd = clients.Clients(*[None] * 3)  # type: ignore[arg-type]
    letters = JustTooLate()
    monkeypatch.setattr(crowd, "_letters", letters)
    engine: Any = SimpleNamespace(batch=SimpleNamespace(end_s=[]))
    for _ in range(3):
        before = letters.taken
        assert crowd.tell(engine, 0.0) == (letters.taken > before)
    assert letters.taken == 2


def aborted(served: Served) -> float:
    """Requests whose client has left."""
    return sum(n for name, n in served.metrics().items() if "request_success_total" in name)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_computed_for_who_has_left(tmp_path: Path, stream: bool, lag: int) -> None:
    with serving(tmp_path, lag=lag) as served:
        body = asking("Then", stream=stream, n=2, **LONG)

        async def leave() -> None:
            async with httpx.AsyncClient(base_url=served.url) as client:
                with pytest.raises(httpx.ReadTimeout):
                    async with client.stream(
                        "POST", "/v1/completions", json=body, timeout=1.0
                    ) as reply:
                        await asyncio.sleep(0.2)
                        async for _ in reply.aiter_lines():
                            raise httpx.ReadTimeout("enough")

        asyncio.run(leave())
        until(lambda: aborted(served) == 2)
        idle(served)
        assert served.text("Then") == served.text("Then")


@pytest.mark.parametrize(
    ("scheduler", "memory"),
    [
        ("rotating", "slo_aware"),
        ("vllm", "lru"),
        *(
            pytest.param(name, "lru", marks=pytest.mark.slow)
            for name in ("vllm_v1", "sglang", "fastserve", "rotasched")
        ),
    ],
)
def test_a_crowd_under_pressure_gets_the_right_answers(
    tmp_path: Path, scheduler: str, memory: str
) -> None:
    """A cache far too small for all of them; some leave. Every text is that of an idle server."""
    prompts = [f"verse {n} of the book, which says that " for n in range(8)]
    with serving(tmp_path, scheduler=scheduler) as served:
        alone = [served.text(prompt, max_tokens=40) for prompt in prompts]
    small = tmp_path / "small"
    small.mkdir()
    settings = ["run.host_memory_gib=0.02"]
    with serving(
        small, scheduler=scheduler, memory=memory, kv_blocks=10, settings=settings
    ) as served:

        def ask(prompt: str) -> str:
            return served.text(prompt, max_tokens=40)

        def leave(prompt: str) -> None:
            with served.client.stream(
                "POST", "/v1/completions", json=asking(prompt, stream=True, max_tokens=40)
            ) as reply:
                next(reply.iter_lines())

        with ThreadPoolExecutor(12) as pool:
            left = [pool.submit(leave, prompt) for prompt in prompts[::2]]
            together = list(pool.map(ask, prompts))
            assert together == alone
            assert all(future.exception() is None for future in left)
        idle(served)


def test_what_is_done_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With answers under way, which come out the same."""
    monkeypatch.setattr(clients, "FORGET_AFTER", 2)
    monkeypatch.setattr(clients, "FORGET_AFTER_STEPS", 7)
    with serving(tmp_path) as served:
        whole = served.text("And he", max_tokens=60)
        with ThreadPoolExecutor(6) as pool:
            lengths = [10, 60, 20, 60, 30, 60]
            texts = pool.map(lambda n: served.text("And he", max_tokens=n), lengths)
            assert list(texts) == [whole[:n] for n in lengths]
        idle(served)
        engine = served.session.engine
        assert engine.recorder.partial
        until(lambda: len(engine.recorder.sequences) <= 2 and len(engine.batch.end_s) <= 8)


def test_too_many_that_wait_are_turned_away(tmp_path: Path) -> None:
    settings = ["scheduler.max_num_seqs=1"]
    rules = Rules("tiny", most_waiting=2)
    with serving(tmp_path, rules, scheduler="vllm", settings=settings) as served:
        busy, found, more = [], served.service.engine, {"max_tokens": 40, "ignore_eos": True}
        with ThreadPoolExecutor(3) as pool, held(served.session, after=9):
            busy.append(pool.submit(served.text, "a", **more))
            until(lambda: found.number == 1 and not found.waiting.number())
            busy += [pool.submit(served.text, "a", **more) for _ in range(2)]
            until(lambda: found.waiting.number() == 2)
            reply = served.client.post("/v1/completions", json=asking("a"))
            assert reply.status_code == 429
            assert int(reply.headers["retry-after"]) >= 1
            expected_s = found.waiting.expected_s((0, True), found.read_clock() + 600)
            assert expected_s > 600, "as long as the earliest of them waits"
            assert "too many requests wait" in reply.json()["error"]["message"]
            assert served.metrics()[REFUSED] == 1
        assert len({future.result() for future in busy}) == 1
        assert served.client.post("/v1/completions", json=asking("a")).status_code == 200


def test_a_queue_of_batch_work_keeps_out_no_one_with_targets(tmp_path: Path) -> None:
    """Nor does one of low priority those of a higher one."""
    settings = ["scheduler.max_num_seqs=1"]
    rules = Rules("tiny", most_waiting=1)
    with serving(tmp_path, rules, scheduler="priority", settings=settings) as served:
        engine, more = served.service.engine, {"max_tokens": 40, "ignore_eos": True}
        with ThreadPoolExecutor(4) as pool, held(served.session, after=9):

            def waits(number: int, **wish: Any) -> None:
                pool.submit(served.text, "a", **more, **wish)
                until(lambda: engine.number == number + 1 and engine.waiting.number() == number)

            waits(0)
            waits(1, service_tier="batch")
            assert "too many" in served.refusal(asking("a", service_tier="batch"), 429)
            waits(2, service_tier="chat")
            assert "too many" in served.refusal(asking("a", service_tier="chat"), 429)
            waits(3, priority=-1)
            engine.waiting._waited_s[(0, True)] = 1000.0
            after = [
                int(
                    served.client.post(
                        "/v1/completions", json=asking("a", service_tier=tier)
                    ).headers["retry-after"]
                )
                for tier in ("batch", "chat")
            ]
            assert after[0] == 1000 and after[1] < 1000, "each by its own queue"
            assert "too many" in served.refusal(asking("a", priority=-2), 429)
            assert served.refusal(asking("a", n=2, priority=-2, slo={"ttft_ms": 1})).startswith(
                "n:"
            )
            assert engine.waiting.number((0, False)) == 2
        assert served.metrics()[REFUSED] == 5
        idle(served)
        assert not engine.waiting.number()


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_never_fits_is_refused(tmp_path: Path, stream: bool) -> None:
    """By the engine, where blocks may lose bits and nobody else knows what there is room for."""
    with serving(tmp_path, kv_blocks=4, memory="slo_aware") as served:
        body = asking("x" * 500, stream=stream)
        assert served.refusal(body).startswith("the request was rejected: exceeds_kv")
        assert served.text("x")


@dataclass
class Failing(FcfsScheduler):
    """Gives up when a request has its first token."""

    first: Any = None

    def submit(self, seq: Any, now: float) -> None:
        self.first = self.first or seq
        super().submit(seq, now)

    def plan(self, draft: Any, now: float) -> None:
        if self.first is not None and self.first.first_token_s is not None:
            raise ZeroDivisionError("no more plans")
        super().plan(draft, now)


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_fails(
    tmp_path: Path, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients hear of it."""

    async def stays(self: server.Server) -> None:
        """Another server would be gone at any time."""

    monkeypatch.setattr(server.Server, "_end_with_engine", stays)
    with serving(tmp_path, scheduler=f"{__name__}:Failing", lag=0) as served:
        reply = served.client.post("/v1/completions", json=asking("a", stream=stream, **LONG))
        if stream:
            *_, last, done = reply.text.split("\n\n")[:-1]
            assert done == "data: [DONE]"
            error = json.loads(last.removeprefix("data: "))["error"]
        else:
            assert reply.status_code == 503
            error = reply.json()["error"]
        assert error["message"] == "the request was not finished: the engine has failed"
        until(lambda: bool(served.service.fault))
        health = served.client.get("/health")
        assert health.status_code == 503
        assert health.json()["error"]["message"] == "the engine has failed"
        assert served.client.post("/v1/completions", json=asking("a")).status_code == 503
        assert "no more plans" in str(served.service.engine.error)


def test_a_step_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server says so while it lasts, and no longer; an engine without work is well."""
    monkeypatch.setattr(server, "LOOK_EVERY_S", 0.05)
    with serving(tmp_path, Rules("tiny", stuck_s=1.0)) as served, ThreadPoolExecutor() as pool:
        with held(served.session):
            time.sleep(1.5)
            assert served.client.get("/health").status_code == 200
            answer = pool.submit(served.text, "a")
            until(lambda: served.client.get("/health").status_code == 503)
            message = served.client.get("/health").json()["error"]["message"]
            assert re.fullmatch(r"the engine has not come to the end of a step for \d+ s", message)
        until(lambda: served.client.get("/health").status_code == 200)
        assert len(answer.result()) == 12


def test_who_comes_and_goes_at_once_is_forgotten(tmp_path: Path) -> None:
    """Sent and withdrawn before the engine has looked."""
    with serving(tmp_path) as served:
        service = served.service
        body = CompletionBody(**asking("a", **LONG))

        async def come_and_go() -> None:
            for _ in range(20):
                streams = service.send(wishes_of(service, body), "mine", whole=True)
                service.settle(streams)

        served.run(come_and_go())
        idle(served)


def test_nobody_is_let_in_when_all_have_left(tmp_path: Path) -> None:
    """Not even who had asked before."""
    with serving(tmp_path) as served:
        service = served.service
        wishes = wishes_of(service, CompletionBody(**asking("a")))

        async def come_late() -> None:
            await service.engine.stop()
            with pytest.raises(Closed, match="shutting down"):
                service.send(wishes, "late", whole=True)

        served.run(come_late())
        assert served.refusal(asking("a"), 503) == "the server is shutting down"


def test_a_stream_whose_client_goes_before_its_first_event(tmp_path: Path) -> None:
    """The reply was made and its head could not be sent."""
    with serving(tmp_path) as served:
        service = served.service
        body = CompletionBody(**asking("a", stream=True, **LONG))
        envelope = Envelope.new(COMPLETION, "mine", "tiny")
        http: Any = None

        async def gone(_: Any) -> None:
            raise OSError("gone")

        async def run() -> None:
            wishes = wishes_of(service, body)
            streams = service.send(wishes, "mine", whole=False)
            reply = await Exchange(http, service, envelope, body, streams, {}).streamed()
            with pytest.raises(BaseExceptionGroup):
                await reply({"type": "http", "asgi": {"spec_version": "2.3"}}, gone, gone)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Exchange, "_unless_gone", staticmethod(_nothing))
            served.run(run())
        idle(served)


async def _nothing(reply: Any) -> None:
    reply.close()


def test_no_more_is_taken_while_answers_are_finished(tmp_path: Path) -> None:
    with serving(tmp_path) as served, ThreadPoolExecutor(1) as pool:
        with held(served.session):
            under_way = pool.submit(served.text, "a", max_tokens=100)
            until(lambda: served.service.engine.number == 1)
            served.take_no_more()
            assert served.refusal(asking("a"), 503) == "the server is shutting down"
        assert len(under_way.result()) == 100
