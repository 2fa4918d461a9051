"""The parts of a simulation that can be wrong, and what a configuration is with one of them off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from superinfer.costs import CalibratedCost, StepCost
from superinfer.costs.profile import Profile
from superinfer.errors import ConfigError
from superinfer.lab.config import Config
from superinfer.lab.profiles.build import save_profile
from superinfer.lab.profiles.scale import with_host, with_kernels, with_links

HOST, LINKS, LENGTHS, BURSTINESS = "host", "links", "length estimate", "burstiness"
NOT_KERNELS = (HOST, LINKS, LENGTHS, BURSTINESS)

Vary = Callable[[Config, float, Path], Config]
"""The configuration with a part multiplied; the profile that this takes is written to the path."""


def variations(cost: StepCost) -> dict[str, Vary]:
    """Every part that can be varied; ConfigError for a cost model that is no profile."""
    if not isinstance(cost, CalibratedCost):
        raise ConfigError(
            f"run.costs: expected a profile, got {cost.origin.profile}: only a profile has kernels "
            "(superinfer-sim profiles list)"
        )
    profile = cost.profile
    return {
        **{name: partial(_kernel, profile, name) for name in profile.kernels},
        HOST: partial(_host, profile),
        LINKS: partial(_links, profile),
        LENGTHS: _lengths,
        BURSTINESS: _burstiness,
    }


# -- inside ---------------------------------------------------------------------------------------


def _kernel(profile: Profile, name: str, config: Config, by: float, path: Path) -> Config:
    return _with_profile(config, with_kernels(profile, {name: by}), path)


def _host(profile: Profile, config: Config, by: float, path: Path) -> Config:
    given = {
        name: value * by
        for name in ("host_step_ms", "host_per_sequence_us")
        if (value := getattr(config.run, name)) is not None
    }
    return _with_profile(config.with_run(**given), with_host(profile, by), path)


def _links(profile: Profile, config: Config, by: float, path: Path) -> Config:
    given = config.run.host_link_gb_per_s
    if given is not None:  # the profile still says how long a copy takes to begin
        config = config.with_run(host_link_gb_per_s=given / by)
    return _with_profile(config, with_links(profile, by), path)


def _with_profile(config: Config, profile: Profile, path: Path) -> Config:
    save_profile(profile, path)
    return config.with_run(costs=str(path))


def _lengths(config: Config, by: float, _: Path) -> Config:
    """Of a scheduler that estimates lengths; for any other the same configuration."""
    known = getattr(config.build_scheduler(), "length_scale", None)
    if known is None:
        return config
    return replace(config, scheduler={**config.scheduler, "length_scale": known * by})


def _burstiness(config: Config, by: float, _: Path) -> Config:
    return config.with_run(burstiness=config.run.burstiness * by)
