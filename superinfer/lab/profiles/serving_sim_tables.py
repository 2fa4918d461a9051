"""The CSV files of LLMServingSim for one model: found, read, and checked value by value."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from superinfer.costs import ModelShape
from superinfer.costs.shapes import canonical_name
from superinfer.errors import ConfigError, InputError
from superinfer.lab.profiles.fits import Points
from superinfer.lab.profiles.measurements import read_csv

if TYPE_CHECKING:
    import pandas as pd

FOLDERS = {"rtxpro6000": "RTXPRO6000"}
"""What the project calls a device."""
TEXTS = ("layer", "regime")
FROM_ONE = ("tokens", "sequences", "activated_experts", "n")
"""Columns that count something of which there is at least one."""
LEAST_COUNTS = 3
"""Counts that a table takes: two ends, and one between them to hold out."""


class Tables:
    """The CSV files of one model; `ranges` collects where measuring ended."""

    def __init__(self, folder: Path, device: str, shape: ModelShape, tp: int) -> None:
        if device not in FOLDERS:
            raise ConfigError(
                f"no measurements of {device!r} are known there; known devices: "
                f"{', '.join(FOLDERS)}"
            )
        self.folder = self._find(folder / FOLDERS[device], shape, tp)
        self.ranges: dict[str, dict[str, list[int]]] = {}

    @staticmethod
    def _find(device: Path, shape: ModelShape, tp: int) -> Path:
        """The folder of a model: whatever its owner, and however its name is spelt."""
        wanted, found = canonical_name(shape.name), {}
        for path in sorted(device.glob("*/*")):
            found[canonical_name(path.name)] = path
        if wanted not in found:
            raise ConfigError(f"{shape.name} was not measured; known there: {', '.join(found)}")
        folder = found[wanted] / "bf16" / f"tp{tp}"
        if not folder.is_dir():
            raise ConfigError(f"{shape.name} was not measured at tp={tp}: no folder {folder}")
        return folder

    @property
    def vllm(self) -> str:
        """The version of vLLM that was measured."""
        path = self.folder.parent / "meta.yaml"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        found = (line.partition(":")[2] for line in lines if line.startswith("vllm_version:"))
        return next(found, "unknown").strip()

    def read(self, name: str, columns: str) -> pd.DataFrame:
        """One of the CSV files: these columns, times above zero, counts that are none below."""
        path = self.path(name)
        table = read_csv(path, columns)
        numbers = [column for column in columns.split() if column not in TEXTS]
        return table.assign(**{column: _numbers(table, column, path) for column in numbers})

    def path(self, name: str) -> Path:
        """Of a CSV file, plain or gzip."""
        paths = [self.folder / f"{name}.csv", self.folder / f"{name}.csv.gz"]
        return next((path for path in paths if path.is_file()), paths[0])

    def has(self, file: str, name: str) -> bool:
        """Whether a layer was measured at all."""
        return bool((self.read(file, "layer").layer == name).any())

    def layer(self, file: str, name: str, axis: str) -> Points:
        """Seconds of one layer over an axis; where a count was measured twice, the median."""
        table = self.read(file, f"layer {axis} time_us")
        medians = table[table.layer == name].groupby(axis).time_us.median()
        points = Points(medians.index.to_numpy(float), medians.to_numpy(float) * 1e-6)
        self.require(len(points.x), file, f"rows of {name} at {LEAST_COUNTS} or more {axis}")
        return points

    def require(self, found: int, file: str, what: str) -> None:
        """InputError that names the file, unless there are counts enough to fit and to hold out."""
        if found < LEAST_COUNTS:
            raise InputError(f"expected {what}, got {found}", file=str(self.path(file)))

    def end(self, kernel: str, axis: str, points: Points) -> None:
        """Remember where the measurements of a kernel ended."""
        self.ranges[kernel] = {axis: [int(points.x[0]), int(points.x[-1])]}


def _numbers(table: pd.DataFrame, column: str, path: Path) -> pd.Series:
    """A column as finite numbers of at least what it can be; the first that is none is named."""
    import pandas as pd

    time = column.endswith("_us")
    found = pd.to_numeric(table[column], errors="coerce").astype(float)
    least = 1.0 if column in FROM_ONE else 0.0
    good = np.isfinite(found) & ((found > 0.0) if time else (found >= least))
    if good.all():
        return found
    row = int(np.argmin(np.asarray(good)))
    expected = "expected times > 0 (us)" if time else f"expected a number from {least:.0f}"
    got = f"{expected}, got {table[column].iloc[row]}"
    raise InputError(got, file=str(path), line=row + 2, field=column)
