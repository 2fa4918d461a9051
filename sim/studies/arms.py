"""The arms of a comparison: configurations by name, all of one workload."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from superinfer.errors import ConfigError, InputError, SuperInferError
from superinfer.lab.config import Config
from superinfer.schedulers import SCHEDULERS
from traces.loading import is_spec

WORKLOAD_KEYS = (
    "trace",
    "rate_scale",
    "burstiness",
    "slo_scale",
    "concurrency",
    "sessions",
    "backlog",
    "in_flight",
    "duration_s",
    "window_s",
    "limit",
    "spread",
    "skip_bad",
    "hash_block_size",
    "time_unit",
    "without_slo",
)
"""What all arms of a comparison must agree on, beside the classes and the specification."""
ALL = "all"
Arms = dict[str, Config]


def load_arms(
    schedulers: Sequence[str],
    files: Sequence[Path],
    load: Callable[[Path | None, str | None], Config],
    command: str,
) -> Arms:
    """One configuration per scheduler name and per file, two or more, all of the same workload.

    `load` gets the file or None, and the scheduler or None.
    """
    arms: Arms = {}
    for name, file, scheduler in named_arms(schedulers, files, command):
        with in_arm(name):
            arms[name] = load(file, scheduler)
    if len(arms) < 2:
        found = ", ".join(arms) or "none"
        raise ConfigError(f"{command}: expected two or more --schedulers or --arm, got {found}")
    _require_same_workload(arms)
    return arms


def named_arms(
    schedulers: Sequence[str], files: Sequence[Path], command: str
) -> Iterator[tuple[str, Path | None, str | None]]:
    """The name of each arm, its file and its scheduler, one of which is None; each name once.

    `all` stands for every scheduler that comes with us; those that are named beside it come first.
    """
    names = (
        dict.fromkeys(schedulers) | dict.fromkeys(SCHEDULERS) if ALL in schedulers else schedulers
    )
    wanted: list[tuple[str, Path | None, str | None]]
    wanted = [(name, None, name) for name in names if name != ALL]
    wanted += [(file.stem, file, None) for file in files]
    seen = set[str]()
    for name, file, scheduler in wanted:
        if plain_name(name) in seen:
            raise ConfigError(f"{command}: expected different names, got {name!r} twice")
        seen.add(plain_name(name))
        yield name, file, scheduler


@contextmanager
def in_arm(name: str) -> Iterator[None]:
    """Say in which arm of a comparison an error happened."""
    try:
        yield
    except InputError:
        raise  # it names a file
    except SuperInferError as error:
        raise type(error)(f"arm {name}: {error}") from None


def plain_name(name: str) -> str:
    """Name of an arm's folder."""
    return name.replace("/", "-").replace(":", ".").lstrip(".") or "arm"


def _require_same_workload(arms: Arms) -> None:
    (reference, first), *others = arms.items()
    keys = (*WORKLOAD_KEYS, *(("seed",) if is_spec(first.run.trace) else ()))
    for name, config in others:
        for key in keys:
            wanted, found = getattr(first.run, key), getattr(config.run, key)
            if found != wanted:
                expected = f"expected {wanted!r} as in {reference}, got {found!r}"
                raise ConfigError(f"arm {name}: run.{key}: {expected}")
        for section in ("classes", "workload"):
            if getattr(config, section) != getattr(first, section):
                raise ConfigError(f"arm {name}: {section}: expected the same as in {reference}")
