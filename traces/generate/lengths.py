"""Lengths of the new text and of the answer of each request."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from traces.generate.distributions import Ints, draw_whole
from traces.generate.spec import Client, Pairs
from traces.generate.streams import Streams


class Lengths:
    """Draws pairs of new text and answer, tokens, for one client."""

    def __init__(self, client: Client, folder: Path) -> None:
        """Read the client's file if it names one; `InputError` if that is bad."""
        self._client = client
        given = client.lengths
        self._pairs = None if given is None else np.array(_read(given, folder), dtype=np.int64)

    def draw(self, streams: Streams, size: int) -> tuple[Ints, Ints]:
        """`size` pairs, the first ones the same for any size; answers end at the client's limit."""
        client = self._client
        if self._pairs is not None:
            chosen = streams.of("pairs").randint(len(self._pairs), size=size)
            new_tokens, answers = self._pairs[chosen].T
        else:
            assert client.prompt is not None and client.answer is not None
            new_tokens = draw_whole(client.prompt, streams.of("prompt"), size)
            answers = draw_whole(client.answer, streams.of("answer"), size)
        return new_tokens, np.minimum(answers, client.max_tokens or answers)


def _read(given: Pairs, folder: Path) -> list[tuple[int, int]]:
    if given.pairs is not None:
        return list(given.pairs)
    if given.sharegpt is not None:
        from traces.sharegpt import read_lengths

        return read_lengths(folder / given.sharegpt)
    from traces.readers import read_trace

    assert given.trace is not None
    workload = read_trace(folder / given.trace)
    prompts = [request.prompt_tokens for request in workload.requests]
    return list(zip(prompts, workload.output_tokens, strict=True))
