"""Answers that end where the context of a model does, though they are longer in the trace."""

from __future__ import annotations

from superinfer.costs.shapes import load_shape
from superinfer.lab.config import Config
from traces.workload import Workload


def context_of(config: Config) -> int:
    """Tokens of a prompt and its answer together, at most."""
    return config.run.max_model_len or load_shape(config.run.model).max_model_len


def cut_answers(context_tokens: int, workload: Workload) -> list[str]:
    """A line for a warning, where prompts fit into the context and their answers do not: such an
    answer ends there (`sim.oracle`), and its request counts as completed.
    """
    both = zip(workload.requests, workload.output_tokens, strict=True)
    cut = sum(
        request.prompt_tokens <= context_tokens
        and tokens > max(1, context_tokens - request.prompt_tokens)
        for request, tokens in both
    )
    if not cut:
        return []
    who = f"{cut:,} of {len(workload.requests):,} answers end at the context"
    return [f"{who} of {context_tokens:,} tokens (run.max_model_len), and count as whole"]
