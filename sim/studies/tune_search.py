"""A tuning under way: the configuration as it is, and trials in batches.

A trial is a run of a study, one per seed. What a run gives is measured in the objectives; settings
that do not fit together are failed trials.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sim.run import build_engine
from sim.studies.whole_runs import whole_runs
from superinfer.errors import ConfigError, SuperInferError
from superinfer.lab.cli.progress import Report
from superinfer.lab.config import Config
from superinfer.lab.numbers import mean_number
from superinfer.lab.results import Run
from superinfer.lab.studies.axes import Value
from superinfer.lab.studies.study import Study, run_study
from superinfer.lab.studies.tuning import Task, Tuning

ConfigAt = Callable[[Mapping[str, Value]], Config]
"""The configuration with some settings, by their key, laid over it."""


@dataclass(slots=True)
class Search:
    """A tuning under way."""

    config_at: ConfigAt
    trials: int
    """In all, with those of before."""
    seeds: int
    task: Task
    study: Study
    base: list[Run] = field(default_factory=list)
    """Runs of the configuration as it is."""

    def values(self, runs: Sequence[Run]) -> tuple[float, ...]:
        """The objectives, as means over the seeds; ConfigError for one that a run has not."""
        summaries = [run.summary for run in runs]
        found = {key: mean_number(summaries, key) for key in self.task.objectives}
        for key, value in found.items():
            if value is None:
                raise ConfigError(f"no {key}")
        return tuple(value for value in found.values() if value is not None)

    def run(self, tuning: Tuning, report: Report) -> None:
        """The configuration as it is, then batch after batch until all trials have ended."""
        self._run_base(report)
        while (begun := len(tuning.trials())) < self.trials:
            batch = tuning.propose(self.trials)
            before = (begun + 1) * self.seeds
            for params, (values, reason) in zip(
                batch, self._results(begun, batch, self._counted(report, before)), strict=True
            ):
                tuning.add(params, values, reason)

    # -- inside ---------------------------------------------------------------------------------

    def _run_base(self, report: Report) -> None:
        study = replace(self.study, arms={"as it is": self.config_at({})})
        result = run_study(study, self._counted(report, 0))
        for failure in result.failures:
            raise SuperInferError(str(failure))
        self.base = whole_runs(result, "as it is")
        try:
            self.values(self.base)
        except ConfigError as error:
            raise SuperInferError(f"the configuration as it is has {error}") from None

    def _counted(self, report: Report, before: int) -> Report:
        """A report that counts the runs of all batches."""
        total = (self.trials + 1) * self.seeds
        return lambda done, _, running: report(before + done, total, running)

    def _results(
        self, begun: int, batch: Sequence[Mapping[str, Value]], report: Report
    ) -> list[tuple[tuple[float, ...] | None, str]]:
        """Values of each trial of a batch, or None and why; SuperInferError for a run that failed
        through no fault of its settings, of which the database is to know nothing.
        """
        arms: dict[str, Config] = {}
        reasons: dict[str, str] = {}
        names = [f"trial {begun + at}" for at in range(len(batch))]
        for name, params in zip(names, batch, strict=True):
            try:
                config = self.config_at(params)
                build_engine(config)
            except ConfigError as error:  # settings that do not fit together
                reasons[name] = str(error)
            else:
                arms[name] = config
        result = run_study(replace(self.study, arms=arms), report)
        for failure in result.failures:
            if failure.passing:
                raise SuperInferError(f"{failure}; the same command goes on from there")
            reasons[failure.run.arm] = failure.reason
        return [
            (None, reasons[name]) if name in reasons else self._measured(whole_runs(result, name))
            for name in names
        ]

    def _measured(self, runs: Sequence[Run]) -> tuple[tuple[float, ...] | None, str]:
        try:
            return self.values(runs), ""
        except ConfigError as error:
            return None, str(error)
