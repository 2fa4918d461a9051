"""Schedulers by name. To add one: a class in a file of its own, a line here, a test file."""

from __future__ import annotations

SCHEDULERS: dict[str, str] = {
    "vllm": "superinfer.schedulers.vllm:VllmScheduler",
    "vllm_v1": "superinfer.schedulers.vllm_v1:VllmV1Scheduler",
    "tensorrt_llm": "superinfer.schedulers.tensorrt_llm:TensorRtLlmScheduler",
    "rotasched": "superinfer.schedulers.rotasched:RotaScheduler",
    "fcfs": "superinfer.schedulers.fcfs:FcfsScheduler",
    "priority": "superinfer.schedulers.priority:PriorityScheduler",
    "sglang": "superinfer.schedulers.sglang:SglangScheduler",
    "edf": "superinfer.schedulers.edf:EdfScheduler",
    "vtc": "superinfer.schedulers.vtc:VtcScheduler",
    "qoserve": "superinfer.schedulers.qoserve:QoServeScheduler",
    "fastserve": "superinfer.schedulers.fastserve:FastServeScheduler",
    "andes": "superinfer.schedulers.andes:AndesScheduler",
    "flexgen": "superinfer.schedulers.flexgen:FlexGenScheduler",
    "rotating": "superinfer.schedulers.rotating:RotatingScheduler",
}

OWN_MEMORY: dict[str, tuple[str, ...]] = {
    "vllm": ("lru",),
    "vllm_v1": ("vllm_v1",),
    "tensorrt_llm": ("retention",),
    "rotasched": ("lru",),
    "fcfs": ("lru",),
    "priority": ("lru",),
    "sglang": ("radix", "hicache"),
    "edf": ("lru",),
    "vtc": ("lru",),
    "qoserve": ("lru",),
    "fastserve": ("lru",),
    "andes": ("lru",),
    "flexgen": ("lru",),
}
"""The memory policies that belong to each rival: its system's own, or `lru` where paper and release
say nothing of one. Who is not listed, ours or from outside, has all but those of one rival alone.
"""
