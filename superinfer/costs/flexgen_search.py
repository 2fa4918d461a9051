"""The shares of a placement that make a block fastest: FlexGen's policy search, on a grid.

Source: arXiv 2303.06865, section 4.3, and experimental/cost_model.py of FMInference/FlexLLMGen: for
a given batch and block size a linear program chooses the shares that minimise a block's time, with
at most 0.8 of each memory used (`alpha_g`, `alpha_c`, `alpha_n`). Here shares are multiples of 10 %
(activations: all or none), as in most published settings, and all of them that fit are compared,
so no solver is needed. Batch and block size are the user's; the paper enumerates them around its
program.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from superinfer.costs.base import Chunk
from superinfer.costs.devices import DeviceSpec
from superinfer.costs.flexgen import FlexGenCost
from superinfer.costs.flexgen_placement import Placement
from superinfer.costs.step import StepCost
from superinfer.errors import ConfigError

SAFETY = 0.8
"""Share of each memory that a searched placement may use."""
_STEP_PERCENT = 10


def best_placement(
    compute: StepCost,
    device: DeviceSpec,
    wanted: Placement,
    link_bytes_per_s: float | None = None,
) -> Placement:
    """The fastest placement that fits; ConfigError if none does.

    `link_bytes_per_s` stands in place of the device's speed of the link to the host.
    """
    if wanted.search_tokens is None:
        return wanted
    prompt, answer = wanted.search_tokens
    best: tuple[float, Placement] | None = None
    for percent in _candidates():
        placement = wanted.with_percent(percent)
        cost = FlexGenCost(compute, device, placement)
        if link_bytes_per_s is not None:
            cost.set_link(link_bytes_per_s)
        if _fits(cost, prompt, answer):
            seconds = block_s(cost, prompt, answer)
            if best is None or seconds < best[0]:
                best = (seconds, placement)
    if best is None:
        raise ConfigError(
            f"scheduler.placement='auto': nothing fits {device.name} with {compute.shape.name}, "
            f"{wanted.places} requests of {prompt} and {answer} tokens: expected a smaller block"
        )
    return best[1]


def block_s(cost: FlexGenCost, prompt_tokens: int, answer_tokens: int) -> float:
    """Seconds of a block by the paper's formula: each decode at the mean context."""
    places = cost.placement.places
    prefill_s = cost.step_s([Chunk(prompt_tokens, 0)] * places, 0, 0)
    context = places * (prompt_tokens + (answer_tokens + 1) // 2)
    return prefill_s + (answer_tokens - 1) * cost.step_s((), places, context)


def _candidates() -> Iterator[tuple[int, int, int, int, int, int]]:
    """Shares in percent, those that use the GPU most first."""
    for weights, cache, moved in product(_downwards(100), _downwards(100), (100, 0)):
        on_cpu = product(_downwards(100 - weights), _downwards(100 - cache))
        for weights_cpu, cache_cpu in on_cpu:
            yield weights, weights_cpu, cache, cache_cpu, moved, 100 - moved


def _downwards(percent: int) -> range:
    return range(percent, -1, -_STEP_PERCENT)


def _fits(cost: FlexGenCost, prompt_tokens: int, answer_tokens: int) -> bool:
    placement = cost.placement
    sizes = (cost.device.memory_bytes, placement.cpu_memory_bytes, placement.disk_bytes)
    peaks = cost.peak_bytes(prompt_tokens, answer_tokens)
    return all(peak <= SAFETY * size for peak, size in zip(peaks, sizes, strict=True))
