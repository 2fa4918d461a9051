"""The same KV memory for every arm of a study."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.memory_policies import configured
from experiments.rotasched.settings import ARMS, SWEEPS, config_of
from experiments.studykit.kv_memory import fitting_tokens, with_kv_tokens
from sim.run import build_engine
from superinfer.costs import DEVICES, kv_capacity_blocks, load_shape
from superinfer.lab.config import load_config

MACHINE = ("run.model=llama-3.1-8b", "run.device=h100")


def test_what_fits_beside_a_usual_step() -> None:
    shape = load_shape("llama-3.1-8b")
    assert fitting_tokens(*MACHINE) == 32 * kv_capacity_blocks(shape, DEVICES["h100"], 1, 32)


@pytest.mark.parametrize(("scheduler", "blocks"), [("vllm", 62), ("fcfs", 31), ("sglang", 1000)])
def test_blocks_for_so_many_tokens(scheduler: str, blocks: int) -> None:
    config = with_kv_tokens(load_config(None, MACHINE, scheduler=scheduler), 1000)
    assert config.run.kv_blocks == blocks


@pytest.mark.parametrize(("scheduler", "blocks"), [("vllm", 28_805), ("rotating", 14_402)])
def test_policies_are_compared_in_the_same_memory(scheduler: str, blocks: int) -> None:
    """Also under vLLM v0.6.0, whose steps with a prefix cache are as long as the model allows."""
    config = configured(Path("none.jsonl"), f"run.scheduler={scheduler}")
    assert config.run.kv_blocks == blocks


def test_arms_with_other_steps_have_the_same_memory() -> None:
    model = SWEEPS[0].model
    found = [build_engine(config_of(arm, model, 20.0))[0].config for arm in ARMS.values()]
    tokens = [sizes.total_blocks * sizes.block_tokens for sizes in found]
    assert 0 <= max(tokens) - min(tokens) < 32
