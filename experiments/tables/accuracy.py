"""The tables of `docs/accuracy.md`, from `python -m experiments.accuracy serving`."""

from __future__ import annotations

from experiments.accuracy.serving_page import (
    chunk_lines,
    decode_lines,
    latency_lines,
    left_out_lines,
    state_lines,
)
from experiments.tables.parts import recorded

PAGE = "docs/accuracy.md"
SUMMARY = "simulated/accuracy/serving/summary.json"
TABLES = {
    "latencies": recorded(SUMMARY, latency_lines),
    "states": recorded(SUMMARY, state_lines),
    "left out": recorded(SUMMARY, left_out_lines),
    "decodes alone": recorded(SUMMARY, decode_lines),
    "steps with a prompt": recorded(SUMMARY, chunk_lines),
}
