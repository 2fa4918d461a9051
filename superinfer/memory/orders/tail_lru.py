"""`tail_lru`: first what cannot change whether the next turn meets its TTFT limit, then by age.

Source: "Tail-optimized caching for LLM inference" (arXiv 2510.15152): of a conversation only so
much has to be cached that the rest, with the next question, can be computed within the limit. What
lies beyond that is taken first, from all conversations, and only then the least recently used.

The spare tail is the limit in tokens less the expected question. As no trace says what a user
tolerates, it is four blocks of 512 tokens: prefilling 2,048 takes about 0.15 s for an 8B model on
an A100. Left out: the estimate of the next question by conversation.
"""

from __future__ import annotations

from superinfer.memory.index.keys import request_keys
from superinfer.memory.index.node import Node
from superinfer.memory.orders.base import RankedBlocks, Surroundings, last_entry
from superinfer.request import Request

SPARE_TOKENS = 2048


class TailLruOrder(RankedBlocks):
    """Spare tails first, then the rest; the least recently used first in both."""

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(self._rank, surroundings.block_tokens)

    def entries(self, request: Request) -> list[int]:
        """1 for what the next turn needs, 0 for the spare tail."""
        blocks = len(request_keys(request))
        spare = min(blocks, SPARE_TOKENS // request.hash_block_tokens)
        return [1] * (blocks - spare) + [0] * spare

    def _rank(self, node: Node) -> tuple[float, ...]:
        return (last_entry(node, self._block_tokens), node.last_access_s)
