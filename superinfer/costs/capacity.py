"""How many KV blocks fit beside the weights, counted the way vLLM or TensorRT-LLM does.

`floor((memory * utilisation - weights - activation reserve) * free share / block bytes)`, per GPU.
vLLM has a utilisation and takes all that is left; TensorRT-LLM has a share of what is free. Both
find the reserve by the largest step that their settings allow: vLLM runs a dummy batch of
`max_num_batched_tokens` tokens over `max_num_seqs` sequences, all of which are sampled
(`profile_run` in vllm/worker/model_runner.py at v0.6.0 and in vllm/v1/worker/gpu_model_runner.py;
`determine_num_available_blocks` in vllm/worker/worker.py), TensorRT-LLM sizes its engine by
`max_num_tokens` and its buffers of logits by `max_batch_size` before it looks at what is free
(docs/source/reference/memory.md). Here a formula stands in for the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from superinfer.costs.devices import GIB, DeviceSpec
from superinfer.costs.shapes import ModelShape
from superinfer.errors import ConfigError


@dataclass(slots=True, frozen=True)
class LargestStep:
    """The step for which memory is kept free, with the settings that make it so large."""

    tokens: int = 8192
    logits: int = 256
    """Rows of logits: the sequences that get a token."""
    logit_bytes: int = 10
    """Per vocabulary entry of a row: 16-bit logits with two 32-bit copies of the sampler."""
    tokens_by: str = ""
    """The setting that decides `tokens`; empty: none does."""
    logits_by: str = ""


USUAL_STEP: Final = LargestStep()
"""Of whoever states none."""


def activation_reserve_bytes(shape: ModelShape, tp: int = 1, step: LargestStep = USUAL_STEP) -> int:
    """Peak activation bytes of a step on one GPU, an estimate.

    The larger of the MLP's peak (residual, its input, and the up projection with its activation:
    2 hidden + 3 intermediate / tp values per token) and the sampler's (its logits).
    """
    return max(_layer_bytes(shape, tp, step), _logit_bytes(shape, step))


def kv_capacity_blocks(
    shape: ModelShape,
    device: DeviceSpec,
    tp: int,
    block_tokens: int,
    gpu_memory_utilization: float = 0.90,
    free_share: float = 1.0,
    step: LargestStep = USUAL_STEP,
) -> int:
    """KV blocks of `block_tokens` per GPU; ConfigError when weights and the activations of `step`
    leave room for none.

    They take `free_share` of what the two leave free.
    """
    if not device.memory_bytes:
        raise ConfigError(f"{device.name}: its memory is not known: set run.kv_blocks")
    room = _Room(shape, device, gpu_memory_utilization, block_tokens, step)
    blocks = math.floor(room.free_bytes(tp) * free_share / room.block_bytes(tp))
    if blocks < 1:
        raise ConfigError(room.refusal(tp))
    return blocks


# -- inside ---------------------------------------------------------------------------------------


def _layer_bytes(shape: ModelShape, tp: int, step: LargestStep) -> int:
    width = 2 * shape.hidden + 3 * shape.intermediate // tp
    return step.tokens * width * shape.dtype_bytes


def _logit_bytes(shape: ModelShape, step: LargestStep) -> int:
    return step.logits * shape.vocab * step.logit_bytes


@dataclass(slots=True, frozen=True)
class _Room:
    """What a GPU has for a model and its steps."""

    shape: ModelShape
    device: DeviceSpec
    utilization: float
    block_tokens: int
    step: LargestStep

    @property
    def nbytes(self) -> float:
        return self.device.memory_bytes * self.utilization

    def block_bytes(self, tp: int) -> int:
        return self.shape.kv_bytes_per_token(tp) * self.block_tokens

    def free_bytes(self, tp: int) -> float:
        reserve = activation_reserve_bytes(self.shape, tp, self.step)
        return self.nbytes - self.shape.weight_bytes(tp) - reserve

    def refusal(self, tp: int) -> str:
        """What has no room: the weights, or beside them the step that a setting allows."""
        weights = f"{self.shape.weight_bytes(tp) / GIB:.1f} GiB of weights"
        offers = f"{self.device.name} offers {self.nbytes / GIB:.1f} GiB"
        gpus, (setting, size) = self._enough_gpus(), self._larger_part(tp)
        if setting and self.nbytes - self.shape.weight_bytes(tp) >= self.block_bytes(tp):
            reserve = activation_reserve_bytes(self.shape, tp, self.step) / GIB
            needs = f"{size} needs {reserve:,.1f} GiB per GPU at tp={tp} beside {weights}"
            remedy = "lower it or set run.kv_blocks" + (f" or run.tp={gpus}" if gpus else "")
            return f"{setting}: {needs}, {offers}: {remedy}"
        advice = f"it fits on {gpus} GPUs" if gpus else "no number of GPUs up to 32 is enough"
        return f"{self.shape.name} needs {weights} per GPU at tp={tp} and {offers}: {advice}"

    def _enough_gpus(self) -> int:
        """The least degree of tensor parallelism with room for a block; 0: none up to 32."""
        for tp in (1, 2, 4, 8, 16, 32):
            if self.shape.heads % tp == 0 and self.free_bytes(tp) >= self.block_bytes(tp):
                return tp
        return 0

    def _larger_part(self, tp: int) -> tuple[str, str]:
        """The setting behind the larger part of the reserve, and how large a step it allows."""
        shape, step = self.shape, self.step
        if _layer_bytes(shape, tp, step) >= _logit_bytes(shape, step):
            return step.tokens_by, f"a step of {step.tokens:,} tokens"
        return step.logits_by, f"a step with {step.logits:,} rows of logits"
