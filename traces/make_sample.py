"""Makes the bundled sample `mixed.jsonl`: ten minutes of chat, code completion and batch work.

Run as `python -m traces.make_sample [PATH]`; the bytes are the same every time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from superinfer.request import Request, SLOClass
from superinfer.slo_classes import PRESETS
from traces.convert import native_bytes
from traces.workload import Workload

SEED = 40
DURATION_S = 600.0
BLOCK_TOKENS = 64

Random = np.random.RandomState
"""The old generator on purpose: numpy promises that its streams never change."""

Span = tuple[int, int]
"""A piece of text: its id and its length in tokens."""


@dataclass(slots=True)
class _Call:
    """One request before it has a place in the trace."""

    arrival_s: float
    class_name: str
    tenant: str
    session_id: str | None
    prompt: list[Span]
    output_tokens: int


class _Texts:
    """Gives out ids of new pieces of text; all that a piece has is its identity and length."""

    def __init__(self) -> None:
        self._count = 0

    def new(self, tokens: float) -> Span:
        """A piece that no other prompt holds yet."""
        self._count += 1
        return self._count, max(1, int(tokens))


class _BlockIds:
    """Chained ids of prompt blocks: one id per distinct text from the start to the block's end."""

    def __init__(self) -> None:
        self._ids: dict[tuple[int, tuple[Span, ...]], int] = {}

    def of(self, prompt: list[Span]) -> tuple[int, ...]:
        """The ids of a prompt's blocks, the last one maybe partial."""
        chain, parent = [], -1
        for block in _blocks(prompt):
            parent = self._ids.setdefault((parent, block), len(self._ids))
            chain.append(parent)
        return tuple(chain)


def _blocks(prompt: list[Span]) -> Iterator[tuple[Span, ...]]:
    """Every block as pairs (text, tokens of it in the block)."""
    block: list[Span] = []
    room = BLOCK_TOKENS
    for text, tokens in prompt:
        left = tokens
        while left:
            taken = min(left, room)
            block.append((text, taken))
            left, room = left - taken, room - taken
            if not room:
                yield tuple(block)
                block, room = [], BLOCK_TOKENS
    if block:
        yield tuple(block)


def _lognormal(random: Random, mean: float, sigma: float, low: float, high: float) -> float:
    """A draw whose mean is `mean` before it is cut to [low, high]."""
    draw = random.lognormal(np.log(mean) - sigma**2 / 2, sigma)
    return float(min(max(draw, low), high))


def _gamma_times(random: Random, per_s: float, cv: float, start_s: float) -> Iterator[float]:
    """Arrival times in s with gamma gaps of the given coefficient of variation."""
    now_s = start_s
    while now_s < DURATION_S:
        now_s += random.gamma(1 / cv**2, cv**2 / per_s)
        yield now_s


def _chat(random: Random, texts: _Texts) -> Iterator[_Call]:
    """Conversations of several turns under a few shared system prompts."""
    systems = [texts.new(tokens) for tokens in (448, 384, 320, 256)]
    tenants = ["acme", "acme", "birch", "cedar"]
    # Conversations that began earlier are in full swing when the trace begins.
    for number, start_s in enumerate(_gamma_times(random, 0.42, 1.5, -120.0)):
        which = random.choice(4, p=[0.4, 0.2, 0.25, 0.15])
        turns = _chat_turns(random, texts, systems[which], start_s)
        for arrival_s, prompt, output_tokens in turns:
            if 0 <= arrival_s < DURATION_S:
                session_id = f"chat-{number}"
                yield _Call(arrival_s, "chat", tenants[which], session_id, prompt, output_tokens)


def _chat_turns(
    random: Random, texts: _Texts, system: Span, now_s: float
) -> Iterator[tuple[float, list[Span], int]]:
    prompt = [system]
    for _ in range(min(random.geometric(0.45), 7)):
        prompt = [*prompt, texts.new(_lognormal(random, 220, 1.0, 8, 2000))]
        output_tokens = int(_lognormal(random, 200, 0.8, 5, 1000))
        yield now_s, prompt, output_tokens
        prompt = [*prompt, texts.new(output_tokens)]
        now_s += 1 + output_tokens * 0.025 + _lognormal(random, 18, 0.9, 2, 120)


def _code(random: Random, texts: _Texts) -> Iterator[_Call]:
    """Editors that ask in bursts while somebody types; one file grows under every burst."""
    repositories = [
        (texts.new(tokens), "acme" if i < 3 else "delta")
        for i, tokens in enumerate((640, 448, 832, 576, 704))
    ]
    for number, start_s in enumerate(_gamma_times(random, 0.085, 2.0, 0.0)):
        header, tenant = repositories[random.randint(len(repositories))]
        prompt = [header, texts.new(_lognormal(random, 1400, 0.7, 64, 6000))]
        now_s = start_s
        for _ in range(min(random.geometric(0.12), 30)):
            if now_s < DURATION_S:
                output_tokens = int(_lognormal(random, 30, 0.9, 1, 120))
                yield _Call(now_s, "code", tenant, f"code-{number}", prompt, output_tokens)
            prompt = [*prompt, texts.new(_lognormal(random, 20, 0.8, 1, 200))]
            now_s += _lognormal(random, 1.6, 0.8, 0.2, 15)


def _batch(random: Random, texts: _Texts) -> Iterator[_Call]:
    """Jobs that hand in a block of documents at once, each under the job's instructions."""
    jobs = [(texts.new(576), "cedar"), (texts.new(960), "nightly")]
    for number, start_s in enumerate(_gamma_times(random, 1 / 40, 0.5, -15.0)):
        instructions, tenant = jobs[number % 2]
        for position in range(random.randint(38, 69)):
            arrival_s = start_s + 0.02 * position
            document = texts.new(_lognormal(random, 2650, 0.45, 400, 9000))
            output_tokens = int(_lognormal(random, 490, 0.5, 40, 1800))
            if 0 <= arrival_s < DURATION_S:
                prompt = [instructions, document]
                yield _Call(arrival_s, "batch", tenant, None, prompt, output_tokens)


def make_sample(seed: int = SEED) -> Workload:
    """The sample as a workload; equal seeds give equal ones."""
    texts = _Texts()
    sources = (_chat, _code, _batch)
    calls = [call for i, source in enumerate(sources) for call in source(Random([seed, i]), texts)]
    calls.sort(key=lambda call: call.arrival_s)
    block_ids = _BlockIds()
    requests = [_request(index, call, block_ids) for index, call in enumerate(calls)]
    return Workload(requests, [call.output_tokens for call in calls], name="mixed")


def _request(index: int, call: _Call, block_ids: _BlockIds) -> Request:
    slo_class: SLOClass = PRESETS[call.class_name]
    return Request(
        request_id=str(index + 1),
        arrival_s=round(call.arrival_s * 1000) / 1000,
        prompt_tokens=sum(tokens for _, tokens in call.prompt),
        max_tokens=slo_class.max_tokens,
        slo=slo_class.slo,
        slo_class=slo_class,
        tenant=call.tenant,
        session_id=call.session_id,
        hash_ids=block_ids.of(call.prompt),
        hash_block_tokens=BLOCK_TOKENS,
        index=index,
    )


def main() -> None:
    """Write the sample to the path given, or to where the package keeps it."""
    default = Path(__file__).parent / "samples" / "mixed.jsonl"
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    path.write_bytes(native_bytes(make_sample()))


if __name__ == "__main__":
    main()
