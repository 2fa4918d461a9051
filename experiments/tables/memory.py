"""The tables of `docs/memory.md`: cached prefixes, the policy's own time, the ladder, the dial."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.ladder.table import worth_table
from experiments.scenarios.measures import ATTAINMENT, BATCH, P99_TTFT
from experiments.tables.parts import Lines, Numbers, number, recorded, table

PAGE = "docs/memory.md"
WORKLOADS = {
    "standard": "standard workload, 10,000 requests, half of each prompt shared",
    "M": "scenario M",
    "mooncake": "a tenth of Mooncake",
}
CORNERS = ((0, 0, 1), (0.4, 0, 0.6), (0.4, 0.4, 0.2), (0, 1, 0), (1, 0, 0))
"""Weights of cost, speed and quality that are shown of the grid."""


def cache_study(found: Numbers) -> Lines:
    """Policies of eviction alone, at every capacity."""
    policies: dict[str, list[Numbers]] = {}
    for each in found["results"]:
        policies.setdefault(each["policy"], []).append(each)
    sizes = " / ".join(f"{each['capacity_blocks']:,}" for each in next(iter(policies.values())))
    head = ["policy", f"hit rate {sizes}", "gap closed", "prefill seconds saved", "us/block"]
    return table(head, (_policy(name, rows) for name, rows in policies.items()), len(head))


def policies(found: Numbers) -> Lines:
    """Memory policies in the engine."""
    head = ["scheduler", "policy", "hit rate (tokens)", "TTFT mean, s", "TTFT p99, s"]
    head += ["output tokens/s", "GiB to / from the host"]
    rows = (
        [
            f"`{row['scheduler']}`",
            _code(row["policy"]),
            f"{row['hit_rate']:.3f}",
            f"{row['ttft_mean_s']:.2f}",
            f"{row['ttft_p99_s']:.1f}",
            f"{row['output_tokens_per_s']:.1f}",
            f"{row['to_host_gib']:,.0f} / {row['from_host_gib']:,.0f}",
        ]
        for row in found["rows"]
    )
    return table(head, rows, 2)


def policy_time(found: Numbers) -> Lines:
    """The policy's own time."""
    schedulers = ("rotating", "vllm")
    shares = {(each["workload"], each["scheduler"]): each for each in found["cases"]}
    rows = (
        [words, *(_share(shares[workload, scheduler]) for scheduler in schedulers)]
        for workload, words in WORKLOADS.items()
        if (workload, schedulers[0]) in shares
    )
    return table(["workload", *(f"`{name}`" for name in schedulers)], rows)


def policy_machine(found: Numbers) -> Lines:
    """Where the policy's time was measured."""
    each = found["machine"]
    yield (
        f"CPU seconds of {each['cores']} vCPU, {each['processor']}; Python {each['python']}, numpy "
        f"{each['numpy']}, core {each['core']}. The bar is {found['bar']:.0%} of the simulated "
        "time."
    )


def dial(found: Numbers) -> Lines:
    """Some points of the grid."""
    head = ["cost", "speed", "quality", "batch tokens/s", "chat attainment", "chat P99 TTFT"]
    return table([*head, "KV bits"], _points(found), 0)


TABLES = {
    "cache study": recorded("simulated/memory/cache_study.json", cache_study),
    "memory policies": recorded("simulated/memory/policies.json", policies),
    "policy time": recorded("cpu/policy_time.json", policy_time),
    "policy time machine": recorded("cpu/policy_time.json", policy_machine),
    "ladder m-pcie": recorded(
        "simulated/ladder/summary.json", lambda found: worth_table(found["scenarios"]["m-pcie"])
    ),
    "ladder c": recorded(
        "simulated/ladder/summary.json", lambda found: worth_table(found["scenarios"]["c"])
    ),
    "dial": recorded("simulated/dial/summary.json", dial),
}

# -- inside ---------------------------------------------------------------------------------------


def _policy(name: str, rows: list[Numbers]) -> list[str]:
    return [
        f"`{name}`",
        " / ".join(_fraction(row["hit_rate"], 4) for row in rows),
        " / ".join(_fraction(row["gap_closed"], 3) for row in rows),
        " / ".join(f"{row['prefill_seconds_saved']:,.0f}" for row in rows),
        " / ".join(f"{row['cpu_us_per_block']:.1f}" for row in rows),
    ]


def _fraction(value: float | None, digits: int) -> str:
    """`.302`; 0 and 1 as they are."""
    if value is None or value in (0, 1):
        return number(value)
    text = f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no minus in front of a zero
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def _code(policy: str) -> str:
    name, comma, rest = policy.partition(", ")
    return f"`{name}`{comma}{rest}"


def _share(found: Numbers) -> str:
    return f"{found['share']:.2%} ({found['us_per_request']:,.0f} us a request)".replace("%", " %")


def _points(found: Numbers) -> Iterator[list[str]]:
    weighed = {tuple(each["weights"].values()): each["numbers"] for each in found["points"]}
    for corner in CORNERS:
        numbers = weighed[corner]
        yield [
            *(f"{weight:g}" for weight in corner),
            number(numbers[BATCH]["mean"]),
            number(numbers[ATTAINMENT]["mean"], 1, 100, "%"),
            number(numbers[P99_TTFT]["mean"], 2, 1e-3, "s"),
            number(numbers["kv_bits_mean"]["mean"], 1),
        ]
