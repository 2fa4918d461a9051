"""`vllm`: vLLM v0.6.0, both of its modes.

Source: vllm-project/vllm tag v0.6.0 (commit 32e7db25), `vllm/core/scheduler.py`,
`vllm/core/block_manager_v1.py`, `vllm/core/evictor_v1.py`, `vllm/engine/arg_utils.py`,
`vllm/config.py`. Modelled: the prefill-first mode and the chunked mode with their queue orders,
watermark, both preemption modes, prefix caching of block manager V1, the automatic switch to
chunked prefill. The memory policy that belongs to it is `lru`; `lag = 1` stands for asynchronous
output processing.

Left out: LoRA, beam and parallel sampling, multi-step scheduling, speculative decoding; sharing of
a prompt's blocks by requests of the same step, before they are computed; finding a preempted
request's own answer blocks again; turning a hopeless head of the queue away in a chunked step that
has no token left (it happens in the next one that has). Out of host blocks aborts the real engine;
here it fails the victim alone (`host_memory_full`). Where the real engine would try again for
ever, the request ends by a rule of its own: `prefill_fills_memory` (a prompt of several chunks
that takes every block and leaves no watermark) and `swap_in_never_fits` (its blocks, a spare one
and the watermark exceed the memory, or the rest of its prompt exceeds the token budget).
"""

from superinfer.schedulers.vllm.scheduler import VllmScheduler

__all__ = ["VllmScheduler"]
