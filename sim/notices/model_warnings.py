"""What a configuration asks of a model that its shape does not say."""

from __future__ import annotations

from pathlib import Path

from sim.notices.cut_answers import context_of
from superinfer.costs.shapes import left_out, load_shape
from superinfer.lab.config import Config

WITHOUT = {
    "quantization_config": "weights count with 16 bits",
    "sliding_window": "caches and attention are of the whole context",
}
"""What is simulated in place of what a key of a `config.json` says."""


def model_warnings(config: Config) -> list[str]:
    """A line for each key of the model's file that is left out, and for a longer context than the
    model has. A profile says by itself how many bits its weights have.
    """
    run, found = config.run, left_out(config.run.model, context_of(config))
    if Path(run.costs).suffix == ".json":
        found = [key for key in found if key != "quantization_config"]
    lines = [f"{run.model}: {key} is left out: {WITHOUT[key]}" for key in found]
    shape = load_shape(run.model)
    if run.max_model_len > shape.max_model_len and not shape.encoder_layers:
        most = f"the {shape.max_model_len:,} tokens of {shape.name}"
        lines.append(f"run.max_model_len: {run.max_model_len:,} is above {most}")
    return lines
