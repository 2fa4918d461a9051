"""Schedulers by name. To add one: a class in a file of its own, a line here, a test file."""

from __future__ import annotations

SCHEDULERS: dict[str, str] = {
    "vllm": "superinfer.schedulers.vllm:VllmScheduler",
    "fcfs": "superinfer.schedulers.fcfs:FcfsScheduler",
    "priority": "superinfer.schedulers.priority:PriorityScheduler",
    "edf": "superinfer.schedulers.edf:EdfScheduler",
    "vtc": "superinfer.schedulers.vtc:VtcScheduler",
    "qoserve": "superinfer.schedulers.qoserve:QoServeScheduler",
    "fastserve": "superinfer.schedulers.fastserve:FastServeScheduler",
    "andes": "superinfer.schedulers.andes:AndesScheduler",
    "rotating": "superinfer.schedulers.rotating:RotatingScheduler",
}
