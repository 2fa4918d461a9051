"""The tables of a specification; `docs/workloads.md` explains them to users."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from superinfer.settings import is_number
from traces.generate.arrivals import AnyCurve, AnyGaps, Bursts, PoissonGaps
from traces.generate.distributions import (
    Count,
    Distribution,
    Family,
    Uniform,
    as_family,
    mean_count,
    whole_bounds,
)
from traces.generate.faults import shown
from traces.generate.table import (
    Name,
    Positive,
    Seconds,
    Table,
    Tokens,
    Weight,
    exactly_one,
    forbid,
)

RATES = ("rate_per_s", "sessions_per_s", "requests", "servegen")
"""The four ways to say how much a client sends."""
MAX_REQUESTS = 5_000_000


class Document(Table, frozen=True, kw_only=True):
    """The specification as a whole; its clients are read one by one."""

    version: Literal[1]
    name: Name | None = None
    duration_s: Annotated[float, Meta(gt=0, le=1e8)]
    block_tokens: Tokens = 64
    """Tokens per prefix id."""
    rate_scale: Positive = 1.0
    """Multiplies every rate."""
    clients: Annotated[dict[str, Any], Meta(min_length=1)]
    """Tables that stand for a `Client` each."""


class SystemPrompt(Table, frozen=True, kw_only=True):
    """A text at the beginning of prompts, the same in all sessions that draw it."""

    tokens: Tokens
    weight: Weight = 1.0
    tenant: Name | None = None
    """Who sends the sessions under this prompt; absent: drawn from the client's tenants."""


class SystemPool(Table, frozen=True, kw_only=True):
    """Many system prompts; the k-th most popular has the weight 1 / k^zipf."""

    count: Annotated[int, Meta(ge=1, le=100_000)]
    tokens: Distribution
    zipf: Annotated[float, Meta(ge=0, le=10)] = 0.0


class Pairs(Table, frozen=True, kw_only=True):
    """Prompt and answer drawn together, so that their correlation is kept."""

    pairs: Annotated[tuple[tuple[Tokens, Tokens], ...], Meta(min_length=1)] | None = None
    trace: Name | None = None
    """Any trace that `superinfer-sim` reads."""
    sharegpt: Name | None = None

    def __post_init__(self) -> None:
        exactly_one(self, "pairs", "trace", "sharegpt")


class Session(Table, frozen=True, kw_only=True):
    """Several turns, each after the answer to the one before and some think time."""

    turns: Count
    think_s: Distribution
    context: Distribution | None = None
    """Tokens that stand before the first turn's text, such as a file or a document."""
    history: Literal["all", "prompts", "none"] = "all"
    """What a prompt repeats of earlier turns: with the answers, without them, or nothing."""
    first_token_s: Seconds = 1.0
    token_s: Seconds = 0.025
    """An answer of n tokens is taken to last first_token_s + (n - 1) token_s."""
    max_prompt_tokens: Tokens | None = None
    """The history is dropped when a prompt would be longer."""
    delays: bool = True
    """Write the think time (`delay_ms`), with which a driver can close the loop."""

    def __post_init__(self) -> None:
        _check_counts(self, "turns", "context")


class Group(Table, frozen=True, kw_only=True):
    """Several requests handed in one shortly after the other, without waiting for answers."""

    size: Count
    gap_s: Seconds = 0.0

    def __post_init__(self) -> None:
        _check_counts(self, "size")


class Client(Table, frozen=True, kw_only=True, rename={"class_": "class"}):
    """A kind of client: who sends what, and how often."""

    class_: str = "default"
    tenant: Name | None = None
    tenants: Annotated[dict[str, Any], Meta(min_length=1)] | None = None
    """Names and their weights."""
    priority: Annotated[int, Meta(ge=-(2**53), le=2**53)] = 0
    max_tokens: Tokens | None = None
    """The client's limit, at which answers end; absent: the class's."""

    rate_per_s: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    """Requests per second in the steady state, all turns and members of groups counted."""
    sessions_per_s: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    """Starts per second of sessions, groups or single requests."""
    requests: Annotated[int, Meta(ge=1, le=MAX_REQUESTS)] | None = None
    """A backlog: so many requests at time 0."""
    servegen: Name | None = None
    """Folder of ServeGen's client files."""
    rate_scale: Positive | None = None
    """Multiplies ServeGen's rates."""
    start_s: Seconds | None = None
    """Where in ServeGen's days the trace begins."""

    gaps: AnyGaps | None = None
    curve: AnyCurve | None = None
    bursts: Bursts | None = None

    prompt: Distribution | None = None
    """New text of each request."""
    answer: Distribution | None = None
    lengths: Pairs | None = None
    """New text and answer together, in place of `prompt` and `answer`."""
    system_prompts: tuple[SystemPrompt, ...] | SystemPool | None = None
    session: Session | None = None
    group: Group | None = None

    def __post_init__(self) -> None:
        kind = exactly_one(self, *RATES)
        if kind == "servegen":
            forbid(self, ("gaps", "curve", "bursts", *_TEXTS, "session", "group"), kind)
        else:
            forbid(self, ("rate_scale", "start_s"), kind)
            _check_lengths(self)
        if kind == "requests":
            forbid(self, ("gaps", "curve", "bursts", "session", "group"), kind)
        if self.session is not None:
            forbid(self, ("group",), "session")
        if self.tenants is not None:
            forbid(self, ("tenant",), "tenants")
            _check_weights(self.tenants)

    @property
    def any_gaps(self) -> AnyGaps:
        """The family of gaps; Poisson unless another one is given."""
        return self.gaps or PoissonGaps()

    @property
    def per_start(self) -> Count:
        """Requests of one start."""
        if self.session is not None:
            return self.session.turns
        return 1 if self.group is None else self.group.size

    @property
    def starts_per_s(self) -> float:
        """Rate of sessions, groups or single requests, before any scale."""
        if self.sessions_per_s is not None:
            return self.sessions_per_s
        return (self.rate_per_s or 0.0) / mean_count(self.per_start)


_TEXTS = ("prompt", "answer", "lengths", "system_prompts")


def _check_lengths(client: Client) -> None:
    if client.lengths is not None:
        forbid(client, ("prompt", "answer"), "lengths")
        return
    for name in ("prompt", "answer"):
        if getattr(client, name) is None:
            raise ValueError(f"{name}: expected a distribution of tokens, got nothing")
    _check_counts(client, "prompt", "answer")


def _check_counts(table: Table, *names: str) -> None:
    """`ValueError` for distributions that cannot give whole numbers or have no known mean."""
    for name in names:
        given = getattr(table, name)
        try:
            if isinstance(given, Uniform):
                whole_bounds(given)
            if name in {"turns", "size"}:
                _check_mean(given)
        except ValueError as error:
            raise ValueError(f"{name}.{error}") from None


def _check_mean(given: Any) -> None:
    family: Family = as_family(given)
    if family.max is not None and not 1 <= family.max <= 10**6:
        limit = "<= 1e6" if family.max > 1 else ">= 1"
        raise ValueError(f"max: expected a number {limit}, got {family.max:g}")
    mean = mean_count(given)
    if mean > 10**6:
        raise ValueError(f"mean: expected a number <= 1e6, got {mean:g}")


def _check_weights(tenants: dict[str, Any]) -> None:
    for name, weight in tenants.items():
        if not (name and is_number(weight) and 0 < weight <= 1e9):
            raise ValueError(f"tenants.{name}: expected a number > 0, got {shown(weight)}")
