"""The clusters that are compared, and what is sent to them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from superinfer.lab.config import Config, load_config

CHAT, BATCH = "chat", "batch"
CHAT_USE, BATCH_USE = 0.40, 0.85
"""Shares of what a replica does when there is always work for it."""
TTFT_MS = 800.0
"""P99 of the time to the first token of chat that is to be kept."""
KEPT = 0.99
"""Share of the batch cluster's tokens/s that counts as keeping its throughput."""
ARTICLE = {"separate_gpus": 32, "shared_gpus": 22, "batch_change": 0.12}
"""What an article of 2026 claims."""
ROUTER = "slo_aware"
OTHER_ROUTERS = ("least_loaded",)
MACHINE = ("run.model=llama-3.1-8b", "run.device=a100-80g", "run.costs=calibrated")

_HERE = Path(__file__).parent
_WAITING = 4
"""Batch requests per replica that always wait."""
_TAIL_S = 20.0
"""The run goes on for so long after the window, so that who arrived in it can finish."""
_MOST_PER_S = {CHAT: 20.0, BATCH: 8.0}
"""Requests/s that no replica serves."""


@dataclass(slots=True, frozen=True)
class Size:
    """How much is simulated: GPUs of both separate clusters together, seconds and seeds."""

    gpus: int
    window_s: tuple[float, float]
    seeds: int

    @property
    def claimed(self) -> int:
        """GPUs of a shared cluster by the share that the article names."""
        return math.ceil(self.gpus * ARTICLE["shared_gpus"] / ARTICLE["separate_gpus"])

    @property
    def each(self) -> int:
        """Replicas, of one GPU, of either separate cluster."""
        return self.gpus // 2


SMALL = Size(8, (160.0, 260.0), 3)
FULL = Size(32, (160.0, 340.0), 5)
SATURATED_S = (240.0, 440.0)
"""What is measured of a saturated replica. A batch request stays for about 100 s there, and what
comes at once in the beginning takes as long to get out of step."""


def saturated(name: str, window_s: tuple[float, float] = SATURATED_S) -> Config:
    """One replica with requests of one class that always wait."""
    rate = _MOST_PER_S[name]
    return _config(
        window_s,
        _spec(name),
        [f"workload.clients.{name}.rate_per_s={rate}", f"run.backlog={{{name}=64}}"],
    )


def separate(size: Size, name: str, rate_per_s: float) -> Config:
    """A cluster of its own, to which so many requests come per second."""
    rate = f"workload.clients.{name}.rate_per_s={rate_per_s!r}"
    return _config(size.window_s, _spec(name), [rate], replicas=size.each, router=ROUTER)


def shared(size: Size, chat_per_s: float, replicas: int, router: str = ROUTER) -> Config:
    """One cluster for the chat of the separate one, with batch work that always waits."""
    requests = int(_MOST_PER_S[BATCH] / 2 * replicas * (size.window_s[1] + _TAIL_S))
    given = [
        f"workload.clients.chat.rate_per_s={chat_per_s!r}",
        f"workload.clients.batch.requests={requests}",
        f"run.backlog={{batch={_WAITING * replicas}}}",
    ]
    spec = str(_HERE / "shared.toml")
    return _config(size.window_s, spec, given, replicas=replicas, router=router)


# -- inside ---------------------------------------------------------------------------------------


def _spec(name: str) -> str:
    """The chat that is bundled, and batch work of our own."""
    return "chat" if name == CHAT else str(_HERE / "batch.toml")


def _config(
    window_s: tuple[float, float],
    spec: str,
    given: list[str],
    replicas: int = 1,
    router: str | None = None,
) -> Config:
    end_s = window_s[1] + _TAIL_S
    settings = [
        *MACHINE,
        f"workload.duration_s={end_s}",
        f"run.duration_s={end_s}",
        f"run.window_s=[{window_s[0]}, {window_s[1]}]",
        *given,
    ]
    return load_config(
        None, settings, trace=spec, scheduler="rotating", replicas=replicas, router=router
    )
