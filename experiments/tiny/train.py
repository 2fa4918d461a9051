"""Training of the shipped model: `python -m experiments.tiny.train --corpus kjv.txt`.

The corpus is text with an empty line between documents (`experiments.tiny.kjv` writes it). Its last
5 % are held out: the first 60 kB of them, whole documents, become `heldout.txt` and are what is
reported; the rest decides which weights are kept. Some of the rows of a batch have a passage
repeated further on, so that the model learns to look far back. The last part of the time goes to
rows as long as the context. The learning rate follows the clock, so that a run ends when its time
is up, on any device; the best averaged weights so far are always on disk.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from executor.shipped import TINY, documents
from experiments.tiny.folder import TYPE, write_folder
from experiments.tiny.llama import Pass, Shape, initial_weights
from experiments.tiny.page import page

HELDOUT_SHARE = 0.05
EXCERPT_BYTES = 60_000
WINDOW = 512
"""Tokens of the windows in which held-out text is measured for the record."""


@dataclass(frozen=True)
class Recipe:
    """How it is trained; all but `minutes` and `seed` follows the device."""

    minutes: float
    seed: int
    batch_tokens: int
    short: int
    """Tokens of a row at first."""
    long: int
    """Tokens of a row in the last part."""
    judged_length: int
    judged_tokens: int
    """How much held-out text decides which weights are kept."""
    evaluations: int = 10
    long_share: float = 0.25
    """Of the time, for long rows."""
    peak_rate: float = 3e-3
    warmup_share: float = 0.03
    warmup_steps: int = 60
    """At least so many, as the first step takes long."""
    decay: float = 0.1
    """Weight decay of AdamW, for matrices."""
    dropout: float = 0.1
    repeated_share: float = 0.5
    """Of the rows, with a passage repeated."""

    def rate(self, progress: float, steps: int) -> float:
        """Learning rate after a share of the time: warm-up, then half a cosine down to 2 %."""
        warmup = min(1.0, progress / self.warmup_share, (steps + 1) / self.warmup_steps)
        return self.peak_rate * warmup * (0.51 + 0.49 * math.cos(math.pi * min(progress, 1.0)))

    def row(self, progress: float) -> int:
        """Tokens of a row after a share of the time."""
        return self.long if progress >= 1 - self.long_share else self.short


def recipe_for(device: torch.device, minutes: float, seed: int, context: int) -> Recipe:
    """What a GPU does in a minute, or a CPU in some; a CPU sees short rows alone."""
    if device.type == "cuda":
        return Recipe(minutes, seed, 65_536, 1024, context, 4096, 1 << 20)
    return Recipe(minutes, seed, 1024, 256, 256, 512, 16_384, 3, warmup_steps=20)


@dataclass(frozen=True)
class Corpus:
    """Tokens of each part; `excerpt_text` is what is reported, as text."""

    train: Tensor
    judged: Tensor
    excerpt: Tensor
    excerpt_text: str


def read_corpus(path: Path, device: torch.device) -> Corpus:
    """Split by position, at the ends of documents."""
    text = path.read_text(encoding="utf-8")
    parts = documents(text)
    ends = list(accumulate(len(part) for part in parts))
    first = next(i for i, end in enumerate(ends) if end >= (1 - HELDOUT_SHARE) * ends[-1])
    excerpt_end = ends[first - 1] + min(EXCERPT_BYTES, (ends[-1] - ends[first - 1]) // 2)
    last = next(i for i, end in enumerate(ends) if end >= excerpt_end)
    excerpt = text.strip("\n").split("\n\n")[first : last + 1]
    cuts = ((0, first), (last + 1, len(parts)), (first, last + 1))
    train, judged, held = (_flat(parts[low:high], device) for low, high in cuts)
    return Corpus(train, judged, held, "\n\n".join(excerpt) + "\n")


def _flat(parts: list[list[int]], device: torch.device) -> Tensor:
    flat = [token for part in parts for token in part]
    return torch.tensor(flat, dtype=torch.int16, device=device)


def batch(tokens: Tensor, rows: int, length: int, repeated_share: float) -> Tensor:
    """Random windows of `length` + 1 tokens, some with a passage repeated; int64."""
    device = tokens.device
    starts = torch.randint(len(tokens) - length - 1, (rows, 1), device=device)
    columns = torch.arange(length + 1, device=device).expand(rows, -1)
    for _ in range(max(1, length // 1024)):
        columns = _repeat_a_passage(columns, repeated_share)
    return tokens[starts + columns].long()


def _repeat_a_passage(columns: Tensor, share: float) -> Tensor:
    """In a share of the rows replace a passage by one from further in front.

    `columns` says which token of its window stands where. A passage takes up to a quarter of a row
    and 256 tokens at most.
    """
    rows, length = columns.shape
    draw = torch.rand(4, rows, 1, device=columns.device)
    longest = min(256, length // 4)
    tokens = (draw[0] * (longest - 15)).long() + 16
    target = tokens + (draw[1] * (length - 2 * tokens)).long()
    source = (draw[2] * (target - tokens + 1)).long()
    here = torch.arange(length, device=columns.device)
    replaced = (here >= target) & (here < target + tokens) & (draw[3] < share)
    return torch.where(
        replaced, columns.gather(1, _within(here - target + source, length)), columns
    )


def _within(index: Tensor, length: int) -> Tensor:
    return index.clamp(0, length - 1)


def bits_per_token(model: Pass, tokens: Tensor, length: int) -> float:
    """Of windows side by side, each predicted from its own first token on."""
    nats, predicted = 0.0, 0
    with torch.no_grad():
        for window in _windows(tokens, length):
            count = window.numel() - len(window)
            nats, predicted = nats + count * float(model.loss(window)), predicted + count
    return nats / predicted / math.log(2)


def _windows(tokens: Tensor, length: int) -> Iterator[Tensor]:
    """Batches of windows of `length` + 1 tokens, which share one; a shorter last one."""
    together = max(1, 32_768 // length)
    full = (len(tokens) - 1) // length
    for first in range(0, full, together):
        count = min(together, full - first)
        starts = torch.arange(first, first + count, device=tokens.device)[:, None] * length
        yield tokens[starts + torch.arange(length + 1, device=tokens.device)].long()
    if len(tokens) - full * length > 1:
        yield tokens[full * length :].long()[None]


@dataclass
class Training:
    """A run: weights, their running average and the best average so far."""

    shape: Shape
    recipe: Recipe
    corpus: Corpus
    device: torch.device
    out: Path
    started_s: float = 0.0
    best: float = math.inf
    kept: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    tokens: int = 0

    def __post_init__(self) -> None:
        self.weights = initial_weights(self.shape, self.recipe.seed, self.device)
        self.average = {name: w.detach().clone() for name, w in self.weights.items()}
        matrices = [w for w in self.weights.values() if w.dim() > 1]
        others = [w for w in self.weights.values() if w.dim() == 1]
        groups = [
            {"params": matrices, "weight_decay": self.recipe.decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
        torch.manual_seed(self.recipe.seed)

    @property
    def dtype(self) -> torch.dtype:
        """Of the arithmetic."""
        return TYPE if self.device.type == "cuda" else torch.float32

    def progress(self) -> float:
        """Share of the time that is over."""
        return (time.monotonic() - self.started_s) / (60 * self.recipe.minutes)

    def run(self) -> None:
        """Train until the time is up."""
        self.started_s, judged_at = time.monotonic(), 0.0
        while (progress := self.progress()) < 1:
            self.step(progress)
            if progress >= judged_at + 1 / self.recipe.evaluations:
                judged_at = progress
                self.judge(progress)
        self.judge(1.0)

    def step(self, progress: float) -> None:
        """One batch."""
        length = self.recipe.row(progress)
        rows = max(1, self.recipe.batch_tokens // length)
        tokens = batch(self.corpus.train, rows, length, self.recipe.repeated_share)
        loss = Pass(self.shape, self.weights, self.dtype, self.recipe.dropout).loss(tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(progress, self.steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._follow()
        self.steps, self.tokens = self.steps + 1, self.tokens + rows * length
        if self.steps % 10 == 0:
            loss.item()  # The clock must not run ahead of the device.

    def _follow(self) -> None:
        """Move the average, over about the last twentieth of the steps."""
        averages, weights = list(self.average.values()), list(self.weights.values())
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1 / (1 + self.steps / 20))

    def judge(self, progress: float) -> None:
        """Keep the average on disk if it predicts held-out text better than the best so far."""
        judged = self.corpus.judged[: self.recipe.judged_tokens]
        found = bits_per_token(
            Pass(self.shape, self.average, self.dtype), judged, self.recipe.judged_length
        )
        spent_s = time.monotonic() - self.started_s
        print(f"{progress:4.0%} {spent_s:6.1f} s  step {self.steps:5d}  {found:.3f} bits per byte")
        if found < self.best:
            self.best = found
            self.kept = {name: w.to(TYPE).contiguous() for name, w in self.average.items()}
            _save(self.kept, self.out / "model.safetensors")


def _save(weights: dict[str, Tensor], path: Path) -> None:
    staged = path.with_suffix(".part")
    save_file({name: w.cpu() for name, w in weights.items()}, staged, metadata={"format": "pt"})
    os.replace(staged, path)


def record(training: Training) -> dict[str, Any]:
    """What `training.json` says of a run."""
    corpus, recipe = training.corpus, training.recipe
    kept = {name: w.float() for name, w in training.kept.items()}
    model = Pass(training.shape, kept, torch.float32)
    windows = sorted({WINDOW, recipe.judged_length, recipe.long})
    heldout = {length: bits_per_token(model, corpus.excerpt, length) for length in windows}
    return {
        "weights": sum(w.numel() for w in kept.values()),
        "bits_per_byte": round(heldout[WINDOW], 4),
        "bits_per_byte_by_window": {str(n): round(bits, 4) for n, bits in heldout.items()},
        "bits_per_byte_of_first_8192": round(
            bits_per_token(model, corpus.excerpt[:8193], WINDOW), 4
        ),
        "heldout_bytes": len(corpus.excerpt),
        "judged_bits_per_byte": round(training.best, 4),
        "train_bytes": len(corpus.train),
        "tokens": training.tokens,
        "steps": training.steps,
        "seconds": round(time.monotonic() - training.started_s, 1),
        "seed": recipe.seed,
        "rows": [recipe.short, recipe.long],
        "device": _name(training.device),
        "torch": torch.__version__,
    }


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU ({platform.machine()}), {torch.get_num_threads()} thread(s)"


def train(corpus: Path, out: Path, recipe: Recipe, shape: Shape, device: torch.device) -> None:
    """Train a model into a folder."""
    if device.type == "cuda":
        # Its attention is planned anew for each shape, which a short run has no time for.
        torch.backends.cuda.enable_cudnn_sdp(False)
    data = read_corpus(corpus, device)
    write_folder(out, shape, data.excerpt_text)
    training = Training(shape, recipe, data, device, out)
    training.run()
    found = record(training)
    text = json.dumps(found, indent=1)
    (out / "training.json").write_text(text + "\n", encoding="utf-8")
    (out / "README.md").write_text(page(found), encoding="utf-8")
    print(text)


def main() -> None:
    """Train for some minutes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=TINY)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=1.3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not args.corpus.is_file():
        parser.error(f"no such file: {args.corpus} (python -m experiments.tiny.kjv writes it)")
    if args.device != "cpu" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device: use --device cpu")
    device, shape = torch.device(args.device), Shape()
    recipe = recipe_for(device, args.minutes, args.seed, shape.context)
    train(args.corpus, args.out, recipe, shape, device)


if __name__ == "__main__":
    main()
