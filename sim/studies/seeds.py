"""The seeds of a study: successive ones, where they make a difference."""

from __future__ import annotations

from collections.abc import Sequence

from superinfer.errors import ConfigError
from superinfer.lab.config import RunConfig
from traces.generate.workload import MAX_SEED
from traces.loading import is_spec

MOST_SEEDS = 10_000
"""Runs of one arm; more are a mistake."""


def check_seeds(run: RunConfig, seeds: int) -> None:
    """Refuse several seeds where they change nothing, or leave what a seed can be."""
    if seeds > MOST_SEEDS:
        raise ConfigError(f"--seeds {seeds}: expected at most {MOST_SEEDS:,}")
    trace, last_seed = run.trace, run.seed + seeds - 1
    if last_seed > MAX_SEED:
        raise ConfigError(f"--seeds {seeds}: expected seeds up to 2**63 - 1, got {last_seed}")
    if seeds > 1 and trace and not is_spec(trace):
        raise ConfigError(
            f"--seeds {seeds}: {trace} is the same for every seed: expected a specification as "
            "trace, such as mixed or a .toml file (superinfer-sim traces generate --help)"
        )


def seeds_from(run: RunConfig, seeds: int) -> Sequence[int]:
    """Successive seeds, the run's own first; none where it is to run once, as it is."""
    return range(run.seed, run.seed + seeds) if seeds > 1 else ()
