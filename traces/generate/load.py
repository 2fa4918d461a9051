"""Reading a specification: a TOML file or a bundled one, with settings laid over it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superinfer.errors import ConfigError, InputError
from superinfer.request import SLOClass
from superinfer.settings import did_you_mean
from superinfer.slo_classes import PRESETS
from traces.generate.faults import Fault, convert, shown
from traces.generate.spec import RATES, Client, Document
from traces.servegen_files import client_files

SPECS_DIR = Path(__file__).parents[1] / "specs"
_ALTERNATIVES = (RATES, ("tenant", "tenants"), ("lengths", "prompt"), ("lengths", "answer"))
"""Keys of a client of which one replaces the others."""
_WHOLE = {"prompt", "lengths", "servegen"}
"""Keys without one of which a table is no client."""
_TAGS = ("family", "shape")


@dataclass(slots=True, frozen=True)
class Spec:
    """A specification that has been checked."""

    name: str
    duration_s: float
    block_tokens: int
    rate_scale: float
    clients: Mapping[str, Client]
    classes: Mapping[str, SLOClass]
    path: Path
    file: str
    """What an error names."""

    @property
    def folder(self) -> Path:
        """Relative paths start here."""
        return self.path.parent

    @property
    def files(self) -> list[Path]:
        """Its own file, and those that its clients name."""
        lengths = [client.lengths for client in self.clients.values() if client.lengths]
        named = [name for each in lengths for name in (each.trace, each.sharegpt) if name]
        folders = [client.servegen for client in self.clients.values() if client.servegen]
        found = [self.path, *(self.folder / name for name in named)]
        for folder in folders:
            found += client_files(self.folder / folder)
        return found


def bundled_specs() -> tuple[str, ...]:
    """Names of the specifications that ship with the package."""
    return tuple(sorted(path.stem for path in SPECS_DIR.glob("*.toml")))


def load_spec(
    source: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    classes: Mapping[str, SLOClass] | None = None,
) -> Spec:
    """Read a TOML file, or the bundled specification of that name.

    `settings` is a nested mapping laid over the file, key by key; of keys that exclude each other
    (such as `rate_per_s` and `requests`) the settings' one stands, and a table that names its
    `family` or `shape` replaces the file's. `classes` replaces the presets. Raises `InputError` for
    a file that cannot be read, and `ConfigError` for a value, each in one line.
    """
    path = _find(source)
    file = str(path) if path.parent != SPECS_DIR else path.stem
    tables = _read(path, file)
    if "run" in tables and "clients" not in tables:
        expected = "expected a specification of a workload, got a configuration"
        raise InputError(f"{expected} (--config FILE, or --arm FILE to compare it)", file=file)
    known = PRESETS if classes is None else classes
    try:
        _check_clients(tables, settings or {})
        tables = laid_over(tables, settings or {})
        return _spec(tables, known, path, file)
    except Fault as fault:
        given = " (settings)" if _holds(settings or {}, fault.field) else ""
        place = ": ".join(filter(None, (f"{file}{given}", fault.field)))
        raise ConfigError(f"{place}: {fault.text}") from None


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """`below` with the tables of `above` laid over it, key by key."""
    if any(tag in above for tag in _TAGS):
        return dict(above)
    excluded = _excluded(above) if depth == 2 else set()
    merged = {key: value for key, value in below.items() if key not in excluded}
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = laid_over(old or {}, value, depth + 1) if both else value
    return merged


# -- inside ---------------------------------------------------------------------------------------


def _excluded(above: Mapping[str, Any]) -> set[str]:
    """Keys of a client that those of `above` replace."""
    groups = [set(names) for names in _ALTERNATIVES if above.keys() & set(names)]
    return set().union(*groups) - above.keys()


def _find(source: str | Path) -> Path:
    path = Path(source)
    if str(source) in bundled_specs():
        return SPECS_DIR / f"{source}.toml"
    if not path.suffix and not path.exists():
        names = bundled_specs()
        expected = f"expected a TOML file or one of {', '.join(names)}"
        raise InputError(f"{expected}{did_you_mean(str(source), names)}", file=str(source))
    return path


def _read(path: Path, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"expected a readable file, got: {error.strerror}", file=file) from None
    except UnicodeDecodeError:
        raise InputError("expected UTF-8 text", file=file) from None
    except (ValueError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"expected a TOML file, got: {text}", file=file) from None


def _spec(tables: dict[str, Any], classes: Mapping[str, SLOClass], path: Path, file: str) -> Spec:
    document = convert(tables, Document)
    clients = {name: _client(name, table, classes) for name, table in document.clients.items()}
    return Spec(
        name=document.name or path.stem,
        duration_s=document.duration_s,
        block_tokens=document.block_tokens,
        rate_scale=document.rate_scale,
        clients=clients,
        classes={"default": PRESETS["default"], **classes},
        path=path,
        file=file,
    )


def _check_clients(tables: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """A setting for a client that is not there is a slip, unless it is a whole client."""
    there, given = tables.get("clients"), settings.get("clients")
    if not isinstance(there, Mapping) or not isinstance(given, Mapping):
        return
    for name in given.keys() - there.keys():
        if not isinstance(given[name], Mapping) or not given[name].keys() & _WHOLE:
            known = f"{did_you_mean(name, there)}; expected one of {', '.join(there)}"
            raise Fault(f"clients.{name}", f"unknown client{known}")


def _client(name: str, table: Any, classes: Mapping[str, SLOClass]) -> Client:
    if not isinstance(table, Mapping):
        raise Fault(f"clients.{name}", f"expected a table, got {shown(table)}")
    try:
        client = convert(table, Client)
    except Fault as fault:
        raise fault.under(f"clients.{name}") from None
    known = sorted({"default", *classes})
    if client.class_ not in known:
        expected = f"expected one of {', '.join(known)}, got {shown(client.class_)}"
        raise Fault(f"clients.{name}.class", expected + did_you_mean(client.class_, known))
    return client


def _holds(settings: Mapping[str, Any], field: str) -> bool:
    """Whether the settings give the field, or a table around it as a whole."""
    value: Any = settings
    for part in field.replace("[", ".[").split("."):
        if not isinstance(value, Mapping) or part not in value:
            return value is not settings and not isinstance(value, Mapping)
        value = value[part]
    return bool(field)
