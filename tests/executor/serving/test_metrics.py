"""The page for Prometheus."""

from __future__ import annotations

import math
import re
from pathlib import Path

from serving_kit import Served, serving

from executor.serving.service import Rules


def test_every_metric_says_of_what_it_is(served: Served) -> None:
    """By itself, as a dashboard shows it: not `the same` as the one above, nor of `it`."""
    page = served.client.get("/metrics").text
    told = dict(re.findall(r"^# HELP superinfer:(\S+) (.*)$", page, re.MULTILINE))
    typed = re.findall(r"^# TYPE superinfer:(\S+) (?:counter|gauge|histogram)$", page, re.MULTILINE)
    assert sorted(told) == sorted(typed) and len(told) > 30
    things = re.compile("request|token|prompt|KV cache|step|arrival|scheduled", re.IGNORECASE)
    assert not [name for name, text in told.items() if not things.search(text)]
    others = re.compile(r"\bit\b|the same", re.IGNORECASE)
    assert not [name for name, text in told.items() if others.search(text)]


def test_the_page_of_metrics(tmp_path: Path) -> None:
    with serving(tmp_path, Rules("mine", prefix="vllm")) as served:
        fresh = served.metrics()
        prompt = "metrics " * 10
        for _ in range(2):
            served.text(prompt, service_tier="chat", slo={"ttft_ms": 60000, "tpot_ms": 60000})
        served.text(prompt, max_tokens=3, slo={"ttft_ms": 1e-6})
        served.until_idle()
        found = served.metrics()
    base = [("engine", "0"), ("model_name", "mine")]

    def value(name: str, *more: tuple[str, str]) -> float:
        return found[f"vllm:{name}{sorted([*base, *more])}"]

    assert value("request_success_total", ("finished_reason", "length")) == 3
    unclassed = {name for name in found if "slo_requests" not in name and "_created" not in name}
    assert unclassed <= set(fresh), "a counter is there before its first event"
    assert not any(n for name, n in fresh.items() if "_total" in name)
    assert value("slo_requests_total", ("class", "chat"), ("result", "met")) == 2
    assert value("slo_requests_total", ("class", "chat"), ("result", "missed")) == 0
    assert value("slo_requests_total", ("class", "default"), ("result", "missed")) == 1
    assert value("prompt_tokens_total") == 240 and value("generation_tokens_total") == 27
    assert value("time_to_first_token_seconds_count") == 3
    assert value("inter_token_latency_seconds_count") == 24
    assert value("request_generation_tokens_sum") == 27
    assert value("time_to_first_token_seconds_bucket", ("le", "+Inf")) == 3
    assert value("prefix_cache_queries_total") == 240 and value("prefix_cache_hits_total") > 100
    assert value("num_requests_running") == value("num_requests_waiting") == 0
    assert value("kv_cache_usage_perc") == 0
    assert value("cache_config_info", ("block_size", "32"), ("num_gpu_blocks", "400")) == 1
    assert value("step_time_factor", ("steps", "decodes")) > 0
    assert value("step_time_factor", ("steps", "prefills")) > 0
    parts = ("queue_time", "prefill_time", "decode_time")
    parts_s = sum(value(f"request_{part}_seconds_sum") for part in parts)
    assert math.isclose(parts_s, value("e2e_request_latency_seconds_sum"))
    assert value("time_to_first_token_seconds_sum") > 0
