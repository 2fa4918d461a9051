"""A small driver: sequences with tables in an arena, stepped through a model in any mixture."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest
import torch

from executor.steps.inputs import ChunkRows, DecodeRow, build_inputs

CLOSE = 1e-4
GAP = 1e-3
CPU = torch.device("cpu")


@cache
def transformers():
    """The library, with the noise of its import and of saving left out."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("transformers")
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


def saved(model, folder, seed=0, spread=0.3):
    """Spread the weights out, so that logits are far apart, and save the model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, spread * parameter.shape[-1] ** -0.5 * 3, generator=generator)
            else:
                parameter.add_(torch.empty_like(parameter).normal_(0, 0.1, generator=generator))
    model.eval().save_pretrained(folder)
    return model


@dataclass
class Table:
    offsets: np.ndarray
    bits: np.ndarray


@dataclass
class Sequence:
    tokens: list[int]
    table: Table
    done: int = 0
    logits: dict[int, torch.Tensor] = field(default_factory=dict)


class Harness:
    """An arena of 16-bit blocks in scrambled order, and steps over it."""

    def __init__(self, model, blocks=64, item_blocks=2):
        self.model, self.item_blocks = model, item_blocks
        size = model.layout.block_bytes[16]
        self.arena = torch.full((blocks * size,), 0xFF, dtype=torch.uint8, device=model.device)
        order = np.random.default_rng(0).permutation(blocks)
        self.free = (order * size).tolist()

    def sequence(self, tokens, capacity):
        count = -(-capacity // self.model.layout.block_tokens)
        offsets = np.array([self.free.pop() for _ in range(count)], np.int64)
        return Sequence(list(tokens), Table(offsets, np.full(count, 16, np.int8)))

    def step(self, decodes, chunks=(), pad_rows=0, pad_items=0):
        """Decode the last token of each sequence; prefill `(sequence, tokens)` of each chunk.

        Logits go to the sequences, by position.
        """
        rows = [DecodeRow(s.table, len(s.tokens), s.tokens[-1]) for s in decodes]
        parts = [
            ChunkRows(s.table, s.done, s.tokens[s.done : s.done + n], s.done + n == len(s.tokens))
            for s, n in chunks
        ]
        inputs = build_inputs(
            rows,
            parts,
            self.model.layout,
            self.model.device,
            item_blocks=self.item_blocks,
            pad_rows=pad_rows,
            pad_items=pad_items,
        )
        logits = self.model.forward(inputs, self.arena)
        wanted = [*decodes, *[None] * max(0, pad_rows - len(decodes))]
        for sequence, count in chunks:
            sequence.done += count
            if sequence.done == len(sequence.tokens):
                wanted.append(sequence)
        assert logits.dtype == self.model.layout.dtype
        assert len(logits) == len(wanted)
        for sequence, row in zip(wanted, logits, strict=True):
            if sequence is not None:
                sequence.done = len(sequence.tokens)
                sequence.logits[len(sequence.tokens) - 1] = row.float().clone()

    def generate(self, sequence, count, chunk=10**6):
        """Prefill in chunks, then decode greedily; the new tokens."""
        while sequence.done < len(sequence.tokens):
            self.step([], [(sequence, min(chunk, len(sequence.tokens) - sequence.done))])
        return self.decode([sequence], count)[0]

    def decode(self, sequences, count):
        """Greedy tokens of sequences whose prompts are done."""
        starts = [len(s.tokens) for s in sequences]
        for s in sequences:
            s.tokens.append(int(s.logits[len(s.tokens) - 1].argmax()))
        for _ in range(count - 1):
            self.step(sequences)
            for s in sequences:
                s.tokens.append(int(s.logits[len(s.tokens) - 1].argmax()))
        return [s.tokens[start:] for s, start in zip(sequences, starts, strict=True)]


def check(sequence, oracle):
    """Every logit row of the sequence is the oracle's for the same tokens, and so is the choice."""
    with torch.no_grad():
        truth = oracle(torch.tensor([sequence.tokens])).logits[0]
    for position, row in sequence.logits.items():
        assert (row - truth[position]).abs().max() <= CLOSE
        top = truth[position].topk(2).values
        if top[0] - top[1] > GAP:
            assert row.argmax() == truth[position].argmax()
