"""Completions over HTTP: whole, streamed, several at once, and what ends them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serving_kit import Served, asking, serving

from executor.serving.service import Rules

BEGINNING = "In the beginning God"


def events(served: Served, body: dict[str, Any], path: str = "completions") -> Iterator[Any]:
    """The events of a stream, up to its end."""
    with served.client.stream("POST", f"/v1/{path}", json={**body, "stream": True}) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in reply.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return (json.loads(line.removeprefix("data: ")) for line in lines[:-1])


def test_a_completion(served: Served) -> None:
    reply = served.complete(BEGINNING)
    assert reply["object"] == "text_completion" and reply["model"] == "tiny"
    (choice,) = reply["choices"]
    assert len(choice["text"]) == 12 and choice["finish_reason"] == "length"
    usage = reply["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (20, 12)
    assert usage["total_tokens"] == 32


def test_a_stream_says_the_same(served: Served) -> None:
    body = asking(BEGINNING, stream_options={"include_usage": True})
    *pieces, last = events(served, body)
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == served.text(BEGINNING)
    assert [piece["choices"][0]["finish_reason"] for piece in pieces[:-1]] == [None] * (
        len(pieces) - 1
    )
    assert pieces[-1]["choices"][0]["finish_reason"] == "length"
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 12
    assert len({piece["id"] for piece in (*pieces, last)}) == 1


def test_prompts_as_tokens_are_the_same_prompts(served: Served) -> None:
    tokens = list(BEGINNING.encode())
    assert served.text(tokens) == served.text(BEGINNING)
    both = served.complete([tokens, list(b"And he said")])
    texts = [choice["text"] for choice in both["choices"]]
    assert texts == [served.text(BEGINNING), served.text("And he said")]
    assert [choice["index"] for choice in both["choices"]] == [0, 1]
    assert both["usage"]["prompt_tokens"] == 20 + 11


def test_choices_have_seeds_of_their_own(served: Served) -> None:
    body = {"temperature": 1.0, "seed": 5, "n": 3, "max_tokens": 20}
    reply = served.complete(BEGINNING, **body)
    texts = [choice["text"] for choice in reply["choices"]]
    assert len(set(texts)) == 3
    assert reply["usage"]["prompt_tokens"] == 20, "one prompt, however many answers it has"
    again = served.text(BEGINNING, **{**body, "n": 1, "seed": 6})
    assert again == texts[1]


def test_a_stream_of_several_choices(served: Served) -> None:
    body = asking(BEGINNING, n=2, temperature=1.0, seed=5)
    texts = ["", ""]
    for piece in events(served, body):
        (choice,) = piece["choices"]
        texts[choice["index"]] += choice["text"]
    whole = served.complete(BEGINNING, n=2, temperature=1.0, seed=5)
    assert texts == [choice["text"] for choice in whole["choices"]]


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_ends_an_answer_and_is_no_part_of_it(served: Served, stream: bool) -> None:
    whole = served.text(BEGINNING, max_tokens=60)
    stop = whole[20:24]
    wanted = whole[: whole.index(stop)]
    body = asking(BEGINNING, max_tokens=60, stop=["never said", stop])
    if stream:
        pieces = [piece["choices"][0] for piece in events(served, body)]
        text, reason = "".join(p["text"] for p in pieces), pieces[-1]["finish_reason"]
        tokens = None
    else:
        reply = served.complete(BEGINNING, max_tokens=60, stop=["never said", stop])
        (choice,) = reply["choices"]
        text, reason = choice["text"], choice["finish_reason"]
        tokens = reply["usage"]["completion_tokens"]
    assert (text, reason) == (wanted, "stop")
    assert tokens in (None, len(wanted) + len(stop)), "the engine has stopped there, too"


def test_a_stop_token_ends_an_answer(served: Served) -> None:
    whole = served.text(BEGINNING, max_tokens=40)
    reply = served.complete(BEGINNING, max_tokens=40, stop_token_ids=[ord("e")])
    (choice,) = reply["choices"]
    assert (choice["text"], choice["finish_reason"]) == (whole[: whole.index("e")], "stop")
    assert reply["usage"]["completion_tokens"] == whole.index("e") + 1


def test_many_at_once_say_what_they_say_alone(served: Served) -> None:
    """Greedy ones among some that are drawn, and some with penalties."""
    prompts = [f"{name} said unto" for name in ("Moses", "Aaron", "David", "Saul", "Ruth", "Job")]
    bodies: list[dict[str, Any]] = [
        {},
        {"temperature": 0.9, "seed": 3},
        {"repetition_penalty": 1.3},
        {"stop": ["\n"]},
    ]
    asked = [(prompt, body) for prompt in prompts for body in bodies]
    alone = [served.text(prompt, max_tokens=24, **body) for prompt, body in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = pool.map(lambda ask: served.text(ask[0], max_tokens=24, **ask[1]), asked)
        assert list(together) == alone


def test_a_step_gives_as_many_tokens_as_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no number of requests at once at which a running server ends."""
    monkeypatch.setattr("executor.steps.runner.GRAPH_OUTPUTS", 4)
    with serving(tmp_path) as served:
        reply = served.complete(["the", "a", "no"] * 3)
        assert [choice["text"] for choice in reply["choices"]] == 3 * [
            served.text(prompt) for prompt in ("the", "a", "no")
        ]


def test_a_prompt_that_comes_again_is_cached(served: Served) -> None:
    prompt = "a prompt that nobody else has sent here " * 4
    first, second = (served.complete(prompt)["usage"] for _ in range(2))
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    found = second["prompt_tokens_details"]["cached_tokens"]
    assert 128 <= found < second["prompt_tokens"]
    salted = served.complete(prompt, cache_salt="mine")["usage"]
    assert salted["prompt_tokens_details"]["cached_tokens"] == 0


def test_the_next_turn_finds_the_answer(served: Served) -> None:
    """What the model has said is cached as what it was told."""
    prompt = "a conversation which nobody else has had with this model, long enough for a block. "
    first = served.text(prompt, max_tokens=100, ignore_eos=True)
    turn = f"{prompt}{first}And then?"
    usage = served.complete(turn)["usage"]
    full = (len(prompt) + len(first) - 1) // 32 * 32
    assert usage["prompt_tokens_details"]["cached_tokens"] == full
    again = served.complete(turn, cache_salt="another")
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert served.text(turn, max_tokens=30) == served.text(turn, max_tokens=30, cache_salt="third")


def test_the_name_of_a_request_comes_back(served: Served) -> None:
    reply = served.client.post(
        "/v1/completions", json=asking("a"), headers={"X-Request-Id": "mine"}
    )
    assert reply.headers["x-request-id"] == "mine"
    unnamed = served.client.post("/v1/completions", json=asking("a"))
    assert unnamed.headers["x-request-id"] == unnamed.json()["id"]


@pytest.mark.parametrize("more", [{"n": 0}, {"model": "other"}, {"stream": True, "user": "\n"}])
def test_the_name_of_a_request_comes_back_with_a_refusal(
    served: Served, more: dict[str, Any]
) -> None:
    body, head = asking("a", **more), {"X-Request-Id": "mine"}
    reply = served.client.post("/v1/completions", json=body, headers=head)
    assert reply.status_code in (400, 404) and reply.headers["x-request-id"] == "mine"


def test_a_limit_has_two_names(served: Served) -> None:
    """In completions as in chats; the newer one wins."""
    body = asking("a", ignore_eos=True, max_tokens=None, max_completion_tokens=3)
    for more in ({}, {"max_tokens": 5}):
        reply = served.client.post("/v1/completions", json={**body, **more}).json()
        assert reply["usage"]["completion_tokens"] == 3


def test_an_answer_without_a_limit_takes_what_room_there_is(tmp_path: Path) -> None:
    """16 tokens at most, and the context may have room for fewer."""
    with serving(tmp_path, max_model_len=20) as served:
        for prompt_tokens, tokens in ((1, 16), (18, 2)):
            usage = served.complete("a" * prompt_tokens, max_tokens=None, ignore_eos=True)["usage"]
            assert usage["completion_tokens"] == tokens


def test_what_the_cache_has_no_room_for_is_not_computed_first(tmp_path: Path) -> None:
    """4 blocks of 32 tokens: all of them can be used, and what is longer is refused at once."""
    with serving(tmp_path, kv_blocks=4) as served:
        assert served.client.get("/v1/models/tiny").json()["max_model_len"] == 128
        usage = served.complete("a" * 28, max_tokens=100, ignore_eos=True)["usage"]
        assert usage["completion_tokens"] == 100
        message = served.refusal(asking("a" * 28, max_tokens=101))
        assert message.endswith("129 are above the KV cache's room of 128")
        assert served.service.engine.new_index() == 1, "the engine had no second request"


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"prompt": []}, "prompt: expected text, tokens, or a list of either"),
        ({"prompt": [[1], "a", 3]}, "prompt: expected text, tokens, or a list of either"),
        ({"prompt": ["a"] * 16385}, "prompt: expected at most 16384 prompts, got 16385"),
        ({"stop_token_ids": [1] * 16385}, "stop_token_ids: List should have at most 16384 items"),
        ({"prompt": ""}, "prompt: expected a prompt with at least one token"),
        ({"prompt": [9999]}, "prompt: expected tokens from 0 to"),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"max_tokens": 1 << 20}, "above the context of"),
        ({"temperature": -1}, "temperature: expected a number from 0 to 1,000,000, got -1.0"),
        ({"n": 0}, "n: "),
        ({"logprobs": 2}, "logprobs: not supported here"),
        ({"best_of": 2}, "best_of: not supported here"),
        ({"tool_choice": "required"}, "tool_choice: not supported here"),
        ({"function_call": {"name": "f"}}, "function_call: not supported here"),
        ({"verbosity": "low"}, "verbosity: not supported here"),
        ({"reasoning_effort": "high"}, "reasoning_effort: not supported here"),
        ({"web_search_options": {}}, "web_search_options: not supported here"),
        ({"add_special_tokens": False}, "add_special_tokens: not supported here"),
        ({"response_format": {"type": "json_object"}}, "response_format: expected type text"),
        ({"slo": {"ttft": 3}}, "slo.ttft: "),
        ({"service_tier": "chatt"}, "did you mean 'chat'?"),
        ({"logprobs": 0}, "logprobs: not supported here"),
        ({"include_stop_str_in_output": True}, "include_stop_str_in_output: not supported here"),
        ({"skip_special_tokens": False}, "skip_special_tokens: not supported here"),
        ({"response_format": "json"}, "response_format: "),
        (
            {"response_format": {"type": "\ud800\nx"}},
            "response_format: expected type text, got ? x",
        ),
        ({"top_k": 10**400}, "top_k: "),
        ({"stop_token_ids": [10**30]}, "stop_token_ids.0: "),
        ({"stop": 5}, "stop: expected text or a list of at most 64 texts of at most 1000 char"),
        ({"stop": ["a", 3]}, "stop: expected text or a list of"),
        ({"stop": ["x"] * 65}, "stop: expected text or a list of"),
        ({"stop": "x" * 1001}, "stop: expected text or a list of"),
        ({"modalities": ["text", "audio"]}, 'modalities: expected ["text"], got ["text", "audio"]'),
        ({"modalities": "\ud800"}, 'modalities: expected ["text"], got'),
        ({"regex": "[a-z]+"}, "regex: not supported here"),
        ({"return_token_ids": True}, "return_token_ids: not supported here"),
        (
            {"stream": True, "stream_options": {"continuous_usage_stats": True}},
            "stream_options.continuous_usage_stats: not supported here",
        ),
        ({"user": "a\ud800"}, "user: "),
        ({"cache_salt": "a\nb"}, "cache_salt: expected text in one line"),
        ({"prompt": "\ud800"}, "prompt: "),
        ({"prompt": "a" * (128 * 10240 + 1)}, "prompt: 1310721 characters are more than"),
        ({"prompt": ["a"] * 600, "n": 2}, "n: expected at most 1024 answers at once, got 1200"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    served: Served, change: dict[str, Any], wanted: str
) -> None:
    body = json.dumps({**asking("a"), **change}).encode("utf-8", "surrogatepass")
    reply = served.client.post(
        "/v1/completions", content=body, headers={"content-type": "application/json"}
    )
    assert reply.status_code == 400, reply.text
    message = reply.json()["error"]["message"]
    assert wanted in message and "\n" not in message and len(message) <= 1000
    assert not served.service.fault


DEFAULTS: dict[str, tuple[Any, ...]] = {
    "verbosity": ("medium",),
    "reasoning_effort": ("none", "medium"),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "tools": ([],),
    "functions": ([],),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "best_of": (1, 3),
    "echo": (False,),
    "suffix": ("",),
    "store": (False,),
    "parallel_tool_calls": (True,),
    "service_tier": ("auto",),
    "metadata": ({},),
    "user": ("",),
    "stop": ([],),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0,),
    "top_p": (1,),
    "n": (3,),
    "use_beam_search": (False,),
    "min_tokens": (0,),
    "length_penalty": (1.0,),
    "skip_special_tokens": (True,),
    "add_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "include_stop_str_in_output": (False,),
}
"""Fields with what OpenAI, or vLLM, takes where they are absent; `n` is what the test asks for."""


@pytest.mark.parametrize("field", DEFAULTS)
def test_defaults_ask_for_nothing(served: Served, field: str) -> None:
    plain = served.complete("a", n=3)["choices"]
    for value in DEFAULTS[field]:
        assert served.complete("a", **{"n": 3, field: value})["choices"] == plain
    if field != "n":
        assert served.complete("a", **{"n": 3, field: None})["choices"] == plain


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_says_by_which_tier(served: Served, stream: bool) -> None:
    """If one is asked for."""

    def said(**more: Any) -> Any:
        body = asking("a", stream=stream, **more)
        text = served.client.post("/v1/completions", json=body).text
        pieces = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
        (tier,) = {piece.get("service_tier") for piece in pieces or [json.loads(text)]}
        return tier

    assert said() is None
    assert (said(service_tier="auto"), said(service_tier="flex")) == ("default", "default")
    assert said(service_tier="chat") == "chat"


def test_an_unknown_model(served: Served) -> None:
    message = served.refusal({**asking("a"), "model": "other"}, status=404)
    assert message == "the model 'other' is not here; expected 'tiny'"


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b'{"prompt":', "expected JSON: "),
        (b'{"prompt": ' + b"[" * 100_000, "expected JSON that is not nested so deeply"),
        ('{"prompt": "\xe9"}'.encode("latin-1"), "expected JSON in UTF-8"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "expected JSON with numbers of fewer digits"),
    ],
)
def test_a_body_that_is_no_json(served: Served, body: bytes, wanted: str) -> None:
    head = {"content-type": "application/json"}
    reply = served.client.post("/v1/completions", content=body, headers=head)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["message"].startswith(wanted) and error["type"] == "invalid_request_error"


def test_a_body_of_no_type(served: Served) -> None:
    untyped = served.client.post("/v1/completions", content=b'{"prompt": "a"}')
    assert untyped.status_code == 400
    assert "Content-Type: application/json" in untyped.json()["error"]["message"]


@pytest.mark.parametrize("stop", [None, [], "", [""], ["never"]])
def test_nothing_to_stop_at(served: Served, stop: Any) -> None:
    assert len(served.text(BEGINNING, stop=stop)) == 12


@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p", "repetition_penalty"])
def test_a_setting_out_of_range_is_named(served: Served, field: str) -> None:
    reply = served.client.post("/v1/completions", json=asking("a", **{field: -1}))
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, field)
    assert error["message"].startswith(f"{field}: expected a ")


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/models", "/v1/models/tiny"])
def test_who_asks_for_the_head_alone(served: Served, path: str) -> None:
    reply = served.client.head(path)
    assert (reply.status_code, reply.content) == (200, b"")
    assert served.client.post(path).status_code == 405


def test_models_and_health(served: Served) -> None:
    assert served.client.get("/health").status_code == 200
    (model,) = served.client.get("/v1/models").json()["data"]
    assert model["id"] == "tiny" and model["max_model_len"] == 10240
    assert served.client.get("/v1/models/tiny").json() == model
    other = served.client.get("/v1/models/an/other")
    assert other.status_code == 404 and "'an/other' is not here" in other.text
    assert served.client.get("/v1/nothing").json()["error"]["code"] == 404


def test_priorities_are_refused_where_they_count_for_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, Rules("tiny", priorities=False)) as served:
        wanted = "priority: the scheduler of this server has no use for it"
        assert served.refusal(asking("a", priority=3)) == wanted
        assert served.text("a", priority=0) == served.text("a")
    other = tmp_path / "other"
    other.mkdir()
    with serving(other, scheduler="priority") as served:
        assert served.text("a", priority=3) == served.text("a")
