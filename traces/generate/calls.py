"""The requests of one client, before they have a place in the trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from superinfer.errors import ConfigError
from superinfer.slo_classes import MAX_LENGTH_TOKENS
from traces.generate.distributions import Floats, choose, draw_whole, probabilities
from traces.generate.lengths import Lengths
from traces.generate.load import Spec
from traces.generate.spec import MAX_REQUESTS, Client, Session, SystemPool, SystemPrompt
from traces.generate.streams import Streams
from traces.generate.text import SystemText, Thread
from traces.generate.timing import Turns, expected_requests, longest_s, make_turns, starts_in


@dataclass(slots=True)
class Call:
    """One request of a client."""

    arrival_s: float
    client: Client
    tenant: str
    prompt_tokens: int
    output_tokens: int
    thread: Thread
    known_tokens: int = 0
    """Tokens of the thread's last prompt that this one repeats."""
    session_id: str | None = None
    delay_s: float | None = None


def client_calls(spec: Spec, name: str, seed: int) -> list[Call]:
    """All requests of a client in [0, duration), in order; `ConfigError` if too many or too long.

    `InputError` if a file that the client names is bad.
    """
    client, streams = spec.clients[name], Streams(seed, name)
    if client.servegen is not None:
        calls = _servegen_calls(spec, name, streams)
    else:
        lengths = Lengths(client, spec.folder)
        starts_s = _starts_s(spec, name, lengths, streams)
        turns = make_turns(client, lengths, streams, starts_s)
        threads = _Threads(client, name, streams, len(starts_s))
        calls = sorted(threads.calls(turns, spec.duration_s), key=lambda call: call.arrival_s)
    longest = max((max(call.prompt_tokens, call.output_tokens) for call in calls), default=0)
    if longest > MAX_LENGTH_TOKENS:
        limit = f"expected prompts and answers of at most {MAX_LENGTH_TOKENS} tokens"
        raise ConfigError(f"{spec.file}: clients.{name}: {limit}, got one of {longest}")
    return calls


def _starts_s(spec: Spec, name: str, lengths: Lengths, streams: Streams) -> Floats:
    client = spec.clients[name]
    if client.requests is not None:
        return np.zeros(client.requests)
    from_s, until_s = -longest_s(client, lengths), spec.duration_s
    expected = expected_requests(client, spec.rate_scale, from_s, until_s)
    if expected > MAX_REQUESTS:
        limit = f"expected a rate that gives at most {MAX_REQUESTS} requests"
        raise ConfigError(f"{spec.file}: clients.{name}: {limit}, got about {expected:.3g}")
    return starts_in(client, streams, spec.rate_scale, from_s, until_s)


class _Threads:
    """Who sends each start of a client, under which system prompt and with which context."""

    def __init__(self, client: Client, name: str, streams: Streams, starts: int) -> None:
        self._client, self._name = client, name
        self._tenants = _tenants(client, streams, starts)
        self._systems = _systems(client, streams, starts)
        context = None if client.session is None else client.session.context
        drawn = draw_whole(context or 0, streams.of("context"), starts, least=0)
        self._context_tokens = drawn.tolist()

    def calls(self, turns: Turns, duration_s: float) -> Iterator[Call]:
        """The requests in [0, duration_s), start by start."""
        kept = (turns.arrival_s >= 0) & (turns.arrival_s < duration_s)
        reached = np.zeros(len(self._tenants), dtype=bool)
        reached[turns.start[kept]] = True
        rows = np.flatnonzero(reached[turns.start])
        columns = (turns.start, turns.new_tokens, turns.answer_tokens, turns.arrival_s)
        lists = [column[rows].tolist() for column in (*columns, turns.think_s, kept)]
        for start, group in groupby(zip(*lists, strict=True), key=lambda row: row[0]):
            yield from self._thread(start, [row[1:] for row in group])

    def _thread(
        self, start: int, rows: list[tuple[int, int, float, float, bool]]
    ) -> Iterator[Call]:
        system, owner = self._systems[start]
        head = (system.tokens if system else 0) + self._context_tokens[start]
        session = self._client.session
        thread = Thread(system)
        sizes = _prompts([row[:2] for row in rows], head, session)
        for position, (row, (prompt_tokens, known_tokens)) in enumerate(
            zip(rows, sizes, strict=True)
        ):
            _, answer, arrival_s, think_s, kept = row
            if not kept:
                continue
            if session is None:
                thread = Thread(system)
            yield Call(
                arrival_s=arrival_s,
                client=self._client,
                tenant=owner or self._tenants[start],
                prompt_tokens=prompt_tokens,
                output_tokens=answer,
                thread=thread,
                known_tokens=known_tokens,
                session_id=None if session is None else f"{self._name}-{start}",
                delay_s=think_s if session and session.delays and position else None,
            )


def _prompts(
    rows: list[tuple[int, int]], head: int, session: Session | None
) -> Iterator[tuple[int, int]]:
    """Tokens of each prompt of a start, and how many of them the prompt before began with."""
    history = "none" if session is None else session.history
    most = (session and session.max_prompt_tokens) or MAX_LENGTH_TOKENS
    known = past = head
    for new_tokens, answer in rows:
        if past + new_tokens > most:
            known = past = head
        prompt_tokens = past + new_tokens
        yield prompt_tokens, known
        if history != "none":
            known = prompt_tokens
            past = prompt_tokens + (answer if history == "all" else 0)


def _systems(
    client: Client, streams: Streams, starts: int
) -> list[tuple[SystemText | None, str | None]]:
    """The system text of each start, and the tenant that comes with it."""
    prompts = _prompt_list(client, streams)
    if not prompts:
        return [(None, None)] * starts
    texts = [(SystemText(prompt.tokens), prompt.tenant) for prompt in prompts]
    chances = probabilities([prompt.weight for prompt in prompts])
    return [texts[i] for i in choose(streams.of("systems"), chances, starts).tolist()]


def _prompt_list(client: Client, streams: Streams) -> tuple[SystemPrompt, ...]:
    given = client.system_prompts
    if not isinstance(given, SystemPool):
        return given or ()
    lengths = draw_whole(given.tokens, streams.of("system tokens"), given.count).tolist()
    return tuple(
        SystemPrompt(tokens=tokens, weight=max(rank**-given.zipf, 1e-30))
        for rank, tokens in enumerate(lengths, 1)
    )


def _servegen_calls(spec: Spec, name: str, streams: Streams) -> list[Call]:
    """Each ServeGen client is a tenant of its own, unless the specification names tenants."""
    from traces.servegen import sample_servegen

    client = spec.clients[name]
    assert client.servegen is not None
    try:
        rows = list(
            sample_servegen(
                spec.folder / client.servegen,
                duration_s=spec.duration_s,
                start_s=client.start_s or 0.0,
                rate_scale=(client.rate_scale or 1.0) * spec.rate_scale,
                random=streams.of("servegen"),
            )
        )
    except ConfigError as error:
        raise ConfigError(f"{spec.file}: clients.{name}.{error}") from None
    tenants = [client.tenant or row[3] for row in rows]
    if client.tenants is not None:
        tenants = _tenants(client, streams, len(rows))
    return [
        Call(arrival_s, client, tenant, prompt, min(answer, client.max_tokens or answer), Thread())
        for (arrival_s, prompt, answer, _), tenant in zip(rows, tenants, strict=True)
    ]


def _tenants(client: Client, streams: Streams, starts: int) -> list[str]:
    """The sender of each start, as far as its system prompt does not say."""
    weights = client.tenants or {client.tenant or "default": 1.0}
    names = list(weights)
    chosen = choose(streams.of("tenants"), probabilities(list(weights.values())), starts)
    return [names[i] for i in chosen.tolist()]
