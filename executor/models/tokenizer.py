"""Text to tokens and back: a folder's `tokenizer.json`, or bytes where there is none.

Streams give text as tokens come, and hold back what the next token may still change: the bytes of
a character that is not whole yet.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from executor.models.config import check_token
from superinfer.errors import ConfigError, InputError
from superinfer.lab.json_files import read_object

_BROKEN = "\N{REPLACEMENT CHARACTER}"
_BYTES = 256
_HELD_BYTES = 3
"""A character of UTF-8 lacks at most its last byte, and some decoders show each byte as broken."""


class TextStream(Protocol):
    """Text of one sequence, token by token."""

    def push(self, token: int) -> str:
        """What the token adds for sure; perhaps nothing yet."""
        ...

    def finish(self) -> str:
        """What is still held back."""
        ...


class Tokenizer(Protocol):
    """Between text and tokens."""

    end_tokens: frozenset[int]
    """Tokens after which a model has said all."""

    def encode(self, text: str, whole: bool = False) -> list[int]:
        """Tokens of a prompt, with what the model wants around them; nothing of that is added to
        one that is `whole`.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, special ones left out."""
        ...

    def stream(self) -> TextStream:
        """A stream for one sequence."""
        ...


def load_tokenizer(folder: Path | None, vocab: int) -> Tokenizer:
    """The folder's tokenizer; bytes where it has none, or where there is no folder.

    Raises InputError for a file that is no tokenizer or names tokens that the model has not,
    ConfigError for a vocabulary that bytes do not fit into.
    """
    ends = end_tokens(folder, vocab) if folder is not None else frozenset()
    if folder is not None and (folder / "tokenizer.json").is_file():
        return FileTokenizer(folder / "tokenizer.json", vocab, ends)
    return ByteTokenizer(vocab, ends)


def end_tokens(folder: Path, vocab: int) -> frozenset[int]:
    """`eos_token_id` of the generation settings, or else of the model's config: one or a list."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        ends = read_object(path).get("eos_token_id") if path.is_file() else None
        if ends is not None:
            listed = ends if isinstance(ends, list) else [ends]
            checked = (check_token(end, vocab, str(path), "eos_token_id") for end in listed)
            return frozenset(checked)
    return frozenset()


class ByteTokenizer:
    """One token per byte of UTF-8; tokens above have no text, and are shown as broken."""

    def __init__(self, vocab: int, ends: frozenset[int] = frozenset()) -> None:
        if vocab < _BYTES:
            raise ConfigError(f"bytes do not fit into a vocabulary of {vocab} tokens")
        self.end_tokens = ends

    def encode(self, text: str, whole: bool = False) -> list[int]:
        """The bytes."""
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        """All tokens through a stream."""
        stream = self.stream()
        return "".join([*map(stream.push, tokens), stream.finish()])

    def stream(self) -> ByteStream:
        """A stream for one sequence."""
        return ByteStream(self.end_tokens)


class ByteStream:
    """Text out of bytes."""

    def __init__(self, silent: frozenset[int]) -> None:
        self._silent = silent
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The characters that the byte completes."""
        if token in self._silent:
            return ""
        if token < _BYTES:
            return self._decoder.decode(bytes([token]))
        return self.finish() + _BROKEN

    def finish(self) -> str:
        """A broken character for bytes that lack their rest."""
        return self._decoder.decode(b"", final=True)


class FileTokenizer:
    """A `tokenizer.json`, by the library `tokenizers`."""

    def __init__(self, path: Path, vocab: int, ends: frozenset[int] = frozenset()) -> None:
        self.end_tokens = ends
        self._path, self._vocab = path, vocab
        self._tokenizer = _open(path)

    def encode(self, text: str, whole: bool = False) -> list[int]:
        """Tokens, special ones around them. Raises InputError for one that the model has not:
        tokenizers may know more than models, if only what is never said.
        """
        # Unlike `encode`, this lets other threads go on meanwhile.
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=not whole)
        tokens = list(encoding.ids)
        strange = next((token for token in tokens if token >= self._vocab), None)
        if strange is not None:
            wanted = f"expected tokens below the model's {self._vocab}, found {strange}"
            raise InputError(wanted, file=str(self._path), field="vocab")
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Text, special tokens left out."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def stream(self) -> FileStream:
        """A stream for one sequence."""
        return FileStream(self)


class FileStream:
    """Text out of tokens whose spelling depends on the tokens before.

    The tokens since the last whole character are decoded together with those shown just before.
    """

    def __init__(self, tokenizer: FileTokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._context = 0
        """How many of them are shown entirely."""
        self._shown = ""
        """What of their text went out."""

    def push(self, token: int) -> str:
        """The text that the token adds, up to a character that may not be whole."""
        self._tokens.append(token)
        text = self._tokenizer.decode(self._tokens)
        if not text.startswith(self._shown):
            # Some decoders take a run of byte tokens as broken, all of it, until it is whole.
            if len(self._tokens) - self._context <= _HELD_BYTES:
                return ""
            text = self._without_context()
        broken = len(text) - len(text.rstrip(_BROKEN))
        stop = max(len(self._shown), len(text) - min(broken, _HELD_BYTES))
        new, self._shown = text[len(self._shown) : stop], text[:stop]
        if not broken:
            self._forget()
        return new

    def finish(self) -> str:
        """What is held back."""
        text = self._tokenizer.decode(self._tokens)
        if not text.startswith(self._shown):
            text = self._without_context()
        return text[len(self._shown) :]

    def _without_context(self) -> str:
        """The text of the tokens that are not shown, what was before being no help."""
        self._tokens, self._context, self._shown = self._tokens[self._context :], 0, ""
        return self._tokenizer.decode(self._tokens)

    def _forget(self) -> None:
        """Keep the tokens of the last piece alone, as context of the next."""
        self._tokens = self._tokens[self._context :]
        self._context = len(self._tokens)
        self._shown = self._tokenizer.decode(self._tokens)


def _open(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise ConfigError(
            f"{path} needs the library tokenizers: pip install 'superinfer[exec]'"
        ) from None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no class of its own
        raise InputError(f"expected a tokenizer: {error}", file=str(path)) from None
