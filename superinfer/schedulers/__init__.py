"""Schedulers by name. To add one: a class in a file of its own, a line here, a test file."""

from __future__ import annotations

SCHEDULERS: dict[str, str] = {
    "vllm": "superinfer.schedulers.vllm:VllmScheduler",
    "tensorrt_llm": "superinfer.schedulers.tensorrt_llm:TensorRtLlmScheduler",
    "rotasched": "superinfer.schedulers.rotasched:RotaScheduler",
    "fcfs": "superinfer.schedulers.fcfs:FcfsScheduler",
    "priority": "superinfer.schedulers.priority:PriorityScheduler",
    "sglang": "superinfer.schedulers.sglang:SglangScheduler",
    "rotating": "superinfer.schedulers.rotating:RotatingScheduler",
}
