"""Records that leave open how long their blocks are and what their stamps count in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from superinfer.errors import ConfigError, InputError
from superinfer.lab.config import load_config
from traces.dialect import Dialect
from traces.loading import load
from traces.readers import read_trace
from traces.workload import Workload

SMALL = Dialect(hash_block_tokens=16)
SECONDS = Dialect(time_unit="s")
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,4808,10\n"
SERVING_SIM = '{"input_toks":4,"output_toks":2,"arrival_time_ns":0}\n'
SESSION = '{"id":"a","block_size":4,"requests":[{"type":"n","t":0,"in":3,"out":2,"hash_ids":[]}]}\n'


def read(folder: Path, *records: dict[str, Any], dialect: Dialect) -> Workload:
    lines = (json.dumps({"input_length": 40, "output_length": 4, **each}) for each in records)
    (folder / "t.jsonl").write_text("\n".join(lines))
    return read_trace(folder / "t.jsonl", dialect=dialect)


def test_blocks_of_records_that_do_not_say_it(tmp_path: Path) -> None:
    """What a record says is stronger."""
    ids = {"timestamp": 0, "hash_ids": [1, 2, 3]}
    stated = {"timestamp": 0, "hash_ids": [1], "hash_block_size": 64}
    found = read(tmp_path, ids, stated, dialect=SMALL).requests
    assert [request.hash_block_tokens for request in found] == [16, 64]
    unusual = {**ids, "unknown": 1}
    (alone,) = read(tmp_path, unusual, dialect=SMALL).requests
    assert (alone.hash_block_tokens, alone.hash_ids) == (16, (1, 2, 3))
    with pytest.raises(InputError, match="--hash-block-size gives another"):
        read(tmp_path, ids, dialect=Dialect())


def test_stamps_in_seconds(tmp_path: Path) -> None:
    stamps = [{"timestamp": 0.1}, {"timestamp": 1.001, "delay_ms": 5}]
    found = read(tmp_path, *stamps, dialect=SECONDS).requests
    assert [request.arrival_s for request in found] == [0.1, 1.001]
    assert found[1].delay_s == 0.005, "its name says ms"
    with pytest.raises(InputError, match=r":1: timestamp: expected a time from 0 to 2\*\*53 ms"):
        read(tmp_path, {"timestamp": 2**50}, dialect=SECONDS)


@pytest.mark.parametrize("dialect", [SMALL, SECONDS])
@pytest.mark.parametrize("text", [AZURE, SERVING_SIM, SESSION])
def test_formats_that_say_it_all(tmp_path: Path, text: str, dialect: Dialect) -> None:
    (tmp_path / "t").write_text(text)
    read_trace(tmp_path / "t")
    with pytest.raises(InputError, match="which alone leave them open"):
        read_trace(tmp_path / "t", dialect=dialect)


def test_a_run_says_both(tmp_path: Path) -> None:
    record = {"timestamp": 2, "input_length": 40, "output_length": 4, "hash_ids": [1, 2, 3]}
    (tmp_path / "t.jsonl").write_text(json.dumps(record))
    trace = str(tmp_path / "t.jsonl")
    config = load_config(trace=trace, hash_block_size=16, time_unit="s")
    (request,) = load(config.run, config.service_classes(), {}).requests
    assert (request.arrival_s, request.hash_block_tokens) == (2.0, 16)


@pytest.mark.parametrize("setting", ["run.hash_block_size=16", "run.time_unit=s"])
def test_a_specification_leaves_nothing_open(setting: str) -> None:
    config = load_config(None, [setting], trace="chat")
    with pytest.raises(ConfigError, match="expected a trace file, got the specification chat"):
        load(config.run, config.service_classes(), {})
