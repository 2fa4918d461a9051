"""The files of the shipped model beside its weights and record: configuration, tokenizer, text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from executor.shipped import END, PAD
from experiments.tiny.llama import Shape

TYPE = torch.bfloat16
"""Of the weights on disk."""


def write_folder(out: Path, shape: Shape, excerpt: str) -> None:
    """All files but the weights and the record."""
    out.mkdir(parents=True, exist_ok=True)
    files = {
        "config.json": shape.config(str(TYPE).removeprefix("torch.")),
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|end|>",
            "pad_token": "<|pad|>",
            "model_max_length": shape.context,
            "clean_up_tokenization_spaces": False,
        },
    }
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (out / "heldout.txt").write_text(excerpt, encoding="utf-8")


def tokenizer() -> dict[str, Any]:
    """`tokenizer.json`: the byte is the id, without a single merge."""
    marks = {"<|end|>": END, "<|pad|>": PAD}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    spelled = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": token, "content": name, **special, "special": True}
            for name, token in marks.items()
        ],
        "normalizer": None,
        "pre_tokenizer": {**spelled, "use_regex": False},
        "post_processor": None,
        "decoder": {**spelled, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {_spelling(byte): byte for byte in range(256)} | marks,
            "merges": [],
        },
    }


def _spelling(byte: int) -> str:
    """The character that stands for a byte in `tokenizer.json`: itself where it is printable.

    The others are counted up from U+0100 in their order (GPT-2's `bytes_to_unicode`).
    """
    if _printable(byte):
        return chr(byte)
    return chr(256 + sum(not _printable(other) for other in range(byte)))


def _printable(byte: int) -> bool:
    return 33 <= byte <= 126 or (161 <= byte <= 255 and byte != 173)
