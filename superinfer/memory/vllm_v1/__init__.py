"""`vllm_v1`: the memory of vLLM's V1 engine, as of release 0.33.0, with and without offloading."""

from superinfer.memory.vllm_v1.policy import VllmV1Memory

__all__ = ["VllmV1Memory"]
