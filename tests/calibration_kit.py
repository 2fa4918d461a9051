"""What tests of calibration share: a small model, small grids, a plain cost model."""

from __future__ import annotations

import torch

from executor.calibration.grids import Grids
from executor.calibration.timing import Timing

CPU = torch.device("cpu")
SMALL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
}
GRIDS = Grids((1, 8, 64), (1, 8), (1, 4), (32, 128), (1, 32, 64), (0, 64), (1, 4), 1 << 9)


def timing(seconds: float) -> Timing:
    """One that was measured without noise."""
    return Timing(seconds, 0.0, 1)


class Linear:
    """A cost model of its own: a millisecond, and a microsecond per token of context."""

    def step_s(self, chunks: object, decodes: int, context: int) -> float:
        return 0.001 + 1e-6 * context
