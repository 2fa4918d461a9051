"""Training of the model that ships with the project, on a GPU in a minute."""

from __future__ import annotations

import torch

from experiments.gpu_check.checks import Check, Context, Result
from experiments.tiny import train as train_tiny
from experiments.tiny.llama import Shape
from superinfer.errors import InputError


def train(context: Context) -> Result:
    """Train for `--train-seconds`, or for what is left; the folder goes to the results."""
    corpus = context.options["corpus"]
    if not corpus.is_file():
        raise InputError("no such corpus; experiments.tiny.kjv writes one", file=str(corpus))
    seconds = min(float(context.options["train_seconds"]), context.left_s - 15)
    shape, device = Shape(), torch.device(context.device)
    out = context.work / "train"
    recipe = train_tiny.recipe_for(device, max(seconds, 1.0) / 60, 0, shape.context)
    train_tiny.train(corpus, out, recipe, shape, device)
    return {"files": sorted(path.name for path in out.iterdir())}


CHECKS: dict[str, Check] = {"train": train}
