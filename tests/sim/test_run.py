"""From a configuration to a record: sizes, overrides, and that nothing is lost on the way."""

from __future__ import annotations

import gc
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from one_line import error_of
from public_data import REPOSITORY

from sim.commands import RunOptions, load_workload, run_and_write
from sim.run import build_engine, run_simulation
from superinfer.costs import (
    DEFAULT_HOST,
    LargestStep,
    build_cost,
    kv_capacity_blocks,
    load_device,
    load_shape,
)
from superinfer.errors import ConfigError, StuckError
from superinfer.lab.config import load_config
from superinfer.lab.results import load_run
from superinfer.metrics import summarise

SAMPLE = str(REPOSITORY / "traces/samples/mixed.jsonl")
RIVALS = ("edf", "vtc", "qoserve", "fastserve", "andes", "flexgen")
SCHEDULERS = ("vllm", "fcfs", "priority", *RIVALS)
SAMPLE_SETTINGS = ((), ("run.kv_blocks=400",), ("run.prefix_caching=true",))
ENDINGS = ("finish", "reject", "fail", "cancel")


def few(requests: int = 40, *settings: str, **run: Any) -> Any:
    return load_config(None, settings, trace=SAMPLE, limit=requests, **run)


def endings_of(config: Any) -> tuple[Counter[str], Counter[str], Any]:
    """How often each request ended, by which kind of event, and the result."""
    workload = load_workload(config)
    per_request: Counter[str] = Counter({r.request_id: 0 for r in workload.requests})
    kinds: Counter[str] = Counter()

    def sink(event: tuple[Any, ...]) -> None:
        if event[1] in ENDINGS:
            per_request[event[2]] += 1
            kinds[event[1]] += 1

    return per_request, kinds, run_simulation(config, workload, sink)


def every_request_ends_once(config: Any) -> Counter[str]:
    per_request, kinds, result = endings_of(config)
    assert set(per_request.values()) == {1}
    assert kinds["fail"] == kinds["cancel"] == 0
    record = result.record.table
    states = Counter(zip(record.state, record.reject_reason, strict=True))
    assert sum(states.values()) == len(per_request)
    for state, reason in states:
        assert (state, bool(reason)) in {("finished", False), ("rejected", True)}
    return kinds


# -- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheduler", "block_tokens"), [("vllm", 16), ("fcfs", 32)])
@pytest.mark.parametrize("tp", [1, 2])
def test_sizes_come_from_memory_weights_and_activations(
    scheduler: str, block_tokens: int, tp: int
) -> None:
    engine, cost = build_engine(few(scheduler=scheduler, tp=tp))
    shape, device = load_shape("llama-3.1-8b"), load_device("a100-80g")
    sizes = engine.config
    assert sizes.block_tokens == block_tokens
    assert cost.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2 // tp
    assert sizes.block_bytes == block_tokens * cost.kv_bytes_per_token
    step = LargestStep(512 if scheduler == "vllm" else 2048, 256)
    assert sizes.total_blocks == kv_capacity_blocks(shape, device, tp, block_tokens, 0.9, step=step)
    assert sizes.host_blocks == 4 * 2**30 // sizes.block_bytes
    assert (sizes.max_model_len, sizes.layers) == (131_072, 32)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_share_of_free_memory_is_the_schedulers(share: float) -> None:
    settings = [f"scheduler.free_gpu_memory_fraction={share}", "scheduler.tokens_per_block=64"]
    settings += ["run.gpu_memory_utilization=0.3"]  # not asked
    sizes = build_engine(few(1, *settings, scheduler="tensorrt_llm"))[0].config
    shape, device = load_shape("llama-3.1-8b"), load_device("a100-80g")
    assert sizes.block_tokens == 64
    step = LargestStep(8192, 2048)
    assert sizes.total_blocks == kv_capacity_blocks(shape, device, 1, 64, 1.0, share, step)


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ((), 512),
        (("run.prefix_caching=true",), 131_072),
        (("run.prefix_caching=true", "run.max_model_len=4096"), 4096),
        (("scheduler.chunked=true", "scheduler.max_num_batched_tokens=16384"), 16_384),
    ],
)
def test_blocks_follow_the_largest_step_of_the_scheduler(
    settings: tuple[str, ...], tokens: int
) -> None:
    sizes = build_engine(few(1, *settings, scheduler="vllm"))[0].config
    shape, device = load_shape("llama-3.1-8b"), load_device("a100-80g")
    step = LargestStep(tokens, 256)
    assert sizes.total_blocks == kv_capacity_blocks(shape, device, 1, 16, step=step)


def test_a_budget_without_room_is_one_line() -> None:
    huge = few(1, "scheduler.max_num_batched_tokens=1000000000", scheduler="rotating")
    assert error_of(lambda: build_engine(huge)).startswith(
        "scheduler.max_num_batched_tokens: a step of 1,000,000,000 tokens needs 95,367.4 GiB"
    )
    long = few(1, "run.prefix_caching=true", "run.max_model_len=1000000", scheduler="vllm")
    assert error_of(lambda: build_engine(long)).startswith("run.max_model_len: a step of 1,000,000")
    stated = few(1, "scheduler.max_num_batched_tokens=1000000000", "run.kv_blocks=9")
    assert build_engine(stated)[0].config.total_blocks == 9


def test_given_sizes_win() -> None:
    sizes = build_engine(
        few(
            1, "run.kv_blocks=77", "run.block_tokens=64", "run.host_memory_gib=0.5", max_model_len=9
        )
    )[0].config
    assert (sizes.total_blocks, sizes.block_tokens, sizes.max_model_len) == (77, 64, 9)
    assert sizes.host_blocks == 2**29 // (64 * 131_072)


def test_less_memory_gives_fewer_blocks() -> None:
    settings = [f"run.gpu_memory_utilization={share}" for share in (0.5, 0.9)]
    small, large = (build_engine(few(1, text))[0].config.total_blocks for text in settings)
    assert 0 < small < large


def test_flags_reach_the_engine() -> None:
    sizes = build_engine(few(lag=1, prefix_caching=True))[0].config
    assert (sizes.lag, sizes.prefix_caching) == (1, True)


def test_routing_reaches_the_step_times() -> None:
    mixtral = {"model": "mixtral-8x7b", "tp": 2, "costs": "roofline"}
    even, uneven = (build_engine(few(1, **mixtral, routing_skew=s))[1] for s in (0.0, 2.0))
    assert uneven.step_s((), 2, 200) < even.step_s((), 2, 200)


@pytest.mark.parametrize("scheduler", ["rotating", "vllm", "sglang", "tensorrt_llm"])
def test_an_encoder_decoder_is_served(scheduler: str) -> None:
    config = few(40, model="flan-t5-xl", max_model_len=16384, scheduler=scheduler)
    assert every_request_ends_once(config)["finish"] == 40


def test_no_host_memory_is_possible() -> None:
    assert build_engine(few(1, "run.host_memory_gib=0"))[0].config.host_blocks == 0


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({"tp": 3}, "tp=3 does not divide the 32 attention heads"),
        ({"model": "llama-3.1-70b"}, "llama-3.1-70b needs 131.4 GiB of weights per GPU"),
        ({"device": "A1000-80g"}, "run.device: .*did you mean 'a100-80g'"),
        ({"costs": "calibrated", "device": "l40s"}, "no profile for l40s, llama-3.1-8b, tp=1"),
        ({"routing_skew": 1.0}, "run.routing_skew: llama-3.1-8b has no experts"),
    ],
)
def test_parts_that_do_not_fit(run: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_engine(few(**run))


# -- host time and lag ----------------------------------------------------------------------------


def test_host_time_is_the_cost_models_unless_given() -> None:
    cost = build_cost("llama-3.1-8b", "a100-80g", 1, "roofline")
    assert cost.host == DEFAULT_HOST
    plain = build_engine(few(costs="roofline"))[1].host
    assert plain == DEFAULT_HOST
    step = build_engine(few(1, "run.host_step_ms=2.5", costs="roofline"))[1].host
    assert (step.step_s, step.per_sequence_s) == (0.0025, DEFAULT_HOST.per_sequence_s)
    sequence = build_engine(few(1, "run.host_per_sequence_us=3", costs="roofline"))[1].host
    assert (sequence.step_s, sequence.per_sequence_s) == (DEFAULT_HOST.step_s, 3e-6)
    assert plain.origin != sequence.origin == step.origin == "configured"


def test_host_time_slows_the_run_and_is_reported() -> None:
    def mean_tpot_s(*settings: str) -> float:
        config = few(1, *settings)
        result = run_simulation(config, load_workload(config))
        origins.append(result.trust["host_overhead_origin"])
        record = result.record.table
        return float((record.finish_s[0] - record.first_token_s[0]) / (record.output_tokens[0] - 1))

    origins: list[str] = []
    none = mean_tpot_s("run.host_step_ms=0", "run.host_per_sequence_us=0")
    some = mean_tpot_s("run.host_step_ms=5", "run.host_per_sequence_us=1000")
    assert some - none == pytest.approx(0.006)
    assert origins == ["configured", "configured"]


def test_lag_hides_host_time_behind_the_device() -> None:
    def duration_s(lag: int) -> float:
        config = few(60, "run.host_step_ms=3", lag=lag)
        return float(max(run_simulation(config, load_workload(config)).record.table.finish_s))

    assert duration_s(1) < duration_s(0)


# -- the result -----------------------------------------------------------------------------------


def test_times_of_the_machine_are_measured() -> None:
    config = few()
    result = run_simulation(config, load_workload(config))
    assert 0 < result.scheduler_s < result.wall_s


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(enabled: bool) -> None:
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(StuckError):
            stuck = few(5, scheduler="harness:IdleScheduler")
            run_simulation(stuck, load_workload(stuck))
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_no_table_is_lost(scheduler: str, tmp_path: Path) -> None:
    config = few(120, scheduler=scheduler)
    workload = load_workload(config)
    summary = run_and_write(config, workload, tmp_path / "r", RunOptions(plots=False))
    stored = load_run(tmp_path / "r")
    assert stored.summary == json.loads(json.dumps(summary))
    ids = pq.read_table(tmp_path / "r" / "requests.parquet").column("request_id").to_pylist()
    assert ids == [request.request_id for request in workload.requests]
    tokens = pq.read_table(tmp_path / "r" / "requests.parquet").column("output_tokens")
    assert tokens.to_pylist() == workload.output_tokens
    gaps = pq.read_table(tmp_path / "r" / "itl.parquet").column("weight").to_pylist()
    assert sum(gaps) == sum(workload.output_tokens) - len(ids)
    assert pq.read_table(tmp_path / "r" / "timeline.parquet").num_rows > 0
    assert stored.config["run"]["scheduler"] == scheduler
    assert summary["run"]["requests"] == 120


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("settings", SAMPLE_SETTINGS, ids=" ".join)
def test_every_request_of_the_sample_ends_once(scheduler: str, settings: tuple[str, ...]) -> None:
    crowded = scheduler == "andes" and "run.kv_blocks=400" in settings
    limit = 600 if crowded else None  # its knapsacks hold all that wait
    config = load_config(None, settings, trace=SAMPLE, scheduler=scheduler, limit=limit)
    kinds = every_request_ends_once(config)
    assert kinds.total() == (limit or 1821)
    if "run.kv_blocks=400" not in settings:
        assert kinds == {"finish": 1821}


TENSORRT_LLM = {"scheduler": "tensorrt_llm", "memory": "retention"}
CAPACITY_POLICIES = ("guaranteed_no_evict", "max_utilization", "static_batch")


@pytest.mark.parametrize("policy", CAPACITY_POLICIES)
@pytest.mark.parametrize("chunking", ["off", "equal_progress"])
def test_every_request_of_the_sample_ends_once_under_tensorrt_llm(
    policy: str, chunking: str
) -> None:
    """Without chunks three prompts are longer than a step takes."""
    settings = [f"scheduler.capacity_policy={policy}", f"scheduler.context_chunking={chunking}"]
    kinds = every_request_ends_once(load_config(None, settings, trace=SAMPLE, **TENSORRT_LLM))
    refused = {"reject": 3} if chunking == "off" else {}
    assert kinds == {"finish": 1821 - refused.get("reject", 0), **refused}


@pytest.mark.parametrize("policy", CAPACITY_POLICIES)
def test_every_request_ends_once_with_cached_blocks_on_the_host(policy: str) -> None:
    settings = [f"scheduler.capacity_policy={policy}", "run.kv_blocks=900"]
    settings += ["run.prefix_caching=true", "memory.host_cache_gib=4"]
    per_request, kinds, result = endings_of(few(400, *settings, **TENSORRT_LLM))
    assert set(per_request.values()) == {1}
    assert kinds["finish"] + kinds["reject"] == 400
    assert result.record.table.h2d_bytes.sum() > 0 < result.record.cache_d2h_bytes
    # No request swaps here: what went to the host are cached blocks.
    assert result.record.table.d2h_bytes.sum() == 0
    assert summarise(result.record)["d2h_bytes"] == result.record.cache_d2h_bytes


MOONCAKE = "traces/mooncake/conversation_trace.jsonl.gz"
AZURE_CODE = "traces/azure2023/AzureLLMInferenceTrace_code.csv"
AZURE_CONV = "traces/azure2023/AzureLLMInferenceTrace_conv.csv"
CHUNKED, PREFILL_FIRST = "scheduler.chunked=true", "scheduler.chunked=false"
TRACES = {MOONCAKE: 12_031, AZURE_CODE: 8_819, AZURE_CONV: 19_366}
POLICIES = [("vllm", CHUNKED), ("vllm", PREFILL_FIRST), ("fcfs", ""), ("priority", "")]


@pytest.mark.slow
@pytest.mark.parametrize("trace", TRACES, ids=["mooncake", "azure-code", "azure-conv"])
@pytest.mark.parametrize(("scheduler", "setting"), POLICIES)
@pytest.mark.parametrize("blocks", ["run.kv_blocks=0", "run.kv_blocks=2048"])
def test_every_request_of_public_traces_ends_once(
    data_dir: Path, trace: str, scheduler: str, setting: str, blocks: str
) -> None:
    if not (data_dir / trace).exists():
        pytest.skip(f"needs {trace} in the data folder")
    settings = [text for text in (setting, blocks) if text]
    config = load_config(None, settings, trace=str(data_dir / trace), scheduler=scheduler)
    kinds = every_request_ends_once(config)
    assert kinds.total() == TRACES[trace]
    if blocks.endswith("=0"):
        assert kinds == {"finish": TRACES[trace]}
