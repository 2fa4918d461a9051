"""Who shows no key, and bodies without end, get no further."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving_kit import Served, asking, serving

from executor.serving.guards import MOST_BODY_BYTES
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


def assert_too_large(reply: httpx.Response) -> None:
    """It is refused in OpenAI's form."""
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (413, 413)
    assert error["message"] == "expected a body of at most 32 MiB"
    assert error["type"] == "invalid_request_error"
