"""The files of ServeGen's clients: what each sends in each window, and its length distributions."""

from __future__ import annotations

import csv
import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from superinfer.errors import InputError
from superinfer.slo_classes import MAX_LENGTH_TOKENS
from traces.fields import field_error, shown
from traces.formats.archive import Member, files_read, members

WINDOW_S = 600.0
"""Length of a window of a trace file."""
TRACE_SUFFIX = "-trace.csv"
DATASET_SUFFIX = "-dataset.json"
SUFFIXES = (TRACE_SUFFIX, DATASET_SUFFIX)

_T = TypeVar("_T")
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_LEAST_SHAPE = {"Gamma": 0.001, "Weibull": 0.05}
"""Below it gaps vary so much that a window may hold any number of requests."""
_COLUMNS = 6
_DICTIONARY = re.compile(r"\{(.*)\}")
_DATASET_EXPECTED = {"": "an object", "input_tokens": "a text", "output_tokens": "a text"}
_PDF_EXPECTED = 'a text like "{12: 0.25, 40: 0.75}" of tokens (1 to 10000000) and probabilities'


@dataclass(slots=True, frozen=True)
class Window:
    """What a client sends in one window: requests per second, and how their gaps vary."""

    rate_per_s: float
    family: str
    """`Gamma` or `Weibull`."""
    shape: float

    @property
    def unit_mean(self) -> float:
        """Mean of the family with this shape and scale 1."""
        return self.shape if self.family == "Gamma" else math.gamma(1 + 1 / self.shape)

    @property
    def gap_cv(self) -> float:
        """Coefficient of variation of the gaps."""
        if self.family == "Gamma":
            return 1 / math.sqrt(self.shape)
        # Rounding may put even gaps, those of a large shape, below 0.
        return math.sqrt(max(0.0, math.gamma(1 + 2 / self.shape) / self.unit_mean**2 - 1))


@dataclass(slots=True, frozen=True)
class Lengths:
    """A distribution of token counts."""

    tokens: Ints
    cumulative: Floats
    """Probability of at most so many tokens; the last one is 1."""

    def draw(self, size: int, random: np.random.RandomState) -> Ints:
        """`size` independent draws."""
        return self.tokens[np.searchsorted(self.cumulative, random.random_sample(size), "right")]

    @property
    def mean(self) -> float:
        """Expected number of tokens."""
        return float(np.diff(self.cumulative, prepend=0.0) @ self.tokens)


class _Dataset(msgspec.Struct):
    input_tokens: str
    output_tokens: str


@dataclass(slots=True)
class LengthTables:
    """The length distributions of one client over time; texts are parsed when they are needed."""

    place: str
    texts: dict[float, _Dataset]
    """Of the windows that have distributions, by start."""
    starts: list[float]
    """Of all windows, in order."""
    _parsed: dict[float, tuple[Lengths, Lengths]] = field(default_factory=dict)

    def at(self, time_s: float) -> tuple[Lengths, Lengths]:
        """Prompt and answer lengths of the window at `time_s`, or of the nearest one with any."""
        position = max(bisect_right(self.starts, time_s) - 1, 0)
        start = self.starts[position]
        if start not in self.texts:
            start = min(self.texts, key=lambda other: (abs(other - start), other))
        if start not in self._parsed:
            texts = self.texts[start]
            self._parsed[start] = (
                self._lengths(start, "input_tokens", texts.input_tokens),
                self._lengths(start, "output_tokens", texts.output_tokens),
            )
        return self._parsed[start]

    def _lengths(self, start: float, name: str, text: str) -> Lengths:
        pairs = _pdf(text, least=0 if name == "output_tokens" else 1)
        if pairs is None:
            where = f"{start:g}.{name}"
            got = f"expected {_PDF_EXPECTED}, got {shown(text)}"
            raise InputError(got, file=self.place, field=where)
        cumulative = np.cumsum(pairs[:, 1])
        # Some published answers have no token, but a request gets one at least.
        tokens = np.maximum(pairs[:, 0].astype(np.int64), 1)
        return Lengths(tokens, cumulative / cumulative[-1])


def _pdf(text: str, least: int) -> Floats | None:
    """Rows of (tokens, probability); None if the text holds no distribution of `least` or more."""
    found = _DICTIONARY.fullmatch(text.strip())
    if found is None:
        return None
    inside = found[1]
    try:
        # JSON has no numbers as keys, but a flat list of them is JSON.
        numbers = msgspec.json.decode(f"[{inside.replace(':', ',')}]", type=list[float])
    except msgspec.DecodeError:
        return None
    if not numbers or len(numbers) != 2 * inside.count(":") or len(numbers) % 2:
        return None
    pairs = np.array(numbers).reshape(-1, 2)
    tokens, chances = pairs.T
    whole = np.all((tokens >= least) & (tokens <= MAX_LENGTH_TOKENS) & (tokens == np.floor(tokens)))
    return pairs if whole and np.all(chances >= 0) and chances.sum() > 0 else None


@dataclass(slots=True)
class Client:
    """One client: its windows with requests, by start, and its lengths if they are known."""

    name: str
    windows: dict[float, Window]
    end_s: float
    """End of its last window, with requests or without."""
    lengths: LengthTables | None


def client_files(folder: Path) -> list[Path]:
    """The files that `read_clients` reads."""
    return files_read(folder, SUFFIXES)


def read_clients(folder: Path) -> list[Client]:
    """The clients of a folder or tar archive, in order of name; else `InputError`.

    At least one of them has length distributions.
    """
    found: dict[str, Member] = {}
    for member in members(folder, SUFFIXES):
        other = found.setdefault(member.name, member)
        if other is not member:
            both = f"{other.place} and {member.place}"
            raise InputError(f"expected one file {member.name}, got {both}", file=str(folder))
    clients = [
        _client(name.removesuffix(TRACE_SUFFIX), member, found)
        for name, member in found.items()
        if name.endswith(TRACE_SUFFIX)
    ]
    if not clients:
        raise InputError("expected files like chunk-0-trace.csv, got none", file=str(folder))
    if all(client.lengths is None for client in clients):
        wanted = "expected length distributions in a file like chunk-0-dataset.json, got none"
        raise InputError(wanted, file=str(folder))
    return clients


def _client(name: str, trace: Member, found: Mapping[str, Member]) -> Client:
    windows: dict[float, Window] = {}
    end_s = 0.0
    for start_s, window in _rows(trace):
        end_s = start_s + WINDOW_S
        if window is not None:
            windows[start_s] = window
    dataset = found.get(name + DATASET_SUFFIX)
    return Client(name, windows, end_s, None if dataset is None else _length_tables(dataset))


def _rows(trace: Member) -> Iterator[tuple[float, Window | None]]:
    """Start and contents of each window; None where the client sends nothing."""
    before_s = -math.inf
    for number, row in enumerate(csv.reader(trace.data.decode(errors="replace").splitlines()), 1):
        if not row:
            continue
        try:
            start_s, window = _row(row)
            if start_s <= before_s:
                raise ValueError(f"start: expected one after {before_s:g}, got {start_s:g}")
        except ValueError as error:
            raise InputError(str(error), file=trace.place, line=number) from None
        before_s = start_s
        yield start_s, window


def _row(row: list[str]) -> tuple[float, Window | None]:
    if len(row) != _COLUMNS:
        columns = "start, rate, CV, family, two parameters"
        raise ValueError(f"expected {_COLUMNS} columns ({columns}), got {len(row)}")
    start_s = _number("start", row[0])
    if start_s % WINDOW_S:
        raise ValueError(f"start: expected a multiple of {WINDOW_S:g} s, got {shown(row[0])}")
    rate_per_s = _number("rate", row[1])
    if rate_per_s == 0:
        return start_s, None
    family = row[3].strip()
    if family not in _LEAST_SHAPE:
        raise ValueError(f"family: expected Gamma or Weibull, got {shown(row[3])}")
    shape = _number("first parameter", row[4])
    if shape < _LEAST_SHAPE[family]:
        least = _LEAST_SHAPE[family]
        raise ValueError(f"first parameter: expected a shape >= {least}, got {shown(row[4])}")
    return start_s, Window(rate_per_s, family, shape)


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}: expected a number >= 0, got {shown(text)}")
    return value


def _length_tables(dataset: Member) -> LengthTables | None:
    """The distributions of a dataset file; None if all of its windows are empty."""
    raws = _decode(dataset, dataset.data, dict[str, msgspec.Raw], "")
    windows = {}
    for start, raw in raws.items():
        try:
            start_s = _number("window", start)
        except ValueError as error:
            raise InputError(str(error), file=dataset.place) from None
        windows[start_s] = _decode(dataset, raw, _Dataset, start)
    texts = {start_s: window for start_s, window in windows.items() if _has_both(window)}
    return LengthTables(dataset.place, texts, sorted(windows)) if texts else None


def _decode(dataset: Member, data: bytes | msgspec.Raw, kind: type[_T], place: str) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError) as error:
        bad = field_error(bytes(data), error, _DATASET_EXPECTED)
        where = ".".join(part for part in (place, bad.field) if part)
        raise InputError(bad.expected, file=dataset.place, field=where) from None


def _has_both(window: _Dataset) -> bool:
    return all(
        text.strip() not in ("", "{}") for text in (window.input_tokens, window.output_tokens)
    )
