"""The settings of `rotating`: each with a default that needs no tuning, its unit and its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NoReturn

from mypy_extensions import mypyc_attr

from superinfer.errors import ConfigError
from superinfer.schedulers.parts import check_limits
from superinfer.schedulers.rotating.lengths import LengthSource

MOST_LENGTH_SCALE: Final = 1000
"""No error of a prediction that is worth a study is larger."""


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class Settings:
    """The `[scheduler]` section; the switches at the end turn one mechanism off each."""

    max_num_seqs: int = 256
    """Requests on the device at a time (vLLM's default)."""
    max_num_batched_tokens: int = 2048
    """Token budget of a step when no stream's pace bounds it (Sarathi-Serve's relaxed value)."""
    tile_tokens: int = 128
    """Rows of a tile of a matrix product, which chunks fill (pacing.py); 0: multiples of 64."""
    watermark: float = 0.01
    """Share of the blocks that admission leaves free (vLLM's default)."""
    memory_share: float = 0.98
    """Of the blocks, what the predicted peak of those on the device may take. Above 1 more come in
    than will fit, and what does not is rotated."""
    pace_margin: float = 0.95
    """Share of the tightest pace among resident streams that a step may take: room for an error
    of 5 % in the predicted step time, what calibrated profiles promise."""
    promotion_margin_s: float = 0.3
    """A first token, or the next one of a stream whose class bounds every gap, is urgent so long
    before its latest start, plus two steps and a copy: about one long step and its neighbours."""
    promotion_share: float = 1.0
    """The same as a share of the TTFT target; the larger one counts. 1 lets nobody who was
    promised a first token wait behind somebody who was not."""
    relegation_margin_s: float = 0.0
    """Who has less slack than this for its first token and finds no room is not waited for."""
    hysteresis: float = 0.2
    """Share of its tolerated stall that a victim keeps as slack, so that it does not come back as
    an urgent request at once."""
    level_steps: int = 8
    """Unit of the level bounds, in steps: 4 units of slack for level 1, 16 for level 2."""
    max_wait_s: float = 30.0
    """Who waits so long without a token, and `max_wait_ttfts` TTFT targets, is aged."""
    max_wait_ttfts: float = 6.0
    """The same in TTFT targets."""
    aged_share: float = 0.1
    """Share of blocks and prefill tokens kept for aged requests: the bound on every wait."""
    prefetch_share: float = 0.25
    """Share of the link that copies back of who is not urgent may take."""
    layout: Literal["block_first", "layer_first"] = "block_first"
    """`layer_first` copies K and V of each layer of a block by themselves, as vLLM does: so many
    times the set-up cost of a copy."""
    lengths: LengthSource = "histogram"
    """How answer lengths are predicted; `oracle` knows them, for studies in simulation."""
    length_scale: float = 1.0
    """Every prediction times this, to find out what an error of it does."""

    deadline_order: bool = True
    """Who has to start first comes in first, and who is due first is computed first. Off: by
    arrival; nobody is urgent.
    """
    rotation: bool = True
    """Residents with slack leave for urgent requests. Off: only when decodes run out of blocks."""
    promotion: bool = True
    """Waiting requests rise a level when their slack crosses its bound."""
    demotion: bool = True
    """Residents that used their quantum sink a level and leave first."""
    skip_join: bool = True
    """New requests enter the level of their slack. Off: the top."""
    prefetch: bool = True
    """Who is not urgent yet comes back beside the computation. Off: the step waits for the copy."""
    write_through: bool = True
    """While memory is short, full blocks of residents are copied to the host on an idle link, and
    stay there after a rotation, so that a rotation copies only what has changed since."""
    full_duplex: bool = True
    """Copies that a step waits for run both ways at once, with `lag = 1` beside the step before (as
    DuplexKV's do). Off: one after the other."""
    relegation: bool = True
    """First tokens that will be late do not make others late."""
    prefill_turns: bool = True
    """An urgent prompt takes a place when it would be computed. Off: as soon as it is urgent."""
    paced_chunks: bool = True
    """Prefill chunks keep the pace of resident streams. Off: the whole budget beside them."""
    debts: bool = True
    """Where first tokens would be late, streams may fall behind a pace that they can make up for.
    Off: every step keeps the pace."""
    paying_chunks: bool = True
    """Where nobody has a pace and answers have deadlines, prefill chunks have the size at which
    most requests get through (paying.py). Off: the whole budget."""
    admission: bool = True
    """Requests that are not urgent come in only if the predicted peak fits into memory. Nobody is
    rotated out for a new stream whose pace could not be held, and it waits for those that are out
    to come back. With a TTFT target a request is urgent on arrival."""
    aging: bool = True
    """Who has waited too long gets a reserved share."""
    fairness: bool = True
    """Among requests without a deadline, the tenant with the least service goes first."""

    def check(self) -> None:
        """Refuse values with which nothing could ever run, or nothing be promised (ConfigError)."""
        check_limits(self.max_num_seqs, self.max_num_batched_tokens, self.watermark)
        for name in (
            "max_wait_s",
            "level_steps",
            "pace_margin",
            "memory_share",
            "aged_share",
            "prefetch_share",
            "length_scale",
        ):
            if getattr(self, name) <= 0:
                _refuse(name, "above 0", getattr(self, name))
        if self.length_scale > MOST_LENGTH_SCALE:
            _refuse("length_scale", f"above 0 and at most {MOST_LENGTH_SCALE}", self.length_scale)
        if self.pace_margin > 1:
            _refuse("pace_margin", "above 0 and at most 1", self.pace_margin)
        if self.prefetch_share > 1:
            _refuse("prefetch_share", "above 0 and at most 1", self.prefetch_share)
        if self.aged_share >= 1:
            _refuse("aged_share", "above 0 and below 1", self.aged_share)


def _refuse(name: str, expected: str, value: float) -> NoReturn:
    raise ConfigError(f"scheduler.{name}: expected {expected}, got {value:g}")
