"""What was asked, as a trace."""

from __future__ import annotations

import errno
import re
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from public_data import REPOSITORY
from serving_kit import asking, ended, serving

from executor.serving.recording import Recording, held_file
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
        assert held_file(path).read_bytes().count(b"\n") == 2
        recording.add(*ended(1, "rejected", output_tokens=0))
        assert (recording.written, recording.left_out) == (3, 1)
        assert not held_file(path).read_bytes(), "nobody waits"
        recording.add(*ended(5))
        assert held_file(path).read_bytes().count(b"\n") == 1
        recording.add(*ended(4))
    assert not held_file(path).exists()
    requests = read_trace(path).requests
    assert [request.request_id for request in requests] == ["r0", "r2", "r3", "r4", "r5"]
    said = capsys.readouterr().err
    assert said == f"5 requests in {path}; 1 without a token are left out\n"
    with pytest.raises(ConfigError, match=r"--record: .* is there already"):
        Recording(path)


@pytest.mark.parametrize("path", [".", "/", ".."])
def test_a_folder_is_no_record(path: str) -> None:
    with pytest.raises(ConfigError, match=r"--record: .* is there already"):
        Recording(Path(path))


def test_standard_output_is_no_record() -> None:
    with pytest.raises(ConfigError, match=r"^--record: expected a file, got -$"):
        Recording(Path("-"))


@pytest.mark.parametrize("letters", [300, 252])
def test_a_name_too_long_for_a_file(tmp_path: Path, letters: int) -> None:
    """Its own, or with what is held back beside it."""
    with pytest.raises(ConfigError, match=r"--record: .*: File name too long"):
        Recording(tmp_path / ("a" * letters))


def test_those_that_wait_for_nobody_any_more_are_written_in_the_end(tmp_path: Path) -> None:
    """As where the time to shut down is over before the first of them has ended."""
    path = tmp_path / "asked.jsonl"
    with closing(Recording(path)) as recording:
        for index in (3, 1):
            recording.add(*ended(index))
        assert not path.read_bytes()
    assert [request.request_id for request in read_trace(path).requests] == ["r1", "r3"]
    assert not held_file(path).exists()


def test_who_is_killed_leaves_all_that_has_ended(tmp_path: Path) -> None:
    """Put together as the documents say; no file of the killed one is written over."""
    path = tmp_path / "asked.jsonl"
    text = (REPOSITORY / "docs" / "serving.md").read_text()
    (command,) = re.findall(r"^LC_ALL=C sort .*$", text, re.MULTILINE)
    with closing(Recording(path)) as recording:
        for index in (4, 1, 0, 3):  # and never 2
            recording.add(*ended(index, arrival_s=float(index)))
        subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
        path.unlink()
        with pytest.raises(ConfigError, match=r"--record: .*asked\.jsonl\.held is there already"):
            Recording(path)
    requests = read_trace(tmp_path / "all.jsonl").requests
    assert [request.request_id for request in requests] == ["r0", "r1", "r3", "r4"]


@pytest.mark.parametrize("when", ["while serving", "at the end"])
def test_a_full_disk_leaves_what_was_held_back(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "asked.jsonl"
    with closing(Recording(path)) as recording:
        recording.add(*ended(1))
        monkeypatch.setattr(recording, "_write", full)
        if when == "while serving":
            recording.add(*ended(0))
    said = capsys.readouterr().err
    assert said == "warning: --record: No space left on device: no more is written\n"
    assert held_file(path).read_bytes().count(b"\n") == 1


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
