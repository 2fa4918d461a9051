"""`vllm_v1`: the V1 engine of current vLLM, as of release 0.33.0.

Source: vLLM 0.33.0, `vllm/v1/core/sched/scheduler.py`, `async_scheduler.py` and `request_queue.py`
beside it, `vllm/v1/core/kv_cache_manager.py`, `vllm/config/scheduler.py`. There is one token budget
a step: running requests come first, in the order in which they came in, each with one token or a
chunk of its prompt, then waiting ones. A request gets blocks chunk by chunk, but comes in only if
its whole prompt fits. When a running request cannot get a block, the last of the running ones is
preempted (by priority: the one with the largest priority and arrival), loses all its blocks and
goes to the front of the queue; a step that preempted lets nobody in. Priority orders the queue and
chooses victims; it never preempts to let somebody in. All this is held against the real scheduler
step by step: `tests/schedulers/golden`, and live with `make oracle`.

The memory policy that belongs to it is `vllm_v1`, with `prefix_caching`, which the release has on.
`lag = 1` is asynchronous scheduling: a request that stops at its `max_tokens` gets no step too
many, one that stops by itself gets one. Of `total_blocks` one is the release's null block, which
holds nothing (`null_blocks`); the watermark is a share of all of them.

Defaults: those of `vllm serve` on an A100 or a GPU of less than 70 GiB
(`vllm/engine/arg_utils.py`): 256 sequences and 2048 tokens a step. The release takes 1024 and 8192
on an H100 or H200, and 1024 and 16384 from 160 GiB on.

With the memory policy's `offload` (and `lag = 0`: with a KV connector asynchronous scheduling
preempts and frees later) a waiting request whose prefix goes on in the host's memory takes its
blocks and waits for the load, and those behind it are looked at. Once landed it comes before all
others that wait (`kv_holding_waiting` there). It is let in only if prompts that are being computed
or loaded keep the blocks they lack. Without it `host_memory_gib` means nothing: V1 never swaps.

Left out: speculative decoding, LoRA, multimodal inputs, structured output, pooling models, sliding
windows and other hybrid caches, `prefill_schedule_interval`, `max_num_active_seqs`, the limits of
the API server's queue, pipeline and data parallelism, all other KV connectors. The release starts
only if one request of `max_model_len` fits the memory; here a request that cannot fit ends by the
rule `exceeds_kv_capacity`. It refuses prompts that leave no room for an answer: `prompt_too_long`.
"""

from superinfer.schedulers.vllm_v1.scheduler import VllmV1Scheduler

__all__ = ["VllmV1Scheduler"]
