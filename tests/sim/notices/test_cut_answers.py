"""Answers that the context ends, as they are said and as they are given."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sim.notices.cut_answers import context_of, cut_answers
from sim.run import run_simulation
from superinfer.lab.config import load_config
from superinfer.request import Request
from traces.workload import Workload

SIZES = [(10, 90), (10, 91), (99, 1), (99, 2), (100, 1), (101, 5)]
"""Prompt and answer; of a context of 100 tokens the second and the fourth answer are cut, and the
last prompt is turned away.
"""


def of_sizes(sizes: list[tuple[int, int]]) -> Workload:
    requests = [Request(str(i), 0.0, size, 1000, index=i) for i, (size, _) in enumerate(sizes)]
    return Workload(requests, [answer for _, answer in sizes])


def test_those_are_counted_that_end_early_in_a_run() -> None:
    config, workload = load_config(max_model_len=100), of_sizes(SIZES)
    given = run_simulation(config, workload).record.table.output_tokens
    whole = [answer for _, answer in SIZES]
    assert [int(tokens) for tokens in given] == [90, 90, 1, 1, 1, 0] != whole
    (line,) = cut_answers(context_of(config), workload)
    assert line.startswith("2 of 6 answers end at the context of 100 tokens (run.max_model_len)")


@pytest.mark.parametrize(("sizes", "context"), [(SIZES, 106), (SIZES[:1] + SIZES[4:], 100)])
def test_nothing_is_said_where_all_fit_or_are_turned_away(
    sizes: list[tuple[int, int]], context: int
) -> None:
    assert cut_answers(context, of_sizes(sizes)) == []


def test_the_context_is_the_model_s_own_unless_it_is_set() -> None:
    assert context_of(load_config(model="gpt2")) == 1024
    assert context_of(load_config(model="gpt2", max_model_len=70)) == 70


@pytest.mark.usefixtures("work_folder")
def test_it_is_said_of_the_arms_that_it_is_about(
    command: Callable[..., tuple[int, str, str]],
) -> None:
    options = ("--limit", "9", "--no-plots", "--schedulers", "fcfs")
    _, _, error = command("sweep", "chat", *options, "--over", "run.max_model_len=900,100000")
    assert error.count("answers end at the context of 900 tokens") == 1
    assert "100,000 tokens (run.max_model_len)" not in error
