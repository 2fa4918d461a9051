"""From bodies to prompts in tokens, and to the content ids by which caches find them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from executor.models.tokenizer import Tokenizer
from executor.serving.bodies import ChatBody, CompletionBody
from executor.serving.chat import NO_TEMPLATE, ChatTemplate
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


def content_ids(tokens: Sequence[int], block_tokens: int, salt: str = "") -> tuple[int, ...]:
    """An id for every block of a prompt, the last one maybe not full: a signed number of 64 bits
    that stands for the salt and all tokens up to its end.
    """
    data, size = np.asarray(tokens, np.int64).tobytes(), 8 * block_tokens
    ids, chain = [], salt.encode()
    for start in range(0, len(data), size):
        chain = blake2b(chain + data[start : start + size], digest_size=16).digest()
        ids.append(int.from_bytes(chain[:8], "little", signed=True))
    return tuple(ids)


def _some(tokens: list[int]) -> list[int]:
    if not tokens:
        raise InputError("expected a prompt with at least one token", field="prompt")
    return tokens
