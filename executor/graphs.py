"""Decode steps as CUDA graphs, one for each of a few batch sizes.

Everything that changes from step to step (tokens, lengths, blocks, items) is data in one static
buffer, filled by one copy before a replay; rows and items are padded to the graph's size. The
buffers' sizes are the same whatever the precision of the blocks, so that needs no graphs of its
own. Graphs are captured from the largest to the smallest, so that all share the memory of the
largest, and on one stream, after a run that compiles what has to be compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from executor.inputs import Decodes, host_inputs
from executor.packing import HostInputs, Sizes, pack, step_of

if TYPE_CHECKING:
    from executor.runner import Batch, Runner
    from executor.step import StepInputs

SHARED_BLOCKS = 4
"""A shared block is listed by each of its rows: lists may be so many times as long as the arena."""


def buckets(max_rows: int) -> list[int]:
    """Batch sizes that have a graph: 1, 2, 4, by 8 up to 128 and then by 16, and the largest."""
    sizes = [1, 2, 4, *range(8, 129, 8), *range(144, max(max_rows, 128) + 1, 16)]
    return sorted({size for size in sizes if size < max_rows} | {max_rows})


class DecodeGraphs:
    """The graphs of one runner."""

    def __init__(self, runner: Runner, max_rows: int, arena_blocks: int) -> None:
        """Captures them all. `arena_blocks` is how many blocks the arena can have at most."""
        self._runner = runner
        self._sizes = {rows: self._capacity(rows, arena_blocks) for rows in buckets(max_rows)}
        nbytes = max(sizes.places()[1] for sizes in self._sizes.values())
        self._buffer = torch.zeros(nbytes, dtype=torch.uint8, device=runner.device)
        self._logits = torch.zeros(
            max_rows, runner.model.vocab, dtype=torch.float32, device=runner.device
        )
        self._graphs: dict[int, Any] = {}
        pool = None
        for rows in sorted(self._sizes, reverse=True):
            self._graphs[rows] = self._capture(rows, pool)
            pool = pool or self._graphs[rows].pool()
        self._graphs = dict(sorted(self._graphs.items()))

    def replay(self, batch: Batch) -> Tensor | None:
        """Queue a step of decodes; its logits, or None where no graph is large enough."""
        rows = self._load(batch)
        if rows is None:
            return None
        self._graphs[rows].replay()
        return self._logits[:rows]

    def prepared(self, batch: Batch) -> Callable[[], object] | None:
        """Fill the buffers for a step, and what replays it, as often as it is called."""
        rows = self._load(batch)
        return None if rows is None else self._graphs[rows].replay

    def eager(self, batch: Batch) -> Tensor | None:
        """The same step, with the same padding, without its graph: what a replay has to equal."""
        rows = self._load(batch)
        if rows is None:
            return None
        return self._runner.forward(self._step(self._sizes[rows]))

    # -- inside ---------------------------------------------------------------------------------

    def _load(self, batch: Batch) -> int | None:
        """Fill the static buffer; the rows of the graph to replay, or None if none is large
        enough.
        """
        rows = next((size for size in self._graphs if size >= len(batch.decodes)), None)
        host = None if rows is None else self._inputs(batch, self._sizes[rows])
        if rows is None or host is None:
            return None
        self._fill(host, self._sizes[rows])
        return rows

    def _step(self, sizes: Sizes) -> StepInputs:
        return step_of(self._buffer, sizes)

    def _capacity(self, rows: int, arena_blocks: int) -> Sizes:
        model = self._runner.model
        longest = -(-model.max_model_len // model.layout.block_tokens)
        return Sizes(
            rows=rows,
            decodes=rows,
            items=self._runner.budget.capacity(rows),
            decode_blocks=min(rows * longest, SHARED_BLOCKS * arena_blocks),
            wanted=rows,
        )

    def _inputs(self, batch: Batch, sizes: Sizes) -> HostInputs | None:
        """The arrays of a step, padded; None if its lists are longer than the buffer's."""
        runner = self._runner
        blocks = batch.blocks(runner.model.layout.block_tokens)
        if blocks > sizes.decode_blocks:
            return None
        host = host_inputs(
            batch.decodes,
            [],
            runner.model.layout,
            item_blocks=runner.budget.item_blocks(len(batch.decodes), blocks),
            pad_rows=sizes.rows,
            pad_items=sizes.items,
        )
        assert host.sizes.items == sizes.items  # `ItemBudget` keeps within its capacity
        return host

    def _fill(self, host: HostInputs, sizes: Sizes) -> None:
        """Copy a step into the static buffer: up to the end of its list of offsets, and the
        positions behind the unused rest of that list.
        """
        packed = pack(host, sizes, pinned=self._runner.asynchronous)
        places, _ = sizes.places()
        entries = len(host.arrays["decode_offsets"])
        for start, stop in (
            (0, places["decode_offsets"][0] + entries * np.dtype(np.int64).itemsize),
            (
                places["decode_positions"][0],
                places["decode_positions"][0] + entries * np.dtype(np.int32).itemsize,
            ),
        ):
            self._buffer[start:stop].copy_(packed[start:stop], non_blocking=True)

    def _capture(self, rows: int, pool: Any) -> Any:
        """Record one step of `rows` empty rows."""
        runner, sizes = self._runner, self._sizes[rows]
        step = self._step(sizes)
        nothing = host_inputs(
            Decodes.of(()),
            [],
            runner.model.layout,
            item_blocks=1,
            pad_rows=rows,
            pad_items=sizes.items,
        )
        self._fill(nothing, sizes)

        def run() -> None:
            logits = runner.forward(step)
            self._logits[:rows].copy_(logits)
            runner.outputs[:rows].copy_(logits.argmax(-1))

        side = torch.cuda.Stream(runner.device)
        side.wait_stream(torch.cuda.current_stream(runner.device))
        with torch.cuda.stream(side):
            run()  # compiles kernels, and lets cuBLAS take its workspace
        torch.cuda.current_stream(runner.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            run()
        return graph
