"""What was asked, as a trace."""

from __future__ import annotations

import errno
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from serving_kit import asking, ended, serving

from executor.serving.recording import Recording
from superinfer.errors import ConfigError
from superinfer.request import SLO
from superinfer.slo_classes import PRESETS
from traces.readers import read_trace


def test_a_recording_is_in_the_order_of_arrival(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "of" / "today" / "asked.jsonl"
    with closing(Recording(path)) as recording:
        assert not path.exists(), "a server that does not start leaves none"
        for index in (2, 0, 3):
            recording.add(*ended(index))
        assert recording.written == 1
        recording.add(*ended(1, "rejected", output_tokens=0))
        assert (recording.written, recording.left_out) == (3, 1)
    requests = read_trace(path).requests
    assert [request.request_id for request in requests] == ["r0", "r2", "r3"]
    said = capsys.readouterr().err
    assert said == f"3 requests in {path}; 1 without a token are left out\n"
    with pytest.raises(ConfigError, match=r"--record: .* is there already"):
        Recording(path)


def test_a_full_disk_ends_the_record_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with closing(Recording(tmp_path / "asked.jsonl")) as recording:
        monkeypatch.setattr(recording, "_write", full)
        for index in range(3):
            recording.add(*ended(index))
    said = capsys.readouterr().err
    assert said == "warning: --record: No space left on device: no more is written\n"


def test_what_was_asked_becomes_a_trace(tmp_path: Path) -> None:
    """Lengths, limits, targets, classes and shared beginnings, as they were."""
    prompt = "the same beginning of sixty-four characters, more or less of it " * 2
    with serving(tmp_path) as served:
        served.text(prompt, max_tokens=7, service_tier="chat")
        headers = {"x-llm-d-slo-ttft-ms": "300", "x-llm-d-inference-fairness-id": "shop"}
        served.client.post("/v1/completions", json=asking(prompt + "and on"), headers=headers)
        served.until_idle()
    workload = read_trace(tmp_path / "asked.jsonl", classes=PRESETS)
    first, second = workload.requests
    assert workload.output_tokens == [7, 12]
    assert (first.prompt_tokens, first.max_tokens) == (len(prompt), 7)
    assert first.slo_class.name == "chat" and first.slo == PRESETS["chat"].slo
    assert second.tenant == "shop" and second.slo == SLO(ttft_s=0.3)
    assert first.arrival_s <= second.arrival_s
    assert first.hash_ids[:4] == second.hash_ids[:4] and first.hash_block_tokens == 32
