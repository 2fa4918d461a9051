"""From rows and chunks to token ids: one step of a model on its device.

The token of a step stays on the device: `outputs` holds what the latest step gave, one entry per
wanted row, and the next step may name an entry instead of a token (`unread`). So a step can be
queued before anybody has read the tokens of the one before. Steps are replayed from CUDA graphs
where there is one that is large enough (`graphs`), and run eagerly otherwise. Graphs read and write
`outputs` at one address, which has room for more than any of them gives; a step that gives still
more keeps its tokens elsewhere, and the one after it runs eagerly, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from executor.kernels.ops import ops_for
from executor.steps.inputs import ChunkRows, DecodeRow, Decodes, host_inputs
from executor.steps.items import ItemBudget
from executor.steps.packing import Sizes, pack, pin_ahead, step_of
from executor.steps.sampler import SamplingRow, remember, sample
from executor.steps.step import StepInputs

if TYPE_CHECKING:
    from executor.models import Model
    from executor.steps.graphs import StepGraphs

GRAPH_OUTPUTS = 4096
"""Tokens of a step that are kept where graphs find them; the largest graph gives 1,028."""


Entry = TypeVar("Entry", int, NDArray[np.int64])


def unread(entry: Entry) -> Entry:
    """A token that is still on the device alone: entry of the latest step's outputs."""
    return -1 - entry


@dataclass(slots=True)
class Batch:
    """One step: decodes, then chunks, and how the tokens of the wanted rows are chosen."""

    decodes: Decodes
    chunks: list[ChunkRows]
    sampling: Sequence[SamplingRow] | None = None
    """One per decode and per chunk that wants its logits, in this order; None: all greedy."""

    @staticmethod
    def of(
        rows: Sequence[DecodeRow],
        chunks: list[ChunkRows],
        sampling: Sequence[SamplingRow] | None = None,
    ) -> Batch:
        """A batch from single rows."""
        return Batch(Decodes.of(rows), chunks, sampling)

    @property
    def wanted(self) -> int:
        """How many tokens the step gives."""
        return len(self.decodes) + sum(chunk.wants_logits for chunk in self.chunks)

    def blocks(self, block_tokens: int) -> int:
        """Blocks that the keys of the decodes take."""
        return int((-(-self.decodes.lengths // block_tokens)).sum())


class Launched:
    """A step on the device."""

    def __init__(self, tokens: Tensor, event: Any) -> None:
        self._tokens = tokens
        self._event = event

    def wait(self) -> list[int]:
        """The token of each wanted row, when the device is done with them."""
        if self._event is not None:
            self._event.synchronize()
        return [int(token) for token in self._tokens.tolist()]


class Runner:
    """Runs the steps of one model over one arena."""

    alone = True
    """No other rank runs the same steps."""

    def __init__(self, model: Model, arena: Tensor, budget: ItemBudget | None = None) -> None:
        self.model = model
        self.arena = arena
        self.device = model.device
        self.asynchronous = self.device.type == "cuda"
        """True if steps run beside the host."""
        self._ops = ops_for(self.device)
        self.budget = budget or ItemBudget.of(model.layout, self.device)
        self.outputs = torch.zeros(GRAPH_OUTPUTS, dtype=torch.int64, device=self.device)
        self._latest = self.outputs
        """What the latest step gave; elsewhere if it was more."""
        self._before = torch.zeros_like(self.outputs)
        """What was there before a replayed step whose tokens are drawn."""
        self.graphs: StepGraphs | None = None
        self.replayed = 0
        """Steps that came from a graph."""
        self.steps = 0

    def capture(self, max_rows: int, arena_blocks: int) -> None:
        """Prepare graphs for steps with up to `max_rows` decodes; only on a GPU."""
        from executor.steps.graphs import StepGraphs

        self.graphs = StepGraphs(self, max_rows, arena_blocks)

    def launch(self, batch: Batch) -> Launched:
        """Queue a step; its tokens can be waited for."""
        self.steps += 1
        if not (batch.decodes or batch.chunks):  # all have ended since the step was planned
            return Launched(torch.empty(0, dtype=torch.int64), None)
        if not self.asynchronous:
            return Launched(self._eager(batch).clone(), None)
        tokens = self._replayed(batch)
        return self._sent(self._eager(batch) if tokens is None else tokens)

    def rehearse(self, batch: Batch) -> None:
        """Run a step of no interest to its end: without a graph, on this rank alone, uncounted."""
        self._sent(self._eager(batch)).wait()

    def pin_ahead(self, tokens: int, rows: int, blocks: int) -> None:
        """Let no run wait for pinned memory: steps have up to `tokens` of chunks and `rows` decodes
        over `blocks`. Graphs have to be captured before.
        """
        items = self.budget.capacity(rows)
        _, nbytes = Sizes(rows + tokens, rows, items, blocks, rows, blocks, rows).places()
        pin_ahead(max(nbytes, self.graphs.nbytes if self.graphs else 0))

    def forward(self, step: StepInputs) -> Tensor:
        """Logits of a step some of whose tokens may be unread, of the model's type."""
        return self.model.forward(
            replace(step, token_ids=resolved(step.token_ids, self._latest)), self.arena
        )

    def take_likeliest(self, logits: Tensor) -> Tensor:
        """The likeliest token of each row of logits, kept for the next step."""
        return self._keep(self._ops.largest(logits, self._room(len(logits))))

    # -- inside ---------------------------------------------------------------------------------

    def _sent(self, tokens: Tensor) -> Launched:
        """Tokens on their way from the GPU to the host."""
        host = torch.empty(len(tokens), dtype=torch.int64, pin_memory=True)
        host.copy_(tokens, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return Launched(host, event)

    def _eager(self, batch: Batch) -> Tensor:
        """A step with the shapes that it happens to have; its tokens on the device."""
        item_blocks = self.budget.item_blocks(
            len(batch.decodes), batch.blocks(self.model.layout.block_tokens)
        )
        host = host_inputs(batch.decodes, batch.chunks, self.model.layout, item_blocks=item_blocks)
        buffer = pack(host, host.sizes, pinned=self.asynchronous)
        step = step_of(buffer.to(self.device, non_blocking=True), host.sizes)
        logits = self.forward(step)
        return self._choose(logits, batch.sampling)

    def _replayed(self, batch: Batch) -> Tensor | None:
        """A step from a graph, if there is one for it."""
        if self.graphs is None or self._latest is not self.outputs:
            return None
        drawn = batch.sampling is not None and not _greedy(batch.sampling)
        if drawn:
            self._before.copy_(self.outputs)
        logits = self.graphs.replay(batch)
        if logits is None:
            return None
        tokens = self.outputs[: batch.wanted]
        try:
            if drawn:
                tokens = self._choose(logits()[: batch.wanted], batch.sampling)
        except RuntimeError:
            # Too little memory to draw, and the graph has left its own tokens already: whoever
            # tries again without some rows needs those of the step before.
            self.outputs.copy_(self._before)
            raise
        self.replayed += 1
        return tokens

    def _choose(self, logits: Tensor, sampling: Sequence[SamplingRow] | None) -> Tensor:
        """The token of each row of logits, kept for the next step."""
        if not len(logits):
            return self.outputs[:0]
        if sampling is None or _greedy(sampling):
            return self.take_likeliest(logits)
        room = self._room(len(logits))
        tokens = sample(logits.float(), sampling)
        remember(tokens, sampling)
        return self._keep(room.copy_(tokens))

    def _room(self, count: int) -> Tensor:
        """Where so many tokens of a step go."""
        if count <= len(self.outputs):
            return self.outputs[:count]
        return torch.empty(count, dtype=torch.int64, device=self.device)

    def _keep(self, tokens: Tensor) -> Tensor:
        """Let the next step find what this one gives, which is in its `_room`."""
        self._latest = self.outputs if len(tokens) <= len(self.outputs) else tokens
        return tokens


def _greedy(sampling: Sequence[SamplingRow]) -> bool:
    """True if the largest logit of each row, as it is, decides."""
    return all(row.sampling.greedy for row in sampling)


def resolved(token_ids: Tensor, outputs: Tensor) -> Tensor:
    """Token ids with what the latest step gave in place of the unread ones."""
    entries = (-1 - token_ids).clamp(min=0)
    return torch.where(token_ids < 0, outputs[entries], token_ids)


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Most bytes that `run` held on a GPU beside what is there already."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device) - before)
