"""Events: every decision and every result, as tuples. The only log, and what parity compares.

An event is `(t_s, kind, request_id, *numbers)`. Kinds and their numbers:

    submit       prompt tokens, max_tokens
    admit        device blocks held privately, tokens found in the prefix cache
    reject       - (the rule stands in place of a number)
    prefill      tokens computed, tokens of context before them
    decode       sequences, their summed context (request_id is empty: one event per step)
    first_token  -
    preempt      blocks given back (the cache is dropped)
    rotate_out   blocks copied to the host
    rotate_in    blocks copied back
    load         cached blocks on the host, copied back for a request that is admitted
    backup       cached blocks that get a copy on the host in the background (no request_id)
    write_through full blocks of running requests that get a copy on the host (no request_id)
    requantise   full blocks of a running request that lose bits, bits before, bits after
    promote, demote, relegate, prefetch    0; what `rotating` decided about a request
    no_offload   0; a copy to the host would have taken no less than computing again
    offload      cached blocks copied to the host as they leave the device (no request_id)
    transfer     blocks; a background copy landed
    evict        cached blocks reclaimed (request_id is empty)
    finish       output tokens
    fail         - (the rule stands in place of a number)
    cancel       output tokens
    unfinished   output tokens (the run was cut off)
"""

from __future__ import annotations

from collections.abc import Callable

Event = tuple[object, ...]
Sink = Callable[[Event], None]
