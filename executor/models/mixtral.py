"""Mixtral (arXiv 2401.04088): the Llama frame with a mixture of experts as MLP.

Every row goes to the experts with the highest routing probabilities, whose shares are scaled to sum
up to one. Ranks split the columns of every expert. Experts keep the model's type where other
matrices become int8.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from executor.kernels.ops import Ops
from executor.models.config import ModelConfig
from executor.models.layers import Loader, inputs, outputs
from executor.models.llama import Llama, load_llama
from executor.models.parallel import Group
from executor.models.weights import Piece


@dataclass(frozen=True, slots=True)
class Experts:
    """A router and its experts."""

    router: Tensor
    """[experts, hidden]."""
    gate_up: Tensor
    """[experts, 2 * n, hidden]."""
    down: Tensor
    """[experts, hidden, n]."""
    per_token: int
    ops: Ops
    group: Group

    def __call__(self, x: Tensor) -> Tensor:
        odds = torch.nn.functional.linear(x, self.router).float().softmax(dim=-1)
        weights, chosen = odds.topk(self.per_token, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        return self.group.sum(self.ops.moe(x, weights, chosen, self.gate_up, self.down))


def load_mixtral(
    config: ModelConfig, loader: Loader, block_tokens: int, max_model_len: int
) -> Llama:
    """The model; experts are read by their names on disk, one by one or stacked."""
    return load_llama(config, loader, block_tokens, max_model_len, _load_experts)


def _load_experts(loader: Loader, config: ModelConfig, prefix: str) -> Experts:
    shape, single, stacked = config.shape, prefix + "block_sparse_moe.", prefix + "mlp."
    if loader.weights.has(stacked + "experts.gate_up_proj"):
        gate_up, down = _stacked(loader, config, stacked + "experts.")
        router = stacked + "gate.weight"
    else:
        gate_up, down = _single(loader, config, single + "experts.")
        router = single + "gate.weight"
    return Experts(
        loader.tensor(Piece(router, (shape.experts, shape.hidden))),
        gate_up,
        down,
        shape.experts_per_token,
        loader.ops,
        loader.group,
    )


def _single(loader: Loader, config: ModelConfig, prefix: str) -> tuple[Tensor, Tensor]:
    """Experts of their own: w1 is the gate, w3 the way up, w2 the way down."""
    shape = config.shape
    columns = loader.group.part(shape.intermediate)
    wide, narrow = (shape.intermediate, shape.hidden), (shape.hidden, shape.intermediate)
    each = columns.stop - columns.start
    gate_up = loader.empty((shape.experts, 2 * each, shape.hidden))
    down = loader.empty((shape.experts, shape.hidden, each))
    for expert in range(shape.experts):
        name = f"{prefix}{expert}."
        loader.weights.fill(gate_up[expert, :each], outputs(name + "w1.weight", wide, columns))
        loader.weights.fill(gate_up[expert, each:], outputs(name + "w3.weight", wide, columns))
        loader.weights.fill(down[expert], inputs(name + "w2.weight", narrow, columns))
    return gate_up, down


def _stacked(loader: Loader, config: ModelConfig, prefix: str) -> tuple[Tensor, Tensor]:
    """All experts in one tensor, gates above the ways up."""
    shape = config.shape
    columns, everything = loader.group.part(shape.intermediate), slice(None)
    each, n = columns.stop - columns.start, shape.intermediate
    gate_up = loader.empty((shape.experts, 2 * each, shape.hidden))
    wide = (shape.experts, 2 * n, shape.hidden)
    for half, first in ((gate_up[:, :each], 0), (gate_up[:, each:], n)):
        rows = slice(first + columns.start, first + columns.stop)
        loader.weights.fill(
            half, Piece(prefix + "gate_up_proj", wide, (everything, rows, everything))
        )
    down = Piece(
        prefix + "down_proj",
        (shape.experts, shape.hidden, n),
        (everything, everything, columns),
    )
    return gate_up, loader.tensor(down)
