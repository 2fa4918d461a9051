"""Small scheduling problems: what both schedulers are given, and what each did with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import Any

BLOCK = 16
STEP_LIMIT = 3000
"""Runs are cut off here: without `scheduler_reserve_full_isl` requests can evict one another for
ever, in the real scheduler as in ours."""


@dataclass(frozen=True)
class Offload:
    """Copies to the host, and how long they take: a copy that starts with a step is over after so
    many more steps.
    """

    host_blocks: int
    eviction_policy: str = "lru"
    offload_prompt_only: bool = True
    store_steps: int = 0
    load_steps: int = 0


@dataclass(frozen=True)
class Settings:
    """The scheduler's configuration, in vLLM's names."""

    num_blocks: int
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 256
    max_model_len: int = 512
    policy: str = "fcfs"
    long_prefill_token_threshold: int = 0
    long_prefill_token_threshold_adaptive: bool = False
    enable_chunked_prefill: bool = True
    scheduler_reserve_full_isl: bool = True
    watermark: float = 0.0
    enable_prefix_caching: bool = True
    async_scheduling: bool = False
    offload: Offload | None = None


@dataclass(frozen=True)
class Job:
    """One request. It comes before the first step that finds `arrival_step` steps done."""

    prompt_tokens: int
    output_tokens: int
    max_tokens: int
    arrival_step: int = 0
    priority: int = 0
    hash_ids: tuple[int, ...] = ()
    """Chained content ids, one per `hash_block_tokens`, the last maybe of less."""
    hash_block_tokens: int = BLOCK


@dataclass
class Step:
    """One step that scheduled something."""

    scheduled: dict[str, int]
    preempted: list[str] = field(default_factory=list)
    """With those of empty steps just before."""
    finished: list[str] = field(default_factory=list)
    free_blocks: int = 0
    """After the decision."""
    host_blocks: int | None = None
    """Blocks that the host has or is about to have, then."""
    loads: dict[str, int] | None = None
    """Blocks of the loads that begin, as with `preempted`."""


@dataclass(frozen=True)
class Case:
    """A configuration and its requests, sorted by arrival."""

    settings: Settings
    jobs: tuple[Job, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        settings = asdict(self.settings)
        if self.settings.offload is None:
            del settings["offload"]
        return {"settings": settings, "jobs": [asdict(job) for job in self.jobs]}

    @staticmethod
    def from_json(table: dict[str, Any]) -> Case:
        """The inverse of `to_json`."""
        jobs = [Job(**{**job, "hash_ids": tuple(job["hash_ids"])}) for job in table["jobs"]]
        settings = dict(table["settings"])
        if "offload" in settings:
            settings["offload"] = Offload(**settings["offload"])
        return Case(Settings(**settings), tuple(jobs))


def name(index: int) -> str:
    """Id of the job at `index`; sorts like the index."""
    return f"r{index:03}"


# -- random cases ---------------------------------------------------------------------------------


class Texts:
    """Chained ids: equal beginnings of prompts get equal ids."""

    def __init__(self) -> None:
        self._ids: dict[tuple[int, int], int] = {}

    def ids(self, words: list[int]) -> tuple[int, ...]:
        """One id for each word, standing for it and all before it."""
        found, parent = [], 0
        for word in words:
            parent = self._ids.setdefault((parent, word), len(self._ids) + 1)
            found.append(parent)
        return tuple(found)


def random_case(rng: Random) -> Case:
    """A case under some of: memory pressure, shared prefixes, priorities, chunking, async."""
    longest = rng.choice([48, 120, 300])
    outputs = rng.choice([6, 40, 90, 150])
    jobs = _random_jobs(rng, longest, outputs)
    widest = max(-(-(job.prompt_tokens + job.output_tokens) // BLOCK) for job in jobs)
    max_num_seqs = rng.choice([2, 4, 8, 16])
    chunked = rng.random() < 0.9
    budget = max(max_num_seqs, rng.choice([16, 33, 64, 100, 256, 512])) if chunked else 512
    settings = Settings(
        num_blocks=1 + widest + rng.choice([0, 0, 1, 2, 3, 4, 6, 9, 13, 30]),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget,
        policy=rng.choice(["fcfs", "priority"]),
        long_prefill_token_threshold=rng.choice([0, 0, 0, 20, 40]),
        long_prefill_token_threshold_adaptive=rng.random() < 0.3,
        enable_chunked_prefill=chunked,
        scheduler_reserve_full_isl=rng.random() < 0.8,
        watermark=rng.choice([0.0, 0.0, 0.0, 0.05, 0.2]),
        enable_prefix_caching=rng.random() < 0.8,
        async_scheduling=rng.random() < 0.5,
    )
    return Case(settings, jobs)


def random_offload_case(rng: Random) -> Case:
    """The same with copies to the host, mostly of texts that come back when the device has lost
    them.
    """
    case = random_case(rng)
    offload = Offload(
        host_blocks=rng.choice([3, 8, 15, 25, 40, 80]),
        eviction_policy=rng.choice(["lru", "arc"]),
        offload_prompt_only=rng.random() < 0.5,
        store_steps=rng.choice([0, 0, 1, 3, 10]),
        load_steps=rng.choice([0, 1, 2, 5, 15]),
    )
    settings = replace(
        case.settings, enable_prefix_caching=True, async_scheduling=False, offload=offload
    )
    if rng.random() < 0.7:
        longest = rng.choice([100, 200])
        jobs = _recurring_jobs(rng, longest)
        widest = max(-(-(job.prompt_tokens + job.output_tokens) // BLOCK) for job in jobs)
        blocks = 1 + widest + rng.choice([0, 1, 2, 3, 5, 8, 13])
        return Case(replace(settings, num_blocks=blocks), jobs)
    return Case(settings, case.jobs)


def _recurring_jobs(rng: Random, longest: int) -> tuple[Job, ...]:
    """Requests over a few texts, each of which takes up one of them from its beginning."""
    texts, arrival, jobs = Texts(), 0, []
    count = rng.choice([2, 4, 6])
    for index in range(rng.randint(4, 24)):
        arrival += rng.choice([0, 0, 1, 3, 8])
        blocks = rng.randint(1, longest // BLOCK)
        start = 1000 * rng.randint(1, count)
        words = [*range(start, start + blocks)]
        tail = rng.choice([0, 0, 1, 7, 16, 30])
        own = 10_000 * (index + 1)
        words += range(own, own - (-tail // BLOCK))
        output = rng.choice([1, 2, 8, 30])
        jobs.append(
            Job(
                prompt_tokens=blocks * BLOCK + tail,
                output_tokens=output,
                max_tokens=output,
                arrival_step=arrival,
                priority=rng.randint(0, 2),
                hash_ids=texts.ids(words),
            )
        )
    return tuple(jobs)


def _random_jobs(rng: Random, longest: int, outputs: int) -> tuple[Job, ...]:
    texts, arrival, jobs = Texts(), 0, []
    hash_tokens = rng.choice([16, 16, 16, 32])
    sharing = rng.choice([0.0, 0.6, 1.0])
    for index in range(rng.randint(2, 14)):
        arrival += rng.choice([0, 0, 0, 1, 2, 9])
        prompt, output = rng.randint(1, longest), rng.randint(1, outputs)
        if rng.random() < 0.3:
            prompt = -(-prompt // BLOCK) * BLOCK  # ends with a block
        jobs.append(
            Job(
                prompt_tokens=prompt,
                output_tokens=output,
                max_tokens=output if rng.random() < 0.5 else output + rng.randint(1, 50),
                arrival_step=arrival,
                priority=rng.randint(0, 2),
                hash_ids=texts.ids(_words(rng, index, -(-prompt // hash_tokens), sharing)),
                hash_block_tokens=hash_tokens,
            )
        )
        if prompt % hash_tokens:  # a last id that covers less is nobody else's
            last = jobs.pop()
            ids = texts.ids(_words(rng, index, 1, 0.0))
            jobs.append(Job(**{**asdict(last), "hash_ids": (*last.hash_ids[:-1], *ids)}))
    return tuple(jobs)


def _words(rng: Random, index: int, count: int, sharing: float) -> list[int]:
    """A beginning from one of two common texts, then the request's own."""
    common = count - rng.choice([0, 0, 1, rng.randint(0, count)]) if rng.random() < sharing else 0
    start, common = rng.choice([0, 0, 1000]), max(0, common)
    own = 10_000 * (index + 1) + (rng.randint(0, 9) * 100)
    return [*range(start, start + common), *range(own, own + count - common)]
