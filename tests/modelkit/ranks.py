"""What each rank of a tensor-parallel group does in tests; run in processes of its own."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist

from executor.models import load_model
from executor.models.seq2seq import generate
from executor.models.t5 import T5
from modelkit.harness import CPU, Harness

PROMPTS = ([5, 9, 60, 7, 7, 31, 2, 80], [3] * 17 + [11, 12])


def outcome(folder: Path, **changes):
    """Every logit row and token that the model gives for the prompts, chunks and decodes mixed."""
    settings = {"device": CPU, "dtype": torch.float32, "block_tokens": 16} | changes
    model = load_model(folder, **settings)
    if isinstance(model, T5):
        encoded = model.encode(PROMPTS)
        return {"tokens": generate(model, PROMPTS, 6), "logits": torch.cat(encoded)}
    harness = Harness(model)
    first, second = (harness.sequence(prompt, 32) for prompt in PROMPTS)
    harness.generate(first, 2)
    harness.step([first], [(second, 12)])
    harness.step([], [(second, 7)])
    first.tokens.append(int(first.logits[len(first.tokens) - 1].argmax()))
    harness.step([first])
    harness.decode([second, first], 3)
    rows = [row for s in (first, second) for _, row in sorted(s.logits.items())]
    return {"tokens": [first.tokens, second.tokens], "logits": torch.stack(rows)}


def rank(index: int, size: int, meeting: str, cases, target: str) -> None:
    """Join the group, run every case and save what came out."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=index, world_size=size)
    found = {name: outcome(folder, **changes) for name, (folder, changes) in cases.items()}
    torch.save(found, f"{target}/rank{index}.pt")
    dist.destroy_process_group()


def leaves(index: int, meeting: str, config, options) -> None:
    """A rank that meets the others and is gone."""
    from executor.ranks import processes

    processes._join(index, meeting, config)
    raise SystemExit(3)
