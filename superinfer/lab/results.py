"""Result folders: write one atomically, and read it back."""

from __future__ import annotations

import json
import math
import os
import shutil
import tomllib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from superinfer.errors import ConfigError, InputError
from superinfer.lab.cli.complaints import first_line
from superinfer.lab.columns import Columns, read_columns, read_table, write_columns
from superinfer.lab.config.layers import MADE_BY, VERSION
from superinfer.lab.itl import itl_table
from superinfer.lab.other_folders import path_of, what_lies_in
from superinfer.lab.summary_form import check_summary
from superinfer.metrics import RunMetrics, Window
from superinfer.metrics.tokens import Bools
from superinfer.outputs import one_line_errors
from superinfer.pipes import refuse_pipe
from superinfer.records.run import Floats, Timeline
from superinfer.settings import shown_value

if TYPE_CHECKING:
    import pandas as pd

SUMMARY, CONFIG = "summary.json", "config.toml"
REQUESTS, TIMELINE, ITL = "requests.parquet", "timeline.parquet", "itl.parquet"
STEPS = "steps.parquet"
"""Of a device's run alone."""
NEEDED: Mapping[str, tuple[str, ...]] = {
    REQUESTS: (
        *("request_id", "tenant", "class", "arrival_s", "queue_s", "ttft_ms", "tpot_ms", "e2el_ms"),
        *("max_itl_ms", "input_tokens", "output_tokens", "recomputed_tokens", "preemptions"),
        *("rotations", "state", "reject_reason", "slo_met"),
    ),
    TIMELINE: ("t_s", "waiting", "running", "referenced_blocks", "cached_blocks", "host_blocks"),
    ITL: ("class", "gap_ms", "weight"),
}
"""Columns that pages and pictures are made of."""

_SIZES = ("total_blocks", "block_tokens", "block_bytes")


@dataclass
class Run:
    """A stored result folder. The tables are read when they are first asked for."""

    folder: Path
    summary: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    _stored: dict[str, Columns] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.name

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per request, in order of arrival: the columns of `requests.parquet`.

        Times of the run in s from its beginning (`arrival_s`, `first_token_s`, `finish_s`) or as
        durations (`queue_s`; `ttft_ms`, `tpot_ms`, `e2el_ms`, `max_itl_ms` in ms; NaN where there
        is none), counts of tokens and bytes, `state`, and `slo_met` (True, False, or NA for a
        request without targets). `docs/formats.md` lists them. InputError if the file is missing.
        """
        return _frame(self.folder / REQUESTS)

    @cached_property
    def timeline(self) -> pd.DataFrame:
        """State of the replica over time, at most some thousand samples.

        `t_s`, the requests `waiting` and `running`, KV blocks of the device held by requests
        (`referenced_blocks`) and kept for reuse (`cached_blocks`), those on the host
        (`host_blocks`), and sums since the beginning: `rotations`, `h2d_bytes`, `d2h_bytes`.
        `attrs` holds the sizes that turn blocks into bytes. InputError if the file is missing.
        """
        return _frame(self.folder / TIMELINE)

    @cached_property
    def itl(self) -> pd.DataFrame:
        """Times between tokens by `class`, ascending: `gap_ms`, and in `weight` how many gaps each
        row stands for. InputError if the file is missing.
        """
        return _frame(self.folder / ITL)

    @cached_property
    def steps(self) -> pd.DataFrame:
        """Steps of a device's run in their order: `start_s` and `end_s` of the run, and what each
        computed (`decodes`, their `context_tokens`, and lists of `chunk_tokens` and
        `chunk_context_tokens`); `waited_bytes` had to be copied or rewritten before it could begin.
        InputError if the file is missing, as it is of a simulated run.
        """
        return _frame(self.folder / STEPS)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """`total_blocks`, `block_tokens` and `block_bytes`, stored beside the timeline."""
        return read_sizes(self.folder / TIMELINE)

    def columns(self, table: str) -> Columns:
        """`requests`, `timeline` or `itl` as arrays: of its frame if that was read or set, else of
        its file, which needs no pandas.
        """
        if table in vars(self):
            frame: pd.DataFrame = getattr(self, table)
            return {name: _values(frame[name]) for name in frame.columns}
        if table not in self._stored:
            file = f"{table}.parquet"
            self._stored[table] = read_columns(self.folder / file, NEEDED[file])
        return self._stored[table]


def measured_window(summary: Mapping[str, Any]) -> Window | None:
    """The part of a run that was measured; None for all of it."""
    found = (summary.get("load") or {}).get("window_s")
    return Window(float(found[0]), float(found[1])) if found else None


def measured_rows(summary: Mapping[str, Any], arrival_s: Floats) -> Bools:
    """Mask of the requests that the summary counts: those that arrived in the window."""
    window = measured_window(summary)
    return np.ones(arrival_s.size, np.bool_) if window is None else window.holds(arrival_s)


def default_folder(
    trace: str, scheduler: str, now: datetime | None = None, root: Path = Path("runs")
) -> Path:
    """`runs/<trace>-<scheduler>-<time>`, the trace without folders and extensions."""
    stem = Path(trace).name
    for extension in (".gz", ".jsonl", ".json", ".csv"):
        stem = stem.removesuffix(extension)
    when = (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
    plain = scheduler.replace(":", ".").replace("/", "-")
    return root / f"{stem or 'trace'}-{plain}-{when}"


def write_run(
    folder: Path | str,
    metrics: RunMetrics,
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    steps: Mapping[str, Any] | None = None,
) -> Path:
    """Write a result folder, whole or not at all, and return where it went.

    A folder that exists already is never touched: the name then gets `-2`, `-3` and so on. `steps`
    are the columns of `steps.parquet`, where somebody kept a record of them.
    """
    folder = path_of(folder, "a result folder")
    with one_line_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        staged = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            staged.mkdir()
            _write_files(staged, metrics, summary, config)
            if steps is not None:
                write_columns(staged / STEPS, steps)
            return _settle(staged, folder)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def load_run(folder: Path | str) -> Run:
    """Read the summary and the settings of a result folder.

    Its tables are read when they are first asked for. Raises InputError where `summary.json` is
    missing, of another version or not of its form, or one of the two cannot be read.
    """
    folder = path_of(folder, "a result folder")
    summary = _read(folder / SUMMARY, json.loads)
    check_summary(summary, folder / SUMMARY)
    config = _read(folder / CONFIG, tomllib.loads) if (folder / CONFIG).exists() else {}
    settings = {key: value for key, value in config.items() if key not in ("version", MADE_BY)}
    return Run(folder, summary, settings)


def summary_json(summary: Mapping[str, Any]) -> str:
    """The text of `summary.json`: ASCII, keys in order, null for what JSON has no number for."""
    return json.dumps(_json_ready(summary), indent=2, allow_nan=False)


def settings_toml(config: Mapping[str, Any]) -> str:
    """Resolved settings as the text of a configuration file."""
    import tomli_w

    return tomli_w.dumps(_without_nulls(config))


def read_sizes(path: Path) -> dict[str, int]:
    """`total_blocks`, `block_tokens` and `block_bytes` as stored beside a timeline."""
    stored = read_table(path).schema.metadata or {}
    return {name: int(stored.get(name.encode(), 0)) for name in _SIZES}


def _write_files(
    folder: Path,
    metrics: RunMetrics,
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
) -> None:
    (folder / SUMMARY).write_text(summary_json(summary) + "\n", encoding="ascii")
    stored = settings_toml({**_made(summary), **config})
    (folder / CONFIG).write_text(stored, encoding="utf-8", newline="\n")
    record = metrics.record
    write_columns(folder / REQUESTS, metrics.request_columns())
    timeline = {f.name: getattr(record.timeline, f.name) for f in fields(Timeline)}
    sizes = {name: str(getattr(record, name)) for name in _SIZES}
    write_columns(folder / TIMELINE, timeline, sizes)
    write_columns(folder / ITL, dict(itl_table(metrics)))


def _made(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a stored configuration says beside its settings: its form, and what made the result."""
    run = summary.get("run") or {}
    made_by = {**run.get("versions", {}), "profile_sha256": run.get("profile_sha256")}
    return {"version": VERSION, MADE_BY: made_by}


def _frame(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa  # type: ignore[import-untyped]

    table = read_table(path)
    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.bool_(): pd.BooleanDtype()}.get)
    stored = table.schema.metadata or {}
    frame.attrs = {name: int(stored[name.encode()]) for name in _SIZES if name.encode() in stored}
    return frame


def _values(column: pd.Series[Any]) -> np.ndarray[Any, Any]:
    """A column of a frame as `read_columns` gives it: None where a flag or a text is missing."""
    values: np.ndarray[Any, Any] = column.to_numpy()
    if values.dtype == object:
        values = values.copy()
        values[column.isna().to_numpy()] = None
    return values


def _settle(staged: Path, folder: Path) -> Path:
    """Rename `staged` to the first of `folder`, `folder-2`, ... that is free."""
    target, number = folder, 1
    while True:
        try:
            if target.exists():
                raise FileExistsError(target)
            return staged.rename(target)
        except OSError:
            if not target.exists():
                raise
        number += 1
        target = folder.with_name(f"{folder.name}-{number}")


def _read(path: Path, parse: Any) -> Any:
    refuse_pipe(path)
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        reason = what_lies_in(path.parent, path.name)
        raise InputError(f"expected a result file here{reason}", file=str(path)) from None
    except NotADirectoryError:
        reason = what_lies_in(path.parent, path.name)
        raise InputError(f"expected a result folder{reason}", file=str(path.parent)) from None
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror or error}", file=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"cannot read: {first_line(error)}", file=str(path)) from error


def _json_ready(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(item) for item in value]
    value = _plain(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: object) -> object:
    """A setting as files can hold it: numpy scalars become numbers and paths become text."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, str | int | float):
        return value
    kind = type(value).__name__
    raise ConfigError(f"cannot store a {kind} in a result folder: {shown_value(value)}")


def _without_nulls(value: Any) -> Any:
    """TOML has no null: a setting that is None is left out."""
    if isinstance(value, Mapping):
        return {str(key): _without_nulls(v) for key, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(item) for item in value if item is not None]
    return _plain(value)
