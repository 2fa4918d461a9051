"""What prompts share, as chained ids of their blocks.

An id stands for one distinct text from the start of a prompt to the end of a block. All that is
known of a text is its length and which other prompts begin with it, so ids follow from lengths.
"""

from __future__ import annotations

from itertools import count


class SystemText:
    """A text that begins the prompts of many sessions."""

    __slots__ = ("blocks", "tokens")

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.blocks: list[int] | None = None
        """Ids of its full blocks, given when the first prompt needs them."""


class Thread:
    """The prompts of one session: each begins with some tokens of the one before."""

    __slots__ = ("blocks", "system")

    def __init__(self, system: SystemText | None = None) -> None:
        self.system = system
        self.blocks: list[int] | None = None
        """Ids of the full blocks of the last prompt."""


class BlockIds:
    """Gives out ids, counted from 0 in the order in which texts first appear."""

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._next = count()

    def of(self, thread: Thread, prompt_tokens: int, known_tokens: int) -> tuple[int, ...]:
        """Ids of a prompt's blocks, the last one maybe partial.

        Of the thread's last prompt the first `known_tokens` are repeated; a thread's first prompt
        begins with its system text. The thread remembers the prompt.
        """
        if thread.blocks is None:
            thread.blocks = list(self._system_blocks(thread.system))
        else:
            del thread.blocks[known_tokens // self.block_tokens :]
        full, rest = divmod(prompt_tokens, self.block_tokens)
        thread.blocks += [next(self._next) for _ in range(full - len(thread.blocks))]
        return (*thread.blocks, next(self._next)) if rest else tuple(thread.blocks)

    def _system_blocks(self, system: SystemText | None) -> list[int]:
        if system is None:
            return []
        if system.blocks is None:
            full = system.tokens // self.block_tokens
            system.blocks = [next(self._next) for _ in range(full)]
        return system.blocks
