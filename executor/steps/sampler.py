"""From logits to tokens: penalties, temperature, min-p, top-k, top-p, and a race for the token.

The race is exponential: the token with the largest `probability / e` wins, `e` being exponential
with rate 1; it wins with just that probability. `e` is a function of the request's seed, the
position and the token, computed by a counter-based generator, so a token does not depend on who
else is in the batch, and is the same after a preemption.

Nothing here waits for the device: settings of rows get there by `packing.sent`, and which rows have
penalties is known on the host. So the next step can be queued while this one runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from executor.steps.packing import sent
from superinfer.errors import ConfigError

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
"""Constants of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), as signed numbers."""


ROWS_AT_ONCE = 128
"""Rows that are drawn together. Of a vocabulary of 128,256 each takes some 6 MB meanwhile, and what
is left beside the KV cache must be enough however many requests draw.
"""
MOST_PENALTY = 100.0
"""Beyond that a penalty is a mistake: logits are far smaller."""
MOST_TEMPERATURE = 1e6
"""With far less any token is as likely as any other; what float32 does not hold is no number."""
DRAWING = ("temperature", "top_k", "top_p", "min_p")
PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")
_PENALTY = f"a number from -{MOST_PENALTY:.0f} to {MOST_PENALTY:.0f}"
_FACTOR = f"a number from {1 / MOST_PENALTY:g} to {MOST_PENALTY:.0f}"
_TEMPERATURE = f"a number from 0 to {MOST_TEMPERATURE:,.0f}"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tokens of a request are chosen."""

    temperature: float = 0.0
    """0: always the most likely token."""
    top_k: int = 0
    """Only the so many most likely tokens; 0: all."""
    top_p: float = 1.0
    """Only the fewest most likely tokens that have this share of the probability together."""
    min_p: float = 0.0
    """Only tokens with at least this share of the probability of the most likely one."""
    repetition_penalty: float = 1.0
    """Divides the logits above 0 of tokens of prompt and answer, and multiplies those below
    (CTRL, arXiv 1909.05858, section 4.1)."""
    presence_penalty: float = 0.0
    """Taken off the logits of tokens that the answer has."""
    frequency_penalty: float = 0.0
    """The same, as often as it has them."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of its range."""
        factor = 1 / MOST_PENALTY <= self.repetition_penalty <= MOST_PENALTY
        for name, fits, expected in (
            ("temperature", 0 <= self.temperature <= MOST_TEMPERATURE, _TEMPERATURE),
            ("top_k", self.top_k >= 0, "a number >= 0"),
            ("top_p", 0 < self.top_p <= 1, "a number in (0, 1]"),
            ("min_p", 0 <= self.min_p <= 1, "a number in [0, 1]"),
            ("repetition_penalty", factor, _FACTOR),
            ("presence_penalty", abs(self.presence_penalty) <= MOST_PENALTY, _PENALTY),
            ("frequency_penalty", abs(self.frequency_penalty) <= MOST_PENALTY, _PENALTY),
        ):
            if not fits:
                raise ConfigError(f"{name}: expected {expected}, got {getattr(self, name)}")

    @property
    def penalised(self) -> bool:
        """True if tokens so far matter."""
        return tuple(getattr(self, name) for name in PENALTIES) != (1.0, 0.0, 0.0)

    @property
    def greedy(self) -> bool:
        """True if the largest logit, as it is, decides."""
        return self.temperature == 0 and not self.penalised


GREEDY = Sampling()


class History:
    """Which tokens a request with penalties has, on the device."""

    def __init__(
        self, prompt: Sequence[int] | NDArray[np.int64], vocab: int, device: torch.device
    ) -> None:
        self.tokens = np.array(prompt, np.int64)
        """Of the prompt, on the host."""
        ids = sent(self.tokens, device)
        self.prompt = torch.zeros(vocab, dtype=torch.bool, device=device).index_fill_(0, ids, True)
        self.counts = torch.zeros(vocab, dtype=torch.int32, device=device)

    def add(self, token: Tensor) -> None:
        """Count a token of the answer; [1], on the device."""
        self.counts.index_add_(0, token, torch.ones_like(token, dtype=torch.int32))


@dataclass(slots=True)
class SamplingRow:
    """One row whose token is drawn."""

    sampling: Sampling
    position: int
    """Of the token to be drawn, in the sequence."""
    history: History | None = None


def sample(logits: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """The next token of each row; int64 [rows]. `logits` float32 [rows, vocab] is left as it is."""
    if len(rows) <= ROWS_AT_ONCE:
        return _sampled(logits, rows)
    parts = [slice(first, first + ROWS_AT_ONCE) for first in range(0, len(rows), ROWS_AT_ONCE)]
    return torch.cat([_sampled(logits[part], rows[part]) for part in parts])


def remember(tokens: Tensor, rows: Sequence[SamplingRow]) -> None:
    """Count the tokens that rows with penalties got; int64 [rows], on the device."""
    for index, row in enumerate(rows):
        if row.history is not None:
            row.history.add(tokens[index : index + 1])


def exponential_noise(keys: Sequence[tuple[int, int]], vocab: int, device: torch.device) -> Tensor:
    """Exponential numbers of rate 1, float32 [rows, vocab], a function of (seed, position)."""
    seeds = torch.tensor([_signed(seed) for seed, _ in keys], dtype=torch.int64)
    places = torch.tensor([place for _, place in keys], dtype=torch.int64)
    state = sent(_mixed(_mixed(seeds) + places * _GOLDEN).numpy(), device)
    tokens = torch.arange(1, vocab + 1, device=device, dtype=torch.int64)
    bits = _shifted(_mixed(state[:, None] + tokens * _GOLDEN), 11)
    # Small numbers keep their precision, and the largest becomes an infinity that never wins.
    uniform = (bits.to(torch.float32) + 0.5) * 2.0**-53
    return -torch.log1p(-uniform)


# -- inside ---------------------------------------------------------------------------------------


def _sampled(logits: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    logits = _penalised(logits, rows)
    if all(row.sampling.temperature == 0 for row in rows):
        return logits.argmax(-1)
    temperature, *columns = _columns([row.sampling for row in rows], DRAWING, logits.device)
    scaled = logits / temperature.clamp(min=1e-5)[:, None]
    kept, order = _kept(scaled.softmax(-1), columns, rows)
    keys = [(row.sampling.seed, row.position) for row in rows]
    noise = exponential_noise(keys, logits.shape[1], logits.device)
    winner = (kept / noise.gather(1, order)).argmax(-1, keepdim=True)
    drawn = order.gather(1, winner)[:, 0]
    return torch.where(temperature == 0, logits.argmax(-1), drawn)


def _penalised(logits: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """The logits with the penalties of the rows that have any."""
    held = [(i, row.sampling, row.history) for i, row in enumerate(rows) if row.history is not None]
    if not held:
        return logits
    counts = torch.stack([history.counts for _, _, history in held])
    prompts = torch.stack([history.prompt for _, _, history in held])
    values = _columns([sampling for _, sampling, _ in held], PENALTIES, logits.device)
    repetition, presence, frequency = (column[:, None] for column in values)
    which = sent(np.array([i for i, _, _ in held], np.int64), logits.device)
    chosen = logits.index_select(0, which)
    repeated = torch.where(chosen > 0, chosen / repetition, chosen * repetition)
    chosen = torch.where(prompts | (counts > 0), repeated, chosen)
    chosen = chosen - frequency * counts - presence * (counts > 0)
    return logits.index_copy(0, which, chosen)


def _columns(settings: Sequence[Sampling], names: Sequence[str], device: torch.device) -> Tensor:
    """Settings of the rows, float32 [names, rows]."""
    table = [[getattr(each, name) for each in settings] for name in names]
    return sent(np.array(table, np.float32), device)


def _kept(
    probabilities: Tensor, columns: Sequence[Tensor], rows: Sequence[SamplingRow]
) -> tuple[Tensor, Tensor]:
    """Probabilities with 0 for what must not be drawn, and the tokens that they belong to; in
    `columns` are the rows' top-k, top-p and min-p.
    """
    vocab = probabilities.shape[1]
    if not any(r.sampling.top_k or r.sampling.top_p < 1 or r.sampling.min_p for r in rows):
        tokens = torch.arange(vocab, device=probabilities.device)
        return probabilities, tokens.expand_as(probabilities)
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(vocab, device=probabilities.device)
    top_k, top_p, min_p = (column[:, None] for column in columns)
    keep = (top_k == 0) | (rank < top_k)
    within = ordered * keep
    before = within.cumsum(-1) - within
    keep &= (top_p >= 1) | (before < top_p * within.sum(-1, keepdim=True))
    keep &= ordered >= min_p * ordered[:, :1]
    return ordered * keep, order


def _mixed(x: Tensor) -> Tensor:
    """SplitMix64's finaliser over int64; products wrap."""
    x = (x ^ _shifted(x, 30)) * _MIX_1
    x = (x ^ _shifted(x, 27)) * _MIX_2
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """`x` shifted right as if it had no sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """The 64 low bits of a number, as a signed one."""
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number
