"""The requests that a run asks for, where they cannot be had."""

from __future__ import annotations

import pytest

from superinfer.errors import ConfigError, InputError, SuperInferError
from superinfer.lab.config import load_config
from traces.loading import load


@pytest.mark.parametrize(
    ("trace", "kind", "words"),
    [
        ("", ConfigError, "TRACE: expected a trace file here or as run.trace"),
        ("chatt", InputError, r"expected a trace file or one of .*\(did you mean 'chat'\?\)"),
        ("no-such-file.jsonl", InputError, "expected a trace file, got no such file"),
        ("x" * 5000, InputError, "expected a readable file, got: File name too long"),
        ("x\0y", InputError, "expected a readable file, got: embedded null byte"),
    ],
)
def test_traces_that_are_not_there(trace: str, kind: type[SuperInferError], words: str) -> None:
    config = load_config(None, [], trace=trace)
    with pytest.raises(kind, match=words):
        load(config.run, config.service_classes(), config.workload)
