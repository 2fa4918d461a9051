"""What is compared on: models with their machines, and what is sent to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
MIXTRAL_PROFILE = HERE / "profiles" / "a100-80g_mixtral-8x7b_tp2.json"
"""By `superinfer-sim profiles build DIR --model mixtral-8x7b --tp 2 --device a100-80g`, out of the
public measurements that docs/profiles.md names."""

_70B = (
    "run.model=llama-3.1-70b",
    "run.device=a100-80g",
    "run.tp=4",
    "run.costs=calibrated",
)
_MIXTRAL = (
    "run.model=mixtral-8x7b",
    "run.device=a100-80g",
    "run.tp=2",
    f"run.costs={MIXTRAL_PROFILE}",
)
_T5 = (
    "run.model=flan-t5-xl",
    "run.device=a100-80g",
    "run.costs=roofline",
    "run.max_model_len=1024",
)
_BELOW_CHAT = ("run.in_flight={batch=16}", "workload.clients.batch.priority=1")


@dataclass(slots=True, frozen=True)
class Workload:
    """One part of the study."""

    name: str
    title: str
    machine: tuple[str, ...]
    spec: str
    """A bundled specification, or a file of this folder."""
    asked: str
    """The targets, in words."""
    settings: tuple[str, ...] = ()
    judged: str = ""
    """The class whose latencies and attainment count; empty: all requests."""
    duration_s: float = 600
    window_s: tuple[float, float] = (120, 480)
    """What arrives in it is measured; the run goes on until `duration_s`."""
    search_from: tuple[float, float] = (1.0, 2.0)
    """Loads, as multiples of the specification's rates, between which the reference load is looked
    for first."""
    has_batch: bool = False
    """Whether there is a class that may be kept in fewer bits."""
    notes: tuple[str, ...] = ()

    @property
    def trace(self) -> str:
        """As `run.trace` takes it."""
        own = HERE / "specs" / f"{self.spec}.toml"
        return str(own) if own.is_file() else self.spec


WORKLOADS: Mapping[str, Workload] = {
    each.name: each
    for each in (
        Workload(
            name="70b",
            title="Llama-3.1-70B: chat above batch work",
            machine=_70B,
            spec="scenario-m",
            asked="chat: TTFT <= 1 s, TPOT <= 100 ms; batch: none",
            settings=_BELOW_CHAT,
            judged="chat",
            duration_s=900,
            window_s=(200, 800),
            search_from=(1.05, 1.4),
            has_batch=True,
            notes=("16 batch requests are always under way, so throughput is what is left over",),
        ),
        Workload(
            name="chat-agents",
            title="Chat and agents, Llama-3.1-70B",
            machine=_70B,
            spec="chat-agents",
            asked="chat: TTFT <= 1 s, TPOT <= 100 ms; agents: TTFT <= 2 s, TPOT <= 100 ms",
            settings=(
                "run.prefix_caching=true",
                "classes.assistant.ttft_ms=2000",
                "classes.assistant.tpot_ms=100",
                "classes.assistant.max_tokens=4096",
            ),
            search_from=(0.7, 1.2),
            notes=("prefix caching for every arm: an agent's prompts repeat themselves",),
        ),
        Workload(
            name="batch",
            title="Batch jobs, Llama-3.1-70B",
            machine=_70B,
            spec="batch",
            asked="an answer within two minutes (E2E <= 120 s)",
            settings=("classes.batch.e2el_ms=120000",),
            duration_s=900,
            window_s=(150, 750),
            search_from=(0.5, 1.0),
            has_batch=True,
            notes=("jobs of 38 to 68 documents come at once; the target is assumed",),
        ),
        Workload(
            name="video",
            title="Questions about videos, Llama-3.1-70B",
            machine=_70B,
            spec="video-questions",
            asked="TTFT <= 5 s, TPOT <= 100 ms",
            settings=(
                "classes.clip.ttft_ms=5000",
                "classes.clip.tpot_ms=100",
                "classes.clip.max_tokens=1024",
            ),
            duration_s=900,
            window_s=(150, 750),
            search_from=(0.5, 1.0),
            notes=("long prefill, 1,568 to 12,544 tokens; no encoder of pictures is modelled",),
        ),
        Workload(
            name="code",
            title="Code completion, Llama-3.1-70B",
            machine=_70B,
            spec="code-completion",
            asked="TTFT <= 3 s, TPOT <= 150 ms",
            settings=("classes.code.ttft_ms=3000",),
            duration_s=900,
            window_s=(150, 750),
            search_from=(0.5, 1.0),
            notes=(
                "a prompt of 7,400 tokens takes 1.5 s to prefill on this machine, and one above "
                "2,578, as 27 % of the trace's are, more than the 0.5 s of the bundled class",
            ),
        ),
        Workload(
            name="mixtral",
            title="Mixtral 8x7B: chat above batch work",
            machine=_MIXTRAL,
            spec="scenario-m",
            asked="chat: TTFT <= 1 s, TPOT <= 100 ms; batch: none",
            settings=_BELOW_CHAT,
            judged="chat",
            search_from=(4.0, 6.0),
            has_batch=True,
            notes=("TP 2; experts as measured under uneven routing",),
        ),
        Workload(
            name="flan-t5",
            title="Flan-T5-XL: summaries",
            machine=_T5,
            spec="summaries",
            asked="a summary within 2 s (E2E)",
            settings=("classes.summary.e2el_ms=2000", "classes.summary.max_tokens=160"),
            duration_s=100,
            window_s=(20, 80),
            search_from=(3.0, 5.0),
            notes=(
                "one GPU; nominal figures (roofline, optimistic): no encoder-decoder was measured",
                "requests are short: memory is never scarce, a memory policy has nothing to do, "
                "and what differs is the order of the work",
            ),
        ),
    )
}
"""By name, in the order of the page."""
