"""`/metrics`: vLLM's names, buckets and labels below a prefix of our own, and what only we have.

Buckets are those of vLLM 0.10.2 (its `/metrics` page), so that dashboards made for them fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from executor.serving.engine.engine_client import EngineClient
from executor.serving.engine.letters import Ended
from executor.serving.verdict import Verdict
from superinfer.request import Request

TTFT_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
ITL_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)
REQUEST_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0),
    *(240.0, 480.0, 960.0, 1920.0, 7680.0),
)
TOKENS = tuple(
    float(digit * 10**power) for power in range(7) for digit in (1, 2, 5) if digit * 10**power < 1e6
)
HISTOGRAMS = {
    "time_to_first_token_seconds": ("Arrival to first token.", TTFT_S),
    "inter_token_latency_seconds": ("Between two tokens of a request.", ITL_S),
    "request_time_per_output_token_seconds": ("Mean time of a token after the first.", ITL_S),
    "e2e_request_latency_seconds": ("Arrival to last token.", REQUEST_S),
    "request_queue_time_seconds": ("Arrival until first scheduled.", REQUEST_S),
    "request_prefill_time_seconds": ("First scheduled to first token.", REQUEST_S),
    "request_decode_time_seconds": ("First to last token.", REQUEST_S),
    "request_prompt_tokens": ("Tokens of a prompt.", TOKENS),
    "request_generation_tokens": ("Tokens of an answer.", TOKENS),
}
COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "request_success": ("Requests that finished, or whose client left.", ("finished_reason",)),
    "request_failure": ("Requests that ended otherwise.", ("outcome",)),
    "request_refused": ("Requests that were turned away before the engine had them.", ("reason",)),
    "slo_requests": ("Requests with targets, by class and result.", ("class", "result")),
    "prompt_tokens": ("Tokens of prompts that were computed or found.", ()),
    "generation_tokens": ("Tokens of answers.", ()),
    "num_preemptions": ("Times that a KV cache was dropped, or moved to the host.", ()),
}
OF_THE_ENGINE = {
    "num_requests_running": "Requests whose KV cache is on the device.",
    "num_requests_waiting": "Requests in a queue, or whose KV cache was moved out.",
    "kv_cache_usage_perc": "Share of the KV cache on the device that requests hold, at most 1.",
    "kv_tier_usage_perc": "Share of a tier of the KV cache that requests hold, at most 1.",
    "kv_quantized_blocks": "Blocks of the KV cache that have fewer than 16 bits.",
    "step_time_factor": "Measured over predicted time of steps, as learned.",
    "cache_config": "Sizes of the KV cache.",
    "prefix_cache_queries": "Tokens of prompts that were looked up in the cache.",
    "prefix_cache_hits": "Tokens of prompts that were found in the cache.",
    "num_rotations": "KV caches copied to the host to make room.",
    "kv_transfer_bytes": "Bytes of KV cache copied between device and host.",
}
"""What is read from its latest state."""
FROM_THE_START = {
    "request_success": ("finished_reason", ("stop", "length", "abort")),
    "request_failure": ("outcome", ("rejected", "failed", "unfinished")),
    "request_refused": ("reason", ("overloaded", "shutting_down")),
}
"""Values of labels that are known before the first event, so that a rate can be taken of it."""


class Metrics:
    """The metrics of one engine. Everything here runs in the event loop."""

    def __init__(self, prefix: str, model: str, engine: EngineClient) -> None:
        self.registry = CollectorRegistry()
        self._engine = engine
        self._prefix, self._labels = prefix, {"model_name": model, "engine": "0"}
        names = tuple(self._labels)
        self._histograms = {
            name: Histogram(
                f"{prefix}:{name}", text, names, buckets=buckets, registry=self.registry
            ).labels(**self._labels)
            for name, (text, buckets) in HISTOGRAMS.items()
        }
        self._counters = {
            name: Counter(f"{prefix}:{name}", text, (*names, *more), registry=self.registry)
            for name, (text, more) in COUNTERS.items()
        }
        for name, (label, values) in FROM_THE_START.items():
            for value in values:
                self._count(name, {label: value}, 0)
        for name in ("prompt_tokens", "num_preemptions"):
            self._count(name, amount=0)
        self._tokens = self._counters["generation_tokens"].labels(**self._labels)
        self._ttft = self._histograms["time_to_first_token_seconds"]
        self._itl = self._histograms["inter_token_latency_seconds"]
        self.registry.register(EnginePage(prefix, self._labels, engine))

    async def text(self) -> bytes:
        """The page, with what the engine has now."""
        await self._engine.look()
        return generate_latest(self.registry)

    def refused(self, reason: str) -> None:
        """A request was turned away."""
        self._count("request_refused", {"reason": reason})

    def first(self, request: Request, seconds: float) -> None:
        """The first token of a request came so long after it."""
        self._ttft.observe(seconds)
        self._tokens.inc()
        self._count("prompt_tokens", amount=request.prompt_tokens)

    def gap(self, request: Request, seconds: float) -> None:
        """A token of it came so long after the one before."""
        self._itl.observe(seconds)
        self._tokens.inc()

    def ended(self, request: Request, ended: Ended, finish_reason: str) -> None:
        """A request is over."""
        verdict = Verdict.of(request, ended)
        if verdict.slo_met is not None:
            for result, so in (("met", True), ("missed", False)):  # both from the first one on
                labels = {"class": request.slo_class.name, "result": result}
                self._count("slo_requests", labels, int(verdict.slo_met is so))
        self._count("num_preemptions", amount=ended.preemptions)
        if ended.outcome == "finished":
            self._finished(request, ended, verdict, finish_reason)
        elif ended.outcome == "cancelled":  # by vLLM's name, and where vLLM counts it
            self._count("request_success", {"finished_reason": "abort"})
        else:
            self._count("request_failure", {"outcome": ended.outcome})

    # -- inside ---------------------------------------------------------------------------------

    def _finished(self, request: Request, ended: Ended, verdict: Verdict, reason: str) -> None:
        self._count("request_success", {"finished_reason": reason})
        for seconds, name in (
            (verdict.tpot_s, "request_time_per_output_token_seconds"),
            (verdict.e2el_s, "e2e_request_latency_seconds"),
            (verdict.queue_s, "request_queue_time_seconds"),
            (verdict.prefill_s, "request_prefill_time_seconds"),
            (verdict.decode_s, "request_decode_time_seconds"),
            (float(request.prompt_tokens), "request_prompt_tokens"),
            (float(ended.output_tokens), "request_generation_tokens"),
        ):
            self._observe(seconds, name)

    def _count(self, name: str, labels: Mapping[str, str] | None = None, amount: int = 1) -> None:
        self._counters[name].labels(**self._labels, **(labels or {})).inc(amount)

    def _observe(self, value: float | None, name: str) -> None:
        if value is not None:
            self._histograms[name].observe(value)


class EnginePage:
    """What an engine has at the moment, by its latest state."""

    def __init__(self, prefix: str, labels: dict[str, str], engine: EngineClient) -> None:
        self._prefix, self._labels, self._engine = prefix, labels, engine

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead of time."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All of it now."""
        yield from self._gauges()
        yield from self._counters()

    # -- inside ---------------------------------------------------------------------------------

    def _gauges(self) -> Iterable[Metric]:
        state, facts, count = self._engine.state, self._engine.facts, self._engine.number
        running = min(state.running, count)
        yield self._gauge("num_requests_running", running)
        yield self._gauge("num_requests_waiting", count - running)
        yield self._gauge("kv_cache_usage_perc", state.kv_usage)
        host = {} if state.host_usage is None else {"host": state.host_usage}
        yield self._gauge("kv_tier_usage_perc", {"device": state.kv_usage, **host}, "tier")
        bits = dict(zip(("8", "4"), map(float, state.small_blocks), strict=True))
        yield self._gauge("kv_quantized_blocks", bits, "bits")
        if state.step_time_factors is not None:
            factors = dict(zip(("decodes", "prefills"), state.step_time_factors, strict=True))
            yield self._gauge("step_time_factor", factors, "steps")
        sizes = {"block_size": facts.block_tokens, "num_gpu_blocks": facts.total_blocks}
        yield self._info("cache_config", sizes)

    def _counters(self) -> Iterable[Metric]:
        state = self._engine.state
        for name, value in (
            ("prefix_cache_queries", state.prefix_query_tokens),
            ("prefix_cache_hits", state.prefix_hit_tokens),
            ("num_rotations", state.rotations),
        ):
            yield self._counter(name, [((), value)])
        moved = [(("device", "host"), state.d2h_bytes), (("host", "device"), state.h2d_bytes)]
        yield self._counter("kv_transfer_bytes", moved, ("src", "dst"))

    def _gauge(self, name: str, value: float | dict[str, float], label: str = "") -> Metric:
        labels = (*self._labels, label) if label else tuple(self._labels)
        family = GaugeMetricFamily(f"{self._prefix}:{name}", OF_THE_ENGINE[name], labels=labels)
        found = value if isinstance(value, dict) else {"": value}
        for key, number in found.items():
            family.add_metric((*self._labels.values(), *([key] if label else [])), number)
        return family

    def _counter(
        self,
        name: str,
        values: Sequence[tuple[tuple[str, ...], float]],
        labels: tuple[str, ...] = (),
    ) -> Metric:
        family = CounterMetricFamily(
            f"{self._prefix}:{name}", OF_THE_ENGINE[name], labels=(*self._labels, *labels)
        )
        for more, number in values:
            family.add_metric((*self._labels.values(), *more), number)
        return family

    def _info(self, name: str, values: dict[str, Any]) -> Metric:
        labels = tuple(self._labels)
        family = InfoMetricFamily(f"{self._prefix}:{name}", OF_THE_ENGINE[name], labels=labels)
        shown = {key: str(value) for key, value in values.items()}
        family.add_metric(tuple(self._labels.values()), shown)
        return family
