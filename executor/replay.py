"""`superinfer-exec run`: replay a trace on a device and leave a result folder like the simulator's.

The folder has the same files, so every plot and report works on it; `summary.json` says that it is
no simulation, and names device, model and versions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from executor.arrivals import Arrivals
from executor.clocks.timers import SteadyTimer
from executor.clocks.yardstick import require_clock, timer_for
from executor.device import HOST, executor_versions
from executor.driver import Driver
from executor.interrupt import stopping
from executor.ranks.orders import Channel
from executor.ranks.processes import ranks_of
from executor.session import STEP_SIZES, ModelOptions, Session, open_session, out_of_memory
from executor.step_log import StepLog
from executor.workload import answers_of, load_workload, unheeded
from superinfer import COMPILED
from superinfer.costs import CalibratedCost
from superinfer.errors import SuperInferError
from superinfer.events import Sink
from superinfer.lab.cli.complaints import INTERRUPTED
from superinfer.lab.cli.terminal import say
from superinfer.lab.config import Config
from superinfer.lab.config.policy_faults import faults_named
from superinfer.lab.config.released import without_release
from superinfer.lab.notices.beliefs import beliefs_notes, beliefs_of
from superinfer.lab.notices.hybrids import hybrid_note, pair_of
from superinfer.lab.notices.idle_settings import idle_settings
from superinfer.lab.notices.unused_fields import unused_fields
from superinfer.lab.report import write_pages
from superinfer.lab.results import default_folder, summary_json, write_run
from superinfer.metrics import RunMetrics, Window
from superinfer.outputs import check_writable
from superinfer.plan import Plan
from traces.workload import Workload

Summary = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to run and what to do with the result."""

    model: ModelOptions = field(default_factory=ModelOptions)
    out: Path | None = None
    as_json: bool = False
    plots: bool = True
    as_fast_as_possible: bool = False
    """Leave idle time out, in place of waiting for the next arrival."""
    clock: str = "wall"
    """`wall` or `steady` (`timers`)."""


def run_command(config: Config, options: RunOptions) -> int:
    """Run one configuration; returns the exit code."""
    for note in (*config.notes, *unheeded(config)):
        say(f"warning: {note}")
    if hybrid := hybrid_note(config):
        say(f"note: {hybrid}")
    require_clock(options.clock, config.run.device == HOST, config.run.tp)
    check_writable(_folder(config, options))
    workload = load_workload(config)
    for warning in (*workload.warnings, *idle_settings(config, workload.requests)):
        say(f"warning: {warning}")
    if workload.skipped:
        say(f"warning: {config.run.trace}: {workload.skipped_note}")
    with ranks_of(config, options.model) as channel:
        replay = Replay(config, workload, options, channel=channel)
        notes = (*without_release(config.run), *unused_fields(config, workload.requests))
        for note in notes:  # here, beside no mistake
            say(f"note: {note}")
        try:
            with stopping(replay.driver):
                replay.run()
        except SuperInferError:
            replay.rescue()
            raise
    metrics, summary = replay.summary()
    try:
        replay.write(metrics, summary)
    finally:  # also when the folder cannot be written: the run itself is not to be had again
        show(summary, options.as_json)
    return INTERRUPTED if replay.driver.stopped else 0


class Replay:
    """One workload on one device."""

    def __init__(
        self,
        config: Config,
        workload: Workload,
        options: RunOptions,
        sink: Sink | None = None,
        channel: Channel | None = None,
    ) -> None:
        """Loads the model; raises what a user can mend as one line."""
        self.config, self.workload, self.options = config, workload, options
        lengths = workload.output_tokens
        self.session: Session = open_session(
            config, options.model, sink, lambda request: lengths[request.index], channel
        )
        self.timer = timer_for(options.clock, self.session.device.torch, _reference_s(self.session))
        model = self.session.model
        self.answers = answers_of(workload, model.vocab, model.max_model_len, config.run.seed)
        self.log = StepLog()
        self._clock = self.session.real_time(options.as_fast_as_possible, self.timer, self.log)
        arrivals = Arrivals(workload.requests)
        self.driver: Driver = self.session.driver(self.answers, arrivals, self._clock)
        self.wall_s = 0.0
        self._planning_s = 0.0

    def run(self) -> None:
        """To the end of the workload, or until the driver is stopped; from its first arrival on,
        however long after 0 that is.
        """
        engine = self.session.engine
        engine.ask = self._timed(engine.scheduler.plan)
        self._clock.restart(self.workload.requests[0].arrival_s)
        started = time.perf_counter()
        try:
            with (
                faults_named(self.config.run.policies),
                out_of_memory("running a step", STEP_SIZES),
            ):
                self.driver.run()
        finally:
            self.wall_s = time.perf_counter() - started

    def rescue(self) -> None:
        """The run failed: write what has ended, and all else as unfinished. Nothing where a policy
        that broke breaks again on hearing of that: how it broke first is what helps.
        """
        try:
            self.session.engine.close(self.driver.now)
            found = self.summary()
        except (Exception, SystemExit):
            return
        self.write(*found)

    def summary(self) -> tuple[RunMetrics, Summary]:
        """What the run came to."""
        engine, run = self.session.engine, self.config.run
        with faults_named(run.policies):
            record = engine.recorder.build(engine)
        beliefs = beliefs_of([engine.believed])
        if engine.learned is not None:
            record.notes += beliefs_notes(beliefs)
        metrics = RunMetrics(record, Window(*run.window_s) if run.window_s else None)
        return metrics, metrics.summary(
            {
                "wall_s": self.wall_s,
                "scheduler_s": self._planning_s,
                "load": {"model": "open loop"},
                "trust": {**self._trust(), "beliefs": beliefs},
                "run": self._run_block(),
            }
        )

    def write(self, metrics: RunMetrics, summary: Summary) -> None:
        """Write the result folder of what `summary` gave."""
        folder = _folder(self.config, self.options)
        steps = self.log.columns()
        written = write_run(folder, metrics, summary, self.config.resolved(), steps)
        say(f"results in {written}")
        if self.options.plots:
            write_pages(written)
            _say_of_letters(summary)

    # -- inside ---------------------------------------------------------------------------------

    def _timed(self, ask: Callable[..., Plan | None]) -> Callable[..., None]:
        """`ask`, with its time counted."""

        def timed(*arguments: Any) -> None:
            started = time.perf_counter()
            ask(*arguments)
            self._planning_s += time.perf_counter() - started

        return timed

    def _trust(self) -> dict[str, Any]:
        """Times of a device are measured; what schedulers predict with is another matter."""
        return {
            "profile": self.session.device.name,
            "source": "measured on the device",
            "measured_share": 1.0,
            "extrapolated_share": 0.0,
            "left_range": [],
            "family_error": None,
            "host_overhead_origin": "measured",
        }

    def _run_block(self) -> dict[str, Any]:
        engine, model, device = self.session.engine, self.session.model, self.session.device
        sizes, workload, timer = engine.config, self.workload, self.timer
        return {
            **self.config.resolved(),
            **pair_of(self.config),
            "simulated": False,
            "device_name": device.name,
            "dtype": str(model.layout.dtype).removeprefix("torch."),
            "int8_weights": self.options.model.int8,
            "random_weights": self.options.model.random_weights,
            "clock": self.options.clock,
            "idle_time_left_out": self.options.as_fast_as_possible or self.timer.skips_idle,
            "interrupted": self.driver.stopped,
            "compiled_core": COMPILED,
            "opening_s": self.session.opening_s,
            "steps_on_device": self.session.runner.steps,
            "steps_from_graphs": self.session.runner.replayed,
            "kv_blocks": sizes.total_blocks,
            "block_tokens": sizes.block_tokens,
            "block_bytes": sizes.block_bytes,
            "host_blocks": sizes.host_blocks,
            "requests": len(workload.requests),
            "skipped_lines": workload.skipped,
            "raised_max_tokens": workload.raised_max_tokens,
            "profile_sha256": self.session.cost.profile_sha256,
            "versions": executor_versions(),
            **({"yardstick": timer.report()} if isinstance(timer, SteadyTimer) else {}),
        }


def _reference_s(session: Session) -> float:
    """The yardstick's time where the profile that predicts was measured; 0 if it says nothing."""
    profile = session.cost.profile if isinstance(session.cost, CalibratedCost) else None
    return float(profile.yardstick.get("yardstick_s", 0.0)) if profile else 0.0


def _folder(config: Config, options: RunOptions) -> Path:
    """Where the result goes."""
    run = config.run
    return options.out or default_folder(run.trace, f"exec-{run.scheduler}")


def _say_of_letters(summary: Summary) -> None:
    from superinfer.lab.pictures.fonts import letters_note

    if note := letters_note(summary):
        say(f"note: {note}")


def show(summary: Summary, as_json: bool) -> None:
    """The summary on standard output."""
    from traces.printing import print_out, print_table

    if as_json:
        print_out(summary_json(summary))
        return
    from superinfer.lab.tables import summary_table

    print_table(summary_table(summary))
    for note in summary["notes"]:
        say(f"note: {note}")
