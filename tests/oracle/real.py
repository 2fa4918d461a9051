"""The scheduler of vLLM on a case, without a model or a device.

It is the installed release's own `Scheduler` or `AsyncScheduler`, with its KV-cache manager and
block pool; a namespace stands in for the configuration of the model, and the sampled tokens are
made up here. The loop is that of the release's engine core: plain, or with two batches in flight.
"""

from __future__ import annotations

import hashlib
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import vllm
from vllm.config import CacheConfig, ObservabilityConfig, ParallelConfig, SchedulerConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched import async_scheduler, scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

from oracle.cases import BLOCK, STEP_LIMIT, Case, Job, Settings, Step, name

STOP_TOKEN = 7
_HASH = get_hash_fn_by_name("sha256")
init_none_hash(_HASH)


def identity() -> dict[str, str]:
    """Which scheduler this is."""
    files = {"scheduler.py": scheduler, "async_scheduler.py": async_scheduler}
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
        kv_transfer_config=None,
        kv_events_config=None,
        ec_transfer_config=None,
        speculative_config=None,
        max_in_flight_tokens=None,
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
    return Run(case).steps


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
        depth = 2 if case.settings.async_scheduling else 1
        idle = 0
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
        output = self.scheduler.schedule()
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
        self.scheduler.update_from_output(output, sampled)
        after = {key for key, request in self.requests.items() if request.is_finished()}
        step.finished = sorted(after - before)
