"""Requests drawn from ServeGen's clients: measured arrival and length distributions per client.

Data of "ServeGen: Workload Characterization and Generation of Large Language Model Serving in
Production" (Xiang et al., NSDI 2026; github.com/alibaba/ServeGen). `chunk-N-trace.csv` has a row
per window of 600 s: start, requests per second, CV of the gaps, their family and its two
parameters. `chunk-N-dataset.json` has empirical distributions of the lengths per longer window.

What the rows mean, checked on the 43,206 windows of m-small and deepseek-r1 that have requests:

* rate x 600 is the number of requests in the window;
* Gamma: the shape is 1/CV^2, and shape x scale is the mean gap between the window's requests. It is
  1/rate where they fill the window (median 0.9999 of it) and far less where they came in one burst;
* Weibull: shape and scale of a fit, whose mean is not 1/rate (median 1.2 times that, up to 2,100
  times), and whose CV is not the recorded one (median 0.80 of it).

So a window's family and shape say how gaps vary, and its rate alone says how long they are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from superinfer.errors import ConfigError
from traces.servegen_files import WINDOW_S, Client, LengthTables, Window, read_clients

Draw = tuple[float, int, int, str]
"""Arrival in seconds from 0, input tokens, output tokens, name of the client."""
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LEAST_GAPS = 16


def sample_servegen(
    folder: Path,
    *,
    duration_s: float,
    start_s: float,
    rate_scale: float,
    random: np.random.RandomState,
) -> Iterator[Draw]:
    """Draw the requests of `start_s` to `start_s + duration_s` of the recorded days, by time.

    `folder` holds the `chunk-N-*` files, or is a tar archive of them. In each window a client is a
    stationary renewal process: gaps of the window's family and shape, with mean
    1 / (rate x `rate_scale`), the first cut as by an observer who comes at a random time (Cox,
    "Renewal Theory", 1962, section 5.2). So the expected number of requests is rate x length in
    every window and in every part of one, whatever the variation; no gap is carried from one window
    into the next. A client without a window at a time, or with rate 0, sends nothing.

    Lengths are drawn independently from the distributions of the dataset window in which a request
    arrives, or of the nearest one that has any. A client without a dataset file takes each length
    pair from another client, chosen by the rates of the window. Each client draws from a stream of
    its own, seeded by one draw from `random` and its name: taking a client away leaves the others'
    arrivals as they are. Raises `InputError` for bad files and `ConfigError` for bad arguments.
    """
    _check(duration_s, start_s, rate_scale)
    clients = read_clients(Path(folder))
    last_s = max(client.end_s for client in clients)
    if start_s >= last_s:
        raise ConfigError(f"start_s: expected a time before the end {last_s:g} s, got {start_s:g}")
    base = random.randint(0, 2**32, size=4, dtype=np.uint32)
    senders = [_sender(client, base) for client in clients]
    return _draws(senders, start_s, min(start_s + duration_s, last_s), rate_scale)


def _check(duration_s: float, start_s: float, rate_scale: float) -> None:
    for name, value in (("duration_s", duration_s), ("rate_scale", rate_scale)):
        if not 0 < value < np.inf:
            raise ConfigError(f"{name}: expected a number > 0, got {value:g}")
    if not 0 <= start_s < np.inf:
        raise ConfigError(f"start_s: expected a number >= 0, got {start_s:g}")


@dataclass(slots=True)
class _Sender:
    """A client and its streams of random numbers."""

    client: Client
    gaps: np.random.RandomState
    lengths: np.random.RandomState


def _sender(client: Client, base: NDArray[np.uint32]) -> _Sender:
    # Two streams: lengths that are borrowed must not move the arrivals.
    seeds = [[*base.tolist(), zlib.crc32(client.name.encode()), part] for part in (0, 1)]
    return _Sender(client, *map(np.random.RandomState, seeds))


def _draws(
    senders: Sequence[_Sender], start_s: float, stop_s: float, rate_scale: float
) -> Iterator[Draw]:
    """Window after window, so that only one window's requests are held at a time."""
    window_s = WINDOW_S * (start_s // WINDOW_S)
    while window_s < stop_s:
        begin_s, end_s = max(window_s, start_s), min(window_s + WINDOW_S, stop_s)
        rates = _Rates(senders, window_s)
        draws: list[Draw] = []
        for sender in senders:
            window = sender.client.windows.get(window_s)
            if window is not None:
                times_s = arrival_times(window, rate_scale, end_s - begin_s, sender.gaps)
                draws += _with_lengths(sender, times_s + (begin_s - start_s), window_s, rates)
        draws.sort(key=lambda draw: draw[0])
        yield from draws
        window_s += WINDOW_S


def arrival_times(
    window: Window, rate_scale: float, length_s: float, random: np.random.RandomState
) -> Floats:
    """Arrivals in `[0, length_s)` of the stationary renewal process of a window, in order."""
    mean_s = 1 / (window.rate_per_s * rate_scale)
    times = [np.array([mean_s * _first_gap(window, random)])]
    while times[-1][-1] < length_s:
        expected = (length_s - times[-1][-1]) / mean_s
        size = int(expected + window.gap_cv * expected**0.5) + _LEAST_GAPS
        times.append(times[-1][-1] + mean_s * np.cumsum(_gaps(window, size, random)))
    whole: Floats = np.concatenate(times)
    return whole[: int(np.searchsorted(whole, length_s))]


def _gaps(window: Window, size: int, random: np.random.RandomState) -> Floats:
    """Gaps of mean 1."""
    draw = random.standard_gamma if window.family == "Gamma" else random.weibull
    gaps: Floats = draw(window.shape, size) / window.unit_mean
    return gaps


def _first_gap(window: Window, random: np.random.RandomState) -> float:
    """Time from a random moment to the next arrival, for gaps of mean 1.

    It is a uniform part of a gap that is drawn with a chance proportional to its length: that of a
    Gamma distribution is a Gamma with 1 more in the shape; the k-th power of that of a Weibull
    distribution with shape k is a Gamma with shape 1 + 1/k.
    """
    part = random.random_sample()
    if window.family == "Gamma":
        return float(part * random.gamma(window.shape + 1, 1 / window.shape))
    power = random.gamma(1 + 1 / window.shape)
    return float(part * power ** (1 / window.shape) / window.unit_mean)


class _Rates:
    """The clients whose lengths are known, and their shares of the requests in one window."""

    def __init__(self, senders: Sequence[_Sender], window_s: float) -> None:
        self.tables = [s.client.lengths for s in senders if s.client.lengths is not None]
        windows = [s.client.windows.get(window_s) for s in senders if s.client.lengths is not None]
        rates = np.array([0.0 if window is None else window.rate_per_s for window in windows])
        # None of them sends anything now: each is as good as the other.
        self.shares = rates / rates.sum() if rates.any() else np.full(len(rates), 1 / len(rates))


def _with_lengths(sender: _Sender, times_s: Floats, window_s: float, rates: _Rates) -> list[Draw]:
    size, random, tables = len(times_s), sender.lengths, sender.client.lengths
    if tables is not None:
        pairs = _pairs(tables, window_s, size, random)
    else:
        counts = random.multinomial(size, rates.shares).tolist()
        lent = zip(rates.tables, counts, strict=True)
        parts = [_pairs(table, window_s, count, random) for table, count in lent if count]
        pairs = random.permutation(np.concatenate([*parts, np.empty((0, 2), dtype=np.int64)]))
    inputs, outputs = pairs.T.tolist()
    return list(zip(times_s.tolist(), inputs, outputs, [sender.client.name] * size, strict=True))


def _pairs(tables: LengthTables, window_s: float, size: int, random: np.random.RandomState) -> Ints:
    """`size` rows of prompt and answer tokens."""
    inputs, outputs = tables.at(window_s)
    return np.stack([inputs.draw(size, random), outputs.draw(size, random)], axis=1)
