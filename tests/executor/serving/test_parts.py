"""The parts between HTTP and the engine, one by one."""

from __future__ import annotations

import asyncio
import errno
import math
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_kit import asking, serving

from executor.answers import Answer
from executor.models.tokenizer import ByteTokenizer
from executor.serving.prompts import Naming
from executor.serving.recording import Recording
from executor.serving.service import Rules
from executor.serving.streams import Ended, Listeners, Mailbox, Stream
from executor.serving.verdict import Verdict
from superinfer.errors import ConfigError
from superinfer.metrics.columns import RequestView
from superinfer.records.run import RequestTable, RunRecord, Timeline, TokenTimes
from superinfer.request import SLO, Request
from superinfer.slo_classes import PRESETS
from traces.readers import read_trace

TARGETS = st.none() | st.sampled_from([0.25, 0.5, 1.0, 2.0])


def ended(index: int = 0, outcome: str = "finished", **changes: Any) -> Ended:
    """A request of 40 tokens that came at 1 s."""
    slo = changes.pop("slo", SLO())
    request = Request(f"r{index}", 1.0, 40, 8, slo, index=index)
    times: dict[str, Any] = {
        "first_scheduled_s": 1.25,
        "first_token_s": 1.5,
        "finish_s": 2.5,
        "output_tokens": 5,
        "cached_tokens": 0,
        "preemptions": 0,
        **changes,
    }
    return Ended(request, outcome, None, **times)


def test_latencies_of_one_request() -> None:
    verdict = Verdict.of(ended())
    assert (verdict.queue_s, verdict.prefill_s, verdict.decode_s) == (0.25, 0.25, 1.0)
    assert (verdict.ttft_s, verdict.tpot_s, verdict.e2el_s) == (0.5, 0.25, 1.5)
    assert verdict.slo_met is None
    assert Verdict.of(ended(output_tokens=1)).tpot_s is None
    unseen = Verdict.of(ended(outcome="rejected", first_scheduled_s=None, first_token_s=None))
    assert (unseen.queue_s, unseen.ttft_s, unseen.tpot_s) == (None, None, None)


@given(
    slo=st.builds(SLO, TARGETS, TARGETS, TARGETS, st.none() | st.sampled_from([1.0, 4.0, 9.0])),
    first_s=st.sampled_from([1.25, 1.5, 2.0, 3.0]),
    decode_s=st.sampled_from([0.0, 0.25, 1.0, 2.0]),
    tokens=st.integers(1, 6),
    outcome=st.sampled_from(["finished", "cancelled", "failed"]),
)
def test_the_verdict_is_that_of_a_run(
    slo: SLO, first_s: float, decode_s: float, tokens: int, outcome: str
) -> None:
    """As `superinfer.metrics` would judge it."""
    one = ended(
        outcome=outcome,
        slo=slo,
        first_token_s=first_s,
        finish_s=first_s + decode_s,
        output_tokens=tokens,
    )
    met = RequestView.of(_record(one)).met["slo"][0]
    assert Verdict.of(one).slo_met == (None if slo.empty else bool(met))


def _record(one: Ended) -> RunRecord:
    """The record of a run of this request alone."""
    none = np.zeros(0)
    ints = {
        name: np.zeros(1, np.int64)
        for name in ("cached_tokens", "recomputed_tokens", "preemptions", "rotations")
    }
    table = RequestTable(
        requests=[one.request],
        state=[one.outcome],
        reject_reason=[None],
        first_scheduled_s=np.array([one.first_scheduled_s]),
        first_token_s=np.array([one.first_token_s]),
        finish_s=np.array([one.finish_s]),
        output_tokens=np.array([one.output_tokens]),
        h2d_bytes=np.zeros(1, np.int64),
        d2h_bytes=np.zeros(1, np.int64),
        kv_bits=np.full(1, 16.0),
        kv_8_share=np.zeros(1),
        kv_4_share=np.zeros(1),
        **ints,
    )
    places = none.astype(np.int64)
    tokens = TokenTimes(none, places, places, places, none, places, none)
    timeline = Timeline(none, *[places] * 8)
    return RunRecord(
        table=table,
        tokens=tokens,
        timeline=timeline,
        total_blocks=1,
        block_tokens=16,
        block_bytes=1,
        peak_referenced_blocks=0,
        peak_used_blocks=0,
        computed_tokens=0,
        prefix_query_tokens=0,
        prefix_hit_tokens=0,
        cache_d2h_bytes=0,
        write_through_bytes=0,
        write_through_useful_bytes=0,
        write_through_wasted_bytes=0,
        prefetch_useful_bytes=0,
        prefetch_wasted_bytes=0,
        losing_offloads=0,
        steps=0,
        plans=0,
        events=0,
        extra={},
        notes=[],
    )


def test_content_ids_are_chained() -> None:
    tokens = list(range(70))
    ids = Naming(32).ids(tokens)
    assert len(ids) == 3 and len(set(ids)) == 3
    assert all(-(2**63) <= each < 2**63 for each in ids)
    longer = Naming(32).ids([*tokens, 70])
    assert longer[:2] == ids[:2] and longer[2] != ids[2]
    other = Naming(32).ids([1, *tokens[1:]])
    assert not set(other) & set(ids), "what comes first changes all that follows"
    assert not set(Naming(32, "mine").ids(tokens)) & set(ids)


@given(
    prompt=st.lists(st.integers(0, 9), min_size=1, max_size=20),
    said=st.lists(st.integers(0, 9), min_size=1, max_size=20),
    salt=st.sampled_from(["", "mine"]),
)
def test_names_of_a_whole_text_are_those_of_it_as_a_prompt(
    prompt: list[int], said: list[int], salt: str
) -> None:
    """Up to the last full block before the last token."""
    naming, answer = Naming(4, salt), Answer(np.array(prompt, np.int64), 99)
    answer.tokens = said
    text = [*prompt, *said][:-1]
    whole = naming.ids(text[: len(text) // 4 * 4])
    assert naming.longer(naming.ids(prompt), len(prompt), answer) == whole


def stream(loop: asyncio.AbstractEventLoop, stop: tuple[str, ...] = ()) -> Stream:
    text, listeners = ByteTokenizer(256).stream(), Listeners(*[lambda *_: None] * 3)
    return Stream(Mailbox(loop), text, stop, frozenset({10}), asyncio.Event(), listeners)


@pytest.mark.parametrize("stop", [(), ("zz",), ("lo",)])
def test_a_stream_passes_on_what_is_said(stop: tuple[str, ...]) -> None:
    """Texts to stop at are seen at once, in the thread that says them."""

    async def listen() -> tuple[str, list[bool], str]:
        heard = stream(asyncio.get_running_loop(), stop)

        def say() -> list[bool]:
            stopped = [heard.say(token) for token in b"hallo z"]
            heard.end(ended(output_tokens=7))
            return stopped

        stopped = await asyncio.to_thread(say)
        while heard.ended is None:
            await asyncio.sleep(0)
        text = heard.drain()
        assert heard.output_tokens == 7 and heard.drain() is None and text is not None
        return text, stopped, heard.finish_reason

    text, stopped, reason = asyncio.run(listen())
    if stop == ("lo",):
        assert (text, reason) == ("hal", "stop") and stopped[3:5] == [False, True]
    else:
        assert (text, reason) == ("hallo z", "length") and not any(stopped)


def test_the_event_loop_is_called_once_for_a_whole_step() -> None:
    called: list[Any] = []
    loop: Any = SimpleNamespace(call_soon_threadsafe=called.append)
    heard = stream(loop)
    for token in b"abc":
        heard.say(token)
    assert len(called) == 1 and heard.output_tokens == 0
    called[0]()
    assert heard.output_tokens == 3 and heard.drain() == "abc"
    heard.say(100)
    assert len(called) == 2


def test_a_recording_is_in_the_order_of_arrival(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "of" / "today" / "asked.jsonl"
    with closing(Recording(path)) as recording:
        assert not path.exists(), "a server that does not start leaves none"
        for index in (2, 0, 3):
            recording.add(ended(index))
        assert recording.written == 1
        recording.add(ended(1, "rejected", output_tokens=0))
        assert (recording.written, recording.left_out) == (3, 1)
    requests = read_trace(path).requests
    assert [request.request_id for request in requests] == ["r0", "r2", "r3"]
    said = capsys.readouterr().err
    assert said == f"3 requests in {path}; 1 without a token are left out\n"
    with pytest.raises(ConfigError, match=r"--record: .* is there already"):
        Recording(path)


def test_a_full_disk_ends_the_record_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with closing(Recording(tmp_path / "asked.jsonl")) as recording:
        monkeypatch.setattr(recording, "_write", full)
        for index in range(3):
            recording.add(ended(index))
    said = capsys.readouterr().err
    assert said == "warning: --record: No space left on device: no more is written\n"


def test_what_was_asked_becomes_a_trace(tmp_path: Path) -> None:
    """Lengths, limits, targets, classes and shared beginnings, as they were."""
    prompt = "the same beginning of sixty-four characters, more or less of it " * 2
    with serving(tmp_path) as served:
        served.text(prompt, max_tokens=7, service_tier="chat")
        headers = {"x-llm-d-slo-ttft-ms": "300", "x-llm-d-inference-fairness-id": "shop"}
        served.client.post("/v1/completions", json=asking(prompt + "and on"), headers=headers)
        served.until_idle()
    workload = read_trace(tmp_path / "asked.jsonl", classes=PRESETS)
    first, second = workload.requests
    assert workload.output_tokens == [7, 12]
    assert (first.prompt_tokens, first.max_tokens) == (len(prompt), 7)
    assert first.slo_class.name == "chat" and first.slo == PRESETS["chat"].slo
    assert second.tenant == "shop" and second.slo == SLO(ttft_s=0.3)
    assert first.arrival_s <= second.arrival_s
    assert first.hash_ids[:4] == second.hash_ids[:4] and first.hash_block_tokens == 32


def test_the_page_of_metrics(tmp_path: Path) -> None:
    with serving(tmp_path, Rules("mine", prefix="vllm")) as served:
        prompt = "metrics " * 10
        for _ in range(2):
            served.text(prompt, service_tier="chat", slo={"ttft_ms": 60000, "tpot_ms": 60000})
        served.text(prompt, max_tokens=3, slo={"ttft_ms": 1e-6})
        served.until_idle()
        found = served.metrics()
    base = [("engine", "0"), ("model_name", "mine")]

    def value(name: str, *more: tuple[str, str]) -> float:
        return found[f"vllm:{name}{sorted([*base, *more])}"]

    assert value("request_success_total", ("finished_reason", "length")) == 3
    assert value("slo_requests_total", ("class", "chat"), ("result", "met")) == 2
    assert value("slo_requests_total", ("class", "default"), ("result", "missed")) == 1
    assert value("prompt_tokens_total") == 240 and value("generation_tokens_total") == 27
    assert value("time_to_first_token_seconds_count") == 3
    assert value("inter_token_latency_seconds_count") == 24
    assert value("request_generation_tokens_sum") == 27
    assert value("time_to_first_token_seconds_bucket", ("le", "+Inf")) == 3
    assert value("prefix_cache_queries_total") == 240 and value("prefix_cache_hits_total") > 100
    assert value("num_requests_running") == value("num_requests_waiting") == 0
    assert value("kv_cache_usage_perc") == 0
    assert value("cache_config_info", ("block_size", "32"), ("num_gpu_blocks", "400")) == 1
    ttft_s = value("time_to_first_token_seconds_sum")
    queue_s = value("request_queue_time_seconds_sum")
    prefill_s = value("request_prefill_time_seconds_sum")
    assert math.isclose(queue_s + prefill_s, ttft_s, abs_tol=0.01), "by two clocks"
