"""What clients get: answers, pieces of answers, and errors, in the words of OpenAI."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from executor.serving.engine.letters import Ended
from executor.serving.http.bodies import Json
from executor.serving.streams import Stream

Reply = Json

DONE = b"data: [DONE]\n\n"
_WORDS = {
    "rejected": "the request was rejected",
    "failed": "the request failed",
    "unfinished": "the request was not finished",
}


@dataclass(frozen=True, slots=True)
class Form:
    """How one kind of completions is written down."""

    kind: str
    """First part of the names of answers."""
    whole: str
    """`object` of an answer."""
    part: str
    """`object` of a piece of one."""
    chat: bool

    def choice(self, index: int, text: str, reason: str) -> Reply:
        """A whole answer."""
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        return {"index": index, **said, "logprobs": None, "finish_reason": reason}

    def piece(self, index: int, text: str, reason: str | None, first: bool) -> Reply:
        """A piece of one; the first of a chat says who speaks."""
        role = {"role": "assistant"} if first else {}
        said = {"delta": {**role, "content": text}} if self.chat else {"text": text}
        return {"index": index, **said, "logprobs": None, "finish_reason": reason}


COMPLETION = Form("cmpl", "text_completion", "text_completion", False)
CHAT = Form("chatcmpl", "chat.completion", "chat.completion.chunk", True)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What all pieces of one reply have in common."""

    form: Form
    name: str
    model: str
    created_s: int
    tier: str | None = None
    """The class by which a request is served that asks for a tier."""

    @classmethod
    def new(cls, form: Form, name: str, model: str, tier: str | None = None) -> Envelope:
        """Of now."""
        return cls(form, name, model, int(time.time()), tier)

    def whole(self, choices: Sequence[Reply], usage: Reply) -> Reply:
        """A reply in one piece."""
        return {**self._head(self.form.whole), "choices": choices, "usage": usage}

    def event(self, choices: Sequence[Reply], usage: Reply | None = None) -> bytes:
        """One event of a stream."""
        more = {"usage": usage} if usage is not None else {}
        return event({**self._head(self.form.part), "choices": choices, **more})

    def _head(self, kind: str) -> Reply:
        tier = {"service_tier": self.tier} if self.tier else {}
        head = {"id": self.name, "object": kind, "created": self.created_s, "model": self.model}
        return {**head, **tier}


def event(content: Reply) -> bytes:
    """A server-sent event."""
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


def usage_of(streams: Sequence[Stream], choices: int) -> Reply:
    """Tokens of prompts, each counted once however many answers it has, and of answers."""
    prompts = sum(stream.request.prompt_tokens for stream in streams[::choices])
    answers = sum(stream.output_tokens for stream in streams)
    ended = [stream.ended for stream in streams[::choices]]
    cached = sum(each.cached_tokens for each in ended if each is not None)
    return {
        "prompt_tokens": prompts,
        "completion_tokens": answers,
        "total_tokens": prompts + answers,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def error_body(message: str, status: int, param: str | None = None) -> Reply:
    """An error, for a client of OpenAI."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    kind = "rate_limit_error" if status == 429 else kind
    return {"error": {"message": message, "type": kind, "param": param or None, "code": status}}


def status_of(ended: Ended) -> int:
    """The status for a request that did not finish."""
    return {"rejected": 400, "unfinished": 503}.get(ended.outcome, 500)


def reason_of(ended: Ended) -> str:
    """Why it did not, in a line."""
    return f"{_WORDS.get(ended.outcome, ended.outcome)}: {ended.reason or 'no reason given'}"
