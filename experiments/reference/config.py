"""`docs/reference-config.md`: every key of a configuration."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence

from experiments.reference.fields import Setting, about, settings
from experiments.tables.parts import Lines, blocks, page_of, table
from superinfer.lab.config import RunConfig
from superinfer.lab.report.values import NONE
from superinfer.memory import MEMORY_POLICIES
from superinfer.request import DEFAULT_CLASS, SLOClass
from superinfer.routers import ROUTERS
from superinfer.schedulers import SCHEDULERS
from superinfer.slo_classes import PRESETS

SHARED = {
    "max_num_seqs": "Requests on the device at a time.",
    "max_num_batched_tokens": "Token budget of a step, decodes included.",
    "preemption": "Fate of the cache of who is preempted: `recompute` drops it, `swap` moves it to "
    "the host.",
    "swap_in_timing": "`before_step`: a step waits for the copy back; `background`: it runs beside "
    "the computation.",
    "policy": "Order of the queue: by arrival, or by the requests' priority.",
    "capacity_policy": "`guaranteed_no_evict` reserves what a request may ever need, "
    "`max_utilization` reserves nothing and pauses, `static_batch` lets nobody join.",
    "context_chunking": "How prompts share a step's tokens: in order, or with equal progress.",
    "max_batch_size": "Requests in a step.",
    "max_num_tokens": "Token budget of a step.",
    "variant": "`lvf_repo`: the rules of the public code; `lvf_vlt`: virtual lag, rebuilt from the "
    "paper.",
    "alpha": "Factor of the TTFT target in the lag of requests that wait.",
    "beta": "Factor of the TBT target in the lag of rotated requests.",
    "gamma": "Factor of the time since it came in, in the lag of who runs.",
    "version": "The release whose rules are followed.",
    "max_prefill_tokens": "Tokens of prompts in a prefill batch.",
    "schedule_conservativeness": "Factor of the share of declared answers that admission reserves.",
    "auto_prompt_tokens": 'Prompt length for which `placement = "auto"` searches.',
    "auto_answer_tokens": 'Answer length for which `placement = "auto"` searches.',
    "compress_cache": "Keep the cache in 4 bits, in groups of 64 values.",
    "disk_gib": "Size of the disk.",
    "write_policy": "When blocks go to the host: `write_through` all at once, "
    "`write_through_selective` when they are used again, `write_back` when they are evicted.",
}
"""Meanings of keys that a class leaves without a docstring of their own."""
CLASS_KEYS = (
    Setting("ttft_ms", "number", "absent", "ms", "Target: first token. 0 or absent: none."),
    Setting("tpot_ms", "number", "absent", "ms", "Target: mean time per later token."),
    Setting("e2el_ms", "number", "absent", "ms", "Target: the whole answer."),
    Setting("min_tokens_per_s", "number", "absent", "tokens/s", "Target: answer tokens over E2E."),
    Setting(
        "weight", "number > 0", "`1.0`", "", "Value of meeting the targets, relative to others."
    ),
    Setting("max_stall_ms", "number", "absent", "ms", "Longest tolerated gap. 0: no bound."),
    Setting("min_kv_bits", "`16`, `8`, `4`", "`16`", "bits", "Lowest precision of its KV cache."),
    Setting(
        "max_tokens",
        "integer",
        f"`{DEFAULT_CLASS.max_tokens}`",
        "tokens",
        "Answer limit of a request that declares none, doubled until it covers the answer.",
    ),
    Setting(
        "delivery",
        "`strict`, `paced`",
        '`"strict"`',
        "",
        "`paced`: tokens that come early are credit.",
    ),
)
_HEAD = """\
# Configuration

Every key of a configuration file (TOML), which `--config FILE` takes and `--set section.key=value`
overrides; how the layers go together: [formats](formats.md#configuration). This page is made by
`python -m experiments.reference` from the types and docstrings of the program."""
_WORKLOAD = """\
## [workload]

What is laid over the specification of a trace: [workloads](workloads.md)."""
_SECTIONS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "scheduler": ("Settings of the scheduler that `run.scheduler` names.", SCHEDULERS),
    "memory": ("Settings of the memory policy that `run.memory` names.", MEMORY_POLICIES),
    "router": ("Settings of the router that `run.router` names.", ROUTERS),
}


def page() -> str:
    """The whole page."""
    sections = (
        blocks(f"## [{name}]", said, *(_policy(*each) for each in known.items()))
        for name, (said, known) in _SECTIONS.items()
    )
    return page_of(
        _HEAD, "## [run]", _rows(settings(RunConfig, {})), *sections, _classes(), _WORKLOAD
    )


# -- inside ---------------------------------------------------------------------------------------


def _policy(name: str, target: str) -> str:
    module, _, attribute = target.partition(":")
    cls = getattr(importlib.import_module(module), attribute)
    found = settings(cls, SHARED)
    return blocks(f"### `{name}`", about(cls), _rows(found) if found else "No settings.")


def _rows(found: Sequence[Setting]) -> Lines:
    return table(["key", "type", "default", "unit", "meaning"], map(_row, found), texts=5)


def _row(setting: Setting) -> list[str]:
    cells = f"`{setting.name}`", setting.kind, setting.default, setting.unit, setting.meaning
    return [cell.replace("|", "\\|") for cell in cells]


def _classes() -> str:
    return blocks(
        "## [classes.NAME]",
        "A service class: targets, and how the system may treat its requests. `--classes FILE` "
        "adds to the presets, and lays its keys over one of the same name.",
        _rows(CLASS_KEYS),
        _presets(),
    )


def _presets() -> Lines:
    names = ("ttft_ms", "tpot_ms", "e2el_ms", "max_stall_ms", "max_tokens", "delivery")
    rows = ([f"`{name}`", *_preset(each)] for name, each in PRESETS.items())
    return table(["preset", *(f"`{name}`" for name in names)], rows, last_texts=1)


def _preset(found: SLOClass) -> Iterator[str]:
    for time_s in (found.slo.ttft_s, found.slo.tpot_s, found.slo.e2el_s, found.max_stall_s):
        yield NONE if time_s is None else f"{time_s * 1e3:g}"
    yield str(found.max_tokens)
    yield found.delivery
