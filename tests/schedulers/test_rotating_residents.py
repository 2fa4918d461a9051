"""`rotating`: decoding requests stay in the order of what they are owed."""

from __future__ import annotations

from math import inf

from harness import request
from hypothesis import given
from hypothesis import strategies as st

from superinfer.schedulers.rotating.deadlines import Job, job_of
from superinfer.schedulers.rotating.lengths import NoLengths
from superinfer.schedulers.rotating.residents import Residents
from superinfer.sequence import Sequence


def job(index: int, base_s: float) -> Job:
    found = job_of(Sequence(request(index, 8, 4)), NoLengths())
    found.base_s = base_s
    return found


@given(
    bases_s=st.lists(st.sampled_from([0.5, 1.0, 2.0, inf]), min_size=1, max_size=20),
    leaves=st.sets(st.integers(0, 19)),
)
def test_who_comes_and_goes_leaves_the_others_in_order(
    bases_s: list[float], leaves: set[int]
) -> None:
    """Of equals the one that was sent first."""
    residents = Residents()
    jobs = [job(index, base_s) for index, base_s in enumerate(bases_s)]
    for each in reversed(jobs):
        residents.add(each)
    for index in leaves & set(range(len(jobs))):
        residents.remove(jobs[index])
    left = [each for index, each in enumerate(jobs) if index not in leaves]
    left.sort(key=lambda each: (each.base_s, each.seq.request.index))
    assert list(residents) == left


def test_many_who_may_not_leave_yet_hide_nobody_behind_them() -> None:
    """Those that came last are the last of those that are owed nothing."""
    residents = Residents()
    jobs = [job(index, float(index)) for index in range(30)]
    for each in jobs:
        residents.add(each)
    settled = jobs[9]
    assert residents.most_slack(lambda _: inf, lambda each, _: each is settled) is settled


def test_who_is_demoted_is_there_once_and_leaves_first() -> None:
    """Of two with as much slack the one of the lower level."""
    residents = Residents()
    first, second = job(0, 1.0), job(1, 2.0)
    for each in (first, second):
        each.level = 1
        residents.add(each)
    residents.demote(first)
    assert list(residents) == [second, first]
    assert residents.most_slack(lambda _: inf, lambda each, _: True) is first
    residents.remove(first)
    assert residents.most_slack(lambda _: inf, lambda each, _: True) is second
