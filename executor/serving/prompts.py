"""From bodies to prompts in tokens, and to the content ids by which caches find them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from executor.answers import Answer, Tokens
from executor.models.tokenizer import Tokenizer
from executor.serving.chat import NO_TEMPLATE, ChatTemplate
from executor.serving.http.bodies import ChatBody, CompletionBody
from superinfer.errors import InputError

MOST_CHARACTERS = 128
"""Of a token: that many spaces are one in some vocabularies."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """How prompts are read for one model."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    vocab: int
    most_tokens: int
    """Longest context: no token stands for that many characters on average (`MOST_CHARACTERS`)."""

    def of_completion(self, body: CompletionBody) -> list[list[int]]:
        """Tokens of each prompt."""
        return [self._checked(prompt) for prompt in body.prompts]

    def of_chat(self, body: ChatBody) -> list[int]:
        """Tokens of a conversation; InputError where the model has no template for it."""
        if self.template is None:
            raise InputError(NO_TEMPLATE, field="messages")
        text = self.template.render(body.messages, body.chat_template_kwargs)
        return _some(self._encoded(text, whole=True))

    def _checked(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return _some(self._encoded(prompt))
        strange = next((token for token in prompt if not 0 <= token < self.vocab), None)
        if strange is not None:
            wanted = f"expected tokens from 0 to {self.vocab - 1}, got {strange}"
            raise InputError(wanted, field="prompt")
        return _some(prompt)

    def _encoded(self, text: str, whole: bool = False) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError("expected text in UTF-8", field="prompt") from None
        if len(text) > MOST_CHARACTERS * self.most_tokens:
            most = f"a context of {self.most_tokens} tokens"
            raise InputError(f"{len(text)} characters are more than {most} holds", field="prompt")
        return self.tokenizer.encode(text, whole)


@dataclass(frozen=True, slots=True)
class Naming:
    """Names blocks by their content: a signed number of 64 bits stands for the salt and all tokens
    up to the end of a block, which may be the last one and not full.
    """

    block_tokens: int
    salt: str = ""

    def ids(self, tokens: Sequence[int] | Tokens) -> tuple[int, ...]:
        """Of the blocks of a text."""
        return self._chained(self.salt.encode(), tokens)

    def longer(self, ids: tuple[int, ...], prompt_tokens: int, answer: Answer) -> tuple[int, ...]:
        """Of the full blocks of prompt and answer, those of the prompt being known. The last token
        is not counted: nobody has computed its keys and values.
        """
        known = ids[: prompt_tokens // self.block_tokens]
        start, size = len(known) * self.block_tokens, self.block_tokens
        stop = (answer.known - 1) // size * size
        chain = _bytes(known[-1]) if known else self.salt.encode()
        return known + self._chained(chain, answer.slice(start, stop))

    def _chained(self, chain: bytes, tokens: Sequence[int] | Tokens) -> tuple[int, ...]:
        data, size = np.asarray(tokens, np.int64).tobytes(), 8 * self.block_tokens
        ids = []
        for start in range(0, len(data), size):
            chain = blake2b(chain + data[start : start + size], digest_size=8).digest()
            ids.append(int.from_bytes(chain, "little", signed=True))
        return tuple(ids)


def _bytes(content_id: int) -> bytes:
    return content_id.to_bytes(8, "little", signed=True)


def _some(tokens: list[int]) -> list[int]:
    if not tokens:
        raise InputError("expected a prompt with at least one token", field="prompt")
    return tokens
