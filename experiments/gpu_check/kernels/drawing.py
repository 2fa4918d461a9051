"""Tokens drawn on the device against those that the host draws, without waiting for the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from executor.steps.sampler import History, Sampling, SamplingRow, remember, sample
from experiments.gpu_check.checks import Context, Result
from experiments.gpu_check.setting import device_of, verdict

SETTINGS = {
    "repetition": Sampling(repetition_penalty=1.4),
    "greedy": Sampling(),
    "penalties": Sampling(0.8, seed=1, frequency_penalty=0.6, presence_penalty=-0.3),
    "bounds": Sampling(1.0, seed=2, top_k=50, top_p=0.9, min_p=0.01),
    "all penalties": Sampling(1.2, 0, 1.0, 0.0, 0.9, 0.5, 0.1, seed=3),
}
PROMPT = (1, 2, 3, 5, 8, 13)
MOST_UNLIKE = 0.05
"""Share of tokens, at the most, that rounding may decide otherwise: exponentials and logarithms
are not the same to the last bit.
"""


def drawn(context: Context) -> Result:
    """By all settings at once, over some steps; on a GPU torch raises where it would wait."""
    vocab, steps = (64, 8) if context.tiny else (8192, 32)
    host, device = torch.device("cpu"), device_of(context)
    generator = torch.Generator().manual_seed(0)
    unlike = torch.zeros(len(SETTINGS))
    ours, theirs = (_histories(vocab, place) for place in (host, device))
    for position in range(steps):
        logits = torch.randn(len(SETTINGS), vocab, generator=generator) * 4
        rows = _rows(position, ours)
        wanted = sample(logits, rows)
        remember(wanted, rows)
        there, counted = logits.to(device), wanted.to(device)
        with no_waiting(device):
            rows = _rows(position, theirs)
            found = sample(there, rows)
            remember(counted, rows)  # so that one that differs is not the next one's reason
        unlike += found.cpu() != wanted
    shares = dict(zip(SETTINGS, (unlike / steps).tolist(), strict=True))
    return verdict(shares, MOST_UNLIKE)


def _histories(vocab: int, device: torch.device) -> list[History | None]:
    return [
        History(PROMPT, vocab, device) if each.penalised else None for each in SETTINGS.values()
    ]


def _rows(position: int, histories: list[History | None]) -> list[SamplingRow]:
    pairs = zip(SETTINGS.values(), histories, strict=True)
    return [SamplingRow(each, position, history) for each, history in pairs]


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """torch raises RuntimeError where the host would wait for a GPU."""
    if device.type != "cuda":
        yield
        return
    try:
        torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
