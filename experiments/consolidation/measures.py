"""What the runs of the study gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.consolidation.settings import BATCH, CHAT, KEPT, TTFT_MS
from superinfer.errors import SuperInferError
from superinfer.lab.results import Run
from superinfer.lab.studies.intervals import mean_interval

Numbers = dict[str, Any]


def capacity(runs: Sequence[Run], name: str) -> float:
    """Requests/s of one replica that always has work; SuperInferError if it ran out."""
    _check_left(runs, name)
    return float(np.mean([run.summary["request_throughput"] for run in runs]))


def of_chat(runs: Sequence[Run]) -> Numbers:
    """P99 of the wait for a first token, and attainment, of chat."""
    return {
        "p99_ttft_ms": _spread(_of(runs, CHAT, "p99_ttft_ms")),
        "attainment": _spread(_of(runs, CHAT, "slo_attainment")),
    }


def of_batch(runs: Sequence[Run]) -> Numbers:
    """Output tokens/s of batch work in the window."""
    return {"tokens_per_s": _spread(_of(runs, BATCH, "output_throughput"))}


def of_shared(runs: Sequence[Run], batch: Sequence[Run]) -> Numbers:
    """Both of a shared cluster, and how its batch work compares, paired by seed, with that of the
    batch cluster.
    """
    _check_left(runs, BATCH)
    before, after = (np.array(_of(each, BATCH, "output_throughput")) for each in (batch, runs))
    replicas = [each for run in runs for each in run.summary["replicas"]]
    return {
        "gpus": len(runs[0].summary["replicas"]),
        **of_chat(runs),
        **of_batch(runs),
        "batch_change": _spread((after / before - 1).tolist()),
        "busy": float(np.mean([each["utilisation"] for each in replicas])),
    }


def keeps(found: Mapping[str, Any]) -> bool:
    """Whether a shared cluster is large enough, by the means over the seeds."""
    fast = found["p99_ttft_ms"]["mean"] < TTFT_MS
    return bool(fast and found["batch_change"]["mean"] >= KEPT - 1)


# -- inside ---------------------------------------------------------------------------------------


def _check_left(runs: Sequence[Run], name: str) -> None:
    for run in runs:
        if not run.summary["load"]["backlog_left"][name]:
            raise SuperInferError(f"{name}: the work was used up: nothing was saturated")


def _of(runs: Sequence[Run], name: str, key: str) -> list[float]:
    return [float(run.summary["classes"][name][key]) for run in runs]


def _spread(values: Sequence[float]) -> Numbers:
    """Mean, interval and single values over the seeds."""
    interval = mean_interval(np.array(values))
    return {
        "mean": float(np.mean(values)),
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "values": list(values),
    }
