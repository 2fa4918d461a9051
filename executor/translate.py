"""An answer of an encoder-decoder, which reads the prompt once and begins a text of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from torch import Tensor

from executor.models.seq2seq import steps
from executor.models.t5 import T5
from executor.steps.sampler import History, Sampling, SamplingRow, sample


def translate(
    model: T5,
    prompt: Sequence[int],
    max_tokens: int,
    end_tokens: Collection[int],
    sampling: Sampling,
    tell: Callable[[int], bool],
) -> None:
    """Pass tokens to `tell` as they come, until it says that it has enough, or the model does.

    Penalties count the answer's tokens; those of the prompt are another text. Raises InputError for
    a prompt or an answer above the model's context.
    """
    history = History([], model.vocab, model.device) if sampling.penalised else None

    def choose(logits: Tensor, position: int) -> Tensor:
        token = sample(logits, [SamplingRow(sampling, position, history)])
        if history is not None:
            history.add(token)
        return token

    for step in steps(model, [prompt], max_tokens, end_tokens, choose):
        if tell(step[0][1]):
            return
