"""The load of the comparison: the largest chat rate at which the reference keeps its share."""

from __future__ import annotations

from dataclasses import dataclass, field

from experiments.scenarios.arms import ARMS, MODES, PRIORITY_SWAP
from experiments.scenarios.measures import ATTAINMENT
from experiments.scenarios.settings import KEPT_SHARE, Extent, Setting, config_of
from experiments.studykit.run_cache import RunCache
from superinfer.lab.cli.terminal import say
from superinfer.lab.config import Config
from superinfer.lab.numbers import mean_number
from superinfer.lab.studies.bisect import LoadSearch


@dataclass(slots=True, frozen=True)
class Star:
    """The largest chat rate at which the reference keeps its share."""

    reference: str
    rate_per_s: float | None
    """None if there is no such rate."""
    said: str
    probes: tuple[tuple[float, float], ...] = ()
    """Chat rate and attainment of each load that was tried."""
    other_modes: dict[str, str] = field(default_factory=dict)
    """What the search says of the modes of vLLM that are not the reference."""


def star_of(cache: RunCache, setting: Setting, extent: Extent) -> Star:
    """The load of the comparison.

    With vLLM as reference it is that of the better mode: the second mode is searched only if it
    keeps the share at the load of the first.
    """
    if not setting.vllm_is_reference:
        return _star(PRIORITY_SWAP, _search(cache, setting, PRIORITY_SWAP, extent), {})
    first, second = MODES
    found = _search(cache, setting, first, extent)
    rate = found.load or setting.search_from[0]
    kept = _share_kept(cache, setting, second, rate, extent)
    if kept >= KEPT_SHARE:
        better = _search(cache, setting, second, extent, (rate, 1.1 * rate))
        return _star(second, better, {first: str(found)})
    return _star(first, found, {second: f"keeps {kept:.1%} at that rate"})


def _star(reference: str, found: LoadSearch, others: dict[str, str]) -> Star:
    probes = tuple((probe.load, probe.value) for probe in found.probes)
    return Star(reference, found.load, str(found), probes, others)


def _search(
    cache: RunCache,
    setting: Setting,
    arm: str,
    extent: Extent,
    bounds: tuple[float, float] | None = None,
) -> LoadSearch:
    say(f"{setting.name}: largest chat rate of {ARMS[arm].label}, seeds {extent.seeds}")

    def config_at(rate_per_s: float) -> Config:
        return config_of(setting, ARMS[arm], rate_per_s)

    return cache.largest(
        config_at,
        ATTAINMENT,
        KEPT_SHARE,
        extent.seeds,
        bounds or setting.search_from,
        extent.tolerance,
    )


def _share_kept(
    cache: RunCache, setting: Setting, arm: str, rate_per_s: float, extent: Extent
) -> float:
    config = config_of(setting, ARMS[arm], rate_per_s)
    runs = cache.runs({arm: config}, extent.seeds, f"{setting.name}: the other mode of vLLM")
    return mean_number([run.summary for run in runs[arm]], ATTAINMENT) or 0.0
