"""Columns of numbers, flags and text in Parquet files, without pandas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from superinfer.errors import InputError
from superinfer.lab.cli.complaints import first_line

Columns = Mapping[str, np.ndarray[Any, Any]]


class Lists(NamedTuple):
    """A column of whole numbers with a list in each row."""

    ends: list[int]
    """Of each row's list in `values`; it begins where the one before ends."""
    values: list[int]


def read_columns(path: Path, needed: Iterable[str] = ()) -> dict[str, np.ndarray[Any, Any]]:
    """Columns of a Parquet file as arrays (null numbers as NaN), without pandas; InputError where
    one that is needed is missing.
    """
    table = read_table(path)
    for name in needed:
        if name not in table.column_names:
            raise InputError("expected such a column", file=str(path), field=name)
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}


def write_columns(
    path: Path, columns: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Write columns as Parquet: integers, floats (NaN becomes null), flags, text and `Lists`."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    arrays = [_arrow(column, flags=name == "slo_met") for name, column in columns.items()]
    table = pa.Table.from_arrays(arrays, names=list(columns), metadata=dict(metadata or {}))
    # A dictionary pays for words that repeat; for numbers, most of them distinct, it costs time.
    texts = [name for name, array in zip(columns, arrays, strict=True) if array.type == pa.string()]
    pq.write_table(table, path, compression="zstd", use_dictionary=texts)


def read_table(path: Path) -> Any:
    """The table of pyarrow; InputError where there is none, or it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise InputError("expected a Parquet file here", file=str(path)) from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot read: {first_line(error)}", file=str(path)) from error


# -- inside ---------------------------------------------------------------------------------------


def _arrow(column: np.ndarray[Any, Any] | list[Any] | Lists, *, flags: bool) -> Any:
    """One column, put together from its buffers: `pyarrow.array` would import pandas (0.5 s)."""
    import pyarrow as pa

    if isinstance(column, Lists):
        ends = np.array([0, *column.ends], np.int32)
        values = _arrow(np.array(column.values, np.int64), flags=False)
        return pa.Array.from_buffers(
            pa.list_(pa.int64()), len(column.ends), [None, pa.py_buffer(ends)], children=[values]
        )
    if isinstance(column, list):
        known = _known(column)
        kind = pa.bool_() if flags else pa.string()
        data = [_bits(np.array(column, np.bool_))] if flags else _texts(column)
    elif column.dtype == np.float64:
        known, kind, data = ~np.isnan(column), pa.float64(), [column]
    else:
        known, kind, data = (
            np.ones(column.size, np.bool_),
            pa.int64(),
            [column.astype(np.int64)],
        )
    validity = None if known.all() else pa.py_buffer(_bits(known))
    buffers = [pa.py_buffer(np.ascontiguousarray(part)) for part in data]
    return pa.Array.from_buffers(kind, len(column), [validity, *buffers])


def _bits(flags: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.packbits(flags, bitorder="little")


def _texts(column: list[str | None]) -> list[np.ndarray[Any, Any]]:
    """Offsets and UTF-8 bytes of an Arrow string column."""
    offsets = np.zeros(len(column) + 1, np.int32)
    if column and column.count(column[0]) == len(column):  # all the same, as most columns are
        item = (column[0] or "").encode()
        offsets += np.arange(len(column) + 1, dtype=np.int32) * len(item)
        return [offsets, np.frombuffer(item * len(column), np.uint8)]
    encoded = [item.encode() if item else b"" for item in column]
    np.cumsum(list(map(len, encoded)), out=offsets[1:])
    return [offsets, np.frombuffer(b"".join(encoded), np.uint8)]


def _known(column: list[Any]) -> np.ndarray[Any, Any]:
    """Where a value is given."""
    missing = column.count(None)
    if missing in (0, len(column)):
        return np.full(len(column), not missing, np.bool_)
    return np.array([item is not None for item in column], np.bool_)
