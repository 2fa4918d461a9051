"""`tensorrt_llm`: the scheduler of TensorRT-LLM's C++ runtime.

Every iteration has two stages over one list of active requests, by priority and then arrival:
capacity (`capacity.py`: whose KV cache fits?) and micro batch (`micro_batch.py`: whose tokens?).
Contexts, its word for prompts, and generating requests run in the same step.

Sources, NVIDIA/TensorRT-LLM: `cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp` at 02a10fed,
`microBatchScheduler.cpp` at 0a949d31, `scheduledBlocksManager.h` at 1ce9149b; the block counts of
`kvCacheManager.cpp`, the limits of `trtGptModel.h`, `LlmRequest`'s `validate`, `pause` and
`setPrepopulatedPromptLen`; `tensorrt_llm/builder.py` at 008b2b8d. Defaults: `BuildConfig`'s 2048
requests and 8192 tokens, no chunked context, and the 32 tokens per block of the LLM API (engines of
2024 had 64). Block reuse, on by default in the 1.0 documentation and off in the C++ executor of
2024, is `run.prefix_caching`; the memory policy that belongs to it is `retention`. `lag = 1` stands
for its overlap scheduler. A lower number in a request's priority stands earlier in the list.

Left out: beams, draft tokens, LoRA, encoders, sliding windows, disaggregated serving, pipelined
micro batches (two steps of look-ahead), the agent tree, `PREFILL_FIRST`, reuse of part of a block.
The real pause forgets what was generated beyond the longest input and generates it again; here it
is computed again with the rest, for a charge of the longest input. A request that would outgrow all
device blocks ends there with the reason `length`; here, where nobody may cut an answer short, it
fails (`max_seq_len_reached`). Where a waiting request ahead of half-computed prompts waits for
their memory, the real engine hangs; here they go on.
"""

from superinfer.schedulers.tensorrt_llm.scheduler import TensorRtLlmScheduler

__all__ = ["TensorRtLlmScheduler"]
