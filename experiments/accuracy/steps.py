"""Single steps of a real run of vLLM beside the times of its profile.

Stamps of first and last tokens are ends of steps, the same for all requests of a step. Between two
neighbouring ones everybody who decodes gets a token per step. So where no prompt is computed in
between, a span is a whole number of steps of known requests; and where one prompt comes in by
itself, the step that has it is known as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from experiments.accuracy.bench_run import Array, BenchRun, Stamps, contexts
from superinfer.costs import Chunk, StepCost

FULL_SHARE = 0.93
"""Steady: at least this share of the places is taken."""
FIRST_STEADY_S = 2.0
MOST_STEPS = 8
"""Of a span: a step that is a few per cent off then does not change their number."""
FURTHEST_OFF = 0.25
"""Steps by which a span may miss a whole number of them."""
SIZES = ((1, 4), (5, 16), (17, 32), (33, 64), (65, 112), (113, 128))
"""Sequences of a step, between the edges that the differences have."""
TOKENS = (
    *((257, 384), (385, 512), (513, 640), (641, 768), (769, 896), (897, 1024)),
    *((1025, 1280), (1281, 1408), (1409, 2048)),
)
"""Tokens of a step, likewise."""


class Span(NamedTuple):
    """Steps of decodes alone, one after the other."""

    sequences: int
    steps: int
    real_s: float
    """Of all of them together."""
    simulated_s: float


class ChunkStep(NamedTuple):
    """A step with one prompt, while nearly all places are taken."""

    tokens: int
    """Of the prompt and of the decodes."""
    beyond_s: float
    """What it took beyond its kernels."""


def decode_spans(run: BenchRun, cost: StepCost) -> list[Span]:
    """All spans of `run` in which nobody's prompt is computed."""
    stamps = run.stamps
    ends_s = np.unique(np.concatenate((stamps.first_s, stamps.last_s)))
    found = []
    for start_s, end_s in pairwise(ends_s):
        # A prompt is in a step that begins after it was scheduled and ends with its first token.
        prefilling = (stamps.scheduled_s < end_s - 1e-3) & (stamps.first_s > start_s)
        decoding = (stamps.first_s <= start_s) & (stamps.last_s >= end_s)
        if decoding.any() and not prefilling.any():
            tokens, _ = contexts(run, stamps, np.array([start_s]))
            span = _span(cost, float(end_s - start_s), tokens[decoding, 0])
            found += [] if span is None else [span]
    return found


def _span(cost: StepCost, real_s: float, held: Array) -> Span | None:
    """Of requests that hold so many tokens; None where the number of steps is not sure."""
    count, total, longest = len(held), int(held.sum()), int(held.max())
    simulated_s = 0.0
    for step in range(MOST_STEPS):
        context = total + step * count
        one_s = cost.step_s((), count, context) + cost.uneven_s(count, context, longest + step)
        simulated_s += one_s
        if abs(real_s - simulated_s) < FURTHEST_OFF * one_s:
            return Span(count, step + 1, real_s, simulated_s)
    return None


def chunked_steps(run: BenchRun, cost: StepCost) -> list[ChunkStep]:
    """Single steps with one prompt, and what they took beyond their kernels.

    From being scheduled to its first token a request that comes in alone waits for the decode step
    that is under way and for its own. Only requests count that find nothing in the prefix cache,
    whose prompt fits one step, and that come while nearly all places are taken: the steady state.
    """
    places = int(run.meta["engine_kwargs"]["max_num_seqs"])
    budget = int(run.meta["engine_kwargs"]["max_num_batched_tokens"])
    stamps = run.stamps
    found: list[ChunkStep] = []
    seen: set[int] = set()
    own_s = cost.host.chunked_s
    for row, request in enumerate(run.workload.requests):
        known = bool(request.hash_ids) and request.hash_ids[0] in seen
        seen.update(request.hash_ids or ())
        at_s = stamps.scheduled_s[row]
        if known or at_s < FIRST_STEADY_S or not _alone(stamps, row):
            continue
        tokens, running = contexts(run, stamps, np.array([at_s]))
        decoding = running[:, 0] & (stamps.first_s < at_s)
        held = tokens[decoding, 0]
        decodes, context = len(held), int(held.sum())
        if decodes < FULL_SHARE * places or request.prompt_tokens > budget - places:
            continue
        before_s = cost.step_s((), decodes, context)
        before_s += cost.uneven_s(decodes, context, int(held.max()))
        chunk = Chunk(request.prompt_tokens, 0)
        step_s = cost.step_s((chunk,), decodes, context + decodes) - own_s
        beyond_s = float(stamps.first_s[row] - at_s - before_s - step_s)
        found.append(ChunkStep(request.prompt_tokens + decodes, beyond_s))
    return found


def _alone(stamps: Stamps, row: int) -> bool:
    """Nobody else's prompt is in its step or in the one under way."""
    at_s = stamps.scheduled_s[row]
    others = np.arange(len(stamps.first_s)) != row
    prefilling = (stamps.scheduled_s < at_s + 2e-3) & (stamps.first_s > at_s + 1e-3)
    return not np.any(others & prefilling)


def median_error(samples: Array) -> float:
    """Standard error of the median of samples that are about normally distributed."""
    return float(np.sqrt(np.pi / 2) * samples.std(ddof=1) / np.sqrt(len(samples)))


def recorded(run: BenchRun, cost: StepCost) -> dict[str, Any]:
    """Means by `SIZES` and medians by `TOKENS`, in ms, as JSON."""
    spans, chunks = decode_spans(run, cost), chunked_steps(run, cost)
    return {
        "decodes": [
            {"sequences": [low, high]}
            | _means([span for span in spans if low <= span.sequences <= high])
            for low, high in SIZES
        ],
        "chunks": [
            {"tokens": [low, high]}
            | _beyond(1e3 * step.beyond_s for step in chunks if low <= step.tokens <= high)
            for low, high in TOKENS
        ],
        "chunked_ms": 1e3 * cost.host.chunked_s,
    }


def _means(spans: list[Span]) -> dict[str, Any]:
    steps = sum(span.steps for span in spans)
    if not steps:
        return {"steps": 0}
    real_s, ours_s = (sum(span[place] for span in spans) for place in (2, 3))
    return {"steps": steps, "real_ms": 1e3 * real_s / steps, "simulated_ms": 1e3 * ours_s / steps}


def _beyond(beyond_ms: Iterable[float]) -> dict[str, Any]:
    found = sorted(beyond_ms)
    if not found:
        return {"steps": 0}
    median = float(np.median(found))
    return {"steps": len(found), "median_ms": median, "least_ms": found[0], "most_ms": found[-1]}
