"""Published facts of public traces, wherever the files are at hand."""

from __future__ import annotations

from typing import Any

import pytest
from public_data import needed

from traces.readers import read_trace
from traces.stats import trace_stats

MOONCAKE = "traces/mooncake/conversation_trace.jsonl.gz"


def azure(name: str) -> str:
    """One of the two Azure traces of 2023."""
    return f"traces/azure2023/AzureLLMInferenceTrace_{name}.csv"


def stats_of(name: str, **options: Any) -> dict[str, Any]:
    """Description of a public trace; the test is skipped where the file is absent."""
    return trace_stats(read_trace(needed(name), **options))


def test_mooncake_conversation() -> None:
    stats = stats_of(MOONCAKE)
    assert (stats["requests"], stats["skipped"]) == (12_031, 0)
    assert round(stats["prompt_tokens"]["mean"]) == 12_035
    assert round(stats["output_tokens"]["mean"]) == 343
    assert stats["prefix_unique_blocks"] == 182_790
    assert stats["prefix_hit_rate"] == pytest.approx(0.37, abs=0.005)
    assert stats["cv_interarrival"] == pytest.approx(3.03, abs=0.01)


def test_mooncake_spread_is_smooth() -> None:
    stats = stats_of(MOONCAKE, spread=True)
    assert stats["cv_interarrival"] < 1.0
    assert stats["rate_per_s"] == pytest.approx(3.40, abs=0.01)


@pytest.mark.parametrize(
    ("name", "requests", "prompt_tokens", "output_tokens", "rate_per_s", "cv"),
    [("code", 8_819, 2048, 28, 2.57, 13.2), ("conv", 19_366, 1155, 211, 5.53, 1.09)],
)
def test_azure(
    name: str, requests: int, prompt_tokens: int, output_tokens: int, rate_per_s: float, cv: float
) -> None:
    stats = stats_of(azure(name))
    assert stats["requests"] == requests
    assert round(stats["prompt_tokens"]["mean"]) == prompt_tokens
    assert round(stats["output_tokens"]["mean"]) == output_tokens
    assert stats["rate_per_s"] == pytest.approx(rate_per_s, abs=0.01)
    assert stats["cv_interarrival"] == pytest.approx(cv, rel=0.01)
