"""Who shows no key, and bodies without end, get no further."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_kit import PATIENCE_S, Served, asking, serving
from starlette.exceptions import HTTPException

from executor.serving.http.guards import MOST_BODY_BYTES, MOST_VALUES, BodyLimit, JsonSize
from executor.serving.service import Rules


def test_a_key_is_asked_for(tmp_path: Path) -> None:
    with serving(tmp_path, Rules("tiny", api_key="secret")) as served:
        wrongs = ("Bearer nonsense", "secret", "Basic secret", "Bearer")
        for wrong in ({}, *({"authorization": text} for text in wrongs)):
            message = served.refusal(asking("a"), 401, headers=wrong)
            assert message == "expected the server's key as bearer token"
        assert served.client.get("/v1/models").status_code == 401
        right = {"authorization": "bearer secret"}
        reply = served.client.post("/v1/completions", json=asking("a"), headers=right)
        assert reply.status_code == 200
        assert served.client.get("/health").status_code == 200
        assert served.client.get("/metrics").status_code == 200


def pieces(size: int) -> Iterator[bytes]:
    """A body that does not say how long it is."""
    yield b'{"prompt": "'
    for start in range(0, size, 1 << 20):
        yield b"a" * min(1 << 20, size - start)
    yield b'"}'


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/nothing"])
def test_a_body_that_is_too_large(served: Served, path: str) -> None:
    """Its length is stated: it is not read, whatever is asked for."""
    head = {"content-type": "application/json"}
    reply = served.client.post(path, content=b"a" * (MOST_BODY_BYTES + 1), headers=head)
    assert_too_large(reply)


def test_a_body_that_becomes_too_large(served: Served) -> None:
    head = {"content-type": "application/json"}
    below = served.client.post(
        "/v1/completions", content=pieces(MOST_BODY_BYTES - 100), headers=head
    )
    assert below.status_code == 400 and "characters are more than" in below.text
    above = served.client.post("/v1/completions", content=pieces(MOST_BODY_BYTES), headers=head)
    assert_too_large(above)
    assert served.text("a")


VALUES = "1048576 values"
PARTS = "131072 lists, objects and names"


@pytest.mark.parametrize(
    ("body", "most"),
    [
        (b"{" + b'"x": [' + b"[]," * 200_000 + b"1]}", PARTS),
        (b"{" + b'"x": [' + b"{}," * 200_000 + b"1]}", PARTS),
        (b"{" + b'"x": 1,' * 200_000 + b'"y": 1}', PARTS),
        (b'{"prompt": [' + b"1," * 1_100_000 + b"1]}", VALUES),
        (b'{"x": "\\"", "prompt": [' + b"1," * 1_100_000 + b"1]}", VALUES),
        (b'["a",' + b'"a",' * 1_100_000 + b"1]", VALUES),
    ],
)
def test_a_body_that_takes_too_long_to_read(served: Served, body: bytes, most: str) -> None:
    """It is refused before anybody reads it, for nobody else would be served meanwhile."""
    head = {"content-type": "application/json"}
    reply = served.client.post("/v1/completions", content=body, headers=head)
    assert_too_large(reply, most)
    assert served.text("a")


def test_text_may_hold_what_json_is_made_of(served: Served) -> None:
    prompt = '[{"a": \\, "b": 1}],' * 60_000
    assert "are above the context" in served.refusal(asking(prompt))


def test_a_long_context_may_be_sent_in_tokens() -> None:
    """A prompt of more tokens than the usual limit has values."""
    body = b'{"prompt": [' + b"1," * (MOST_VALUES + 1) + b"1]}"
    assert asyncio.run(_read(body, BodyLimit(_reading))) is None
    assert asyncio.run(_read(body, BodyLimit(_reading, 2 * MOST_VALUES))) == body


def test_a_body_that_is_not_whole_when_the_server_ends(tmp_path: Path) -> None:
    """It is not waited for, and who sends it is told."""
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with serving(tmp_path) as served:
        place = httpx.URL(served.url)
        with socket.create_connection((place.host, place.port), PATIENCE_S) as client:
            client.sendall(f'{head}Content-Length: 50\r\n\r\n{{"prompt"'.encode())
            served.take_no_more()
            reply = b""
            while not reply.endswith(b"}}"):
                piece = client.recv(1 << 12)
                assert piece, "it is closed without a word"
                reply += piece
            assert reply.startswith(b"HTTP/1.1 503 ")
            assert b'"the server is shutting down"' in reply
        reason = [("engine", "0"), ("model_name", "tiny"), ("reason", "shutting_down")]
        assert served.metrics()[f"superinfer:request_refused_total{reason}"] == 1


def test_a_body_that_is_not_whole_when_the_server_ends_by_itself(tmp_path: Path) -> None:
    """As where its engine has failed."""
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.socket() as client:
        client.settimeout(PATIENCE_S)
        with serving(tmp_path, Rules("tiny", shutdown_s=0.1)) as served:
            place = httpx.URL(served.url)
            client.connect((place.host, place.port))
            client.sendall(f'{head}Content-Length: 50\r\n\r\n{{"prompt"'.encode())
            assert served.text("a")  # so it has been read
        assert client.recv(1 << 12).startswith(b"HTTP/1.1 503 ")


def test_json_of_another_encoding(served: Served) -> None:
    """Its quotes and backslashes are elsewhere."""
    head = {"content-type": "application/json"}
    body = json.dumps(asking("a")).encode("utf-16")
    reply = served.client.post("/v1/completions", content=body, headers=head)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == "expected JSON in UTF-8"


def _counted(value: Any) -> tuple[int, int]:
    """Commas and parts of what JSON holds, by a walk through it."""
    if not isinstance(value, list | dict):
        return 0, 0
    found = [_counted(each) for each in (value.values() if isinstance(value, dict) else value)]
    commas, parts = max(0, len(value) - 1), 1 + (len(value) if isinstance(value, dict) else 0)
    return commas + sum(pair[0] for pair in found), parts + sum(pair[1] for pair in found)


TEXT = st.text(st.sampled_from('a"\\[]{},:/ü'))
JSON = st.recursive(
    st.none() | st.integers() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
)


@given(JSON, st.booleans(), st.lists(st.integers(0, 200)))
def test_json_is_counted_as_it_comes(value: Any, escaped: bool, cuts: list[int]) -> None:
    text = json.dumps(value, ensure_ascii=escaped).encode()
    size, places = JsonSize(), [0, *sorted(cuts), len(text)]
    for start, stop in pairwise(places):
        size.add(text[start:stop])
    assert (size.values, size.parts) == _counted(value)


async def _reading(scope: Any, receive: Any, send: Any) -> None:
    await send((await receive())["body"])


async def _read(body: bytes, limit: BodyLimit) -> bytes | None:
    """What an application behind a limit reads, in one piece; None if that is too much."""
    sent: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(piece: bytes) -> None:
        sent.append(piece)

    with suppress(HTTPException):
        await limit({"type": "http", "headers": []}, receive, send)
    return b"".join(sent) or None


def assert_too_large(reply: httpx.Response, most: str = "32 MiB") -> None:
    """It is refused in OpenAI's form."""
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (413, 413)
    assert error["message"] == f"expected a body of at most {most}"
    assert error["type"] == "invalid_request_error"
