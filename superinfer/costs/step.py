"""What step-time models share: host and link times, and where their figures come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, inf
from typing import Final, NamedTuple

from mypy_extensions import mypyc_attr

from superinfer.costs.base import CostModel, PrefillWork, SliceLine
from superinfer.costs.coverage import NO_LIMITS, Coverage, Limits
from superinfer.costs.devices import Link
from superinfer.costs.profile import HostCost
from superinfer.costs.shapes import ModelShape
from superinfer.errors import ConfigError

DEFAULT_HOST: Final = HostCost(step_s=0.004, per_sequence_s=20e-6, origin="assumed")
"""vLLM v0.6.0: about 4 ms between steps in the profile of vllm-project/vllm issue 6854; the share
per sequence is assumed. Other systems of that time: 1 to 2 ms (SGLang v0.3), below 1 ms and hidden
(TensorRT-LLM)."""

UNPACKING: Final = 1.5
"""Decode attention over 8- and 4-bit caches takes so much longer than its bytes say. Assumed, where
no profile has measured it: unpacking costs 20 to 90 % in the kernels that QServe looked at (arXiv
2405.04532, section 1)."""

LARGE_BATCH: Final = 64
LONG_CONTEXT_TOKENS: Final = 4096
"""Where decode attention is limited by memory, and by nothing else."""

NOTHING: Final = SliceLine(0.0, 0.0, inf)
"""The line of a slice that takes no time."""


class Origin(NamedTuple):
    """Where the step times of a cost model come from."""

    profile: str
    source: str
    measured: bool
    family_error: float | None
    """Mean error of the worst kernel on held-out measurements, as a share."""
    assumed: Mapping[str, str] | None = None
    """Kernels of a shape that nobody measured, each with what stands in for it."""


@mypyc_attr(allow_interpreted_subclasses=True)
class StepCost(ABC):
    """A cost model of one replica: what a run asks of it beside the protocol."""

    limits: Limits = NO_LIMITS
    """Where measuring ended."""
    knows_longest: bool = False
    """Whether `uneven_line` is ever more than nothing."""
    hides_host: bool = True
    """Whether a host that plans ahead (lag 1) works beside the device; a CPU is both."""

    def __init__(self, shape: ModelShape, tp: int, links: dict[str, Link], host: HostCost) -> None:
        shape.require_tp(tp)
        self.shape, self.tp, self.host = shape, tp, host
        self._host_step_s, self._host_sequence_s = host.step_s, host.per_sequence_s
        self._launch_s, self._chunked_s = host.launch_s, host.chunked_s
        self._next_chunk_s, self.between_s = host.next_chunk_s, host.between_s
        self.links = links
        """By direction, `h2d` and `d2h`; and `both`, where it was measured: either direction while
        the other one copies, too."""
        self._kv_bytes = shape.kv_bytes_per_token(tp)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of 16-bit KV cache per token on one GPU."""
        return self._kv_bytes

    @property
    def kv_bits(self) -> int:
        """Of a cached value, where nothing was demoted."""
        return 8 if self.shape.kv_dtype else 16

    @property
    def quality(self) -> dict[str, dict[str, float | None]]:
        """What caches of 8 and 4 bits cost in quality, where that was measured (`RunRecord`)."""
        return {}

    @property
    def profile_sha256(self) -> str | None:
        """Of the file of the profile that the times come from; None where there is none."""
        return None

    @property
    @abstractmethod
    def origin(self) -> Origin:
        """Where the figures come from."""

    def trust(self, coverage: Coverage) -> dict[str, object]:
        """The `trust` block of a run: origin and fit error, and how far its steps went."""
        origin, outside = self.origin, coverage.extrapolated_share
        return {
            "profile": origin.profile,
            "source": origin.source,
            "measured_share": 1.0 - outside if origin.measured else 0.0,
            "extrapolated_share": outside,
            "left_range": coverage.left_range,
            "assumed": dict(origin.assumed or {}),
            "family_error": origin.family_error,
            "host_overhead_origin": self.host.origin,
        }

    @abstractmethod
    def step_s(self, chunks: Sequence[PrefillWork], decodes: int, context_tokens: int) -> float:
        """Device seconds of one step; 0 for an empty one."""

    @abstractmethod
    def slice_line(
        self, chunks: Sequence[PrefillWork], decodes: int, context_tokens: int
    ) -> SliceLine:
        """The line of a slice that starts with this step; not for an empty one."""

    def host_s(self, sequences: int) -> float:
        """Host seconds before a step over `sequences` requests."""
        return self._host_step_s + self._host_sequence_s * sequences

    def uneven_s(self, decodes: int, context_tokens: int, longest_tokens: int) -> float:
        """What a step of decodes alone takes more because their contexts are unequal."""
        return self.uneven_line(decodes, context_tokens, longest_tokens).first_s

    def uneven_line(self, decodes: int, context_tokens: int, longest_tokens: int) -> SliceLine:
        """What the steps of a slice that starts with this one take more for unequal contexts, each
        of which grows by a token a step.
        """
        return NOTHING

    def set_link(self, bytes_per_s: float) -> None:
        """Give the link to the host another speed, the same in both directions. Copies both ways at
        once lose the share of it that they lost before.
        """
        both = self.links.get("both")
        alone = max(link.bytes_per_s for link in self.links.values()) if both else 0.0
        self.links = {
            direction: replace(link, bytes_per_s=bytes_per_s)
            for direction, link in self.links.items()
        }
        if both is not None:
            share = both.bytes_per_s / alone
            self.links["both"] = replace(both, bytes_per_s=share * bytes_per_s)

    def share_bridge(self, links: int) -> None:
        """So many links, which all copy at once, share a bridge to the host: each has its part of
        the bandwidth. A copy begins as fast as before.
        """
        self.links = {
            direction: replace(link, bytes_per_s=link.bytes_per_s / links)
            for direction, link in self.links.items()
        }

    @property
    def duplex_slows(self) -> bool:
        """True if copies both ways at once are known to be slower than one way alone."""
        return "both" in self.links

    def transfer_s(self, nbytes: int, pieces: int, direction: str, company: bool = False) -> float:
        """Seconds for `nbytes` per link in `pieces` copies; `direction` is `h2d` or `d2h`.

        With `company` the other direction copies all the while.
        """
        if not nbytes:
            return 0.0
        link = self.links.get(direction)
        if link is None:
            raise ConfigError(f"unknown direction {direction!r}; known: {', '.join(self.links)}")
        alone_s = pieces * link.setup_s + nbytes / link.bytes_per_s
        both = self.links.get("both") if company else None
        if both is None:
            return alone_s
        return max(alone_s, pieces * both.setup_s + nbytes / both.bytes_per_s)

    def attention_share(self, bits: int, byte_share: float) -> float:
        """By the bytes that are read, and what unpacking them costs; no more than at 16 bits."""
        return min(1.0, UNPACKING * byte_share)

    def requantise_s(self, nbytes: int, to_bits: int) -> float:
        """At the rate at which attention of a large batch reads its keys and values."""
        line = self.slice_line((), LARGE_BATCH, LARGE_BATCH * LONG_CONTEXT_TOKENS)
        return nbytes * line.growth_s / (LARGE_BATCH * self._kv_bytes)


def between_s(cost: CostModel, lag: int) -> float:
    """What each step takes on the device beside its kernels because it was queued ahead, where lag
    hides the host's time (`HostCost.between_s`); 0 elsewhere.
    """
    return cost.between_s if isinstance(cost, StepCost) and hides_host(cost, lag) else 0.0


def hides_host(cost: CostModel, lag: int) -> bool:
    """Whether host time is spent beside the device: with lag 1, where they are two."""
    return lag > 0 and (not isinstance(cost, StepCost) or cost.hides_host)


def steps_within(distance: float, stride: float) -> float:
    """Steps of `stride`, the first at 0, that stay below `distance`; at least one."""
    if distance == inf:
        return inf
    steps = ceil(distance / stride)
    return steps if steps > 1 else 1
