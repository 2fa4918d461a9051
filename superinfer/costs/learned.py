"""Predicted step times, corrected by what steps took: for a device that nobody measured, or that is
slower than it was then.

Two kinds of steps are told apart, those of decodes alone and those with prefill: nominal figures
are further off for one than for the other. Of each kind the logarithm of measured over predicted
seconds is followed, which treats twice and half as long alike. The median of the first steps begins
it; after that every step moves it by a small share of its surprise, which is bounded as in Huber's
estimator of location (Annals of Mathematical Statistics 35(1), 1964): a step that stood still for
seconds counts no more than one that took somewhat longer. So many surprises in a row, all to one
side and beyond that bound, are no accident: their median begins it anew. So whatever was learned
first, kernels that were compiled in most of the first steps or a clock that was taken down
for good, is believed for so many steps more and no longer. Host time is part of what was measured
and of what was predicted, as no clock of steps can tell it apart; with lag 1 a part that is hidden
behind the device makes the correction smaller.

Nothing simulated takes the time that is learned here.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, log
from typing import Final

from superinfer.costs.base import CostModel, PrefillWork, SliceLine
from superinfer.costs.coverage import Limits
from superinfer.plan import Outcome, Plan, Work

WARM_UP: Final = 15
"""Measurements of a kind of steps before they are trusted; odd, for their median."""
WINDOW: Final = 64
"""Each measurement after that counts for one part in so many; as many surprises in a row begin it
anew. A batch of one kind may differ from the next for some dozens of steps."""
MOST_SURPRISE: Final = 0.25
"""Bound of what one measurement may differ by, as a logarithm (28 %)."""
GRAIN: Final = 0.02
"""What a correction moves by at least, as a logarithm: what was made of it stays for a while."""


class Correction:
    """How much longer steps of one kind take than predicted."""

    __slots__ = ("_log", "_row", "_told", "factor", "measured")

    def __init__(self) -> None:
        self.factor = 1.0
        """Measured over predicted seconds; 1 until `WARM_UP` measurements are there."""
        self.measured = 0
        """Measurements so far."""
        self._row: list[float] = []
        """The first logarithms, and later the latest ones that surprised to the same side."""
        self._log = self._told = 0.0

    def learn(self, measured_s: float, predicted_s: float) -> bool:
        """Take in a measurement, both in seconds and above 0; True if `factor` is another now."""
        self._take(log(measured_s / predicted_s))
        if abs(self._log - self._told) < GRAIN:
            return False
        self._told = self._log
        self.factor = exp(self._log)
        return True

    def _take(self, ratio: float) -> None:
        """The next logarithm."""
        self.measured += 1
        if self.measured > WARM_UP:
            self._follow(ratio - self._log, ratio)
        else:
            self._row.append(ratio)
        if len(self._row) == (WARM_UP if self.measured == WARM_UP else WINDOW):
            self._log = sorted(self._row)[len(self._row) // 2]
            self._row.clear()

    def _follow(self, surprise: float, ratio: float) -> None:
        """Move by a small share of a surprise, and remember one beyond the bound."""
        if self._row and (self._row[0] > self._log) != (surprise > 0):
            self._row.clear()
        if abs(surprise) >= MOST_SURPRISE:
            self._row.append(ratio)
        else:
            self._row.clear()
        self._log += max(-MOST_SURPRISE, min(MOST_SURPRISE, surprise)) / WINDOW


class LearnedCost:
    """A cost model for predictions: the step times of another one, corrected.

    Not pure: an answer holds until `revision` changes, which is when a correction has moved by 2 %.
    """

    def __init__(self, base: CostModel) -> None:
        self.base = base
        """Whose step times are corrected; copies take what it says."""
        self.decodes = Correction()
        """Of steps of decodes alone."""
        self.prefills = Correction()
        """Of steps with prefill."""
        self.revision = 0
        """Counts the changes of a correction."""
        self._host_factor = 1.0
        """Of host time, which is asked for without a kind of steps: the smallest correction, so
        that what is left for the device is never below 0."""
        self._free_s = -inf
        """When the latest step was over."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of 16-bit KV cache per token on one GPU."""
        return self.base.kv_bytes_per_token

    @property
    def limits(self) -> Limits:
        """Where measuring ended."""
        return self.base.limits

    @property
    def duplex_slows(self) -> bool:
        """True if copies both ways at once are known to be slower than one way alone."""
        return self.base.duplex_slows

    def step_s(self, chunks: Sequence[PrefillWork], decodes: int, context_tokens: int) -> float:
        """Device seconds of one step; with `host_s` what it took of late, in the mean."""
        factor = self._factor(chunks)
        device_s = self.base.step_s(chunks, decodes, context_tokens)
        if not device_s:
            return 0.0
        return factor * device_s + self._more_s(factor, decodes + len(chunks))

    def slice_line(
        self, chunks: Sequence[PrefillWork], decodes: int, context_tokens: int
    ) -> SliceLine:
        """The line that starts at `step_s` of the same step."""
        factor = self._factor(chunks)
        line = self.base.slice_line(chunks, decodes, context_tokens)
        first_s = factor * line.first_s + self._more_s(factor, decodes + len(chunks))
        return SliceLine(first_s, factor * line.growth_s, line.steps)

    def host_s(self, sequences: int) -> float:
        """Host seconds before a step over `sequences` requests."""
        return self._host_factor * self.base.host_s(sequences)

    def transfer_s(self, nbytes: int, pieces: int, direction: str, company: bool = False) -> float:
        """Seconds for a copy; nothing is learned of them."""
        return self.base.transfer_s(nbytes, pieces, direction, company)

    def attention_share(self, bits: int, byte_share: float) -> float:
        """Seconds of decode attention as a share of those at 16 bits."""
        return self.base.attention_share(bits, byte_share)

    def requantise_s(self, nbytes: int, to_bits: int) -> float:
        """Device seconds to bring blocks to `to_bits`; nothing is learned of them."""
        return self.base.requantise_s(nbytes, to_bits)

    def learn(self, plan: Plan, outcome: Outcome) -> None:
        """Steps of a plan are over, which are not counted in its `done_steps` yet.

        A slice is one measurement, however many steps it has. A first step that waited for copies
        or conversions is none.
        """
        ends = outcome.step_end_s
        began_s, self._free_s = max(self._free_s, plan.now), outcome.end_s
        first, steps = plan.done_steps, len(ends)
        if steps and not first and (plan.before_step or plan.requantised):
            began_s, first, steps = ends[0], 1, steps - 1
        if steps:
            self._take(plan, first, steps, outcome.end_s - began_s)

    # -- inside ---------------------------------------------------------------------------------

    def _factor(self, chunks: Sequence[PrefillWork]) -> float:
        return self.prefills.factor if chunks else self.decodes.factor

    def _more_s(self, factor: float, sequences: int) -> float:
        """What the host's part of the correction adds to that of the device."""
        more = factor - self._host_factor
        return more * self.base.host_s(sequences) if more else 0.0

    def _take(self, plan: Plan, first: int, steps: int, measured_s: float) -> None:
        """`steps` steps of a plan from the `first` on took so many seconds."""
        work = plan.work_at(first)
        predicted_s = self._predicted_s(work)
        if steps > 1:  # each is longer than the one before by about the same
            last_s = self._predicted_s(plan.work_at(first + steps - 1))
            predicted_s = steps * 0.5 * (predicted_s + last_s)
        if measured_s <= 0 or predicted_s <= 0:
            return
        correction = self.prefills if work.chunks else self.decodes
        if correction.learn(measured_s, predicted_s):
            self.revision += 1
            self._host_factor = min(1.0, self.decodes.factor, self.prefills.factor)

    def _predicted_s(self, work: Work) -> float:
        """A step by the base, host time included."""
        chunks, decodes, context_tokens = work
        device_s = self.base.step_s(chunks, decodes, context_tokens)
        return device_s + self.base.host_s(decodes + len(chunks))
