"""Memory: block accounting, the prefix index, and the policies that decide what stays."""

from __future__ import annotations

MEMORY_POLICIES: dict[str, str] = {
    "hicache": "superinfer.memory.hicache:HiCacheMemory",
    "lru": "superinfer.memory.lru:LruMemory",
    "retention": "superinfer.memory.retention:RetentionMemory",
    "radix": "superinfer.memory.radix:RadixMemory",
    "slo_aware": "superinfer.memory.slo_aware:SloAwareMemory",
    "vllm_v1": "superinfer.memory.vllm_v1:VllmV1Memory",
}
