"""When the requests of sessions, groups and single starts come, in open form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from traces.generate.arrivals import Clock, start_times
from traces.generate.distributions import Floats, Ints, Random, draw, draw_whole, mean_count
from traces.generate.lengths import Lengths
from traces.generate.spec import Client
from traces.generate.streams import Streams

_PILOT_REQUESTS = 200_000
_PILOT_STARTS = 4096


@dataclass(slots=True)
class Turns:
    """One row per request, those of one start next to each other and in order."""

    start: Ints
    """Which start a row belongs to."""
    position: Ints
    """Place among the rows of its start, from 0."""
    arrival_s: Floats
    new_tokens: Ints
    answer_tokens: Ints
    think_s: Floats


def make_turns(client: Client, lengths: Lengths, streams: Streams, starts_s: Floats) -> Turns:
    """Draw what follows each start.

    A session's next turn comes when the answer to the one before has ended, which is taken to last
    first_token_s + (tokens - 1) token_s, and the think time has passed.
    """
    counts = draw_whole(client.per_start, streams.of("counts"), len(starts_s))
    first = np.cumsum(counts) - counts
    start = np.repeat(np.arange(len(starts_s)), counts)
    position = np.arange(len(start)) - first[start]
    new_tokens, answers = lengths.draw(streams, len(start))
    think_s = _think_s(client, streams.of("think"), len(start))
    waits_s = think_s + _answer_s(client, answers)
    waits_s[position == 0] = 0.0
    since_s = np.cumsum(waits_s)
    arrival_s = starts_s[start] + since_s - since_s[first][start]
    return Turns(start, position, arrival_s, new_tokens, answers, think_s)


def starts_in(
    client: Client, streams: Streams, rate_scale: float, from_s: float, duration_s: float
) -> Floats:
    """Start times in [from_s, duration_s), in s and in order."""
    rate_per_s = client.starts_per_s * rate_scale
    phases = None
    if client.bursts is not None:
        phases = client.bursts.phases(streams.of("bursts"), from_s, duration_s)
    clock = Clock(rate_per_s, client.curve, phases)
    return start_times(client.any_gaps, clock, streams.of("gaps"), from_s, duration_s)


def expected_requests(client: Client, rate_scale: float, from_s: float, duration_s: float) -> float:
    """How many requests the starts in [from_s, duration_s) give on average."""
    clock = Clock(client.starts_per_s * rate_scale, client.curve)
    first, last = clock.at(np.array([from_s, duration_s]))
    return float(last - first) * mean_count(client.per_start)


def longest_s(client: Client, lengths: Lengths) -> float:
    """How long before the trace a start can come and still reach into it.

    The longest of thousands of pilot starts, the same for every seed: what is missed at time 0 are
    the last turns of the longest of so many.
    """
    if client.session is None and client.group is None:
        return 0.0
    pilots = int(np.clip(_PILOT_REQUESTS / mean_count(client.per_start), 64, _PILOT_STARTS))
    turns = make_turns(client, lengths, Streams(None, "pilot"), np.zeros(pilots))
    return float(turns.arrival_s.max())


def _think_s(client: Client, random: Random, size: int) -> Floats:
    if client.session is not None:
        return draw(client.session.think_s, random, size)
    return np.full(size, 0.0 if client.group is None else client.group.gap_s)


def _answer_s(client: Client, answers: Ints) -> Floats:
    """How long the answer to the row before takes."""
    if client.session is None:
        return np.zeros(len(answers))
    session = client.session
    lasts_s = session.first_token_s + (answers - 1) * session.token_s
    return np.concatenate([[0.0], lasts_s[:-1]])
