"""Lengths from conversations and from tables."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import one_line
import pytest
from public_data import REPOSITORY, needed

from superinfer.errors import InputError
from traces.sharegpt import CHARACTERS_PER_TOKEN, read_lengths


def text(tokens: int) -> str:
    """A text of so many tokens, by the estimate."""
    return "x" * (tokens * CHARACTERS_PER_TOKEN)


def sharegpt(*turns: tuple[str, int]) -> dict[str, Any]:
    """A conversation of (speaker, tokens)."""
    return {"id": "a", "conversations": [{"from": who, "value": text(n)} for who, n in turns]}


def openai(*turns: tuple[str, int]) -> dict[str, Any]:
    """The same in the names of the chat API."""
    return {"messages": [{"role": who, "content": text(n)} for who, n in turns]}


def write(folder: Path, content: str | bytes, name: str = "data") -> Path:
    """A file with this content."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(folder: Path, *items: Any, **options: Any) -> list[tuple[int, int]]:
    """The lengths in a JSON list of these items."""
    return read_lengths(write(folder, json.dumps(items)), **options)


def error_of(path: Path, **options: Any) -> str:
    return one_line.error_of(lambda: read_lengths(path, **options), InputError)


TURNS = (("human", 10), ("gpt", 20), ("human", 5), ("gpt", 7))


def test_the_history_is_part_of_the_prompt(tmp_path: Path) -> None:
    assert read(tmp_path, sharegpt(*TURNS)) == [(10, 20), (35, 7)]


def test_the_first_answer_alone(tmp_path: Path) -> None:
    items = (sharegpt(*TURNS), sharegpt(("human", 1), ("gpt", 2)))
    assert read(tmp_path, *items, first_only=True) == [(10, 20), (1, 2)]


def test_names_of_the_chat_api_and_a_system_prompt(tmp_path: Path) -> None:
    turns = (("system", 100), ("user", 10), ("assistant", 20), ("tool", 4), ("assistant", 3))
    assert read(tmp_path, openai(*turns)) == [(110, 20), (134, 3)]


def test_an_answer_without_a_prompt_is_history_only(tmp_path: Path) -> None:
    turns = (("gpt", 30), ("human", 1), ("gpt", 2))
    assert read(tmp_path, sharegpt(*turns)) == [(31, 2)]
    assert read(tmp_path, sharegpt(*turns), first_only=True) == [(31, 2)]


def test_empty_answers_are_no_requests(tmp_path: Path) -> None:
    turns = (("human", 1), ("gpt", 0), ("human", 2), ("gpt", 3))
    assert read(tmp_path, sharegpt(*turns)) == [(3, 3)]


def test_a_started_token_counts(tmp_path: Path) -> None:
    short = {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "?"}]}
    assert read(tmp_path, short) == [(2, 1)]


def test_content_may_come_in_parts_or_not_at_all(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": text(3)}, {"type": "image_url"}, {"text": text(2)}]
    messages = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": text(1)},
    ]
    assert read(tmp_path, {"messages": messages}) == [(5, 1)]


def test_json_lines_gzip_and_one_object_over_many_lines(tmp_path: Path) -> None:
    lines = "\n\n".join(json.dumps(item) for item in (sharegpt(*TURNS), openai(("user", 1))))
    path = write(tmp_path, b"\xef\xbb\xbf" + lines.encode())
    assert read_lengths(path) == [(10, 20), (35, 7)]
    assert read_lengths(write(tmp_path, gzip.compress(lines.encode()))) == [(10, 20), (35, 7)]
    alone = write(tmp_path, json.dumps(sharegpt(*TURNS), indent=2))
    assert read_lengths(alone) == [(10, 20), (35, 7)]


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("input_length", "output_length"),
        ("prompt_len", "output_len"),
        ("ContextTokens", "GeneratedTokens"),
        ("Request tokens", "Response tokens"),
        ("prompt_tokens", "completion_tokens"),
        ("num_prefill_tokens", "num_decode_tokens"),
    ],
)
def test_plain_lengths(tmp_path: Path, prompt: str, answer: str) -> None:
    records = [{"time": 0, prompt: 3, answer: 4}, {prompt: 5, answer: 6, "hash_ids": [1]}]
    assert read(tmp_path, *records) == [(3, 4), (5, 6)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    assert read_lengths(write(tmp_path, lines)) == [(3, 4), (5, 6)]
    table = f'at,{prompt} ,{answer}\r\n"a,b",3,4\r\n\r\n,5, 6\r\n'
    assert read_lengths(write(tmp_path, table)) == [(3, 4), (5, 6)]


def test_a_native_trace_is_a_file_of_lengths() -> None:
    sample = REPOSITORY / "traces" / "samples" / "mixed.jsonl"
    records = [json.loads(line) for line in sample.read_text().splitlines()]
    expected = [(record["input_length"], record["output_length"]) for record in records]
    assert read_lengths(sample) == expected


def test_an_azure_trace_is_a_file_of_lengths() -> None:
    pairs = read_lengths(needed("traces/azure2023/AzureLLMInferenceTrace_conv.csv"))
    assert len(pairs) == 19_366
    assert round(sum(prompt for prompt, _ in pairs) / len(pairs)) == 1155


BAD = {
    "empty": ("", "expected conversations or lengths, got an empty file"),
    "broken list": ("[{}", "expected JSON, got a broken document: Input data was truncated"),
    "number": ("[3]", "[0]: expected an object, got 3"),
    "no names": ('[{"a": 1}]', "[0]: expected conversations or messages, or input_length and"),
    "one name": ('[{"input_length": 1}]', "[0]: expected conversations or messages, or input_"),
    "no list": ('[{"messages": 4}]', "[0].messages: expected a list of messages, got 4"),
    "no message": ('[{"messages": [4]}]', "[0].messages[0]: expected a message object, got 4"),
    "no role": ('[{"messages": [{}]}]', "[0].messages[0]: expected a field from or role, got none"),
    "role": (
        '[{"messages": [{"role": "narrator"}]}]',
        "[0].messages[0].role: expected one of assistant, bard, ",
    ),
    "no text": (
        '[{"messages": [{"role": "user"}]}]',
        "[0].messages[0]: expected a field value or content, got none",
    ),
    "text": (
        '[{"conversations": [{"from": "human", "value": 3}]}]',
        "[0].conversations[0].value: expected text, got 3",
    ),
    "parts": (
        '[{"messages": [{"role": "user", "content": [3]}]}]',
        "[0].messages[0].content: expected text, got a list",
    ),
    "zero": (
        '[{"prompt_len": 0, "output_len": 1}]',
        "[0].prompt_len: expected an integer from 1 to 10000000 (tokens), got 0",
    ),
    "true": ('[{"prompt_len": true, "output_len": 1}]', "[0].prompt_len: expected an integer"),
    "no answers": ('[{"messages": []}]', "expected at least one prompt with an answer, got none"),
    "deep": ("[" * 100_000, "expected JSON, got a "),
    "text file": ("hello\n", "1: expected columns such as input_length,output_length or "),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line(tmp_path: Path, case: str) -> None:
    content, expected = BAD[case]
    path = write(tmp_path, content)
    separator = "" if expected[0].isdigit() else " "
    assert error_of(path).startswith(f"{path}:{separator}{expected}")


GOOD = '{"input_length": 1, "output_length": 1}\n'


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "\n" + '{"input_length": -1, "output_length": 1}')
    expected = "input_length: expected an integer from 1 to 10000000 (tokens), got -1"
    assert error_of(path) == f"{path}:3: {expected}"
    path = write(tmp_path, GOOD + "{")
    assert error_of(path).startswith(f"{path}:2: expected JSON, got a broken document: ")


def test_a_bad_cell_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "prompt_len,output_len\n1,1\n1,2.5\n")
    assert error_of(path).startswith(f"{path}:3: output_len: expected an integer from 1 to ")
    path = write(tmp_path, "prompt_len,output_len\n1\n")
    assert error_of(path) == f"{path}:2: expected 2 columns, got 1"
    path = write(tmp_path, b"prompt_len,output_len\n1,\xff\n")
    assert error_of(path) == f"{path}:2: expected UTF-8 text, got byte 0xff at column 3"


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    assert error_of(tmp_path / "nowhere").endswith("expected a trace file, got no such file")


class Words:
    """Stands for `tokenizers.Tokenizer`: a token per word."""

    @classmethod
    def from_str(cls, content: str) -> Words:
        """The tokenizer in a file."""
        if not content.startswith("{"):
            raise Exception("expected value\nat line 1")
        return cls()

    def encode(self, value: str, *, add_special_tokens: bool) -> SimpleNamespace:
        """Ids, with one more if special tokens are asked for."""
        return SimpleNamespace(ids=[*value.split(), *([0] if add_special_tokens else [])])


def test_a_tokenizer_counts_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", SimpleNamespace(Tokenizer=Words))  # type: ignore[arg-type]
    path = write(
        tmp_path,
        json.dumps(
            [
                {
                    "messages": [
                        {"role": "user", "content": "how are you"},
                        {"role": "assistant", "content": "well enough"},
                    ]
                }
            ]
        ),
    )
    tokenizer = write(tmp_path, "{}", "tokenizer.json")
    assert read_lengths(path, tokenizer=tokenizer) == [(3, 2)]
    bad = write(tmp_path, "no", "bad.json")
    expected = "expected a tokenizer.json file, got: expected value at line 1"
    assert error_of(path, tokenizer=bad) == f"{bad}: {expected}"


def test_a_missing_tokenizer_library_gives_the_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    path = write(tmp_path, json.dumps([sharegpt(*TURNS)]))
    message = error_of(path, tokenizer=tmp_path / "tokenizer.json")
    assert message.startswith("tokenizer: expected the package tokenizers")
    assert message.endswith("pip install tokenizers")
