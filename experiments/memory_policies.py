"""Memory policies in the engine on a public trace: `python -m experiments.memory_policies`.

Mooncake's conversation trace (kvcache-ai/Mooncake, FAST25-release, Apache-2.0) asks for some ten
A100s, so one replica gets a tenth of its conversations at their own times: prompts that have the
second block in common are one, and every tenth of these in the order of their first turn is taken.
Three such parts (`--parts`) are run. The shipped reuse model was trained on the first half of the
trace's requests, so only what arrives in the second half of the time is counted.

Needs the trace in $SUPERINFER_DATA (default ../shared/data). Everything here is simulated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench import machine
from experiments.studykit.kv_memory import fitting_tokens, with_kv_tokens
from experiments.studykit.reading import data_folder
from sim.run import run_simulation
from sim.workload import load_workload
from superinfer.lab.config import Config, load_config
from superinfer.records.run import RunRecord
from superinfer.request import Request
from traces.workload import Workload

SHARE = 10
"""One replica gets the conversations of one in so many."""
SCHEDULERS = ("rotating", "vllm")
HOST = "memory.host_ratio=1.0"
POLICIES: dict[str, tuple[str, ...]] = {
    "lru": ("run.memory=lru",),
    "radix": ("run.memory=radix",),
    "slo_aware, no host": ("run.memory=slo_aware", "memory.host_ratio=0.0"),
    "slo_aware, no pins": ("run.memory=slo_aware", HOST, "memory.pin_share=0.0"),
    "slo_aware": ("run.memory=slo_aware", HOST),
    "hicache, selective": ("run.memory=hicache", HOST),
    "hicache, write_through": ("run.memory=hicache", HOST, "memory.write_policy=write_through"),
}
RUN = ("run.prefix_caching=true", "run.model=llama-3.1-8b", "run.device=a100-80g")


@dataclass(slots=True)
class Row:
    """One policy under one scheduler, over all parts."""

    scheduler: str
    policy: str
    requests: int
    """That were counted."""
    hit_rate: float
    """Share of their prompt tokens that came from the cache."""
    ttft_mean_s: float
    ttft_p99_s: float
    output_tokens_per_s: float
    """Of whole runs, for each part."""
    to_host_gib: float
    from_host_gib: float
    notes: list[str]

    def line(self) -> str:
        """A row of the table."""
        return (
            f"| `{self.scheduler}` | {self.policy} | {self.hit_rate:.4f} | {self.ttft_mean_s:.2f} "
            f"| {self.ttft_p99_s:.1f} | {self.output_tokens_per_s:.1f} "
            f"| {self.to_host_gib:.0f} / {self.from_host_gib:.0f} |"
        )


def conversations(whole: Workload, part: int, share: int = SHARE) -> Workload:
    """Every `share`-th conversation, from number `part` on."""
    numbers: dict[object, int] = {}
    kept: list[Request] = []
    outputs: list[int] = []
    for request, tokens in zip(whole.requests, whole.output_tokens, strict=True):
        name = request.hash_ids[1] if len(request.hash_ids) > 1 else request.request_id
        if numbers.setdefault(name, len(numbers)) % share == part:
            kept.append(replace(request, index=len(kept)))
            outputs.append(tokens)
    return Workload(kept, outputs, f"{whole.name}, part {part} of {share}")


def configured(trace: Path, *settings: str) -> Config:
    """A run of the trace."""
    config = load_config(None, [*RUN, *settings], trace=str(trace), spread=True)
    return with_kv_tokens(config, fitting_tokens(*RUN, "run.block_tokens=16"))


def counted(record: RunRecord, from_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prompt tokens, cached tokens and TTFT of what arrived from then on."""
    table = record.table
    arrival_s = np.array([request.arrival_s for request in table.requests])
    prompts = np.array([request.prompt_tokens for request in table.requests])
    late = arrival_s >= from_s
    ttft_s = table.first_token_s - arrival_s
    return prompts[late], table.cached_tokens[late], ttft_s[late]


def measure(trace: Path, parts: list[Workload], from_s: float, scheduler: str, policy: str) -> Row:
    """All parts under one scheduler and one policy."""
    config = configured(trace, f"run.scheduler={scheduler}", *POLICIES[policy])
    records = [run_simulation(config, part).record for part in parts]
    columns = [counted(record, from_s) for record in records]
    prompts, cached, ttft_s = (np.concatenate(column) for column in zip(*columns, strict=True))
    rates = [
        record.table.output_tokens.sum() / np.nanmax(record.table.finish_s) for record in records
    ]
    moved = [
        (record.cache_d2h_bytes + record.table.d2h_bytes.sum(), record.table.h2d_bytes.sum())
        for record in records
    ]
    out_gib, in_gib = np.array(moved).sum(axis=0) / 2**30
    return Row(
        scheduler=scheduler,
        policy=policy,
        requests=len(prompts),
        hit_rate=float(cached.sum() / prompts.sum()),
        ttft_mean_s=float(ttft_s.mean()),
        ttft_p99_s=float(np.quantile(ttft_s, 0.99)),
        output_tokens_per_s=float(np.mean(rates)),
        to_host_gib=float(out_gib),
        from_host_gib=float(in_gib),
        notes=[note for record in records for note in record.notes],
    )


def rows(trace: Path, parts: int, schedulers: list[str], policies: list[str]) -> Iterator[Row]:
    """Every policy under every scheduler."""
    whole = load_workload(configured(trace))
    from_s = whole.requests[len(whole.requests) // 2].arrival_s
    drawn = [conversations(whole, part) for part in range(parts)]
    for scheduler in schedulers:
        for policy in policies:
            yield measure(trace, drawn, from_s, scheduler, policy)


def mooncake() -> Path:
    """The trace in the folder of public data."""
    return data_folder() / "traces" / "mooncake" / "conversation_trace.jsonl.gz"


def main() -> None:
    """Run all of it and print a table (or write JSON)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--parts", type=int, default=3)
    parser.add_argument("--schedulers", nargs="+", default=list(SCHEDULERS))
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    for row in rows(mooncake(), options.parts, options.schedulers, options.policies):
        print(row.line(), flush=True)
        for note in row.notes:
            print(f"  {note}", flush=True)
        found.append(asdict(row))
    if options.json:
        figures = {"simulated": True, "machine": machine(), "parts": options.parts, "rows": found}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
