"""`superinfer-sim suggest-slo`: targets that a machine can keep at a load, found by simulation.

1. Alone: the requests one at a time (closed loop, one under way), by the same scheduler. What they
   get is the floor: no load leaves less.
2. At the load: the workload as it is sent, with the targets that it states.
3. A proposal per class that states targets: what was reached at the quantile, or the floor there,
   and a margin. A class without targets is served in what the others leave; with one it would
   compete with them. So it gets one only if it is asked for, or if no class states any.
4. Checks: the workload again with the proposal in place, since targets change the schedule. A class
   that met it too rarely gets more room, in steps: a scheduler that puts off who is late already
   makes the late ones so late that what these reached is far from what the class can keep.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from sim.commands import read_workload
from sim.notices.before import as_point, say_of_parts, say_of_points, warn_of_notes
from sim.run import build_engine, run_simulation
from sim.studies.suggest_page import (
    attainments,
    classes_toml,
    not_asked,
    page,
    suggestion,
    warnings,
)
from sim.summaries import alone, window_of
from sim.workload import feed_stdin, kept_stdin, load_workload, workload_files
from superinfer.collection import no_collection
from superinfer.costs.shapes import shape_file
from superinfer.errors import ConfigError
from superinfer.lab.cli.terminal import say
from superinfer.lab.config import Config
from superinfer.lab.notices.overload import overload_warning
from superinfer.lab.notices.trust import warnings_of
from superinfer.lab.studies.targets import (
    USUAL,
    ClassOutcome,
    outcomes,
    propose,
    relax,
)
from superinfer.metrics import RunMetrics
from superinfer.outputs import check_writable, replacing
from superinfer.settings import did_you_mean
from traces.printing import print_out, print_table
from traces.readers import files_of
from traces.workload import Workload

MOST_CHECKS = 8
MOST_ROOM = 0.3
"""By which a target gives way after a check at most."""
STAND_INS = "superinfer-sim profiles show says what stands in"
Proposals = dict[str, dict[str, float]]
"""Target by class and kind."""
Outcomes = Mapping[str, ClassOutcome]


@dataclass(slots=True, frozen=True)
class Wish:
    """What is asked for; shares, not per cent."""

    quantile: float = 0.95
    margin: float = 0.2
    attainment: float = 0.95
    classes: tuple[str, ...] = ()
    """Those to find targets for; empty: those that state one, or all if none does."""
    kinds: tuple[str, ...] = ()
    """Which targets; empty: those that a class states, else TTFT and TPOT."""
    out: Path | None = None
    as_json: bool = False
    sources: tuple[Path, ...] = ()
    """Files that the configuration was read from; `out` is none of them."""


@dataclass(slots=True)
class Search:
    """What was run, and what came of it."""

    config: Config
    wish: Wish
    stdin: bytes | None = None
    alone: Outcomes = field(default_factory=dict)
    loaded: Outcomes = field(default_factory=dict)
    checked: Outcomes = field(default_factory=dict)
    """The last check."""
    proposals: Proposals = field(default_factory=dict)
    checks: int = 0
    weak_steps: list[str] = field(default_factory=list)
    """Why the step times of the run at the load are to be taken with care."""
    overload: str = ""
    """Why the waits of that run are those of its length, if it was sent too much."""

    def run(self) -> None:
        """Alone, at the load, then propose and check until every class meets its targets."""
        workload = read_workload(self.config)
        say_of_points(as_point(self.config), workload)
        self._know(workload)
        self.alone = self._simulated(alone(self.config), workload)
        self.loaded = self._simulated(self.config, workload)
        self.proposals = self._first_proposals()
        if self.proposals:
            self._check()

    def short(self) -> list[str]:
        """Classes with a proposal that met it less often than wished in the last check."""
        wanted = self.wish.attainment
        return [name for name in self.proposals if (self.attainment(name) or 0.0) < wanted]

    def attainment(self, name: str) -> float | None:
        """Of a class in the last check."""
        return self.checked[name].attainment() if name in self.checked else None

    def names(self) -> list[str]:
        """The classes that are shown."""
        return [name for name in self.loaded if not self.wish.classes or name in self.wish.classes]

    def asked(self) -> list[str]:
        """Those of them that targets are looked for."""
        stating = [name for name, outcome in self.loaded.items() if outcome.stated()]
        return self.names() if self.wish.classes or not stating else stating

    def class_tables(self) -> dict[str, Any]:
        """`[classes.<name>]`: those of the configuration with the proposals laid over them."""
        tables = {name: dict(table) for name, table in self.config.classes.items()}
        for name, targets in self.proposals.items():
            tables[name] = {**tables.get(name, {}), **targets}
        return tables

    # -- inside ---------------------------------------------------------------------------------

    def _know(self, workload: Workload) -> None:
        known = sorted({request.slo_class.name for request in workload.requests})
        for name in self.wish.classes:
            if name not in known:
                expected = f"expected a class of the trace ({', '.join(known)})"
                raise ConfigError(f"--class {name}: {expected}{did_you_mean(name, known)}")
        if not known:
            raise ConfigError(f"{self.config.run.trace}: expected at least one request, got none")

    def _simulated(self, config: Config, workload: Workload) -> Outcomes:
        result = run_simulation(config, workload)
        metrics = RunMetrics(result.record, window_of(config))
        if config is self.config:
            self.weak_steps = warnings_of(asdict(config.run), result.trust, STAND_INS)
            self.overload = overload_warning(
                result.load, metrics.view.arrival_s, metrics.view.ttft_s
            )
        return outcomes(metrics)

    def _first_proposals(self) -> Proposals:
        found: Proposals = {}
        for name in self.asked():
            outcome, floor = self.loaded[name], self.alone[name]
            kinds = self.wish.kinds or tuple(outcome.stated()) or USUAL
            targets = propose(outcome, floor, kinds, self.wish.quantile, self.wish.margin)
            if targets:
                found[name] = targets
        return found

    def _check(self) -> None:
        """Run with the proposals in place until they hold; they only ever give way."""
        while True:
            self.checks += 1
            config = self._proposed()
            if self.stdin is not None:
                feed_stdin(self.stdin)
            self.checked = self._simulated(config, load_workload(config))
            short = self.short()
            say(f"check {self.checks}: {attainments(self)}")
            if not short or self.checks == MOST_CHECKS:
                return
            wish = self.wish
            for name in set(short) & set(self.checked):
                self.proposals[name] = relax(
                    self.proposals[name],
                    self.checked[name],
                    wish.attainment,
                    wish.quantile,
                    wish.margin,
                    MOST_ROOM,
                )

    def _proposed(self) -> Config:
        """The configuration with the proposals as its classes."""
        config = self.config.with_run(without_slo=False, slo_scale=1.0)
        return replace(config, classes=self.class_tables())


def suggest_command(config: Config, wish: Wish) -> int:
    """Find targets for the classes of a workload, show them and write them; returns the exit code.

    Raises ConfigError for a class that the trace does not have and for settings that cannot run.
    """
    if wish.out is not None:
        run = config.run
        named = (run.device, run.costs, run.believed_costs, shape_file(run.model))
        read_from = [file for each in workload_files(config) for file in files_of(each)]
        inputs = [*named, *wish.sources, *read_from]
        check_writable(wish.out, file=True, inputs=inputs)
    warn_of_notes(config)
    build_engine(config)
    say_of_parts(as_point(config))
    with no_collection():
        search = Search(config, wish, kept_stdin(config))
        search.run()
    if wish.as_json:
        print_out(json.dumps(suggestion(search), indent=2))
    else:
        print_table(page(search))
    for line in not_asked(search):
        say(line)
    for warning in warnings(search):
        say(f"warning: {warning}")
    if wish.out is not None:
        with replacing(wish.out) as staged:
            staged.write_bytes(classes_toml(search))
        say(f"classes in {wish.out}")
    return 0
