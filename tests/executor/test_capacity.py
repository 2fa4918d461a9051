"""How many blocks a device has room for, and which step it keeps room for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from executor import capacity
from executor.capacity import blocks_that_fit, slabs_for, step_tokens
from executor.kv.arena import arena_size
from executor.kv.layout import KVLayout
from superinfer.errors import ConfigError
from superinfer.lab.config import load_config
from superinfer.schedulers.fcfs import FcfsScheduler

LAYOUT = KVLayout(2, 2, 64, 32, torch.float32)
LONG = 131_072
GIB = 1 << 30
UNCUT_BATCH = ("scheduler.chunked_prefill_tokens=0", f"scheduler.max_prefill_tokens={2 * LONG}")


def model_on(kind, max_model_len=LONG):
    """As much of a model as capacity asks for."""
    return SimpleNamespace(layout=LAYOUT, device=torch.device(kind), max_model_len=max_model_len)


@pytest.mark.parametrize("smaller", [False, True])
def test_the_cache_of_a_cpu_keeps_within_its_bytes(smaller):
    blocks = blocks_that_fit(model_on("cpu"), 0.9, FcfsScheduler(), smaller, False)
    slabs = slabs_for(LAYOUT, blocks, smaller)
    size = arena_size(LAYOUT, blocks, slabs, smaller)
    assert 0.8 * (256 << 20) < size.nbytes <= 1.05 * (256 << 20)
    if smaller:
        assert slabs.blocks_4 > slabs.blocks_8 > slabs.blocks_16 > 1


@pytest.mark.parametrize(
    ("name", "settings", "prefix_caching", "tokens"),
    [
        ("fcfs", (), False, 2048),
        ("vllm", (), False, 8192),  # chunks of 512, and what a run is warmed up with
        ("vllm", (), True, LONG),
        ("vllm", ("scheduler.chunked=false",), False, LONG),
        ("vllm", ("scheduler.max_num_batched_tokens=4096",), True, 4096),
        ("tensorrt_llm", ("scheduler.max_num_tokens=16384",), False, 16_384),
        ("fastserve", (), False, 2048 + 128),  # decodes come on top of its budget
        ("sglang", (), True, 8192),
        ("sglang", ("scheduler.chunked_prefill_tokens=512",), False, 8192),  # warmed up with
        ("sglang", ("scheduler.chunked_prefill_tokens=20000",), False, 20_000),
        ("sglang", ("scheduler.chunked_prefill_tokens=0",), False, LONG),
        ("sglang", UNCUT_BATCH, False, 2 * LONG),
    ],
)
def test_room_is_kept_for_the_largest_step_of_a_scheduler(name, settings, prefix_caching, tokens):
    scheduler = load_config(None, settings, scheduler=name).build_scheduler()
    assert step_tokens(scheduler, LONG, prefix_caching) == tokens


def test_what_a_largest_step_holds_is_no_room_for_blocks(monkeypatch):
    """The step is run, as long as a prompt that is never cut, and its peak is left free."""
    ran = []

    def peak_bytes(run, device):
        run()
        return ran[-1] * 1024

    monkeypatch.setattr(capacity, "free_bytes", lambda device, share: GIB)
    monkeypatch.setattr(capacity, "peak_bytes", peak_bytes)
    monkeypatch.setattr(capacity, "warm_up", lambda model, tokens, rows: ran.append(tokens))
    scheduler = load_config(None, (), scheduler="vllm").build_scheduler()
    size = LAYOUT.block_bytes[16]
    for length, caching in ((LONG, False), (LONG, True), (16_384, False)):
        blocks = blocks_that_fit(model_on("cuda", length), 0.9, scheduler, False, caching)
        assert blocks == (GIB - ran[-1] * 1024) // size
    assert ran == [8192, LONG, 16_384]
    monkeypatch.setattr(capacity, "free_bytes", lambda device, share: 0)
    with pytest.raises(ConfigError, match=r"no room for KV cache: -0\.1 GiB are left of"):
        blocks_that_fit(model_on("cuda"), 0.9, scheduler, False, True)
