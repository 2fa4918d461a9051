"""Run every model over the rates, the speeds of the link, and RotaSched's variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.rotasched.measures import measured
from experiments.rotasched.plot import write_picture
from experiments.rotasched.settings import (
    ARMS,
    LINK_KV_TOKENS,
    LINK_MODEL,
    LINK_RATE_PER_S,
    LINKS_GB_PER_S,
    MAX_STALL_S,
    SWEEPS,
    VARIANT_MODEL,
    VARIANT_RATE_PER_S,
    VARIANTS,
    config_of,
)
from experiments.rotasched.table import page
from experiments.studykit.measures import Numbers
from experiments.studykit.reading import exit_code_of
from experiments.studykit.run_cache import RunCache
from experiments.studykit.seeded_study import SeededStudy
from superinfer.lab.config import Config


def parts(cache: RunCache, seeds: Sequence[int]) -> Numbers:
    """Numbers of all parts."""
    return {
        "sweeps": {sweep.model: _sweep(cache, seeds, sweep.model) for sweep in SWEEPS},
        "links": _links(cache, seeds, MAX_STALL_S),
        "links_no_stall": _links(cache, seeds, 0.0),
        "variants": _variants(cache, seeds),
    }


def _sweep(cache: RunCache, seeds: Sequence[int], model: str) -> Numbers:
    """All arms of a model at all its rates."""
    rates = next(sweep.rates_per_s for sweep in SWEEPS if sweep.model == model)
    configs = {
        f"{name} at {rate:g}": config_of(arm, model, rate)
        for name, arm in ARMS.items()
        for rate in rates
    }
    found = _measured(cache, configs, seeds, model)
    points = {name: [found[f"{name} at {rate:g}"] for rate in rates] for name in ARMS}
    return {"rates_per_s": list(rates), "arms": points}


def _links(cache: RunCache, seeds: Sequence[int], max_stall_s: float) -> Numbers:
    """All arms with little memory, over links of several speeds."""
    configs = {
        f"{name} at {link:g}": config_of(
            arm,
            LINK_MODEL,
            LINK_RATE_PER_S,
            kv_tokens=LINK_KV_TOKENS,
            link_gb_per_s=link,
            max_stall_s=max_stall_s,
        )
        for name, arm in ARMS.items()
        for link in LINKS_GB_PER_S
    }
    found = _measured(cache, configs, seeds, "links")
    points = {name: [found[f"{name} at {link:g}"] for link in LINKS_GB_PER_S] for name in ARMS}
    return {
        "model": LINK_MODEL,
        "rate_per_s": LINK_RATE_PER_S,
        "kv_tokens": LINK_KV_TOKENS,
        "max_stall_s": max_stall_s or None,
        "gb_per_s": list(LINKS_GB_PER_S),
        "arms": points,
    }


def _variants(cache: RunCache, seeds: Sequence[int]) -> Numbers:
    """The rival with one part changed at a time."""
    configs = {
        name: config_of(arm, VARIANT_MODEL, VARIANT_RATE_PER_S) for name, arm in VARIANTS.items()
    }
    found = _measured(cache, configs, seeds, "variants")
    return {"model": VARIANT_MODEL, "rate_per_s": VARIANT_RATE_PER_S, "arms": found}


def _measured(
    cache: RunCache, configs: Mapping[str, Config], seeds: Sequence[int], what: str
) -> dict[str, dict[str, Numbers]]:
    runs = cache.runs(configs, seeds, what)
    return {name: measured(each) for name, each in runs.items()}


STUDY = SeededStudy(
    name="rotasched",
    about="Reproduce the shape of RotaSched's results.",
    seeds=3,
    measure=parts,
    page=page,
    draw=write_picture,
    rests_on=lambda seeds: {"seeds": seeds},
)

if __name__ == "__main__":
    raise SystemExit(exit_code_of(STUDY.main))
