"""Which runs a caller means: a run, a path, a list or a mapping of them, and arms of seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from superinfer.errors import ConfigError, InputError
from superinfer.lab.pictures.data import PlotData
from superinfer.lab.results import Run, load_run

Source = Run | Path | str
Sources = Source | Sequence[Source] | Mapping[str, Source]
Arms = Sequence[Source] | Mapping[str, Source | Sequence[Source]]


def run_of(source: object) -> Run:
    """The run itself, or the one that is stored in a folder.

    ConfigError for anything else, such as the seeds of an arm.
    """
    if not isinstance(source, Source):
        raise ConfigError(_no_run(source))
    return source if isinstance(source, Run) else load_run(source)


def named_runs(runs: Sources) -> dict[str, Run]:
    """Runs by name: the names given, or those of their folders, as far up as they differ."""
    if isinstance(runs, Mapping):
        return {name: run_of(source) for name, source in runs.items()}
    loaded = [run_of(source) for source in _each(runs)]
    if not loaded:
        raise ConfigError("expected at least one run")
    folders = [run.folder.absolute().parts[1:] for run in loaded]
    for depth in range(1, max(map(len, folders)) + 1):
        names = ["/".join(parts[-depth:]) for parts in folders]
        if len(set(names)) == len(names):
            return dict(zip(names, loaded, strict=True))
    raise ConfigError(f"expected different runs, got {loaded[0].folder} more than once")


def arms_of(runs: Sources | Arms) -> dict[str, list[Run]]:
    """Runs by arm, one per seed; ConfigError for an arm of anything else."""
    if not isinstance(runs, Mapping):
        return {name: [run] for name, run in named_runs(runs).items()}
    return {name: _seeds_of(name, each) for name, each in runs.items()}


def plot_data_of(runs: Sources) -> dict[str, PlotData]:
    """What pictures need of each run, under its name."""
    return {
        name: replace(PlotData.of_run(run), name=name) for name, run in named_runs(runs).items()
    }


def _seeds_of(name: str, given: object) -> list[Run]:
    """The runs of an arm, whose name is told where they are none."""
    try:
        return [run_of(each) for each in _each(given)]
    except InputError:
        raise  # it names a folder
    except ConfigError as error:
        raise ConfigError(f"arm {name}: {error}") from None


def _each(runs: object) -> Iterable[object]:
    """What a list holds, or the one thing that is no list."""
    return runs if isinstance(runs, Iterable) and not isinstance(runs, Source | Mapping) else [runs]


def _no_run(source: object) -> str:
    several = " (one run of an arm with several seeds)" if isinstance(source, Sequence) else ""
    return f"expected a run, or the path of its folder{several}, got {type(source).__name__}"
