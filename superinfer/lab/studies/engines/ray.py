"""Tasks on a Ray cluster: one that runs already, or one of this machine for the time of a study.

Every machine has the same version of the project installed, and the files that configurations name
(traces, profiles) at the same paths. Results come back as the answers of tasks, so no folder is
shared.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from superinfer.errors import ConfigError, SuperInferError
from superinfer.lab.cli.complaints import first_line
from superinfer.lab.studies.engines.base import ATTEMPTS, TICK_S, Answer, Died, Task, Tick, no_tick

_ANSWER_S = 10.0
"""How long the head of a cluster has to answer."""


def require_ray() -> None:
    """ConfigError that says what to install where Ray is not."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--engine ray: needs Ray; install it with: pip install 'superinfer[ray]'")


@dataclass(slots=True)
class RayTasks:
    """The engine that runs each task as a Ray task of one core."""

    address: str | None = None
    """Such as `auto` or `ray://head:10001`; None: a cluster of this machine alone."""
    workers: int = 0
    """Tasks at a time; 0: as many as the cluster has cores."""
    shares_files: ClassVar[bool] = False
    _in_session: bool = field(default=False, init=False, repr=False, compare=False)
    _ours: bool = field(default=False, init=False, repr=False, compare=False)
    """Whether the connection is one that this engine made."""

    @contextmanager
    def session(self) -> Iterator[None]:
        """As `StudyEngine.session`: the connection stays from one `run` to the next."""
        self._in_session = True
        try:
            yield
        finally:
            self._in_session = False
            self._disconnect()

    def run(
        self, function: Callable[[Task], Answer], tasks: Sequence[Task], tick: Tick = no_tick
    ) -> Generator[tuple[int, Answer | Died], None, None]:
        """As `StudyEngine.run`; SuperInferError where the cluster cannot be reached."""
        if not tasks:
            return
        try:
            ray = self._connected()
            slots = self.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            # A task that dies is tried again by Ray, one that raises is not.
            remote = ray.remote(function).options(num_cpus=1, max_retries=ATTEMPTS - 1)
            yield from _answers(ray, remote, tasks, slots, tick)
        finally:
            if not self._in_session:
                self._disconnect()

    # -- inside ---------------------------------------------------------------------------------

    def _connected(self) -> Any:
        """The module `ray`, connected: by whoever uses it already, or by us."""
        require_ray()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        if not ray.is_initialized():
            self._ours = True
            _connect(ray, self.address, self.workers)
        return ray

    def _disconnect(self) -> None:
        if self._ours:
            import ray

            self._ours = False
            ray.shutdown()


# -- inside ---------------------------------------------------------------------------------------


def _answers(
    ray: Any, remote: Any, tasks: Sequence[Task], slots: int, tick: Tick
) -> Generator[tuple[int, Any], None, None]:
    waiting = list(reversed(range(len(tasks))))
    under_way: dict[Any, int] = {}
    try:
        while waiting or under_way:
            while waiting and len(under_way) < slots:
                number = waiting.pop()
                under_way[remote.remote(tasks[number])] = number
            tick(sorted(under_way.values()))
            ended, _ = ray.wait(list(under_way), num_returns=1, timeout=TICK_S)
            for reference in ended:
                yield under_way.pop(reference), _answer(ray, reference)
    finally:
        for reference in under_way:
            ray.cancel(reference, force=True)


def _answer(ray: Any, reference: Any) -> Any:
    errors = ray.exceptions
    try:
        return ray.get(reference)
    except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError):
        return Died()
    except errors.RayTaskError as error:
        raise error.as_instanceof_cause() from None
    except errors.RayError as error:  # the cluster went away, or has other libraries than we
        raise SuperInferError(f"--engine ray: {first_line(error)}") from None


def _connect(ray: Any, address: str | None, workers: int) -> None:
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        from superinfer.lab.studies.engines.processes import default_workers

        address = "local"  # whatever RAY_ADDRESS says
        options |= {"num_cpus": workers or default_workers(), "include_dashboard": False}
        options |= {"runtime_env": {"env_vars": {"PYTHONPATH": _python_path()}}}
    try:
        _look_for(address)
        ray.init(address=address, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise SuperInferError(f"--engine ray: cannot use {address}: {first_line(error)}") from None


def _look_for(address: str) -> None:
    """OSError where nobody answers at host:port; Ray itself would wait for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S):
            pass


def _python_path() -> str:
    """Where tasks find a checkout that is not installed, and policies that plug in."""
    checkout = str(Path(__file__).parents[4])
    before = os.environ.get("PYTHONPATH")
    return os.pathsep.join((checkout, os.getcwd(), *([before] if before else [])))
