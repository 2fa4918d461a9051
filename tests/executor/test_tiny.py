"""The model that ships with the project: it loads, spells any bytes and predicts its language."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
tokenizers = pytest.importorskip("tokenizers")
safetensors = pytest.importorskip("safetensors.torch")

from executor.shipped import END, HELDOUT, TINY, documents
from experiments.tiny.folder import tokenizer
from experiments.tiny.llama import Pass, Shape, sizes
from experiments.tiny.page import page
from experiments.tiny.train import bits_per_token

SHAPE = Shape()
HELDOUT_TOKENS = [token for part in documents(HELDOUT.read_text("utf-8")) for token in part]
LARGEST_BITS = 1.8
"""Per byte of held-out text; counts of single bytes need 4.4, of pairs 3.4, of triples 2.7."""
CONFIG: dict[str, Any] = json.loads((TINY / "config.json").read_text())
RECORD: dict[str, Any] = json.loads((TINY / "training.json").read_text())


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    return safetensors.load_file(TINY / "model.safetensors")


@pytest.fixture(scope="module")
def model(weights: dict[str, Any]) -> Pass:
    return Pass(SHAPE, {name: w.float() for name, w in weights.items()}, torch.float32)


@pytest.fixture(scope="module")
def speller() -> Any:
    return tokenizers.Tokenizer.from_file(str(TINY / "tokenizer.json"))


# -- the folder -----------------------------------------------------------------------------------


def test_it_is_small() -> None:
    assert sum(math.prod(size) for size in sizes(SHAPE).values()) <= 4_000_000
    assert (TINY / "model.safetensors").stat().st_size < 10_000_000
    assert sum(path.stat().st_size for path in TINY.iterdir()) < 10_000_000


def test_weights_are_those_of_the_shape(weights: dict[str, Any]) -> None:
    assert {name: tuple(w.shape) for name, w in weights.items()} == sizes(SHAPE)
    assert {w.dtype for w in weights.values()} == {getattr(torch, CONFIG["dtype"])}
    assert all(bool(w.isfinite().all()) for w in weights.values())
    assert SHAPE.config(CONFIG["dtype"]) == CONFIG


def test_the_package_contains_it() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert re.search(r'^executor = \["tiny/\*"\]$', text, re.MULTILINE)


def test_its_tokenizer_is_what_the_script_writes() -> None:
    assert json.loads((TINY / "tokenizer.json").read_text()) == tokenizer()


# -- bytes ----------------------------------------------------------------------------------------


@given(st.text())
def test_any_text_is_spelled_by_its_bytes(speller: Any, text: str) -> None:
    for mark in ("<|end|>", "<|pad|>"):
        text = text.replace(mark, "")
    ids = speller.encode(text).ids
    assert ids == list(text.encode())
    assert speller.decode(ids) == text


@given(st.binary())
def test_any_bytes_are_read_as_utf_8(speller: Any, data: bytes) -> None:
    assert speller.decode(list(data)) == data.decode(errors="replace")


def test_marks(speller: Any) -> None:
    assert speller.encode("end.\n<|end|>").ids == [*b"end.\n", END]
    assert speller.token_to_id("<|pad|>") == CONFIG["pad_token_id"] == 257
    assert CONFIG["eos_token_id"] == END == 256
    assert speller.decode([*b"a", END, *b"b"]) == "ab"


def test_documents_end_with_their_mark() -> None:
    assert documents("a\nb\n\nc\n") == [[*b"a\nb\n", END], [*b"c\n", END]]
    assert bytes(token for token in HELDOUT_TOKENS if token != END).decode() == re.sub(
        r"\n\n", "\n", HELDOUT.read_text()
    )


# -- what it has learnt ---------------------------------------------------------------------------


def test_it_predicts_the_heldout_text_as_recorded(model: Pass) -> None:
    tokens = torch.tensor(HELDOUT_TOKENS)
    found = bits_per_token(model, tokens[:8193], 512)
    assert found == pytest.approx(RECORD["bits_per_byte_of_first_8192"], abs=0.01)
    assert found < LARGEST_BITS
    assert RECORD["heldout_bytes"] == len(tokens)


def test_its_page_tells_the_record() -> None:
    assert (TINY / "README.md").read_text() == page(RECORD)


def test_it_writes_words(model: Pass) -> None:
    tokens = torch.tensor([list(b"And the LORD said unto Moses, ")])
    with torch.inference_mode():
        for _ in range(110):
            following = model.logits(tokens)[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat((tokens, following), dim=1)
    text = bytes(token for token in tokens[0].tolist() if token < END).decode()
    words = re.findall(r"[A-Za-z]+", text)[:-1]  # The last one may be cut off.
    known = set(re.findall(r"[A-Za-z]+", HELDOUT.read_text())) | {"LORD", "Moses"}
    assert len(words) > 20 and len(set(words)) > 10, text
    assert sum(word in known for word in words) / len(words) > 0.8, text


def test_transformers_reads_it_alike(model: Pass) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlamaForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    tokens = torch.tensor([HELDOUT_TOKENS[:300]])
    with torch.inference_mode():
        difference = (theirs(tokens).logits - model.logits(tokens)).abs().max()
    assert float(difference) < 1e-3
