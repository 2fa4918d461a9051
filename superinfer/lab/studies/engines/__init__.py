"""Where the runs of studies are made: processes of this machine, or a Ray cluster.

An engine is a `StudyEngine`; `engine_of` makes one by its name.
"""

from __future__ import annotations

from superinfer.errors import ConfigError
from superinfer.lab.studies.engines.base import StudyEngine
from superinfer.settings import did_you_mean, is_integer, shown_value

PROCESSES, RAY = "processes", "ray"
ENGINES = (PROCESSES, RAY)


def engine_of(name: str, workers: int = 0, address: str | None = None) -> StudyEngine:
    """An engine by its name; ConfigError where it is not known or not installed.

    `workers` is the number of runs at a time (0: one per core), `address` that of a Ray cluster
    (None: one is started on this machine).
    """
    if not is_integer(workers) or workers < 0:
        raise ConfigError(f"workers: expected an integer >= 0, got {shown_value(workers)}")
    if name == RAY:
        from superinfer.lab.studies.engines.ray import RayTasks, require_ray

        require_ray()
        return RayTasks(address, workers)
    if name != PROCESSES:
        raise ConfigError(
            f"--engine {name}: expected one of {', '.join(ENGINES)}"
            f"{did_you_mean(str(name), ENGINES)}"
        )
    if address is not None:
        raise ConfigError(f"--address {address}: expected --engine {RAY} beside it")
    from superinfer.lab.studies.engines.processes import Processes

    return Processes(workers)
