"""What a run gave to each tenant, and how that compares with what is guaranteed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.fairness.settings import FLOOD_S, FREE, TENANTS
from superinfer.lab.results import Run

TTFT_TARGET_S = 2.0


def measured(runs: Sequence[Run]) -> dict[str, Any]:
    """The means over the seeds, of waits and gaps the worst; None where no seed has a value."""
    found = [_of_run(run) for run in runs]
    return {key: _over_seeds(key, [each[key] for each in found]) for key in found[0]}


def of_bound(run: Run) -> dict[str, float | None]:
    """The largest wait for a first token in the free tier, as a share of what aging allows.

    `of_bound`: the bound of `superinfer/schedulers/rotating/aging.py`, with the longest decode of
    the run as the longest stay. `of_prefill_bound`: without its last term, which is for a device
    on which there is no room. None where nobody waited so long, or nobody is aged.
    """
    if not run.config["scheduler"].get("aging"):
        return {"of_bound": None, "of_prefill_bound": None}
    aged = _aged(run)
    found = [_shares_of_bound(run, aged, row) for row in _rows(aged, FREE)]
    return {
        "of_bound": max((full for full, _ in found), default=None),
        "of_prefill_bound": max((prefill for _, prefill in found), default=None),
    }


# -- inside ---------------------------------------------------------------------------------------


def _of_run(run: Run) -> dict[str, Any]:
    summary = run.summary
    tenants = summary["tenants"]
    found: dict[str, Any] = {
        f"{tenant}.{key}": tenants.get(tenant, {}).get(key)
        for tenant in TENANTS
        for key in ("slo_attainment", "median_ttft_ms", "p99_ttft_ms", "worst_wait_ms")
    }
    found |= {f"{tenant}.asked": _asked(run, tenant) for tenant in TENANTS}
    found |= {f"{tenant}.got": _got(run, tenant) for tenant in TENANTS}
    found |= {f"{tenant}.aged": _aged_share(run, tenant) for tenant in TENANTS}
    found |= {key: summary[key] for key in ("jain_index", "vtc_gap", "output_throughput")}
    return found | of_bound(run)


def _over_seeds(key: str, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    worst = key.endswith(("worst_wait_ms", "vtc_gap", "_bound"))
    return max(known) if worst else float(np.mean(known))


def _in_flood(requests: pd.DataFrame) -> pd.Series[bool]:
    """Whose first token came while requests arrived, after the first aged one could have come."""
    first = requests["first_token_s"]
    return (first >= FLOOD_S / 5) & (first < FLOOD_S)


def _asked(run: Run, tenant: str) -> float:
    """Prompt tokens that a tenant sent while the flood lasted, over all that were computed."""
    requests = run.requests
    came = (requests["arrival_s"] >= FLOOD_S / 5) & (requests["tenant"] == tenant)
    computed = requests.loc[_in_flood(requests), "input_tokens"].sum()
    return float(requests.loc[came, "input_tokens"].sum() / computed)


def _got(run: Run, tenant: str) -> float:
    """Share of the prompt tokens computed while the flood lasted that was a tenant's."""
    requests = run.requests
    inside = _in_flood(requests)
    tokens = requests.loc[inside, "input_tokens"]
    return float(tokens[requests["tenant"] == tenant].sum() / tokens.sum())


def _aged_share(run: Run, tenant: str) -> float:
    """The same of those alone that had waited for longer than their patience."""
    requests, aged = run.requests, _aged(run)
    inside = _in_flood(requests)
    mine = aged[(aged["tenant"] == tenant) & inside[aged.index]]
    return float(mine["input_tokens"].sum() / requests.loc[inside, "input_tokens"].sum())


def _aged(run: Run) -> pd.DataFrame:
    """Requests that waited longer for a first token than the patience with them."""
    scheduler = run.config["scheduler"]
    requests = run.requests
    urgent = (requests["class"] == "paid").to_numpy()
    target_s = np.where(urgent, TTFT_TARGET_S, 0.0)
    patience_s = np.maximum(
        scheduler.get("max_wait_s", 30.0), scheduler.get("max_wait_ttfts", 6.0) * target_s
    )
    found = requests.assign(aged_s=requests["arrival_s"] + patience_s)
    return found[found["first_token_s"] > found["aged_s"]]


def _rows(aged: pd.DataFrame, tenant: str) -> list[Any]:
    return list(aged[aged["tenant"] == tenant].itertuples())


def _shares_of_bound(run: Run, aged: pd.DataFrame, row: Any) -> tuple[float, float]:
    """A wait over what is allowed, in full and without the term for want of room."""
    scheduler, requests = run.config["scheduler"], run.requests
    meanwhile = aged[(aged["aged_s"] < row.first_token_s) & (aged["first_token_s"] > row.aged_s)]
    ours = (meanwhile["tenant"] == row.tenant) | (not scheduler["fairness"])
    mine, rivals = meanwhile[ours & (meanwhile["aged_s"] <= row.aged_s)], meanwhile[~ours]
    own, longest = mine["input_tokens"].sum(), aged["input_tokens"].max()
    work = own + rivals["tenant"].nunique() * (own + 2 * longest)
    ended = requests["first_token_s"]
    inside = (ended > row.aged_s) & (ended <= row.first_token_s)
    rate = requests.loc[inside, "input_tokens"].sum() / (row.first_token_s - row.aged_s)
    patience_s = row.aged_s - row.arrival_s
    prefill_s = patience_s + scheduler["max_wait_s"] + work / (scheduler["aged_share"] * rate)
    ahead = len(mine) + int((rivals["first_token_s"] <= row.first_token_s).sum())
    stay_s = float((requests["finish_s"] - requests["first_token_s"]).max())
    waited_s = row.first_token_s - row.arrival_s
    return float(waited_s / (prefill_s + 2 * ahead * stay_s)), float(waited_s / prefill_s)
