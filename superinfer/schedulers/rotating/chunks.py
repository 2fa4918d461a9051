"""How many prefill tokens a step takes beside streams: first tokens weighed against paces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from superinfer.costs.base import Chunk, CostModel
from superinfer.draft import Draft
from superinfer.schedulers.pacing import GRAIN_TOKENS, ChunkSizer
from superinfer.schedulers.rotating.deadlines import Job
from superinfer.schedulers.rotating.debts import Debts
from superinfer.schedulers.rotating.device import OnDevice
from superinfer.schedulers.rotating.outlook import Outlook
from superinfer.schedulers.rotating.settings import Settings
from superinfer.schedulers.rotating.triage import given_up
from superinfer.schedulers.rotating.urgency import Urgency, work_of

STRETCHES: Final[Sequence[float]] = (1.25, 1.5, 2.0, 4.0, 8.0)
"""Longer steps that are weighed, as multiples of what keeps the tightest pace."""

MOST_HOPELESS: Final = 0.1
"""Share of the streams that may have lost their pace for good where others fall behind."""


class _Choice(NamedTuple):
    tokens: int
    step_s: float
    misses: float
    """Weight of the first tokens that are late and of the streams that lose their pace."""


class ChunkChoice:
    """Asked once per decision while a stream is resident."""

    def __init__(
        self,
        settings: Settings,
        cost: CostModel,
        outlook: Outlook,
        device: OnDevice,
        urgency: Urgency,
    ) -> None:
        self._settings = settings
        self._cost = cost
        self._sizer = ChunkSizer(cost, settings.tile_tokens)
        self._sizers = [ChunkSizer(cost, settings.tile_tokens) for _ in STRETCHES]
        """One each: a sizer starts from its last answer."""
        self._outlook = outlook
        self._device = device
        self._urgency = urgency

    def tokens(self, draft: Draft, paces_s: list[float], budget: int) -> int:
        """The chunk of the tightest pace, or a larger one with which less is missed.

        A pace that could not be held without any prefill is not waited for. What is weighed against
        it are the chunks of slower paces and, with `debts`, of longer steps, no longer than the
        shortest gap that a stream tolerates. No more is taken than the hurried prompts need.
        """
        chunks = [
            self._within(self._sizer, draft, self._settings.pace_margin * pace_s, budget)
            for pace_s in paces_s
        ]
        held = [place for place, tokens in enumerate(chunks) if tokens > GRAIN_TOKENS] or [0]
        first, pace_s = chunks[held[0]], paces_s[held[0]]
        if len(held) == 1 and not self._settings.debts:
            return first
        hurried = self._urgency.hurried(draft)
        backlog = sum([job.tokens_to_compute for job in hurried])
        if backlog <= first:
            return first
        larger = {chunks[place] for place in held[1:]}
        if self._settings.debts and self._can_fall_behind(draft, first, pace_s):
            larger |= self._stretched(draft, pace_s, budget)
        sizes = sorted({min(tokens, backlog) for tokens in larger if tokens > first})
        return self._fewest_misses(draft, hurried, [first, *sizes])

    # -- inside ---------------------------------------------------------------------------------

    def _within(self, sizer: ChunkSizer, draft: Draft, cap_s: float, budget: int) -> int:
        """The chunk with which a step takes no longer than that."""
        return min(
            budget, sizer.tokens_under(cap_s, draft.batch, self._device.prefilled_tokens, budget)
        )

    def _stretched(self, draft: Draft, pace_s: float, budget: int) -> set[int]:
        """The chunks of longer steps."""
        margin = self._settings.pace_margin
        gap_s = self._device.debts.longest_gap_s
        found: set[int] = set()
        for stretch, sizer in zip(STRETCHES, self._sizers, strict=True):
            tokens = self._within(sizer, draft, margin * min(stretch * pace_s, gap_s), budget)
            found.add(tokens)
            if tokens == budget or stretch * pace_s >= gap_s:
                break
        return found

    def _can_fall_behind(self, draft: Draft, first: int, pace_s: float) -> bool:
        """False where too many streams have fallen behind for good. Nothing that is done costs them
        anything, but the slower they are the longer they stay, and with more of them beside it no
        pace can be held.
        """
        debts = self._device.debts
        step_s = self._step_s(draft, first)
        likely_s = 0.5 * (self._outlook.step_s + step_s) / self._settings.pace_margin
        debts.begin(min(likely_s, pace_s))
        return debts.hopeless_share <= MOST_HOPELESS

    def _fewest_misses(self, draft: Draft, hurried: list[Job], sizes: list[int]) -> int:
        """The best of some chunks, the first of which keeps a pace.

        Of equal misses a longer step is worth it if it raises the rate by more than its length: so
        there is time left for who is still to come, and gaps stay short where it hardly does.
        """
        step_s = self._step_s(draft, sizes[0])
        debts = self._device.debts if self._settings.debts else None
        best = self._choice(hurried, sizes[0], step_s, debts)
        for tokens in sizes[1:]:
            choice = self._choice(hurried, tokens, self._step_s(draft, tokens), debts)
            if choice.misses < best.misses or (
                debts is not None
                and choice.misses == best.misses
                and choice.tokens / choice.step_s**2 > best.tokens / best.step_s**2
            ):
                best = choice
        return best.tokens

    def _choice(
        self, hurried: list[Job], tokens: int, step_s: float, debts: Debts | None
    ) -> _Choice:
        """What is missed if all hurried prompts are computed in such steps, but for those that are
        late even so.
        """
        now = self._outlook.draft.now
        late = given_up([(work_of(job, now, tokens, step_s), job) for job in hurried])
        weight = sum([job.weight for job in late])
        if debts is not None:
            left = sum([job.tokens_to_compute for job in hurried])
            left -= sum([job.tokens_to_compute for job in late])
            weight += debts.lost(max(1.0, left / tokens), step_s)
        return _Choice(tokens, step_s, weight)

    def _step_s(self, draft: Draft, tokens: int) -> float:
        cost, batch = self._cost, draft.batch
        chunk = Chunk(tokens, self._device.prefilled_tokens)
        return cost.step_s([chunk], batch.size, batch.context_tokens) + cost.host_s(batch.size + 1)
