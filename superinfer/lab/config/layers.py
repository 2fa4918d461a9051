"""The layers of a configuration: files, and `--set` settings over them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superinfer.errors import ConfigError, InputError
from superinfer.lab.config.policies import POLICIES, build_policy, policy_class
from superinfer.lab.config.run import run_config
from superinfer.lab.config.toml_files import read_toml
from superinfer.settings import did_you_mean, shown_value, unknown
from superinfer.slo_classes import PRESETS, class_from_table, load_classes

SECTIONS = ("run", "scheduler", "memory", "router", "classes", "workload")
VERSION = 1
"""Of the form of a configuration file."""
MADE_BY = "made_by"
"""Table of a stored configuration that says what made the result beside it; it sets nothing."""

Tables = dict[str, dict[str, Any]]

_BUNDLED = Path(__file__).with_name("scenarios")


@dataclass(slots=True, frozen=True)
class Layers:
    """What is given, by section: files in order, and the settings over them."""

    files: Sequence[tuple[Path, Tables]]
    settings: Tables

    def merged(self, section: str) -> dict[str, Any]:
        """The tables of a section, key by key; the last one to give a key wins."""
        return _merged(self._tables(section))

    def nested(self, section: str) -> dict[str, Any]:
        """The tables of a section, key by key at any depth; the last one to give a key wins."""
        merged: dict[str, Any] = {}
        for table in self._tables(section):
            _lay_over(merged, table)
        return merged

    def policy(self, section: str, chosen: str, notes: list[str]) -> dict[str, Any]:
        """The parameters for the chosen policy, checked file by file; a note says which table is
        left out because its file names another policy.
        """
        fitting = []
        policy_class(section, chosen)
        for file, tables in self.files:
            named, table = tables.get("run", {}).get(section, chosen), tables.get(section, {})
            if named == chosen:
                fitting.append(table)
                with _in_file(file):
                    build_policy(section, chosen, table)
            elif table:
                notes.append(f"{file}: [{section}] is for {named}: not used with {chosen}")
        return _merged([*fitting, self.settings.get(section, {})])

    def classes(self, file: Path | None) -> dict[str, Any]:
        """`[classes.<name>]` with a file of classes below the settings, each class key by key."""
        *layers, given = self._tables("classes")
        if file is not None:
            load_classes(file)  # for its complaints
            layers.append(read_toml(file).get("classes", {}))
        merged: dict[str, Any] = {}
        for layer in (*layers, given):
            _check_classes(layer)
            for name, table in layer.items():
                merged[name] = {**merged.get(name, {}), **table}
        return merged

    def _tables(self, section: str) -> list[dict[str, Any]]:
        layers = [*(tables for _, tables in self.files), self.settings]
        return [layer.get(section, {}) for layer in layers]


def read_files(path: str | Path | Sequence[Path] | None) -> list[tuple[Path, Tables]]:
    """The sections of files, or of bundled configurations by their names."""
    if path is None:
        return []
    one = isinstance(path, str | os.PathLike) or not isinstance(path, Iterable)
    given: list[Any] = [path] if one else [*path]  # type: ignore[misc]
    if not all(isinstance(each, str | os.PathLike) for each in given):
        raise ConfigError(f"expected the path of a TOML file, or several, got {shown_value(path)}")
    files = [_found(Path(file)) for file in given]
    return [(file, _read(file)) for file in files]


def bundled_configs() -> dict[str, Path]:
    """The configurations that ship with the package, by the names that stand for them."""
    return {path.stem: path for path in sorted(_BUNDLED.glob("*.toml"))}


# -- inside ---------------------------------------------------------------------------------------


def _found(file: Path) -> Path:
    """The bundled configuration of that name, unless there is such a file."""
    if len(file.parts) != 1 or file.suffix or file.exists():
        return file
    bundled = bundled_configs()
    if str(file) not in bundled:
        expected = f"expected a TOML file or one of {', '.join(bundled)}"
        raise InputError(f"{expected}{did_you_mean(str(file), bundled)}", file=str(file))
    return bundled[str(file)]


def _read(path: Path) -> Tables:
    """The sections of a file; `[run]`, `[classes]` and the policies it names are checked alone, so
    that a fault is reported with the file.
    """
    tables = read_toml(path)
    with _in_file(path):
        _leave_out_what_sets_nothing(tables)
        for name, table in tables.items():
            if name not in SECTIONS:
                raise ConfigError(unknown(f"[{name}]", name, SECTIONS, "sections are"))
            if not isinstance(table, dict):
                raise ConfigError(f"{name}: expected a table, got {shown_value(table)}")
        run = tables.get("run", {})
        run_config(run)
        for section in POLICIES:
            if section in run:
                policy_class(section, run[section])
        _check_classes(tables.get("classes", {}))
    return tables


def _leave_out_what_sets_nothing(tables: Tables) -> None:
    """Check and remove what a stored configuration says of itself."""
    version: object = tables.pop("version", VERSION)
    if type(version) is not int or version != VERSION:
        raise ConfigError(f"version: expected {VERSION}, got {shown_value(version)}")
    made_by: object = tables.pop(MADE_BY, {})
    if not isinstance(made_by, dict):
        raise ConfigError(f"{MADE_BY}: expected a table, got {shown_value(made_by)}")


@contextmanager
def _in_file(path: Path) -> Iterator[None]:
    """Put the file in front of every ConfigError."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _merged(tables: Iterable[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for table in tables:
        merged |= table
    return merged


def _lay_over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        below[key] = _lay_over(dict(below[key]), value) if both else value
    return below


def _check_classes(tables: Mapping[str, Any]) -> None:
    for name, table in tables.items():
        class_from_table(name, table, PRESETS.get(name, PRESETS["default"]))
