"""Router `prefix_affinity`: to the replica that has computed the longest part of the prompt.

The bound on the load is that of "Consistent Hashing with Bounded Loads" (Mirrokni, Thorup and
Zadimoghaddam 2018, arXiv 1608.01350): nobody takes much more than the mean. Here the first choice
is not a hash but where the prefix went last.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from superinfer.errors import ConfigError
from superinfer.request import Request
from superinfer.routers.least_loaded import outstanding
from superinfer.routers.view import ReplicaView


@dataclass
class PrefixAffinityRouter:
    """Remembers where each prefix went last; a session without content ids follows itself."""

    load_bound: float = 1.25
    """A replica is followed while its outstanding tokens, with this request, are at most so many
    times the mean of all; else the request goes to the least loaded one."""
    max_prefixes: int = 1_000_000
    """Prefixes remembered; the one that was not asked for longest goes first."""
    name: str = field(default="prefix_affinity", init=False)
    _replicas: Sequence[ReplicaView] = field(default=(), init=False, repr=False)
    _went: OrderedDict[Hashable, int] = field(default_factory=OrderedDict, init=False, repr=False)

    def __post_init__(self) -> None:
        """ConfigError for settings that leave nothing to follow."""
        if not self.load_bound >= 1:
            raise ConfigError(f"router.load_bound: expected at least 1, got {self.load_bound:g}")
        if self.max_prefixes < 1:
            raise ConfigError(f"router.max_prefixes: expected at least 1, got {self.max_prefixes}")

    def bind(self, replicas: Sequence[ReplicaView]) -> None:
        """Learn the replicas."""
        self._replicas = replicas

    def route(self, request: Request, now: float) -> int:
        """The one with the longest prefix, unless it has too much to do."""
        followed = self._holder(request)
        if followed is None or not self._within_bound(self._replicas[followed], request):
            followed = min(self._replicas, key=outstanding).index
        self._remember(request, followed)
        return followed

    # -- inside ---------------------------------------------------------------------------------

    def _holder(self, request: Request) -> int | None:
        """Where the longest known prefix went last."""
        return next((self._went[key] for key in _longest_first(request) if key in self._went), None)

    def _within_bound(self, replica: ReplicaView, request: Request) -> bool:
        own = request.prompt_tokens + replica.expected_answer_tokens(request)
        total = own + sum(map(outstanding, self._replicas))
        # A single request may be above the mean of several replicas: an idle one can take it.
        most = self.load_bound * max(total / len(self._replicas), own)
        return replica.outstanding_tokens + own <= most

    def _remember(self, request: Request, replica: int) -> None:
        went = self._went
        for key in _longest_first(request):
            went[key] = replica
            went.move_to_end(key)
        while len(went) > self.max_prefixes:
            went.popitem(last=False)


def _longest_first(request: Request) -> Iterator[Hashable]:
    """Names of the prompt's prefixes. Ids are chained: each stands for all that comes before it."""
    for content_id in reversed(request.hash_ids):
        yield request.namespace, request.hash_block_tokens, content_id
    if not request.hash_ids and request.session_id is not None:
        yield request.namespace, request.session_id
