"""`sglang`: SGLang v0.4.6, and by `version` the older rules of v0.4.1 and v0.3.2.

Sources: sgl-project/sglang v0.4.6 (commit 84022c0e5), `managers/schedule_policy.py`,
`managers/scheduler.py` (`get_next_batch_to_run`, `get_new_batch_prefill`, `update_running_batch`),
`managers/schedule_batch.py` (`retract_decode`), `mem_cache/radix_cache.py`, `server_args.py`,
`global_config.py`; v0.3.2 (commit 37c5899fc), where the same was in `managers/tp_worker.py`.

Modelled: prefill first, in a batch of its own unless `mixed_chunk`; orders of the waiting queue;
admission by the ratio of new tokens; the flag that stops prefills from being tried while the
running batch is full; one chunked prompt at a time; retraction; the radix cache by tokens. Finished
requests stay in the running batch, and in its reserve, until it is next filtered, as they do there.

Set `run.prefix_caching = true` and `run.memory = "radix"` with it (the radix cache is on by default
there; `"hicache"` adds the host tier), and `run.lag = 1` for the overlapped scheduler, which is the
default from v0.4. The system gives `mem_fraction_static` of the device's memory (0.88 for one GPU,
0.87, 0.85, 0.81 and 0.79 for 2, 4, 8 and 16; all but 13 GiB on one of more than 80 GB) to weights
and KV pool, and leaves activations the rest. `run.gpu_memory_utilization` covers activations, too:
set it to that fraction plus the activation reserve (`costs/capacity.py`) as a share of the memory,
or give the pool in tokens as `run.kv_blocks`.

Left out: LoRA, constrained decoding, speculative decoding, sessions, the special admission of
requests that ignore the end of text while the radix cache is off, jump-forward, the order `random`;
matching an answer, also a retracted request's own. v0.3.2 cuts a long prompt short; here it is
rejected, as v0.4 does. Where the real engine stops for ever or aborts, the request ends by a rule
of its own: `retracted_never_fits` (prompt, answer so far and the whole limit again exceed the pool)
and `answer_exceeds_kv_capacity` (alone and out of memory; there the answer is cut a token or two
before). A mixed batch whose decodes find no memory runs its prefill alone; there it aborts.
"""

from superinfer.schedulers.sglang.scheduler import SglangScheduler

__all__ = ["SglangScheduler"]
