"""`rotating`: tenants share by the service they got, and the aged have a share of their own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from harness import BlockingDriver, iterations, make_engine
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from property.workloads import SETTINGS
from rotating_runs import Run, arriving, promised, rotating, run, told

from superinfer.schedulers.pacing import GRAIN_TOKENS
from superinfer.schedulers.rotating.aging import AgedShare
from superinfer.schedulers.rotating.deadlines import Job, job_of
from superinfer.schedulers.rotating.entrance import Entrance
from superinfer.schedulers.rotating.lengths import NoLengths
from superinfer.schedulers.rotating.queues import TenantQueues
from superinfer.schedulers.rotating.tenants import OUTPUT_WEIGHT, PROMPT_WEIGHT, TenantCounters
from superinfer.schedulers.rotating.waiting import Waiting
from superinfer.sequence import Sequence, State

# -- virtual token counters -----------------------------------------------------------------------


class Tenants(dict[str, Any]):
    """Tenants whose like is not asked for but by name."""

    def _refuse(self) -> Any:
        raise AssertionError

    __iter__ = items = keys = values = _refuse


def test_service_is_weighted_tokens() -> None:
    """16 prompt tokens and two requests of 5 and 3 steps: 16 + 2 * 8."""
    tenants = TenantCounters()
    tenants.arrive("a")
    tenants.prefilled("a", 16)
    tenants.joined("a", 10)
    tenants.joined("a", 12)
    assert tenants.service("a", 15) == 16 * PROMPT_WEIGHT + (5 + 3) * OUTPUT_WEIGHT
    tenants.left("a", 10, 5)
    assert tenants.service("a", 15) == 32
    assert tenants.service("a", 16) == 34


def test_idle_time_earns_no_credit() -> None:
    """Who comes back is lifted to the lowest of those who were active, and never lowered: b starts
    at a's 100 and so has 160 in the end.
    """
    tenants = TenantCounters()
    for name, tokens in (("a", 100), ("b", 60)):
        tenants.arrive(name)
        tenants.lift(0)
        tenants.prefilled(name, tokens)
    tenants.arrive("c")
    tenants.lift(0)
    assert tenants.service("c", 0) == 100
    tenants.prefilled("c", 500)
    tenants.leave("c")
    tenants.arrive("c")
    tenants.lift(0)
    assert tenants.service("c", 0) == 600
    tenants.leave("a")
    tenants.leave("b")
    tenants.prefilled("c", 40)
    tenants.arrive("a")
    tenants.arrive("a")  # no idleness between these two
    tenants.lift(0)
    assert tenants.service("a", 0) == 640


def test_a_lift_counts_the_steps_until_now() -> None:
    """An active tenant's service grows with every step, also inside a slice."""
    tenants = TenantCounters()
    tenants.arrive("a")
    tenants.lift(0)
    tenants.joined("a", 0)
    tenants.arrive("b")
    tenants.lift(50)
    assert tenants.service("b", 50) == 100


def test_who_came_and_went_between_two_decisions_holds_nobody_down() -> None:
    """z is lifted to 100 with nobody left. y starts where x stands then, at 200."""
    counters = TenantCounters()
    counters.arrive("x")
    counters.lift(0)
    counters.prefilled("x", 100)
    counters.arrive("z")
    counters.leave("z")
    counters.lift(0)
    counters.prefilled("x", 100)
    counters.arrive("y")
    counters.lift(0)
    assert counters.service("y", 0) == 200.0


MOVES = ["comes", "goes", "prompt", "joins", "leaves", "step", "change"]


@hypothesis_settings(SETTINGS, max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(MOVES)), min_size=20, max_size=80)
)
def test_the_first_job_of_the_least_served_is_found(moves: list[tuple[str, str]]) -> None:
    """Against all jobs that wait. Services are compared as of the latest `change`, from where on a
    stream that has joined since counts less than nothing.
    """
    counters = TenantCounters()
    queues = TenantQueues(counters, fair=True)
    jobs: dict[str, list[Job]] = {name: [] for name in "xyz"}
    streams: dict[str, list[int]] = {name: [] for name in "xyz"}
    step = changed_step = 0
    for name in jobs:
        counters.arrive(name)
    for index, (name, move) in enumerate(moves):
        if move == "comes":
            job = job_of(Sequence(arriving(index, float(index % 3), 4, tenant=name)), NoLengths())
            jobs[name].append(job)
            queues.push(job)
        elif move == "goes" and jobs[name]:
            jobs[name].pop(index % len(jobs[name])).ticket = -1
        elif move == "prompt":
            counters.prefilled(name, index % 4)
        elif move == "joins":
            streams[name].append(step)
            counters.joined(name, step)
        elif move == "leaves" and streams[name]:
            join_step = streams[name].pop()
            counters.left(name, join_step, step - join_step)
        elif move == "step":
            step += 1
        elif move == "change":
            changed_step = step
        places = [
            (counters.service(tenant, changed_step), request.arrival_s, request.index, job)
            for tenant, waiting in jobs.items()
            for job in waiting
            for request in [job.seq.request]
        ]
        first = min(places, default=None)
        assert queues.head(changed_step) is (first[3] if first else None)


@pytest.mark.interpreted
def test_tenants_of_the_past_are_not_looked_through() -> None:
    """Who comes back is compared with those who are active, however many there ever were."""
    tenants = TenantCounters()
    tenants._tenants = Tenants()
    for name in ("steady", "a", "b", "a"):
        tenants.arrive(name)
        tenants.lift(0)
        tenants.prefilled(name, 7)
        if name != "steady":
            tenants.leave(name)
    assert [tenants.service(name, 0) for name in ("steady", "a", "b")] == [7, 21, 14]


def served(played: Run, until_s: float) -> dict[str, float]:
    """Weighted tokens of each tenant, from the token times and prefill chunks."""
    total: dict[str, float] = {}
    by_name = {request.request_id: request for request in played.requests}
    for event in played.kinds("prefill"):
        if event[0] <= until_s:
            tenant = by_name[event[2]].tenant
            total[tenant] = total.get(tenant, 0.0) + PROMPT_WEIGHT * event[3]
    for row, request in enumerate(played.requests):
        decoded = sum(time_s <= until_s for time_s in played.tokens(row)[1:])
        total[request.tenant] = total.get(request.tenant, 0.0) + OUTPUT_WEIGHT * decoded
    return total


def two_tenants(sizes: list[tuple[int, int, int]], **settings: Any) -> tuple[Run, float]:
    """Both have sent all of their requests at 0 s, the greedy one first; until when both of them
    still have some waiting.
    """
    rows = [("greedy", *size) for size in sizes * 2] + [("modest", *size) for size in sizes]
    requests = [
        arriving(index, 0.0, prompt, tenant=tenant)
        for index, (tenant, prompt, _, _) in enumerate(rows)
    ]
    outputs = [output for *_, output, _ in rows]
    scheduler = rotating(admission=False, aging=False, **settings)
    played = run(scheduler, requests, outputs, 64)
    starts = {"greedy": 0.0, "modest": 0.0}
    for request, start_s in zip(
        played.requests, played.record.table.first_scheduled_s, strict=True
    ):
        starts[request.tenant] = max(starts[request.tenant], float(start_s))
    return played, min(starts.values())


SIZES = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 12), st.just(0)), min_size=8, max_size=14
)


@hypothesis_settings(SETTINGS, max_examples=15)
@given(sizes=SIZES)
def test_backlogged_tenants_get_the_same_service(sizes: list[tuple[int, int, int]]) -> None:
    """While both have requests waiting, they differ by no more than 2 * max(longest prompt,
    2 * tokens of a full batch): Sheng et al., theorem 4.4.
    """
    played, until_s = two_tenants(sizes)
    longest = max(prompt for prompt, *_ in sizes)
    batch = 4 * max(output for _, output, _ in sizes)
    bound = 2 * max(PROMPT_WEIGHT * longest, OUTPUT_WEIGHT * batch)
    for share in (0.25, 0.5, 0.75, 1.0):
        total = served(played, share * until_s)
        assert abs(total.get("greedy", 0.0) - total.get("modest", 0.0)) <= bound


def test_a_tenant_that_comes_back_is_compared_with_the_present() -> None:
    """A decodes 80 tokens in one slice. Then each tenant sends a request, and there is one place:
    m starts where g is now, not where it was at the beginning of the slice, and of equals the
    first comes first.
    """
    requests = [arriving(0, 0.0, 8, tenant="g")]
    requests += [arriving(1, 80.5, 8, tenant="g"), arriving(2, 80.5, 8, tenant="m")]
    played = run(rotating(max_num_seqs=2, admission=False), requests, [200, 4, 4], 64)
    starts = played.record.table.first_scheduled_s
    assert starts[1] == 81.0 and starts[2] == 85.0


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_of_tenants_with_the_same_service_the_first_comes_first(names: tuple[str, str]) -> None:
    """Whatever their names are: one place, and nobody got anything yet."""
    jobs = {"X": (8, 3), "Y": (8, 3)}
    requests = {job: {"tenant": name} for job, name in zip(jobs, names, strict=True)}
    scheduler = rotating(max_num_seqs=1, admission=False)
    lines = iterations(scheduler, jobs, requests=requests)
    assert [line[0] for line in lines if line[1].isdigit()] == ["X", "Y"]


def test_a_rotation_does_not_change_the_service_that_a_tenant_got() -> None:
    """x has 20 prompt tokens and, after a first one, 11 more. y comes when x stands at 20 + 2 for
    one of them, starts there, and has 12 and one more.
    """
    requests = [
        arriving(0, 0.0, 20, tenant="x"),
        arriving(1, 2.5, 12, tenant="y", **promised(ttft_s=4.0)),
    ]
    scheduler = rotating(promotion_share=0.0)
    played = run(scheduler, requests, [12, 2], 8)
    assert len(played.kinds("rotate_out")) == 1
    service = scheduler._tenants.service
    assert (service("x", 99), service("y", 99)) == (20 + 2 * 11, 22 + 12 + 2)


def test_without_fairness_the_first_comes_first() -> None:
    """The modest tenant gets nothing before the greedy one has nothing left to start."""
    sizes = [(8, 4, 0)] * 10
    for fairness in (True, False):
        played, _ = two_tenants(sizes, fairness=fairness)
        starts = played.record.table.first_scheduled_s
        assert (starts[20:].min() < starts[:20].max()) == fairness


def test_the_tenant_with_less_service_goes_first() -> None:
    """One place. G's first request (8 prompt tokens and 2 decodes: 12) is followed by M's (4 tokens
    and 4 decodes: 12); of equals the first comes first, G's second (24), then M's second and G's
    third.
    """
    jobs = {"A": (8, 3), "B": (8, 3), "C": (8, 3), "X": (4, 5), "Y": (4, 5)}
    requests = {name: {"tenant": "g" if name in "ABC" else "m"} for name in jobs}
    scheduler = rotating(max_num_seqs=1, admission=False)
    lines = iterations(scheduler, jobs, requests=requests)
    starts = [line[0] for line in lines if line[1].isdigit()]
    assert starts == ["A", "X", "B", "Y", "C"]
    lines = iterations(rotating(max_num_seqs=1, fairness=False), jobs, requests=requests)
    assert [line[0] for line in lines if line[1].isdigit()] == ["A", "B", "C", "X", "Y"]


# -- aging ----------------------------------------------------------------------------------------


def aged_job(index: int = 0, **targets: Any) -> Job:
    job = job_of(Sequence(arriving(index, 0.0, 8, **promised(**targets))), NoLengths())
    job.aged = True
    return job


def test_the_share_of_prefill_is_a_bucket() -> None:
    """A tenth of what others compute is owed; what is computed for the aged pays for it. At most
    a tenth of the window of 4 s at 100 tokens/s is kept either way.
    """
    share = AgedShare(0.1, 4.0)
    urgent, aged = job_of(aged_job(ttft_s=1.0).seq, NoLengths()), aged_job(1)
    urgent.start_by_s = 5.0
    assert not share.owed and share.tokens_kept(16) == 0
    share.count(urgent, 100, 100.0)
    assert share.owed
    assert [share.tokens_kept(budget) for budget in (16, 64, 500, 2000)] == [
        16,
        GRAIN_TOKENS,
        GRAIN_TOKENS,
        200,
    ]
    share.count(aged, 11, 100.0)  # nine tenths of 11 are 9.9
    assert share.owed
    share.count(aged, 1, 100.0)
    assert not share.owed
    for _ in range(3):
        share.count(aged, 1000, 100.0)
    share.count(urgent, 400, 100.0)  # 40 were saved up at most
    assert not share.owed
    share.count(urgent, 1, 100.0)
    assert share.owed


def test_an_aged_request_with_a_deadline_uses_up_the_share_too() -> None:
    share = AgedShare(0.1, 4.0)
    late = aged_job(ttft_s=1.0)
    late.start_by_s = -5.0
    share.count(late, 10, 100.0)
    assert not share.owed


def test_who_came_in_is_not_queued_as_aged_any_more() -> None:
    """Also after it has left again: a new wait has its own clock."""
    share, first, second = AgedShare(0.1, 4.0), aged_job(), aged_job(1)
    first.ticket, second.ticket = 1, 2
    share.push(first)
    share.push(second)
    assert share.head() is first
    first.ticket = 3
    assert share.head() is second


def queued(share: AgedShare, index: int, tenant: str) -> Job:
    """An aged request of a tenant in the queue; its ticket is its number."""
    job = job_of(Sequence(arriving(index, 0.0, 8, tenant=tenant)), NoLengths())
    job.aged, job.ticket = True, index
    share.push(job)
    return job


def served_in_turn(share: AgedShare, blocks: dict[str, int], number: int) -> list[str]:
    """The next so many to come in, as names of tenants and numbers of requests."""
    found = []
    for _ in range(number):
        job = share.head()
        assert job is not None
        request = job.seq.request
        found.append(f"{request.tenant}{request.index}")
        job.ticket = -1
        share.takes(job, blocks[request.tenant])
    return found


def test_the_aged_of_a_flood_do_not_come_before_those_of_others() -> None:
    """Tenant a, with ten times as many and aged first, has requests of 2 blocks, b of 4: a ends at
    2, b at 4, a at 4 (of equals the first comes first), a at 6, b at 8, and so on. Without fairness
    the order is that of aging.
    """
    for fair in (True, False):
        share = AgedShare(0.1, 4.0, fair)
        for index in range(20):
            queued(share, index, "a")
        for index in (20, 21):
            queued(share, index, "b")
        found = served_in_turn(share, {"a": 2, "b": 4}, 6)
        assert found == (
            ["a0", "b20", "a1", "a2", "b21", "a3"] if fair else [f"a{index}" for index in range(6)]
        )


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_of_aged_that_took_the_same_the_first_comes_first(names: tuple[str, str]) -> None:
    """Whatever their tenants are called, also behind one that is not aged any more."""
    share = AgedShare(0.1, 4.0)
    gone = queued(share, 0, names[1])
    for index, name in enumerate((*names, *names), 1):
        queued(share, index, name)
    gone.ticket = -1
    found = served_in_turn(share, {"a": 2, "b": 2}, 4)
    assert [int(each[1:]) for each in found] == [1, 2, 3, 4]


@pytest.mark.parametrize("blocks", [0, 2])
def test_who_has_left_does_not_count_for_the_turn_of_its_tenant(blocks: int) -> None:
    """Of a the last to come was aged first. It comes in with blocks that b has taken, too, or is
    cancelled: then the first of a is the request that came before b's.
    """
    share = AgedShare(0.1, 4.0)
    last, other, first = (queued(share, index, "aba"[at]) for at, index in enumerate((9, 5, 1)))
    assert share.head() is other
    share.takes(other, blocks)
    queued(share, 7, "b")
    if blocks:
        share.takes(last, blocks)
    other.ticket = last.ticket = -1
    share.forget(last)
    assert share.head() is first


def test_having_nobody_aged_earns_no_credit_in_the_share() -> None:
    """Tenant a alone has taken 10 blocks when b comes: b starts at 8, where a's latest stood, so it
    has one turn before a goes on, and not five.
    """
    share = AgedShare(0.1, 4.0)
    for index in range(9):
        queued(share, index, "a")
    served_in_turn(share, {"a": 2}, 5)
    for index in range(9, 15):
        queued(share, index, "b")
    assert served_in_turn(share, {"a": 2, "b": 2}, 4) == ["b9", "a5", "b10", "a6"]


def test_having_nobody_aged_forgives_nothing_in_the_share() -> None:
    """Tenant a has taken 10 blocks and waits no more when b, from 8 on, takes its first 3. When a
    is back it goes on from 10.
    """
    share = AgedShare(0.1, 4.0)
    for index in range(5):
        queued(share, index, "a")
    served_in_turn(share, {"a": 2}, 5)
    for index in range(5, 10):
        queued(share, index, "b")
    assert served_in_turn(share, {"b": 3}, 1) == ["b5"]
    assert share.head() is not None  # of b: nobody of a waits
    for index in range(10, 15):
        queued(share, index, "a")
    assert served_in_turn(share, {"a": 2, "b": 3}, 3) == ["a10", "b6", "a11"]


@pytest.mark.interpreted
@pytest.mark.parametrize(("each", "served"), [(1, ["r0", "r1"]), (8, ["r0"])])
def test_prefill_that_is_kept_goes_by_who_came_in_first(each: int, served: list[str]) -> None:
    """A request that was promised nothing and one that is late are both aged and on the device, the
    former since longer: its prompt is computed first, though a late one is the more urgent, and
    the other's only if tokens are left.
    """
    order: list[str] = []
    scheduler, draft = rotating(), SimpleNamespace(chunks=[])
    plain, late = aged_job(0), aged_job(1, ttft_s=1.0)
    late.relegated = True
    plain.ticket, late.ticket = 3, 4
    scheduler._device = SimpleNamespace(prefilling=[late, plain])  # type: ignore[assignment]

    def prefill(draft: Any, job: Job, budget: int, steps: int = 1) -> int:
        order.append(job.seq.request.request_id)
        return each

    scheduler._prefill = prefill  # type: ignore[method-assign]
    scheduler._fill_aged(draft, 8)  # type: ignore[arg-type]
    assert order == served


@pytest.mark.parametrize("single_steps", [True, False])
def test_the_share_of_the_aged_counts_every_step_of_a_slice(single_steps: bool) -> None:
    """A decodes, owed no pace, beside 400 tokens with a deadline, 15 in each step: a tenth of all
    404 is owed to the aged, however many steps one decision stood for, and 45 tokens, nine tenths
    of which count, pay for it.
    """
    scheduler, plans = told({"r0": 60, "r1": 1}), list[Any]()
    driver = BlockingDriver(
        make_engine(scheduler, 200),
        [arriving(0, 0.0, 4), arriving(1, 1.0, 400, **promised(ttft_s=90.0))],
        [60, 1],
        lambda _, plan: plans.append(plan),
        single_steps=single_steps,
    )
    driver.run()
    assert (len(plans) > 50) == single_steps
    share, aged = scheduler._aged, aged_job()
    share.count(aged, 44, 16.0)
    assert share.owed
    share.count(aged, 1, 16.0)
    assert not share.owed


def test_only_the_aged_use_up_their_share() -> None:
    """Others without a deadline do not, or those who come late for ever would starve the aged."""
    share = AgedShare(0.1, 4.0)
    plain = job_of(aged_job().seq, NoLengths())
    share.count(plain, 100, 100.0)
    assert share.owed


def test_the_share_of_blocks() -> None:
    """One aged request always fits; more of them within a tenth of the blocks."""
    share = AgedShare(0.1, 4.0)
    first = aged_job()
    assert share.fits(90, 100)
    share.takes(first, 6)
    assert share.fits(4, 100) and not share.fits(5, 100)
    for _ in range(2):  # once more when it leaves again, and has nothing of the share
        share.gives_back(first)
        assert share.fits(90, 100) and not first.aged
    share.takes(aged_job(), 6)
    assert share.fits(4, 100) and not share.fits(5, 100)


@pytest.mark.interpreted
def test_a_wait_ends_with_a_token() -> None:
    """The last chunk of a prompt gives one, and each step of the decode batch; coming in does not:
    who is copied back and has to leave at once still waits since its latest token.
    """
    scheduler = rotating()
    engine = make_engine(scheduler, 16)
    seqs = [engine.submit(arriving(index, 0.0, prompt), 0.0) for index, prompt in enumerate((8, 9))]
    engine.plan(3.0)
    assert [scheduler._jobs[seq].since_s for seq in seqs] == [3.0, 0.0]  # 8 of 9 tokens
    nothing: Any = None
    settings, machine = scheduler, SimpleNamespace(machine=SimpleNamespace(total_blocks=8))
    entrance = Entrance(settings, machine, *[nothing] * 5)  # type: ignore[arg-type]
    job = aged_job()
    job.seq.state, job.since_s = State.MOVING_OUT, 10.0
    draft: Any = SimpleNamespace(now=50.0, batch=SimpleNamespace(step=7))
    for join_step, since_s in ((7, 10.0), (6, 50.0)):
        job.join_step = join_step
        entrance._leaves(draft, job)
        assert job.since_s == since_s


@pytest.mark.interpreted
def test_the_order_without_urgency() -> None:
    """Who is late, then who is aged, then who was promised nothing; each by arrival. The share of
    the aged comes before all of them, but once per decision.
    """
    nothing: Any = None
    nobody: Any = SimpleNamespace(discard=lambda job: None)
    waiting = Waiting(rotating(), nothing, TenantCounters(), AgedShare(0.1, 4.0), nobody)
    arrivals_s = {"plain": 20.0, "old": 0.0, "older": -1.0, "late": 25.0}
    jobs = {
        name: job_of(Sequence(arriving(index, arrival_s, 8)), NoLengths())
        for index, (name, arrival_s) in enumerate(arrivals_s.items())
    }
    jobs["late"].relegated = True
    for job in jobs.values():
        waiting.add(job, 25.0)
    assert waiting.next_s(0.0) == 29.0
    assert [waiting.age(30.0) for _ in range(3)] == [jobs["older"], jobs["old"], None]
    for name in ("late", "older", "old", "plain"):
        assert waiting.head(30.0) is jobs[name]
        waiting.comes_in(jobs[name])
    assert waiting.head(30.0) is None


@pytest.mark.parametrize("on", [True, False])
def test_aging_with_a_reserved_share(on: bool) -> None:
    """One place, and a new urgent request of one step for every step. B came at 0 s and owes
    nothing: it is aged at 4 s, comes in at 4 s as the share is owed, and has its token at 5 s.
    Without aging it waits for the end of the stream of urgent requests, at 13 s.
    """
    urgent = promised(ttft_s=3.0)
    requests = [arriving(index, float(index), 8, **urgent) for index in range(12)]
    requests += [arriving(12, 11.5, 8, **urgent), arriving(13, 12.0, 8, **urgent)]
    requests.insert(1, arriving(14, 0.0, 8, name="B"))
    for index, request in enumerate(requests):
        request.index = index
    scheduler = rotating(max_num_seqs=1, max_wait_s=4.0, aging=on)
    played = run(scheduler, requests, [1] * 15, 32)
    assert played.tokens(1) == [5.0 if on else 15.0]
    assert scheduler.counters.get("aged", 0) == (1 if on else 0)


def test_prompts_of_the_aged_are_computed_one_by_one() -> None:
    """A new urgent prompt of a whole step for every step, and room for all. B and C came first and
    owe nothing; both are aged at 4 s. C comes in when B has its token, and not with it.
    """
    urgent = promised(ttft_s=3.0)
    requests = [arriving(0, 0.0, 40), arriving(1, 0.0, 40)]
    requests += [arriving(2 + index, float(index), 16, **urgent) for index in range(60)]
    scheduler = rotating(max_wait_s=4.0, aged_share=0.25, relegation=False)
    played = run(scheduler, requests, [1] * 62, 400)
    came, given = played.record.table.first_scheduled_s, played.tokens
    assert scheduler.counters["aged"] >= 2
    assert given(0)[0] <= came[1] < given(1)[0] < 40.0


def test_two_prompts_of_the_aged_take_no_more_than_a_step() -> None:
    """F, late from the start, is aged and comes in at 4 s. E gave its place up at 7 s, half of it
    computed; it is aged, too, when it comes back at 10 s. F takes what is kept and the rest: for E
    nothing is left until F is through.
    """
    others = [(0.5, 128, 3.5), (1.5, 200, 2.5), (2.0, 200, 1.9), (4.0, 200, 1.9), (5.0, 256, 3.5)]
    shapes = [(0.0, 2000, 3.0), (0.0, 512, 2.0), *others, (5.5, 256, 1.9)]
    requests = [
        arriving(index, time_s, prompt, name={0: "F", 7: "E"}.get(index), **promised(ttft_s=ttft_s))
        for index, (time_s, prompt, ttft_s) in enumerate(shapes)
    ]
    settings = {"max_num_seqs": 3, "max_num_batched_tokens": 256, "max_wait_ttfts": 1.0}
    scheduler = told(
        {request.request_id: 1 for request in requests}, max_wait_s=4.0, aged_share=0.5, **settings
    )
    played = run(scheduler, requests, [1] * 8, 2000)
    taken = [(event[2], event[0], event[3]) for event in played.kinds("prefill")]
    assert [event[:3] for event in played.kinds("rotate_in")] == [(10.0, "rotate_in", "E")]
    assert [chunk for chunk in taken if chunk[0] == "E"] == [("E", 7.0, 128), ("E", 15.0, 128)]
    steps_s = (10.0, 11.0, 12.0, 13.0, 14.0)
    assert [chunk for chunk in taken if chunk[1] in steps_s] == [
        ("F", end_s, 256) for end_s in steps_s
    ]


def test_urgent_prompts_take_nothing_of_what_is_kept_for_the_aged() -> None:
    """A new urgent prompt of a whole step for every step, and room for all. B came first and owes
    nothing. From 5 s on it has a quarter of each step, beside new prompts and those under way.
    """
    urgent = promised(ttft_s=30.0)
    requests = [arriving(0, 0.0, 256, name="B")]
    requests += [arriving(1 + index, float(index), 256, **urgent) for index in range(20)]
    settings = {"max_num_batched_tokens": 256, "max_num_seqs": 64, "relegation": False}
    scheduler = rotating(max_wait_s=4.0, aged_share=0.25, **settings)
    played = run(scheduler, requests, [1] * 21, 4000)
    chunks = [event for event in played.kinds("prefill") if event[2] == "B"]
    assert [event[3] for event in chunks] == [64] * 4
    assert played.tokens(0) == [8.0]


@pytest.mark.parametrize("rotation", [True, False])
def test_residents_with_slack_leave_for_the_aged(rotation: bool) -> None:
    """A owes nothing and goes on for long; B, as little, came at 0.5 s and is aged at 4.5 s. At 5 s
    A leaves for it, and B's prompt of one step gives its token at 6 s. Without rotation B has to
    wait for A's 12 tokens, until 13 s, and a step.
    """
    requests = [arriving(0, 0.0, 20), arriving(1, 0.5, 12)]
    scheduler = told({"r0": 60, "r1": 2}, max_wait_s=4.0, rotation=rotation)
    played = run(scheduler, requests, [12, 2], 8)
    assert played.tokens(1)[0] == (6.0 if rotation else 14.0)


def test_who_is_urgent_comes_in_beside_the_aged() -> None:
    """Both places come free at 12 s: one is for C, which has been aged since 4.25 s, and the urgent
    D does not wait a step for the other.
    """
    requests = [
        arriving(0, 0.0, 4),
        arriving(1, 0.0, 4),
        arriving(2, 0.25, 8),
        arriving(3, 8.5, 8, **promised(ttft_s=6.0)),
    ]
    answers = [12, 12, 1, 1]
    settings = {"max_num_seqs": 2, "max_num_batched_tokens": 128, "rotation": False}
    lengths = {f"r{row}": tokens for row, tokens in enumerate(answers)}
    scheduler = told(lengths, max_wait_s=4.0, aged_share=0.5, **settings)
    played = run(scheduler, requests, answers, 64)
    assert scheduler.counters["aged"] == 1
    assert [played.tokens(row)[0] for row in (2, 3)] == [13.0, 13.0]


def test_the_aged_do_not_give_their_places_up_for_who_would_be_late() -> None:
    """One place. X waits for it from 0.5 s on, is aged at 30.5 s, comes in when A has ended, at
    65 s. B could neither come in nor be given up meanwhile: it has been aged since 60.5 s and is
    next. D, due at 67.5 s, could be in time without it, and waits all the same.
    """
    lines = iterations(
        told({"A": 62, "X": 1, "B": 1, "D": 1}, max_num_seqs=1),
        {"A": (64, 62), "X": (4, 1), "B": (16, 1), "D": (16, 1)},
        {"X": 2, "B": 32, "D": 66},
        blocks=40,
        requests={
            "A": promised(tpot_s=1.0),
            "B": promised(ttft_s=5.0),
            "D": promised(ttft_s=3.0),
        },
    )
    assert lines[64:] == ["A used 32", "X4 used 1", "B16 used 4", "D16 used 4"]


def test_what_comes_free_is_kept_for_the_aged() -> None:
    """Urgent requests of 2 blocks and 3 steps come every second, and B (since 0.5 s), who owes
    nothing, needs 6 of the 8 blocks at once. It is aged at 4.5 s, and from 5 s on nobody else comes
    in. Of the two who are there then, one ends at 6 s: B's 24 tokens take two steps from there.
    """
    urgent = promised(ttft_s=3.0)
    requests = [arriving(0, 0.0, 5, **urgent), arriving(1, 0.5, 24)]
    requests += [arriving(index, index - 1.0, 5, **urgent) for index in range(2, 40)]
    scheduler = rotating(max_wait_s=4.0, rotation=False, admission=False)
    played = run(scheduler, requests, [3, 1] + [3] * 38, 8)
    assert played.tokens(1) == [8.0]


def test_a_promotion_does_not_stop_the_clock() -> None:
    """B (since 0.5 s, 4 steps, due at 46 s) rises to the top at 40 s and has no room: it needs 16
    blocks, A holds 15 of 24 and cannot leave, because there is no host memory. B is aged all the
    same, 45.5 s after it came.
    """
    requests = [arriving(0, 0.0, 20), arriving(1, 0.5, 60, **promised(ttft_s=45.5))]
    scheduler = rotating(max_wait_s=45.0, max_wait_ttfts=1.0, promotion_share=0.0, relegation=False)
    played = run(scheduler, requests, [70, 1], 24, host_blocks=0)
    kinds = [event[:3] for event in played.kinds("promote")]
    assert kinds[-1] == (40.0, "promote", "r1")
    assert scheduler.counters["aged"] == 1


@pytest.mark.interpreted
def test_a_late_stream_keeps_its_turn_and_is_not_aged() -> None:
    """Whose pace or pause is owed comes in by that. A prompt is aged, who owes an answer alone that
    is late by now, and who is not at the top, since nothing raises it here.
    """
    nothing: Any = None
    nobody: Any = SimpleNamespace(discard=lambda job: None)
    shares = (TenantCounters(), AgedShare(0.1, 4.0), nobody)
    waiting = Waiting(rotating(promotion=False), nothing, *shares)
    targets: dict[str, dict[str, Any]] = {
        "pace": {"tpot_s": 0.25},
        "pause": {"max_stall_s": 1.0},
        "paced": {"tpot_s": 0.25, "delivery": "paced"},
        "prompt": {"ttft_s": 1.0, "tpot_s": 0.25},
        "answer": {"e2el_s": 9.0},
        "below": {"tpot_s": 0.25},
    }
    jobs = {
        name: job_of(Sequence(arriving(index, 0.0, 8, **promised(**each))), NoLengths())
        for index, (name, each) in enumerate(targets.items())
    }
    for name, job in jobs.items():
        job.seq.output_tokens = int(name != "prompt")
        job.level, job.start_by_s = int(name == "below"), 1.0
        waiting.put_back(job)
    aged = [waiting.age(60.0) for _ in range(4)]
    assert aged == [jobs["prompt"], jobs["answer"], jobs["below"], None]
