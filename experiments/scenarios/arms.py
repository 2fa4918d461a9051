"""Who is compared: schedulers with the settings and the memory policy that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

ROTATING, FCFS, PRIORITY, PRIORITY_SWAP = "rotating", "fcfs", "priority", "priority-swap"
CHUNKED, PREFILL_FIRST = "vllm-chunked", "vllm-prefill-first"
VLLM_V1, SGLANG, TENSORRT_LLM = "vllm-v1", "sglang", "tensorrt-llm"
ROTASCHED, ROTASCHED_VLT, QOSERVE, EDF = "rotasched", "rotasched-vlt", "qoserve", "edf"
MANAGED, KV8, KV4 = "rotating-slo-aware", "rotating-kv8", "rotating-kv4"
WITH_MEMORY = (MANAGED, KV8, KV4)
"""Ours with the memory manager: at 16 bits, and with the batch class allowing fewer."""
MODES = (PREFILL_FIRST, CHUNKED)
"""Of vLLM v0.6.0, the named reference."""


@dataclass(slots=True, frozen=True)
class Arm:
    """A scheduler with the settings that belong to it."""

    label: str
    scheduler: str
    settings: tuple[str, ...] = ()
    kv_scale: float = 1.0
    """Blocks of KV cache in the memory in which others have one: its precision is another one."""

    def with_settings(self, label: str, *settings: str) -> Arm:
        """The same arm with more settings, under another label."""
        return replace(self, label=label, settings=(*self.settings, *settings))


def _with_fewer_bits(bits: int) -> Arm:
    """Ours with a batch class whose cache loses bits as soon as it decodes."""
    return Arm(
        f"rotating, slo_aware, batch KV {bits} bits",
        "rotating",
        (
            "run.memory=slo_aware",
            f"classes.batch.min_kv_bits={bits}",
            "memory.shrink_8_at=0",
            "memory.shrink_4_at=0",
        ),
    )


ARMS: Mapping[str, Arm] = {
    CHUNKED: Arm("vLLM 0.6.0 chunked (default)", "vllm", ("scheduler.chunked=true",)),
    PREFILL_FIRST: Arm("vLLM 0.6.0 prefill-first", "vllm", ("scheduler.chunked=false",)),
    VLLM_V1: Arm("vLLM V1 (default)", "vllm_v1", ("run.memory=vllm_v1",)),
    SGLANG: Arm("SGLang (default)", "sglang", ("run.memory=radix",)),
    TENSORRT_LLM: Arm("TensorRT-LLM (default)", "tensorrt_llm", ("run.memory=retention",)),
    "vtc": Arm("VTC", "vtc"),
    "fastserve": Arm("FastServe", "fastserve"),
    "andes": Arm("Andes", "andes"),
    ROTASCHED: Arm("RotaSched (public code)", "rotasched"),
    ROTASCHED_VLT: Arm("RotaSched (virtual lag)", "rotasched", ("scheduler.variant=lvf_vlt",)),
    EDF: Arm("EDF (default)", "edf"),
    QOSERVE: Arm("QoServe", "qoserve"),
    FCFS: Arm("fcfs", "fcfs"),
    PRIORITY: Arm("priority (recompute)", "priority"),
    PRIORITY_SWAP: Arm("priority (swap)", "priority", ("memory.preemption=swap",)),
    MANAGED: Arm("rotating, slo_aware", "rotating", ("run.memory=slo_aware",)),
    KV8: _with_fewer_bits(8),
    KV4: _with_fewer_bits(4),
    ROTATING: Arm("rotating", "rotating"),
}
"""All arms but the tuned ones, which `tuning` chooses for each setting."""

KV8_RIVALS: Mapping[str, str] = {
    "tensorrt-llm-kv8": "tensorrt-llm-tuned",
    "edf-kv8": "edf-tuned",
}
"""Tuned arms once more with 8-bit KV for everybody, which TensorRT-LLM, vLLM and SGLang offer: room
for twice the blocks, and attention that takes no longer or shorter than at 16 bits."""
KV8_SCALE = 1.0 / 0.508
"""Of blocks, by their bytes (`superinfer.memory.blocks.slabs.block_bytes`)."""

TUNED: Mapping[str, str] = {
    "vllm-tuned": "vLLM 0.6.0 tuned",
    "vllm-v1-tuned": "vLLM V1 tuned",
    "sglang-tuned": "SGLang tuned",
    "tensorrt-llm-tuned": "TensorRT-LLM tuned",
    "edf-tuned": "EDF tuned",
}
"""Their labels."""

HIDDEN_HOST_TIME = ("vllm_v1", "sglang", "tensorrt_llm")
"""Schedulers of systems whose makers publish that host time hides behind the device: vLLM V1
(asynchronous scheduling, on by default in the release that is modelled), SGLang v0.4 (its release
notes, "zero-overhead batch scheduler"), TensorRT-LLM (its manual, "overlap scheduler")."""


def label(arm: str) -> str:
    """How tables and pictures name an arm; what is no arm has the name it has."""
    if arm in KV8_RIVALS:
        return f"{TUNED[KV8_RIVALS[arm]]}, all KV 8 bits"
    return TUNED.get(arm) or (ARMS[arm].label if arm in ARMS else arm)


def as_published(arm: Arm) -> Arm:
    """The arm with the host overhead that is published for its system, if there is any."""
    if arm.scheduler not in HIDDEN_HOST_TIME:
        return arm
    return arm.with_settings(arm.label, "run.lag=1")
