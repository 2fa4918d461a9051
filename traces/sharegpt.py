"""Prompt and answer lengths from a data set of conversations, or from a table of lengths."""

from __future__ import annotations

import csv
import importlib
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw

from superinfer.errors import InputError
from superinfer.slo_classes import MAX_LENGTH_TOKENS
from traces.fields import LENGTH_EXPECTED, field_error, not_utf8, shown
from traces.source import RecordError, file_name, read_content

CHARACTERS_PER_TOKEN = 4
"""Characters that one token stands for without a tokenizer: OpenAI's rule of thumb for English
(help.openai.com, "What are tokens and how to count them?")."""

Pair = tuple[int, int]
"""Tokens of a prompt and of its answer."""
CountTokens = Callable[[str], int]

_CONVERSATIONS = ("conversations", "conversation", "messages")
_ROLES = ("from", "role")
_TEXTS = ("value", "content")
_ANSWERS = frozenset({"gpt", "assistant", "chatgpt", "bing", "bard", "model"})
_PROMPTS = frozenset({"human", "user", "system", "developer", "tool", "function", "observation"})
_PROMPT_LENGTHS = [
    "input_length",
    "input_len",
    "input_tokens",
    "prompt_length",
    "prompt_len",
    "prompt_tokens",
    "context_tokens",
    "request_tokens",
    "num_prefill_tokens",
    "isl",
]
_ANSWER_LENGTHS = [
    "output_length",
    "output_len",
    "output_tokens",
    "completion_length",
    "completion_len",
    "completion_tokens",
    "generated_tokens",
    "response_tokens",
    "answer_tokens",
    "num_decode_tokens",
    "osl",
]
_EXPECTED = {"": "an object"}
_LENGTH_COLUMNS = "columns such as input_length,output_length or ContextTokens,GeneratedTokens"


def read_lengths(
    path: str | Path, *, tokenizer: str | Path | None = None, first_only: bool = False
) -> list[Pair]:
    """Token counts (prompt, answer) from `path`, plain or gzip, in the order of the file.

    A file of conversations is a JSON list or JSON lines of `{"conversations": [{"from": "human",
    "value": text}, {"from": "gpt", ...} ...]}`, with the names `messages`, `role` and `content` as
    well. Every answer gives one pair, whose prompt is all that stands before it: a client sends the
    history with each turn. With `first_only` each conversation gives only its first answer, much as
    vLLM's serving benchmark takes it (which also leaves out what is very short or long).
    Answers without a prompt, and empty ones, are not counted as requests.

    Text is counted by `tokenizer`, a `tokenizer.json` file, without special tokens and without a
    chat template, or else as one token per `CHARACTERS_PER_TOKEN` characters, rounded up.

    A file of lengths is JSON lines, a JSON list or CSV with a header: `input_length` and
    `output_length`, `prompt_len` and `output_len`, `ContextTokens` and `GeneratedTokens` and the
    like. Raises `InputError` at the first fault, or if there is no pair at all.
    """
    file = file_name(path)
    data = read_content(path)
    reader = _Reader(_counter(tokenizer), first_only)
    pairs = [pair for item in _items(file, data) for pair in _pairs(file, item, reader)]
    if not pairs:
        raise InputError("expected at least one prompt with an answer, got none", file=file)
    return pairs


@dataclass(slots=True)
class _Item:
    """One conversation or pair of lengths, and where it stands."""

    fields: Mapping[str, Any]
    place: str = ""
    """Its position in a JSON list."""
    line: int = 0


def _pairs(file: str, item: _Item, reader: _Reader) -> list[Pair]:
    try:
        return reader.pairs(item.fields)
    except RecordError as bad:
        raise _error(file, item.place, item.line, bad) from None


def _error(file: str, place: str, line: int, bad: RecordError) -> InputError:
    where = ".".join(part for part in (place, bad.field) if part)
    return InputError(bad.expected, file=file, line=line, field=where)


def _items(file: str, data: bytes) -> Iterator[_Item]:
    start = data.lstrip()[:1]
    if not start:
        raise InputError("expected conversations or lengths, got an empty file", file=file)
    if start == b"[":
        return _list_items(file, data)
    if start == b"{":
        return _line_items(file, data)
    return _csv_items(file, data)


def _list_items(file: str, data: bytes) -> Iterator[_Item]:
    try:
        raws = msgspec.json.decode(data, type=list[Raw])
    except (ValueError, RecursionError) as error:
        bad = field_error(data, error, {"": "a list of conversations"})
        raise _error(file, "", 0, bad) from None
    for position, raw in enumerate(raws):
        yield _Item(_object(file, raw, f"[{position}]", 0), f"[{position}]")


def _line_items(file: str, data: bytes) -> Iterator[_Item]:
    whole = _only_object(data)
    if whole is not None:
        yield _Item(whole)
        return
    for number, line in enumerate(data.split(b"\n"), 1):
        if line and not line.isspace():
            yield _Item(_object(file, line, "", number), line=number)


def _only_object(data: bytes) -> dict[str, Any] | None:
    """The one object that is written over several lines; None of JSON lines."""
    if b"}" in data.split(b"\n", 1)[0]:
        return None
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (ValueError, RecursionError):
        return None


def _object(file: str, data: bytes | Raw, place: str, line: int) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise _error(file, place, line, field_error(bytes(data), error, _EXPECTED)) from None


def _csv_items(file: str, data: bytes) -> Iterator[_Item]:
    text = "\n".join(_decoded_lines(file, data))
    rows = csv.reader(io.StringIO(text, newline=""))
    try:
        header = next(row for row in rows if row)
        _length_names(header, file, rows.line_num)
        for row in filter(None, rows):
            if len(row) != len(header):
                wanted = f"expected {len(header)} columns, got {len(row)}"
                raise InputError(wanted, file=file, line=rows.line_num)
            cells = zip(header, map(_number, row), strict=True)
            yield _Item(dict(cells), line=rows.line_num)
    except csv.Error as error:
        raise InputError(f"expected CSV, got: {error}", file=file, line=rows.line_num) from None


def _decoded_lines(file: str, data: bytes) -> Iterator[str]:
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise _error(file, "", number, not_utf8(error)) from None


def _length_names(names: Iterable[str], file: str, line: int) -> None:
    """Check that a CSV file has the columns that it takes."""
    columns = list(names)
    if _named(columns, _PROMPT_LENGTHS) is None or _named(columns, _ANSWER_LENGTHS) is None:
        got = shown(",".join(columns))
        raise InputError(f"expected {_LENGTH_COLUMNS}, got {got}", file=file, line=line)


def _number(text: str) -> int | str:
    """A cell's whole number, or else its text, which is good for an error message alone."""
    bare = text.strip()
    return int(bare) if bare.isascii() and bare.isdigit() and len(bare) < 20 else text


class _Reader:
    """Turns one object into pairs; every fault is a `RecordError` that names the field."""

    def __init__(self, count_tokens: CountTokens, first_only: bool) -> None:
        self._count_tokens = count_tokens
        self._first_only = first_only

    def pairs(self, fields: Mapping[str, Any]) -> list[Pair]:
        """The pairs of a conversation, or the one of a record of lengths."""
        name = _named(fields, _CONVERSATIONS)
        if name is not None:
            pairs = self._conversation(name, fields[name])
            return pairs[:1] if self._first_only else pairs
        prompt, answer = _named(fields, _PROMPT_LENGTHS), _named(fields, _ANSWER_LENGTHS)
        if prompt is None or answer is None:
            wanted = "conversations or messages, or input_length and output_length"
            got = ", ".join(map(str, fields)) or "nothing"
            raise RecordError("", f"expected {wanted}, got {shown(got)}")
        return [(_length(prompt, fields[prompt]), _length(answer, fields[answer]))]

    def _conversation(self, name: str, messages: object) -> list[Pair]:
        if not isinstance(messages, list):
            raise RecordError(name, f"expected a list of messages, got {shown(messages)}")
        pairs = []
        history_tokens = 0
        for position, message in enumerate(messages):
            is_answer, text = _message(f"{name}[{position}]", message)
            tokens = self._count_tokens(text)
            if is_answer and history_tokens and tokens:
                pairs.append((_limited(name, history_tokens), _limited(name, tokens)))
                if self._first_only:
                    break
            history_tokens += tokens
        return pairs


def _message(place: str, message: object) -> tuple[bool, str]:
    """Whether a message is an answer, and its text."""
    if not isinstance(message, dict):
        raise RecordError(place, f"expected a message object, got {shown(message)}")
    role = _field(place, message, _ROLES)
    if not isinstance(message[role], str) or message[role].lower() not in _ANSWERS | _PROMPTS:
        listed = ", ".join(sorted(_ANSWERS | _PROMPTS))
        raise RecordError(
            f"{place}.{role}", f"expected one of {listed}, got {shown(message[role])}"
        )
    text = _field(place, message, _TEXTS)
    return message[role].lower() in _ANSWERS, _text(f"{place}.{text}", message[text])


def _field(place: str, message: Mapping[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        if name in message:
            return name
    raise RecordError(place, f"expected a field {' or '.join(names)}, got none")


def _text(place: str, content: object) -> str:
    """A message's text; of a list of parts, the text parts one after the other."""
    if content is None:  # an assistant that only called a tool
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text", "") for part in content if isinstance(part, dict)]
        if len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            return "".join(texts)
    raise RecordError(place, f"expected text, got {shown(content)}")


def _named(names: Iterable[str], wanted: Iterable[str]) -> str | None:
    """The first name that means one of `wanted`, however it is spelt."""
    spelt = {_plain(name): name for name in names if isinstance(name, str)}
    return next((spelt[_plain(name)] for name in wanted if _plain(name) in spelt), None)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _length(name: str, value: object) -> int:
    if type(value) is int and 1 <= value <= MAX_LENGTH_TOKENS:
        return value
    raise RecordError(name, f"expected {LENGTH_EXPECTED}, got {shown(value)}")


def _limited(name: str, tokens: int) -> int:
    if tokens > MAX_LENGTH_TOKENS:
        raise RecordError(name, f"expected at most {MAX_LENGTH_TOKENS} tokens, got {tokens}")
    return tokens


def _counter(tokenizer: str | Path | None) -> CountTokens:
    if tokenizer is None:
        return lambda text: math.ceil(len(text) / CHARACTERS_PER_TOKEN)
    try:
        # Loaded by name: an option of this one function, and no dependency of the package.
        tokenizers = importlib.import_module("tokenizers")
    except ImportError:
        raise InputError(
            "expected the package tokenizers, which is not installed: pip install tokenizers",
            field="tokenizer",
        ) from None
    content = read_content(tokenizer)
    try:
        encode = tokenizers.Tokenizer.from_str(content.decode()).encode
    except Exception as error:  # the library raises plain exceptions
        text = " ".join(str(error).split())
        raise InputError(
            f"expected a tokenizer.json file, got: {text}", file=str(tokenizer)
        ) from None
    return lambda text: len(encode(text, add_special_tokens=False).ids)
