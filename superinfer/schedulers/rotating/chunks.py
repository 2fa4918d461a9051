"""How many prefill tokens a step takes beside streams: first tokens weighed against paces."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
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
"""Share of the streams that may have lost their pace for good where others fall behind: it would
cost them nothing, but the slower they are the longer they stay, and with more of them beside it no
pace can be held."""


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

        A pace that leaves room for a grain at most is not held. What is weighed against the one
        that is are the chunks of slower paces and, with `debts`, of longer steps, none of them
        longer than the shortest gap that a stream tolerates. No more is taken than the hurried
        prompts need.

        With `debts` no pace is held for streams that have all lost it for good, where prompts are
        in a hurry or it could not be held anyway.
        """
        gap_s, margin = self._device.debts.longest_gap_s, self._settings.pace_margin
        chunks = [
            self._within(self._sizer, draft, margin * min(pace_s, gap_s), budget)
            for pace_s in paces_s
        ]
        held = [place for place, tokens in enumerate(chunks) if tokens > GRAIN_TOKENS]
        tightest = held[0] if held else 0
        hurried = self._urgency.hurried(draft)
        fits = sum([job.tokens_to_compute for job in hurried]) <= chunks[tightest]
        if fits and (held or not self._settings.debts):
            return chunks[tightest]
        if self._settings.debts:
            self._weigh_debts(draft, chunks[tightest], paces_s[tightest])
            kept_s = self._device.debts.kept_paces_s
            if not kept_s:
                return self._without_pace(draft, budget)
            held = [place for place in held if paces_s[place] in kept_s] or held
        sizes = [chunks[place] for place in held or [0]]
        return self._weighed(draft, hurried, sizes, paces_s[held[0] if held else 0], budget)

    # -- inside ---------------------------------------------------------------------------------

    def _weighed(
        self, draft: Draft, hurried: list[Job], held: list[int], pace_s: float, budget: int
    ) -> int:
        """The first of the chunks of the paces that are held, or a larger one if that is better."""
        first, larger = held[0], set(held[1:])
        backlog = sum([job.tokens_to_compute for job in hurried])
        if backlog <= first:
            return first
        if self._settings.debts and self._device.debts.hopeless_share <= MOST_HOPELESS:
            larger |= self._stretched(draft, pace_s, budget)
        sizes = sorted({min(tokens, backlog) for tokens in larger if tokens > first})
        return self._fewest_misses(draft, hurried, [first, *sizes])

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

    def _without_pace(self, draft: Draft, budget: int) -> int:
        """The chunk where all streams have lost their pace: within the gap that they tolerate."""
        gap_s = self._device.debts.longest_gap_s
        if gap_s == inf:
            return budget
        return self._within(self._sizers[-1], draft, self._settings.pace_margin * gap_s, budget)

    def _weigh_debts(self, draft: Draft, first: int, pace_s: float) -> None:
        """What the streams have to spare: steps are half way between such a chunk and none."""
        step_s = self._step_s(draft, first)
        likely_s = 0.5 * (self._outlook.step_s + step_s) / self._settings.pace_margin
        self._device.debts.begin(min(likely_s, pace_s))

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
