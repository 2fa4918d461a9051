"""One cluster instead of two: what is sent, what counts as enough, and what the page says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from experiments.consolidation.__main__ import study, write
from experiments.consolidation.measures import capacity, keeps, of_shared
from experiments.consolidation.plot import PICTURE
from experiments.consolidation.settings import (
    BATCH,
    BATCH_USE,
    CHAT,
    CHAT_USE,
    FULL,
    SMALL,
    Size,
    saturated,
    separate,
    shared,
)
from experiments.studykit.record import made_by
from experiments.studykit.run_cache import RunCache
from sim.workload import load_workload
from superinfer.errors import SuperInferError
from superinfer.lab.config import Config
from superinfer.lab.results import Run

CAPACITY = {CHAT: 10.0, BATCH: 3.0}
TINY = Size(8, (1.0, 3.0), 2)


def run(summary: Mapping[str, Any]) -> Run:
    return Run(Path("nowhere"), dict(summary))


def shared_run(gpus: int, ttft_ms: float, tokens_per_s: float) -> Run:
    left = {"load": {"backlog_left": {BATCH: 9}}}
    classes = {
        CHAT: {"p99_ttft_ms": ttft_ms, "slo_attainment": 0.99},
        BATCH: {"output_throughput": tokens_per_s},
    }
    return run({**left, "classes": classes, "replicas": [{"utilisation": 0.9}] * gpus})


class MadeUp:
    """Runs in whose place stand numbers: chat is slow below 6 GPUs, batch makes 250 tokens/s each.

    Two tokens/s more come with every further seed, in every cluster.
    """

    def __init__(self) -> None:
        self.asked: list[int] = []

    def runs(self, configs: Mapping[str, Config], seeds: Sequence[int], what: str) -> Any:
        return {name: [self._run(c, what, name, s) for s in seeds] for name, c in configs.items()}

    def _run(self, config: Config, what: str, name: str, seed: int) -> Run:
        if what == "saturated":
            left = {"load": {"backlog_left": {name: 9}}}
            return run({**left, "request_throughput": CAPACITY[name]})
        gpus = config.run.replicas
        if what == "separate clusters":
            return shared_run(gpus, 200.0, 1200.0 + 2 * seed)
        if what.startswith("shared"):
            self.asked.append(gpus)
        return shared_run(gpus, 4800.0 / gpus - 90.0 * (gpus > 5), 250.0 * gpus + 2 * seed)


def test_the_smallest_shared_cluster_is_found_and_written(tmp_path: Path) -> None:
    cache = MadeUp()
    found = study(cast(RunCache, cache), TINY)
    assert found["rate_per_s"] == {
        CHAT: pytest.approx(CHAT_USE * 10.0 * 4),
        BATCH: pytest.approx(BATCH_USE * 3.0 * 4),
    }
    assert found["answer"] == 6
    assert sorted(set(cache.asked)) == [3, 4, 5, 6]
    write(tmp_path, {"made_by": made_by("a test", profile="none"), **found})
    assert (tmp_path / PICTURE).read_bytes().startswith(b"\x89PNG")
    words = (tmp_path / "results.md").read_text()
    assert "**8 -> 6 GPUs (-25 %)**" in words
    assert "The article claims 32 -> 22 GPUs (-31 %) and +12 % batch throughput." in words
    assert "Simulated" in words
    assert "| shared, `least_loaded` | 6 |" in words


def test_no_shared_cluster_may_be_enough(tmp_path: Path) -> None:
    class Slow(MadeUp):
        def _run(self, config: Config, what: str, name: str, seed: int) -> Run:
            made = super()._run(config, what, name, seed)
            for outcome in made.summary.get("classes", {}).values():
                outcome["p99_ttft_ms"] = 900.0
            return made

    found = study(cast(RunCache, Slow()), TINY)
    assert (found["answer"], found["routers"]) == (None, {})
    write(tmp_path, {"made_by": made_by("a test", profile="none"), **found})
    assert "No shared cluster of up to 8 GPUs keeps both." in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize(
    ("ttft_ms", "tokens_per_s", "enough"),
    [(799.0, 1000.0, True), (800.0, 1000.0, False), (700.0, 991.0, True), (700.0, 989.0, False)],
)
def test_what_is_enough(ttft_ms: float, tokens_per_s: float, enough: bool) -> None:
    batch = [shared_run(4, 0.0, 1000.0)] * 2
    assert keeps(of_shared([shared_run(6, ttft_ms, tokens_per_s)] * 2, batch)) is enough


def test_batch_work_is_compared_by_seed() -> None:
    found = of_shared(
        [shared_run(6, 1.0, 1100.0), shared_run(6, 1.0, 2200.0)],
        [shared_run(4, 1.0, 1000.0), shared_run(4, 1.0, 2000.0)],
    )
    assert found["batch_change"]["values"] == pytest.approx([0.1, 0.1])
    assert found["batch_change"]["low"] == pytest.approx(0.1)
    assert (found["gpus"], found["busy"]) == (6, pytest.approx(0.9))


def test_work_that_ran_out_saturates_nothing() -> None:
    ran_out = run({"load": {"backlog_left": {CHAT: 0}}, "request_throughput": 1.0})
    with pytest.raises(SuperInferError, match="chat: the work was used up"):
        capacity([ran_out], CHAT)


@pytest.mark.parametrize("size", [SMALL, FULL])
def test_the_same_chat_comes_to_both_clusters(size: Size) -> None:
    alone, together = separate(size, CHAT, 12.5), shared(size, 12.5, 5)
    assert alone.workload["clients"]["chat"] == together.workload["clients"]["chat"]
    for key in ("model", "device", "tp", "window_s", "duration_s", "scheduler", "router"):
        assert getattr(alone.run, key) == getattr(together.run, key), key
    assert (alone.run.replicas, together.run.replicas) == (size.each, 5)
    assert separate(size, BATCH, 1.0).run.replicas + alone.run.replicas == size.gpus


def test_chat_alone_has_the_lengths_of_shared_chat() -> None:
    def lengths(config: Config) -> list[tuple[int, str | None]]:
        found = load_workload(config).requests
        return [(r.prompt_tokens, r.session_id) for r in found if r.slo_class.name == CHAT]

    # Other requests are drawn beside it, so only what they are like can be compared.
    alone, together = lengths(separate(TINY, CHAT, 20.0)), lengths(shared(TINY, 20.0, 2))
    mean = [sum(tokens for tokens, _ in each) / len(each) for each in (alone, together)]
    assert mean[0] == pytest.approx(mean[1], rel=0.15)


@pytest.mark.parametrize("name", [CHAT, BATCH])
def test_a_saturated_replica_has_waiting_work_of_one_class(name: str) -> None:
    config = saturated(name, (1.0, 3.0))
    assert config.run.backlog == {name: 64}
    assert {r.slo_class.name for r in load_workload(config).requests} == {name}
