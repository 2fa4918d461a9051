"""Steps as CUDA graphs, one for each of a few sizes.

Everything that changes from step to step (tokens, lengths, blocks, items, where decodes end and
chunks begin) is data in one static buffer, filled by one copy before a replay; rows, items and
chunks are padded to the graph's size. The buffers' sizes are the same whatever the precision of the
blocks, so that needs no graphs of its own. Graphs are captured from the largest to the smallest, so
that all share the memory of the largest, and on one stream, after a run that compiles what has to
be compiled.

A graph ends with the likeliest tokens. Logits stay where they are, in memory that the graphs share;
only a step some of whose tokens are drawn copies them, by a small graph of its own.

A step that only decodes has a graph by its rows. In a step with chunks decodes and chunks share
the rows, so its graph goes by the rows of both together, and for the work items of attention by
how many of them may decode. Rows are padded by less than 64 up to 512 rows and by less than half in
all cases, since a device that computes more than about 300 rows is bound by arithmetic, and padding
costs what it computes. Steps of more rows run eagerly: the device takes longer for them than the
host for their launches. So do those of more than a few chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from executor.steps.inputs import Decodes, host_inputs
from executor.steps.packing import BLOCK_LISTS, HostInputs, Sizes, pack, padded, step_of
from superinfer.costs.graphs import Graphs, MixedGraph

if TYPE_CHECKING:
    from executor.steps.runner import Batch, Runner
    from executor.steps.step import StepInputs

SHARED_BLOCKS = 4
"""A shared block is listed by each of its rows: lists may be so many times as long as the arena."""
MIXED_ROWS = (32, 64, 128, 192, 256, 320, 384, 448, 512, 640, 768, 1024)
"""Rows of the graphs for steps with chunks; smaller ones would take as long as 32."""
FEW_DECODES = 64
"""An empty item costs little, but a graph for all rows has some hundreds of them in each layer."""
MOST_CHUNKS = 4
"""Chunks of a step with a graph."""


def buckets(max_rows: int) -> list[int]:
    """Batch sizes that have a graph: 1, 2, 4, by 8 up to 128 and then by 16, and the largest."""
    sizes = [1, 2, 4, *range(8, 129, 8), *range(144, max(max_rows, 128) + 1, 16)]
    return sorted({size for size in sizes if size < max_rows} | {max_rows})


def mixed_buckets(max_rows: int) -> list[tuple[int, int]]:
    """Graphs for steps with chunks: rows, and how many of them may decode; smallest first."""
    limits = {0, min(FEW_DECODES, max_rows), max_rows}
    return sorted({(rows, min(rows, limit)) for rows in MIXED_ROWS for limit in limits})


def graphs_of(max_rows: int) -> Graphs:
    """What is captured for steps that decode up to `max_rows` sequences."""
    mixed = (MixedGraph(*size) for size in mixed_buckets(max_rows))
    return Graphs(tuple(buckets(max_rows)), tuple(mixed), MOST_CHUNKS)


@dataclass(frozen=True, slots=True)
class Captured:
    """A step as `torch.cuda.CUDAGraph`s."""

    step: Any
    logits: Any
    """Copies the logits that `step` has left, if no other graph was replayed in between."""

    def pool(self) -> Any:
        """The memory that the graphs share."""
        return self.step.pool()


class StepGraphs:
    """The graphs of one runner."""

    def __init__(self, runner: Runner, max_rows: int, arena_blocks: int) -> None:
        """Captures them all. `arena_blocks` is how many blocks the arena can have at most."""
        self._runner, self._max_rows = runner, max_rows
        self._most_blocks = SHARED_BLOCKS * arena_blocks
        sizes = [self._decode_sizes(rows) for rows in buckets(max_rows)]
        sizes += [self._mixed_sizes(*size) for size in mixed_buckets(max_rows)]
        assert max(size.wanted for size in sizes) <= len(runner.outputs)
        nbytes = max(size.places()[1] for size in sizes)
        self._buffer = torch.zeros(nbytes, dtype=torch.uint8, device=runner.device)
        self._logits = torch.zeros(
            max(size.wanted for size in sizes),
            runner.model.vocab,
            dtype=torch.float32,
            device=runner.device,
        )
        self._side: Any = None
        """One stream for all first runs and captures. For each stream torch keeps a workspace for
        cuBLAS, and newer versions free it with any graph that was captured there. On the stream
        that torch has for all captures that might be another's, and these graphs would go on with
        memory that is not theirs."""
        self._graphs: dict[Sizes, Captured] = {}
        pool = None
        for size in sorted(sizes, key=_order, reverse=True):
            self._graphs[size] = self._capture(size, pool)
            pool = pool or self._graphs[size].pool()
        self._sizes = sorted(sizes, key=_order)

    def __len__(self) -> int:
        """How many graphs there are."""
        return len(self._graphs)

    @property
    def nbytes(self) -> int:
        """Of the largest step's inputs."""
        return int(self._buffer.numel())

    @property
    def known(self) -> Graphs:
        """What a cost model has to know of them."""
        return graphs_of(self._max_rows)

    def replay(self, batch: Batch) -> Callable[[], Tensor] | None:
        """Queue a step, the likeliest tokens of which go to the runner's outputs; None where no
        graph is large enough.

        What comes back queues a copy of the logits of wanted rows, and of padding behind them, and
        returns that, float32. It is to be called before the next replay, if at all.
        """
        sizes = self._load(batch)
        if sizes is None:
            return None
        self._graphs[sizes].step.replay()
        return partial(self._copied, sizes)

    def prepared(self, batch: Batch) -> Callable[[], object] | None:
        """Fill the buffers for a step, and what replays it, as often as it is called."""
        sizes = self._load(batch)
        return None if sizes is None else self._graphs[sizes].step.replay

    def eager(self, batch: Batch) -> Tensor | None:
        """Logits of the same step, with the same padding, without its graph, float32: what those of
        a replay have to equal.
        """
        sizes = self._load(batch)
        return None if sizes is None else self._runner.forward(self._step(sizes)).float()

    def sizes_for(self, decodes: int, chunk_tokens: int, chunks: int) -> Sizes | None:
        """The smallest graph that holds such a step."""
        rows = decodes + chunk_tokens
        for sizes in self._sizes:
            if bool(sizes.chunks) == bool(chunks) and (
                rows <= sizes.rows and decodes <= sizes.decodes and chunks <= sizes.chunks
            ):
                return sizes
        return None

    # -- inside ---------------------------------------------------------------------------------

    def _copied(self, sizes: Sizes) -> Tensor:
        self._graphs[sizes].logits.replay()
        return self._logits[: sizes.wanted]

    def _load(self, batch: Batch) -> Sizes | None:
        """Fill the static buffer; the graph to replay, or None if none is large enough."""
        tokens = sum(len(chunk.tokens) for chunk in batch.chunks)
        sizes = self.sizes_for(len(batch.decodes), tokens, len(batch.chunks))
        host = None if sizes is None else self._inputs(batch, sizes)
        if sizes is None or host is None:
            return None
        self._fill(host, sizes)
        return sizes

    def _step(self, sizes: Sizes) -> StepInputs:
        return step_of(self._buffer, sizes)

    def _decode_sizes(self, rows: int) -> Sizes:
        return Sizes(
            rows=rows,
            decodes=rows,
            items=self._runner.budget.capacity(rows),
            decode_blocks=self._blocks_of(rows),
            wanted=rows,
        )

    def _mixed_sizes(self, rows: int, decodes: int) -> Sizes:
        return Sizes(
            rows=rows,
            decodes=decodes,
            items=self._runner.budget.capacity(decodes) if decodes else 0,
            decode_blocks=self._blocks_of(decodes),
            chunks=MOST_CHUNKS,
            chunk_blocks=self._blocks_of(MOST_CHUNKS),
            wanted=decodes + MOST_CHUNKS,
            longest=rows,
            whole_step=True,
        )

    def _blocks_of(self, sequences: int) -> int:
        """Entries of the lists of so many sequences."""
        model = self._runner.model
        longest = -(-model.max_model_len // model.layout.block_tokens)
        return min(sequences * longest, self._most_blocks)

    def _inputs(self, batch: Batch, sizes: Sizes) -> HostInputs | None:
        """The arrays of a step, padded; None if its lists are longer than the buffer's."""
        runner = self._runner
        size = runner.model.layout.block_tokens
        blocks = batch.blocks(size)
        read = sum(-(-(chunk.context + len(chunk.tokens)) // size) for chunk in batch.chunks)
        if blocks > sizes.decode_blocks or read > sizes.chunk_blocks:
            return None
        host = host_inputs(
            batch.decodes,
            batch.chunks,
            runner.model.layout,
            item_blocks=runner.budget.item_blocks(len(batch.decodes), blocks),
            pad_rows=0 if sizes.chunks else sizes.rows,
            pad_items=sizes.items,
        )
        assert host.sizes.items <= sizes.items  # `ItemBudget` keeps within its capacity
        return padded(host, sizes) if sizes.chunks else host

    def _nothing(self, sizes: Sizes) -> HostInputs:
        """A step of empty rows."""
        host = host_inputs(Decodes.of(()), [], self._runner.model.layout, item_blocks=1)
        return padded(host, sizes)

    def _fill(self, host: HostInputs, sizes: Sizes) -> None:
        """Copy a step into the static buffer, its lists of blocks up to their ends."""
        packed = pack(host, sizes, pinned=self._runner.asynchronous)
        places, _ = sizes.places()
        for name in BLOCK_LISTS:
            start, kind, _ = places[name]
            stop = start + len(host.arrays.get(name, ())) * np.dtype(kind).itemsize
            if name == BLOCK_LISTS[0]:
                start = 0  # all other arrays lie before the first list
            if start < stop:
                self._buffer[start:stop].copy_(packed[start:stop], non_blocking=True)

    def _capture(self, sizes: Sizes, pool: Any) -> Captured:
        """Record one step of empty rows."""
        runner, step = self._runner, self._step(sizes)
        self._fill(self._nothing(sizes), sizes)

        def run() -> Tensor:
            logits = runner.forward(step)
            runner.take_likeliest(logits)
            return logits

        if self._side is None:
            self._side = torch.cuda.Stream(runner.device)
        side = self._side
        side.wait_stream(torch.cuda.current_stream(runner.device))
        with torch.cuda.stream(side):
            self._logits[: sizes.wanted].copy_(run())  # compiles, and cuBLAS takes its workspace
        torch.cuda.current_stream(runner.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=side):
            logits = run()
        copy = torch.cuda.CUDAGraph()
        with torch.cuda.graph(copy, pool=graph.pool(), stream=side):
            self._logits[: sizes.wanted].copy_(logits)
        graph.replay()  # the first time is longer: it brings a graph to the device
        copy.replay()
        return Captured(graph, copy)


def _order(sizes: Sizes) -> tuple[int, int]:
    return sizes.rows, sizes.decodes
