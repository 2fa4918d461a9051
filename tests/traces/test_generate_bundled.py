"""The bundled specifications: what they generate is what they say, over twenty seeds.

Tolerances are four standard errors, estimated from the seeds for rates, variation and prefix shares
(`estimates.py`), and binomial for the shares of lengths below a quantile, because lengths are drawn
independently of each other.
"""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from estimates import SEEDS, SIGMAS, assert_agree, assert_same, assert_share

from superinfer.slo_classes import PRESETS, VIDEO_TOKENS_PER_FRAME
from traces.convert import native_bytes
from traces.generate import bundled_specs, generate, load_spec
from traces.generate.calls import Call, client_calls
from traces.generate.distributions import Lognormal, Uniform, as_family
from traces.generate.spec import Client, SystemPool
from traces.generate.streams import Streams
from traces.generate.timing import starts_in
from traces.readers import read_trace
from traces.stats import trace_stats

SPECS = ("agent", "batch", "chat", "code", "mixed", "scenario-c", "scenario-m", "video")
CLIENTS = [(name, client) for name in SPECS for client in load_spec(name).clients]
OPEN = [pair for pair in CLIENTS if load_spec(pair[0]).clients[pair[1]].requests is None]
QUANTILES = (0.1, 0.5, 0.9, 0.99)

slow = pytest.mark.slow
generator = np.random.default_rng


def test_the_bundled_specs() -> None:
    assert bundled_specs() == SPECS


@cache
def calls_of(spec: str, client: str) -> list[list[Call]]:
    """What a client sends, for each seed."""
    return [client_calls(load_spec(spec), client, seed) for seed in SEEDS]


def client_of(spec: str, client: str) -> Client:
    return load_spec(spec).clients[client]


# -- rate and variation ---------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "client"), OPEN)
def test_rate(spec: str, client: str) -> None:
    duration_s = load_spec(spec).duration_s
    rates = [len(calls) / duration_s for calls in calls_of(spec, client)]
    given = client_of(spec, client).rate_per_s
    assert given is not None
    assert_agree(rates, given, precision=0.1)


@pytest.mark.parametrize(("spec", "client"), OPEN)
def test_variation_of_starts(spec: str, client: str) -> None:
    """Traces of 1,000 starts: their CV is low by about cv^2 / 1,000."""
    given = client_of(spec, client)
    duration_s = 1000 / given.starts_per_s
    starts_s = [starts_in(given, Streams(seed, client), 1.0, 0.0, duration_s) for seed in SEEDS]
    gaps_s = [np.diff(times_s) for times_s in starts_s]
    expected = given.any_gaps.variation
    assert_agree([x.std() / x.mean() for x in gaps_s], expected, precision=0.02, bias=0.01)
    assert_agree([x.mean() for x in gaps_s], 1 / given.starts_per_s, precision=0.02, bias=0.01)


@slow
@pytest.mark.parametrize(("spec", "client"), OPEN)
def test_every_third_of_the_trace_is_alike(spec: str, client: str) -> None:
    """Sessions and groups are in full swing when the trace begins, and go on until it ends."""
    duration_s = load_spec(spec).duration_s
    counts = np.array(
        [
            np.histogram([call.arrival_s for call in calls], 3, (0, duration_s))[0]
            for calls in calls_of(spec, client)
        ]
    )
    rate_per_s = client_of(spec, client).rate_per_s or 0
    for third in counts.T:
        assert_agree(third, rate_per_s * duration_s / 3, precision=0.2)


# -- lengths --------------------------------------------------------------------------------------


def below(given: Any, tokens: int) -> float:
    """The chance that a whole draw is at most `tokens`, which lies inside the limits."""
    family = as_family(given)
    if isinstance(family, Uniform):
        low, high = family.bounds
        return (tokens // family.times - low + 1) / (high - low + 1)
    assert isinstance(family, Lognormal)
    mu, sigma = family.parameters()
    return (1 + math.erf((math.log(tokens + 0.5) - mu) / sigma / math.sqrt(2))) / 2


def marks(given: Any) -> list[int]:
    """Lengths around the quantiles that lie inside the limits."""
    family = as_family(given)
    if isinstance(family, Uniform):
        low, high = family.bounds
        return [int(family.times * int(low + q * (high - low))) for q in QUANTILES]
    limits = (family.min or 0, family.max or math.inf)
    candidates = range(1, 20_000)
    found = [next(k for k in candidates if below(family, k) >= q) for q in QUANTILES]
    return [tokens for tokens in found if limits[0] <= tokens < limits[1]]


def assert_quantiles(tokens: list[int], given: Any) -> None:
    array, chosen = np.array(tokens), marks(given)
    assert len(chosen) >= 3
    for mark in chosen:
        assert_share(int((array <= mark).sum()), len(array), below(given, mark))


@slow
@pytest.mark.parametrize(("spec", "client"), CLIENTS)
def test_answers(spec: str, client: str) -> None:
    answers = [call.output_tokens for calls in calls_of(spec, client) for call in calls]
    assert len(answers) > 4000
    assert_quantiles(answers, client_of(spec, client).answer)


def new_texts(client: Client, calls: list[Call]) -> list[int]:
    """New text of each request, as far as the requests themselves tell it."""
    if client.session is None:
        heads = [call.thread.system.tokens if call.thread.system else 0 for call in calls]
        return [call.prompt_tokens - head for call, head in zip(calls, heads, strict=True)]
    turns: defaultdict[str | None, list[Call]] = defaultdict(list)
    for call in calls:
        turns[call.session_id].append(call)
    answers = client.session.history == "all"
    return [
        call.prompt_tokens - before.prompt_tokens - (before.output_tokens if answers else 0)
        for session in turns.values()
        for before, call in pairwise(session)
    ]


@slow
@pytest.mark.parametrize(("spec", "client"), CLIENTS)
def test_new_texts(spec: str, client: str) -> None:
    unlimited = {"clients": {client: {"session": {"max_prompt_tokens": 10_000_000}}}}
    given = load_spec(spec, unlimited if spec == "agent" else None)
    made = [client_calls(given, client, seed) for seed in SEEDS]
    texts = [tokens for calls in made for tokens in new_texts(given.clients[client], calls)]
    assert len(texts) > 4000
    assert_quantiles(texts, given.clients[client].prompt)


# -- prefix share ---------------------------------------------------------------------------------


def drawn(given: Any, random: np.random.Generator) -> int:
    """A length, drawn in another way than the generator does."""
    family = as_family(given)
    if isinstance(family, Uniform):
        return int(random.integers(int(family.bounds[0]), int(family.bounds[1]) + 1))
    if isinstance(family, Lognormal):
        value = math.exp(random.normal(*family.parameters()))
    elif type(family).__name__ == "Geometric":
        value = float(random.geometric(1 / family.mean))  # type: ignore[attr-defined]
    else:
        value = float(family.value)  # type: ignore[attr-defined]
    low, high = family.min or 0, family.max or math.inf
    return max(1, round(min(max(value, low), high)))


def seconds(given: Any, random: np.random.Generator) -> float:
    family = as_family(given)
    assert isinstance(family, Lognormal)
    value = math.exp(random.normal(*family.parameters()))
    return min(max(value, family.min or 0), family.max or math.inf)


class Reference:
    """Counts the blocks that an infinite cache finds, by following sessions one by one."""

    def __init__(self, client: Client, duration_s: float, block: int, seed: int) -> None:
        self.random, self.client = generator([7, seed]), client
        self.duration_s, self.block = duration_s, block
        self.hits = self.blocks = 0
        self.seen: set[int] = set()
        self.tokens, self.weights = self.systems()
        for _ in range(self.random.poisson(client.starts_per_s * (duration_s + self.lead_s))):
            self.follow(self.random.uniform(-self.lead_s, duration_s))

    @property
    def lead_s(self) -> float:
        return 0.0 if self.client.session is None else 3000.0

    def systems(self) -> tuple[list[int], list[float]]:
        given = self.client.system_prompts
        if isinstance(given, SystemPool):
            ranks = np.arange(1, given.count + 1)
            weights = list(ranks**-given.zipf / (ranks**-given.zipf).sum())
            return [drawn(given.tokens, self.random) for _ in ranks], weights
        prompts = given or ()
        total = sum(prompt.weight for prompt in prompts)
        return [p.tokens for p in prompts], [p.weight / total for p in prompts]

    def follow(self, now_s: float) -> None:
        client, session, random = self.client, self.client.session, self.random
        which = int(random.choice(len(self.tokens), p=self.weights))
        if session is None:
            size = 1 if client.group is None else drawn(client.group.size, random)
            for _ in range(size):
                self.count(self.tokens[which] + drawn(client.prompt, random), which, None)
            return
        head = self.tokens[which] + (drawn(session.context, random) if session.context else 0)
        past, repeated, before = head, head, False
        for turn in range(drawn(session.turns, random)):
            new_tokens, answer = drawn(client.prompt, random), drawn(client.answer, random)
            now_s += seconds(session.think_s, random) if turn else 0
            if past + new_tokens > (session.max_prompt_tokens or math.inf):
                past = repeated = head
            if 0 <= now_s < self.duration_s:
                self.count(past + new_tokens, which, repeated if before else None)
                before = True
            repeated = past = past + new_tokens
            past += answer if session.history == "all" else 0
            now_s += session.first_token_s + (answer - 1) * session.token_s

    def count(self, prompt_tokens: int, which: int, repeated: int | None) -> None:
        self.blocks += -(-prompt_tokens // self.block)
        if repeated is None:
            repeated = self.tokens[which] if which in self.seen else 0
            self.seen.add(which)
        self.hits += repeated // self.block


@slow
@pytest.mark.parametrize("spec", ["agent", "batch", "chat", "code", "video"])
def test_prefix_share(spec: str) -> None:
    given = load_spec(spec)
    shares = [trace_stats(generate(given, seed))["prefix_hit_rate"] for seed in SEEDS]
    references = [
        Reference(given.clients[spec], given.duration_s, given.block_tokens, seed)
        for seed in range(2 * len(SEEDS))
    ]
    assert_same(shares, [ref.hits / ref.blocks for ref in references], precision=0.02)


@slow
@pytest.mark.parametrize("spec", ["mixed", "scenario-c", "scenario-m"])
def test_prefix_share_of_several_clients(spec: str) -> None:
    given = load_spec(spec)
    made = [trace_stats(generate(given, seed)) for seed in SEEDS]
    hits = [stats["prefix_hit_rate"] * stats["prefix_blocks"] for stats in made]
    parts = []
    for seed in range(2 * len(SEEDS)):
        sending = [client for client in given.clients.values() if client.requests is None]
        refs = [Reference(c, given.duration_s, given.block_tokens, seed) for c in sending]
        parts.append(float(sum(ref.hits for ref in refs)))
    assert_same(hits, parts, precision=0.1)


# -- what each of them is for ---------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS)
def test_it_is_read_back_as_it_was_made(spec: str, tmp_path: Path) -> None:
    made = generate(load_spec(spec), 3)
    path = tmp_path / f"{spec}.jsonl"
    path.write_bytes(native_bytes(made))
    assert read_trace(path) == made
    assert made.raised_max_tokens == 0


def test_a_video_answer_is_whole_frames() -> None:
    given = client_of("video", "video")
    answers = {call.output_tokens for call in calls_of("video", "video")[0]}
    assert {answer % VIDEO_TOKENS_PER_FRAME for answer in answers} == {0}
    assert as_family(given.answer).times == VIDEO_TOKENS_PER_FRAME
    assert max(answers) <= PRESETS["video"].max_tokens


def test_the_scenarios_share_their_workload() -> None:
    memory, compute = load_spec("scenario-m"), load_spec("scenario-c")
    assert memory.clients == compute.clients
    assert (memory.duration_s, memory.block_tokens) == (compute.duration_s, compute.block_tokens)


def test_the_scenarios_are_as_they_were_designed() -> None:
    """Chat: prompts of about 1,000 tokens, answers of 200, gamma gaps of CV 1.5, sessions under
    shared system prompts, SLO 1 s and 100 ms. Batch: prompts of about 3,000, answers of 500.
    """
    spec = load_spec("scenario-m")
    chat, batch = spec.clients["chat"], spec.clients["batch"]
    assert spec.duration_s == 900
    assert (chat.class_, batch.class_, chat.any_gaps.variation) == ("chat", "batch", 1.5)
    assert chat.session is not None and chat.system_prompts is not None
    for name, prompt_tokens, answer_tokens in (("chat", 1000, 200), ("batch", 3000, 500)):
        calls = [call for made in calls_of("scenario-m", name) for call in made]
        assert np.mean([call.prompt_tokens for call in calls]) == pytest.approx(
            prompt_tokens, rel=0.1
        )
        assert np.mean([call.output_tokens for call in calls]) == pytest.approx(
            answer_tokens, rel=0.05
        )


def test_the_backlog_outlasts_the_run_even_at_peak_speed() -> None:
    """Four A100 at 312 TFLOP/s each, 2 x 70.6e9 FLOP per token, nothing else to do."""
    tokens = [sum(call.prompt_tokens for call in made) for made in calls_of("scenario-m", "batch")]
    assert min(tokens) > 900 * 4 * 312e12 / (2 * 70.6e9)
    assert SIGMAS * np.std(tokens) < np.mean(tokens) / 20
