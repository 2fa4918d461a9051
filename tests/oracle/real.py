"""The scheduler of vLLM on a case, without a model or a device.

It is the installed release's own `Scheduler` or `AsyncScheduler`, with its KV-cache manager and
block pool; a namespace stands in for the configuration of the model, and the sampled tokens are
made up here. The loop is that of the release's engine core: plain, or with two batches in flight.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import vllm
from vllm.config import (
    CacheConfig,
    KVTransferConfig,
    ObservabilityConfig,
    ParallelConfig,
    SchedulerConfig,
)
from vllm.distributed.kv_transfer.kv_connector.v1.offloading import scheduler as offloading
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.common import (
    OffloadingConnectorMetadata,
    OffloadingWorkerMetadata,
)
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched import async_scheduler, scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.kv_offload.cpu import manager
from vllm.v1.kv_offload.cpu.policies import arc, lru
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import Request

from oracle.cases import BLOCK, STEP_LIMIT, Case, Job, Offload, Settings, Step, name

logging.getLogger("vllm").setLevel(logging.ERROR)  # it warns of each store that finds no room
STOP_TOKEN = 7
_HASH = get_hash_fn_by_name("sha256")
init_none_hash(_HASH)


PAGE = mmap.PAGESIZE
"""Bytes of a block on the host: those of the block, rounded up to this."""


def identity(offload: bool) -> dict[str, str]:
    """Which scheduler this is, and which connector."""
    files = {"scheduler.py": scheduler, "async_scheduler.py": async_scheduler}
    if offload:
        files |= {"offloading/scheduler.py": offloading, "cpu/manager.py": manager}
        files |= {"cpu/policies/lru.py": lru, "cpu/policies/arc.py": arc}
    return {"vllm": vllm.__version__} | {
        f"sha256 of {file}": hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()
        for file, module in files.items()
    }


class StructuredOutput:
    """Nobody asks for structured output."""

    def should_advance(self, request: Any) -> bool:
        """Never."""
        return False

    def accept_tokens(self, request: Any, tokens: Any) -> bool:
        """Always."""
        return True


def build(settings: Settings) -> Any:
    """The real scheduler of these settings."""
    cache = CacheConfig(block_size=BLOCK, enable_prefix_caching=settings.enable_prefix_caching)
    cache.num_gpu_blocks = settings.num_blocks
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
    blocks = KVCacheConfig(
        num_blocks=settings.num_blocks,
        kv_cache_tensors=[],
        kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
    )
    ahead = settings.async_scheduling
    kind = async_scheduler.AsyncScheduler if ahead else scheduler.Scheduler
    return kind(_config(settings, cache), blocks, StructuredOutput(), BLOCK)


def _config(settings: Settings, cache: CacheConfig) -> Any:
    model = SimpleNamespace(
        max_model_len=settings.max_model_len,
        runner_type="generate",
        is_encoder_decoder=False,
        is_diffusion=False,
        uses_mrope=False,
        supports_multimodal_inputs=False,
        return_sampling_mask=None,
        model="none",
        dtype=torch.float32,
        use_mla=False,
        get_total_num_kv_heads=lambda: 1,
    )
    return SimpleNamespace(
        scheduler_config=SchedulerConfig(
            max_model_len=settings.max_model_len,
            is_encoder_decoder=False,
            max_num_seqs=settings.max_num_seqs,
            max_num_batched_tokens=settings.max_num_batched_tokens,
            policy=settings.policy,  # type: ignore[arg-type]
            long_prefill_token_threshold=settings.long_prefill_token_threshold,
            long_prefill_token_threshold_adaptive=settings.long_prefill_token_threshold_adaptive,
            enable_chunked_prefill=settings.enable_chunked_prefill,
            scheduler_reserve_full_isl=settings.scheduler_reserve_full_isl,
            watermark=settings.watermark,
            async_scheduling=settings.async_scheduling,
        ),
        cache_config=cache,
        model_config=model,
        parallel_config=ParallelConfig(),
        observability_config=ObservabilityConfig(),
        ec_manager_config=SimpleNamespace(get_encoder_cache_manager_obj=lambda: None),
        aux_output_config=SimpleNamespace(enabled=False),
        num_speculative_tokens=0,
        num_lookahead_tokens=0,
        num_prefill_lookahead_tokens=0,
        num_hash_lookahead_tokens=0,
        use_v2_model_runner=False,
        max_concurrent_batches=2 if settings.async_scheduling else 1,
        is_mm_encoder_only=False,
        lora_config=None,
        kv_transfer_config=_transfers(settings.offload) if settings.offload else None,
        kv_events_config=None,
        ec_transfer_config=None,
        speculative_config=None,
        max_in_flight_tokens=None,
    )


def _transfers(offload: Offload) -> KVTransferConfig:
    return KVTransferConfig(
        kv_connector="OffloadingConnector",
        kv_role="kv_both",
        kv_connector_extra_config={
            "cpu_bytes_to_use": offload.host_blocks * PAGE,
            "eviction_policy": offload.eviction_policy,
            "offload_prompt_only": offload.offload_prompt_only,
        },
    )


def make_request(index: int, job: Job) -> Request:
    """A job as vLLM sees it; the tokens of a prompt follow from its content ids."""
    size = job.hash_block_tokens
    tokens = [100 + key * size + place for key in job.hash_ids for place in range(size)]
    return Request(
        name(index),
        tokens[: job.prompt_tokens],
        SamplingParams(
            max_tokens=job.max_tokens, ignore_eos=True, stop_token_ids=[STOP_TOKEN], extra_args={}
        ),
        None,
        arrival_time=float(job.arrival_step),
        priority=job.priority,
        block_hasher=get_request_block_hasher(BLOCK, _HASH, 0),
    )


def run(case: Case) -> list[Step]:
    """Every step of the case that scheduled something."""
    return (OffloadRun(case) if case.settings.offload else Run(case)).steps


class Run:
    """A case under way."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.scheduler = build(case.settings)
        self.requests: dict[str, Request] = {}
        self.given: dict[str, int] = {}
        """Tokens sampled for each request."""
        self.steps: list[Step] = []
        self.in_flight: deque[tuple[Any, Step, Any]] = deque()
        self._skip = 0
        self._preempted: list[str] = []
        self._go()

    def _go(self) -> None:
        case, idle = self.case, 0
        depth = 2 if case.settings.async_scheduling else 1
        while self._more() and len(self.steps) < STEP_LIMIT:
            scheduled = self._schedule()
            idle = 0 if scheduled or self.in_flight else idle + 1
            if idle > len(case.jobs) + 1:
                raise RuntimeError(f"stuck after {len(self.steps)} steps")
            if self.in_flight and (len(self.in_flight) == depth or not scheduled):
                self._update()

    def _more(self) -> bool:
        """Let arrivals in; False at the end. Passes over time in which there is nothing to do."""
        jobs, idle = (
            self.case.jobs,
            not (self.in_flight or self.scheduler.has_unfinished_requests()),
        )
        if idle and len(self.requests) < len(jobs):
            gap = jobs[len(self.requests)].arrival_step - len(self.steps)
            self._skip = max(self._skip, gap)
        while len(self.requests) < len(jobs):
            job = jobs[len(self.requests)]
            if job.arrival_step > len(self.steps) + self._skip:
                break
            request = make_request(len(self.requests), job)
            self.requests[request.request_id] = request
            self.scheduler.add_request(request)
            idle = False
        return not idle

    def _schedule(self) -> bool:
        output = self._last = self.scheduler.schedule()
        self._preempted += output.preempted_req_ids or ()
        tokens = dict(output.num_scheduled_tokens)
        if not tokens:
            return False
        free = self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        step = Step(dict(sorted(tokens.items())), sorted(self._preempted), [], free)
        self._preempted = []
        self.steps.append(step)
        self.in_flight.append((output, step, self._sample(tokens)))
        return True

    def _sample(self, tokens: dict[str, int]) -> Any:
        """What the model gives: nothing inside a prompt, else one token nobody else has."""
        sampled = []
        for key in tokens:
            request = self.requests[key]
            place = self.given.get(key, 0)
            if request.is_prefill_chunk:
                sampled.append([])
                continue
            self.given[key] = place + 1
            index = int(key[1:])
            last = place + 1 >= self.case.jobs[index].output_tokens
            sampled.append([STOP_TOKEN if last else 10_000_000 + index * 10_000 + place])
        names = list(tokens)
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={key: place for place, key in enumerate(names)},
            sampled_token_ids=sampled,
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
        )

    def _update(self) -> None:
        output, step, sampled = self.in_flight.popleft()
        before = {key for key, request in self.requests.items() if request.is_finished()}
        self._report(output, sampled)
        after = {key for key, request in self.requests.items() if request.is_finished()}
        step.finished = sorted(after - before)

    def _report(self, output: Any, sampled: Any) -> None:
        self.scheduler.update_from_output(output, sampled)


class InOrder(set[str]):
    """The requests that ended in a step, gone through in the order of arrival."""

    def __iter__(self) -> Any:
        return iter(sorted(set.__iter__(self)))


class Worker:
    """What the connector's worker would report: a store starts with the step after it was asked
    for, a load with its own, and each is over after so many steps.
    """

    def __init__(self, offload: Offload) -> None:
        self.offload = offload
        self.unsent: list[int] = []
        self.under_way: list[tuple[int, int, str | None]] = []

    def start(self, asked: OffloadingConnectorMetadata, clock: int) -> None:
        """A step begins."""
        stores, self.unsent = self.unsent, list(asked.store_jobs)
        self.under_way += [(clock + self.offload.store_steps, job, None) for job in stores]
        for job, load in asked.load_jobs.items():
            self.under_way.append((clock + self.offload.load_steps, job, load.req_id))

    def report(self, clock: int) -> KVConnectorOutput:
        """What is over when the step of this time is."""
        over = [entry for entry in self.under_way if entry[0] <= clock]
        self.under_way = [entry for entry in self.under_way if entry[0] > clock]
        return KVConnectorOutput(
            finished_recving={request for _, _, request in over if request is not None},
            kv_connector_worker_meta=OffloadingWorkerMetadata(
                completed_jobs={job: 1 for _, job, _ in over}
            ),
        )


class OffloadRun(Run):
    """A case with the real OffloadingConnector, its worker made up."""

    def _go(self) -> None:
        offload = self.case.settings.offload
        assert offload is not None
        self.worker = Worker(offload)
        self._loads: dict[str, int] = {}
        self._clock = 0
        while len(self.steps) < STEP_LIMIT:
            self._arrive()
            if self._schedule():
                self._update()
            elif not (self._changed() or self._jump()):
                break

    def _changed(self) -> bool:
        """Whether a step without work has something follow at once."""
        asked = self._last.kv_connector_metadata
        return bool(self._last.preempted_req_ids or asked.load_jobs or asked.store_jobs)

    def _arrive(self) -> None:
        jobs, self._clock = self.case.jobs, len(self.steps) + self._skip
        while len(self.requests) < len(jobs):
            job = jobs[len(self.requests)]
            if job.arrival_step > self._clock:
                break
            request = make_request(len(self.requests), job)
            self.requests[request.request_id] = request
            self.scheduler.add_request(request)

    def _jump(self) -> bool:
        """Pass over time in which there is nothing to run; False at the end."""
        coming = [entry[0] for entry in self.worker.under_way]
        coming += [job.arrival_step for job in self.case.jobs[len(self.requests) :][:1]]
        if coming:
            self._skip = max(self._skip, min(coming) - len(self.steps))
            self._clock = len(self.steps) + self._skip
            self._report(self._last, self._sample({}))
        return bool(coming)

    def _schedule(self) -> bool:
        self.scheduler.finished_req_ids = InOrder(self.scheduler.finished_req_ids)
        ran = super()._schedule()
        asked = self._last.kv_connector_metadata
        self.worker.start(asked, self._clock)
        for load in asked.load_jobs.values():
            self._loads[load.req_id] = len(load.dst_spec.block_ids)
        if ran:
            host = self.scheduler.connector.connector_scheduler.manager
            self.steps[-1].host_blocks = host._num_chunks - host._get_num_free_chunks()
            self.steps[-1].loads = dict(sorted(self._loads.items()))
            self._loads = {}
        return ran

    def _report(self, output: Any, sampled: Any) -> None:
        sampled.kv_connector_output = self.worker.report(self._clock)
        self.scheduler.update_from_output(output, sampled)
