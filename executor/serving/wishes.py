"""From the body of a request to what the engine is to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from executor.models.base import check_length
from executor.serving.engine.letters import Facts, Wish
from executor.serving.http.bodies import COMPLETION_TOKENS, Body, ChatBody, CompletionBody
from executor.serving.objectives import Objective, Tenants, objective_of
from executor.serving.prompts import Naming, Prompts
from executor.steps.sampler import GREEDY
from superinfer.errors import InputError
from superinfer.request import SLOClass

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads what clients ask for, in any thread: long prompts take their time."""

    prompts: Prompts
    facts: Facts
    classes: Mapping[str, SLOClass]
    most_answers: int
    """Of one request."""
    priorities: bool
    """They count for something."""
    tenants: Tenants = field(default_factory=Tenants)

    def objective(self, body: Body, headers: Headers) -> Objective:
        """What is promised to a request, whatever it asks for; InputError for what cannot be."""
        objective = objective_of(headers, body, self.classes)
        if objective.priority and not self.priorities:
            raise InputError("the scheduler of this server has no use for it", field="priority")
        return replace(objective, tenant=self.tenants.known(objective.tenant))

    def completions(self, body: CompletionBody, objective: Objective) -> list[Wish]:
        """Every choice for each prompt, of the usual length where no limit is named. InputError for
        what cannot be.
        """
        self._require_served(body, len(body.prompts))
        prompts = self.prompts.of_completion(body)
        return self._wishes(body, prompts, COMPLETION_TOKENS, objective)

    def chat(self, body: ChatBody, objective: Objective) -> list[Wish]:
        """Every choice for a conversation, whose answer may be as long as its class and the context
        allow. InputError for what cannot be.
        """
        self._require_served(body, 1)
        usual = objective.slo_class.max_tokens
        return self._wishes(body, [self.prompts.of_chat(body)], usual, objective)

    # -- inside ---------------------------------------------------------------------------------

    def _require_served(self, body: Body, prompts: int) -> None:
        body.require_served()
        answers = prompts * body.choices
        if answers > self.most_answers:
            most = f"expected at most {self.most_answers} answers at once"
            raise InputError(f"{most}, got {answers}", field="n")

    def _wishes(
        self, body: Body, prompts: list[list[int]], usual: int, objective: Objective
    ) -> list[Wish]:
        draws = [body.sampling(choice) for choice in range(body.choices)]
        wished = [self._wish(body, tokens, usual, objective) for tokens in prompts]
        return [replace(wish, sampling=sampling) for wish in wished for sampling in draws]

    def _wish(self, body: Body, tokens: list[int], usual: int, objective: Objective) -> Wish:
        ends = frozenset(body.stop_token_ids or ())
        limit = self._limit(tokens, body.limit, usual)
        naming = Naming(self.facts.block_tokens, body.cache_salt or "")
        return Wish(
            tokens=np.array(tokens, np.int64),
            content=naming.ids(tokens) if self.facts.caches_prefixes else (),
            naming=naming,
            limit=limit,
            ends=ends if body.ignore_eos else ends | self.prompts.tokenizer.end_tokens,
            stop=body.stop,
            sampling=GREEDY,
            objective=objective,
        )

    def _limit(self, tokens: list[int], asked: int | None, usual: int) -> int:
        """Most tokens of an answer; InputError for more than there is room for."""
        most = self.facts.max_model_len
        of = "the context" if most == self.prompts.most_tokens else "the KV cache's room"
        check_length(most, len(tokens), asked or 1, of)
        return asked or min(usual, most - len(tokens))
