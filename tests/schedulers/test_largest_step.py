"""The step for which each scheduler's system keeps memory free."""

from __future__ import annotations

from typing import Any

import pytest

from superinfer.costs import LargestStep
from superinfer.lab.config import load_config
from superinfer.schedulers import SCHEDULERS
from superinfer.schedulers.base import largest_step_of

LONG = 131_072


def step_of(
    name: str, *settings: str, max_model_len: int = LONG, prefix_caching: bool = False
) -> LargestStep:
    scheduler = load_config(None, settings, scheduler=name).build_scheduler()
    return largest_step_of(scheduler, max_model_len, prefix_caching)


DEFAULTS = {
    "vllm": (512, 256),
    "vllm_v1": (2048, 256),
    "tensorrt_llm": (8192, 2048),
    "rotasched": (16_384, 16_384),
    "fcfs": (2048, 256),
    "priority": (2048, 256),
    "edf": (2048, 256),
    "vtc": (2048, 256),
    "qoserve": (2048, 256),
    "fastserve": (2048 + 128, 128),
    "andes": (8192, 256),
    "rotating": (2048, 256),
    "sglang": (8192, 256),
    "flexgen": (8192, 256),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_defaults(name: str) -> None:
    step = step_of(name)
    assert (step.tokens, step.logits) == DEFAULTS[name]
    assert step.logit_bytes == (2 if name == "rotasched" else 10)


@pytest.mark.parametrize(
    ("settings", "run", "tokens", "by"),
    [
        ((), {"max_model_len": 32_768}, 32_768, "run.max_model_len"),
        ((), {"max_model_len": 1024}, 2048, "scheduler.max_num_batched_tokens"),
        ((), {"prefix_caching": True}, LONG, "run.max_model_len"),
        (("scheduler.chunked=false",), {}, LONG, "run.max_model_len"),
        (("scheduler.chunked=true",), {"max_model_len": 1024}, 512, None),
        (("scheduler.max_num_batched_tokens=4096",), {"prefix_caching": True}, 4096, None),
        ((f"scheduler.max_num_batched_tokens={LONG}",), {"prefix_caching": True}, LONG, None),
    ],
)
def test_vllm_prefills_whole_prompts_or_chunks(
    settings: tuple[str, ...], run: dict[str, Any], tokens: int, by: str | None
) -> None:
    step = step_of("vllm", *settings, **run)
    assert (step.tokens, step.logits) == (tokens, 256)
    assert step.tokens_by == (by or "scheduler.max_num_batched_tokens")


@pytest.mark.parametrize("name", sorted(set(SCHEDULERS) - {"tensorrt_llm", "sglang", "flexgen"}))
def test_budgets_decide_and_are_named(name: str) -> None:
    more = 100 if name == "fastserve" else 0
    given = ("scheduler.max_num_batched_tokens=5000", "scheduler.max_num_seqs=100")
    step = step_of(name, *given)
    assert step.tokens == 5000 + more
    assert step.tokens_by == "scheduler.max_num_batched_tokens"
    if name != "rotasched":
        assert (step.logits, step.logits_by) == (100, "scheduler.max_num_seqs")


def test_no_more_rows_of_logits_than_tokens() -> None:
    step = step_of("fcfs", "scheduler.max_num_batched_tokens=50", "scheduler.max_num_seqs=100")
    assert (step.tokens, step.logits) == (50, 50)


def test_tensorrt_llm_by_its_own_names() -> None:
    given = ("scheduler.max_num_tokens=5000", "scheduler.max_batch_size=100")
    assert step_of("tensorrt_llm", *given) == LargestStep(
        5000, 100, 10, "scheduler.max_num_tokens", "scheduler.max_batch_size"
    )


def test_rotasched_computes_logits_of_all_tokens() -> None:
    by = "scheduler.max_num_batched_tokens"
    given = ("scheduler.max_num_batched_tokens=5000", "scheduler.max_num_seqs=100")
    assert step_of("rotasched", *given) == LargestStep(5000, 5000, 2, by, by)


@pytest.mark.parametrize("name", ["sglang", "flexgen"])
def test_who_states_none_has_the_usual_one(name: str) -> None:
    """SGLang leaves a share of the memory, whatever its budgets."""
    assert step_of(name) == LargestStep()


@pytest.mark.parametrize("tokens", [0, 512, 32_768])
def test_the_chunks_of_sglang_take_no_memory_from_its_pool(tokens: int) -> None:
    """It leaves a share of the memory free, whatever it does (`mem_fraction_static`)."""
    assert step_of("sglang", f"scheduler.chunked_prefill_tokens={tokens}") == LargestStep()
