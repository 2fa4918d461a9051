"""The tables of `docs/accuracy-steady.md`, from `python -m experiments.accuracy steady`."""

from __future__ import annotations

from experiments.accuracy.steady_page import group_lines, shape_lines, share_lines
from experiments.tables.parts import recorded

PAGE = "docs/accuracy-steady.md"
SUMMARY = "simulated/accuracy/steady/summary.json"
TABLES = {
    "groups": recorded(SUMMARY, group_lines),
    "shapes": recorded(SUMMARY, shape_lines),
    "shares": recorded(SUMMARY, share_lines),
}
