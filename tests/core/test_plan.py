"""What a plan computes in each of its steps."""

from __future__ import annotations

from harness import request

from superinfer.plan import Outcome, Plan, PrefillChunk, Work
from superinfer.sequence import Sequence

SEQ = Sequence(request(0, 90, 0))


def plan(*chunks: PrefillChunk, decodes: int = 0, padded: Work | None = None) -> Plan:
    """Five steps; the members of the batch have 30 tokens in all in the first."""
    return Plan(0.0, [*chunks], decodes, 30, 5, 9.0, [], [], 0, [], [], 0, padded=padded)


def test_chunks_and_decodes_move_on_step_by_step() -> None:
    chunk = PrefillChunk(SEQ, 8, 16, False)
    several = plan(chunk, decodes=3)
    assert several.work_at(0) == Work([chunk], 3, 30)
    moved = PrefillChunk(SEQ, 8, 16 + 2 * 8, False)
    assert several.chunks_at(2) == [moved]
    assert several.work_at(2) == Work([moved], 3, 30 + 2 * 3)


def test_padding_alone_counts_where_there_is_some() -> None:
    """Its rows grow by a token each; nobody asked for them."""
    padded = plan(PrefillChunk(SEQ, 8, 16, False), decodes=3, padded=Work([], 4, 400))
    assert (padded.work_at(0), padded.work_at(2)) == (Work([], 4, 400), Work([], 4, 408))


def test_a_plan_has_a_step_where_anything_is_computed() -> None:
    chunk = PrefillChunk(SEQ, 8, 0, False)
    assert [each.has_step for each in (plan(), plan(chunk), plan(decodes=1))] == [False, True, True]


def test_lists_of_outcomes_are_their_own() -> None:
    outcome, bare = Outcome(2.0, [1.0, 2.0], [SEQ]), Outcome(3.0)
    assert (outcome.step_end_s, outcome.finished, outcome.last) == ([1.0, 2.0], [SEQ], True)
    assert (bare.step_end_s, bare.finished, bare.end_s) == ([], [], 3.0)
    assert bare.finished is not Outcome(3.0).finished
