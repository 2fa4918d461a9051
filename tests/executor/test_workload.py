"""The tokens that stand for a trace, and the capacity and devices of a run."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from harness import request

from executor.device import find_device
from executor.workload import (
    answers_of,
    forced_tokens,
    load_workload,
    prompt_tokens,
    unheeded,
    unheeded_by_servers,
)
from superinfer.errors import ConfigError
from superinfer.lab.config import load_config
from traces.workload import Workload


def prompt(index, tokens, ids=(), block=8, **more):
    made = request(index, tokens, 0, hash_ids=ids, hash_block_tokens=block, **more)
    return prompt_tokens(made, 300, 7)


def test_requests_share_tokens_where_they_share_ids():
    first, second = prompt(0, 20, (1, 2, 3)), prompt(1, 24, (1, 2, 9))
    assert len(first) == 20 and len(second) == 24
    assert np.array_equal(first[:16], second[:16])
    assert not np.array_equal(first[16:20], second[16:20])
    assert not np.array_equal(first[:8], prompt(0, 20, (1, 2, 3), namespace="other")[:8])


def test_a_request_without_ids_has_tokens_of_its_own():
    assert np.array_equal(prompt(0, 20), prompt(0, 20))
    assert not np.array_equal(prompt(0, 20), prompt(1, 20))
    partly = prompt(0, 20, (1,))
    assert np.array_equal(partly[:8], prompt(1, 8, (1,))) and len(partly) == 20


def test_tokens_are_spread_over_the_vocabulary():
    counts = np.bincount(prompt(0, 60_000, block=60_000, ids=(5,)), minlength=300)
    assert len(counts) == 300
    assert ((counts - 200.0) ** 2 / 200.0).sum() < 400  # chi-square with 299 degrees of freedom


def test_another_seed_gives_other_tokens():
    made = request(0, 20, 0)
    assert not np.array_equal(prompt_tokens(made, 300, 1), prompt_tokens(made, 300, 2))


def test_answers_have_the_lengths_of_the_trace():
    requests = [request(0, 10, 0, max_tokens=50), request(1, 90, 0, max_tokens=50)]
    answers = answers_of(Workload(requests, [20, 30]), 300, 100, 0)
    assert [answers[made].limit for made in requests] == [20, 10]  # the context has 100
    assert forced_tokens(request(0, 10, 0, max_tokens=5), 20, 100) == 5
    assert forced_tokens(request(0, 200, 0), 20, 100) == 1


def test_what_a_device_does_not_heed():
    """Times of the simulator's host, and a router, which a single engine has no use for."""
    assert not unheeded(load_config(None, (), replicas=1))
    settings = ("run.host_step_ms=2", "run.router=round_robin", "run.host_link_gb_per_s=5")
    said = unheeded(load_config(None, settings))
    assert said[0] == "run.host_step_ms, run.router: no effect on a device"
    assert said[1].startswith("run.host_link_gb_per_s: ") and len(said) == 2
    believed = load_config(None, ("run.believed_costs=roofline",))
    assert unheeded(believed) == ["run.believed_costs: no effect on a device"]
    shared = load_config(None, ("run.links_per_bridge=2",), tp=2)
    assert unheeded(shared) == ["run.links_per_bridge: no effect on a device"]
    slow = load_config(None, ("run.slow_replicas.0=2",))
    assert unheeded(slow) == ["run.slow_replicas: no effect on a device"]


def test_what_a_server_does_not_heed():
    """What a device does not, and what is made of a trace; which one a file names is no matter."""
    settings = ("run.host_step_ms=2", "run.rate_scale=2", "run.window_s=[1,2]", "run.trace=a")
    assert unheeded_by_servers(load_config(None, settings)) == [
        "run.host_step_ms: no effect on a device",
        "run.rate_scale, run.window_s: no effect on a server",
    ]


def test_several_engines_are_simulated_alone():
    config = load_config(None, ("run.replicas=2",), trace="any.jsonl")
    with pytest.raises(ConfigError, match=r"run\.replicas: expected 1 on a device, got 2"):
        load_workload(config)


def test_devices():
    device = find_device("cpu")
    assert device.torch.type == "cpu" and device.name
    assert device.spec.memory_bytes_per_s > 1e8 and device.spec.bf16_flops > 1e8
    with pytest.raises(ConfigError, match="expected cpu, cuda or one of"):
        find_device("tpu")
    if not torch.cuda.is_available():
        for name in ("cuda", "h200"):
            with pytest.raises(ConfigError, match="no CUDA device"):
                find_device(name)


def test_a_gpu_with_a_number_becomes_the_current_one(monkeypatch):
    """Triton launches where the thread is, wherever the tensors are."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=141e9)
    )
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert find_device("cuda").torch.index is None and find_device("h200").torch.index is None
    assert current == []
    assert find_device("cuda:1").torch.index == 1 and current == [torch.device("cuda:1")]
    for name in ("cuda:2", "cuda:x", "cuda1"):
        with pytest.raises(ConfigError, match=r"expected .*, got"):
            find_device(name)


@pytest.mark.parametrize("trace", ["mixed", "traces/samples/mixed.jsonl"])
def test_targets_are_scaled_as_in_simulation(trace):
    """For a specification and for a file, in both drivers alike."""
    from sim.workload import load_workload as simulated

    def config(scale):
        return load_config(None, ["run.limit=40", f"run.slo_scale={scale}"], trace=trace)

    usual = [each.slo.ttft_s for each in load_workload(config(1.0)).requests]
    twice = [each.slo.ttft_s for each in load_workload(config(2.0)).requests]
    assert any(usual) and twice == [target and 2 * target for target in usual]
    assert twice == [each.slo.ttft_s for each in simulated(config(2.0)).requests]
