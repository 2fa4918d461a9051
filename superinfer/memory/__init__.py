"""Memory: block accounting, the prefix index, and the policies that decide what stays."""

from __future__ import annotations

MEMORY_POLICIES: dict[str, str] = {
    "category_exponential": "superinfer.memory.ordered:CategoryMemory",
    "fifo": "superinfer.memory.ordered:FifoMemory",
    "gdsf": "superinfer.memory.ordered:GdsfMemory",
    "hicache": "superinfer.memory.hicache:HiCacheMemory",
    "lfu": "superinfer.memory.ordered:LfuMemory",
    "lru": "superinfer.memory.lru:LruMemory",
    "retention": "superinfer.memory.retention:RetentionMemory",
    "radix": "superinfer.memory.radix:RadixMemory",
    "s3fifo": "superinfer.memory.ordered:S3FifoMemory",
    "slo_aware": "superinfer.memory.slo_aware:SloAwareMemory",
    "tail_lru": "superinfer.memory.ordered:TailLruMemory",
    "two_level": "superinfer.memory.ordered:TwoLevelMemory",
    "vllm_v1": "superinfer.memory.vllm_v1:VllmV1Memory",
}
