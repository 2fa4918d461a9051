"""The measured tables of `docs/hardware.md`: an H200, and `make validate` on a CPU."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from experiments.reading import read_json
from experiments.tables.parts import Show

PAGE = "docs/hardware.md"
Checks = dict[str, Any]
Lines = Iterator[str]

COMPARED = {
    "slo_attainment": ("requests that met their SLO", "share"),
    "mean_ttft_ms": ("TTFT mean (ms)", "number"),
    "mean_tpot_ms": ("TPOT mean (ms)", "number"),
    "mean_e2el_ms": ("E2E mean (ms)", "number"),
    "p99_ttft_ms": ("TTFT P99 (ms)", "number"),
    "p99_tpot_ms": ("TPOT P99 (ms)", "number"),
    "p99_e2el_ms": ("E2E P99 (ms)", "number"),
    "output_throughput": ("output tokens/s", "number"),
    "preemptions": ("preemptions", "count"),
    "rotations": ("rotations", "count"),
}
ARMS = {"neither": "as recorded", "graphs and both ways": "today"}
FILLED = "validate-filled"
"""Part of the results: the runs simulated with the points filled in that calibration left out."""
SCENARIO = {
    "met their SLO": ("slo_attainment", "share"),
    "TTFT mean (ms)": ("mean_ttft_ms", "number"),
    "TTFT P99": ("p99_ttft_ms", "number"),
    "TPOT mean (ms)": ("mean_tpot_ms", "number"),
    "TPOT P99": ("p99_tpot_ms", "number"),
    "E2E mean (ms)": ("mean_e2el_ms", "number"),
    "tokens/s": ("output_throughput", "number"),
}
SIDES = ("measured", "simulated")
SCENES = {"m": "chat beside batch work", "c": "too many prompts", "real": "a real trace"}
POLICIES = {
    "vllm": "`vllm`",
    "rotating": "`rotating`",
    "ours": "`rotating`, `slo_aware` memory",
}
GAINS = {
    "slo_attainment": "SLO attainment (points)",
    "mean_ttft_ms": "TTFT mean",
    "p99_ttft_ms": "TTFT P99",
    "mean_e2el_ms": "E2E mean",
    "output_throughput": "tokens/s",
}


class Recording:
    """The results of one device, and of the first runs on such a one."""

    def __init__(self, folder: Path, early: Path) -> None:
        self.data: Checks = read_json(folder / "results.json")
        self.again: Checks = read_json(early / "resimulated.json")
        profile = read_json(folder / "profile-llama-3.1-8b.json")
        self.rates: Checks = profile["memory"]

    def check(self, part: str, name: str) -> Checks:
        """The result of a check."""
        found: Checks = self.data[part]["checks"][name]
        return found

    def rows(self, part: str, name: str) -> list[Checks]:
        """Its rows."""
        found: list[Checks] = self.check(part, name)["rows"]
        return found


def machine(found: Recording) -> Lines:
    """What it ran on."""
    env, rates = found.check("env", "machine"), found.rates
    versions = env["versions"]
    name, driver, memory = (part.strip() for part in env["smi"].split(",")[:3])
    yield (
        f"{name} ({memory}, driver {driver}), Python {versions['python']}, torch "
        f"{versions['torch']} (CUDA {versions['cuda']}), triton {versions['triton']}."
    )
    yield (
        f"A large copy moves {rates['copy_bytes_per_s'] / 1e12:.2f} TB/s, bytes read and written; "
        f"a read {rates['read_bytes_per_s'] / 1e12:.2f} TB/s; a large bf16 product runs at "
        f"{rates['gemm_flops'] / 1e12:.0f} TFLOP/s; {rates['kv_blocks']:,} blocks of "
        f"{rates['block_tokens']} tokens fit beside Llama-3.1-8B."
    )


def correctness(found: Recording) -> Lines:
    """The worst relative error of every kernel and model, and graphs against eager steps."""
    yield from _header("check", "cases", "worst", "allowed")
    kinds: dict[str, list[Checks]] = {}
    for part in ("kernels", "graphs"):
        for name, result in found.data[part]["checks"].items():
            kinds.setdefault(_kind(name), []).append(result)
    for kind, results in kinds.items():
        cases = sum(result["cases"] for result in results)
        worst = max(result["worst"] for result in results)
        yield f"| {kind} | {cases} | {worst:.2g} | {results[0]['limit']:g} |"


def _kind(check: str) -> str:
    for prefix, words in (
        ("requantise", "requantised values, in steps of the code"),
        ("prefill", "prefill attention"),
        ("decode", "decode attention"),
        ("replay", "graphs against the same steps run eagerly, largest difference"),
        ("far_arena", "arenas past 4 GiB against near ones"),
        ("models", "a small model in bf16 against float32"),
    ):
        if check.startswith(prefix):
            return words
    return f"`{check}`"


def decode(found: Recording) -> Lines:
    """Decode steps of Llama-3.1-8B."""
    yield from _decodes(found.rows("floors", "decode"))


def large(found: Recording) -> Lines:
    """Steps of Llama-3.1-70B."""
    yield from _decodes(found.rows("70b", "decode"))
    yield ""
    yield from _prefills(found.rows("70b", "prefill"))


def prefill(found: Recording) -> Lines:
    """Whole prompts of Llama-3.1-8B."""
    yield from _prefills(found.rows("floors", "prefill"))


def _decodes(rows: list[Checks]) -> Lines:
    yield from _header("sequences x context", "16-bit KV", "8-bit KV", "4-bit KV")
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        batch, context, bits = re.findall(r"=(\d+)", row["point"])
        cells.setdefault(f"{batch} x {int(context):,}", {})[bits] = _step(row)
    for name, by_bits in cells.items():
        yield f"| {name} | " + " | ".join(by_bits[bits] for bits in ("16", "8", "4")) + " |"


def _step(row: Checks) -> str:
    if "skipped" in row:
        return str(row["skipped"])
    return f"{row['seconds'] * 1e3:.2f} ({row['share_of_floor']:.0%})"


def _prefills(rows: list[Checks]) -> Lines:
    yield from _header("prompt tokens", "ms (share of the floor)", "tokens/s")
    for row in rows:
        tokens = int(row["point"].removeprefix("prefill "))
        yield f"| {tokens:,} | {_step(row)} | {row['tokens_per_s']:,.0f} |"


def attention(found: Recording) -> Lines:
    """Decode attention alone by precision, as a share of a copy."""
    yield from _header("sequences x context", "16-bit KV", "8-bit KV", "4-bit KV")
    cells: dict[str, list[str]] = {}
    for row in found.rows("floors", "attention"):
        if not (sizes := re.findall(r"=(\d+)", row["point"])):
            continue
        name = f"{sizes[0]} x {int(sizes[1]):,}"
        shown = f"{row['seconds'] * 1e6:.1f} ({row['share_of_copy']:.0%})"
        cells.setdefault(name, []).append(shown)
    for name, by_bits in cells.items():
        yield f"| {name} | " + " | ".join(by_bits) + " |"


def peers(found: Recording) -> Lines:
    """Decode attention of 16 bits beside others' on the same inputs."""
    rows = [*found.rows("peers", "decode"), *found.rows("peers", "decode_peers")]
    yield from _beside_others(rows, "peer", "decodes", _sequences)


def prompts(found: Recording) -> Lines:
    """Prefill attention beside others', chunks at the beginning of a prompt."""
    ours = [row | {"kernel": "ours"} for row in found.rows("peers", "prefill")]
    rows = [*ours, *found.rows("peers", "prefill_peers")]
    rows = [row for row in rows if not row.get("context")]
    yield from _beside_others(rows, "kernel", "a prompt of", lambda row: f"{row['chunk']:,}")


def _sequences(row: Checks) -> str:
    return f"{row['B']} x {row['ctx']:,}"


def _beside_others(
    rows: list[Checks], who: str, what: str, place: Callable[[Checks], str]
) -> Lines:
    timed = [row for row in rows if "us" in row]
    names, cells = list(dict.fromkeys(row[who] for row in timed)), dict[str, dict[str, str]]()
    for row in timed:
        cells.setdefault(place(row), {})[row[who]] = f"{row['us']:,.1f}"
    yield from _header(f"{what}, µs", *names)
    for name, found in cells.items():
        yield f"| {name} | " + " | ".join(found.get(one, "") for one in names) + " |"


def showcase(found: Recording) -> Lines:
    """What memory of fewer bits holds, how fast it is and what it costs in quality."""
    yield from _header(
        "KV of 128 sequences x 8,192", "GB", "ms", "tokens/s", "perplexity", "same top 1"
    )
    quality = {
        row["kv"]: row for row in found.rows("showcase", "quality") if row["model"] == "plain"
    }
    for row in found.rows("showcase", "tokens"):
        cells = ["does not fit", "", "", ""]
        if "seconds" in row:
            lost = quality[row["kv"]]
            cells = [f"{row['seconds'] * 1e3:.1f}", f"{row['tokens_per_s']:,.0f}"]
            cells += [f"{lost['perplexity_change']:+.3%}", f"{lost['same_top1']:.1%}"]
        yield f"| {row['kv']} | {row['kv_gb']:.1f} | " + " | ".join(cells) + " |"


def scenarios(found: Recording) -> Lines:
    """Every run on the device, and how far the simulator was off."""
    yield from _header("", *SCENARIO)
    for name, result in found.data["scenarios"]["checks"].items():
        sides = [_errors(found.data[part]["checks"][name]) for part in ("validate", FILLED)]
        cells = []
        for metric, kind in SCENARIO.values():
            errors = " / ".join(f"{side[metric]:+.1%}" for side in sides if metric in side)
            shown = _cell(result["summary"][metric], kind)
            cells.append(f"{shown} ({errors})" if kind == "number" else shown)
        yield f"| `{name}` | " + " | ".join(cells) + " |"


def _errors(result: Checks) -> dict[str, float]:
    """Of the metrics of all requests together, as a share of the device's."""
    return {
        pair["name"]: pair["simulated"] / pair["device"] - 1
        for pair in result["metrics"]
        if not pair["service_class"] and pair["device"]
    }


def gain(found: Recording) -> Lines:
    """What a policy is worth against `vllm`, measured and simulated."""
    yield from _header("against `vllm`, measured / simulated", *GAINS.values())
    rows: dict[str, dict[str, str]] = {}
    for row in found.rows("gain", "gain"):
        if row["class"] == "all":
            points = row["metric"] == "slo_attainment"
            shown = [f"{row[side] * 100:+.0f}" if points else f"{row[side]:+.0%}" for side in SIDES]
            rows.setdefault(row["policy"], {})[row["metric"]] = " / ".join(shown)
    for policy, cells in rows.items():
        yield f"| `{policy}` | " + " | ".join(cells[metric] for metric in GAINS) + " |"


def swaps(found: Recording) -> Lines:
    """Copies of blocks, and a step beside them."""
    rows = found.rows("floors", "swap")
    yield from _header("blocks", "to the device (GB/s)", "to the host", "each way at once")
    for bits in ("16", "8", "4"):
        mine = [row for row in rows if row.get("block") == bits]
        rates = {row["direction"]: row["bytes_per_s"] / 1e9 for row in mine}
        size = mine[0]["bytes"] / 2**20
        shown = " | ".join(f"{rates[way]:.1f}" for way in ("h2d", "d2h", "both"))
        yield f"| {bits} bits, {size:.2f} MiB | {shown} |"
    (step,) = (row for row in rows if "slowdown" in row)
    yield ""
    yield (
        f"A decode step of 32 sequences takes {step['alone_s'] * 1e3:.2f} ms alone and "
        f"{step['with_swap_s'] * 1e3:.2f} ms beside copies both ways ({step['slowdown']:+.1%})."
    )


def predicted(found: Recording) -> Lines:
    """How far predicted steps are from measured ones."""
    names = {
        "step": "held-out steps",
        "step_decode": "of these, decodes alone",
        "step_prefill": "of these, with chunks of prompts",
        "driver_step": "steps of the driver, mean",
    }
    yield from _header("mean error of predicted steps", "as recorded", "today")
    fits = found.again["fit"]
    for name, words in names.items():
        yield f"| {words} | {fits['neither'][name]:.1%} | {fits['graphs'][name]:.1%} |"


def validation(found: Recording) -> Lines:
    """Device and simulator."""
    policies = found.again["policies"]
    columns = [f"`{policy}` {kind}" for policy in policies for kind in ("device", *ARMS.values())]
    yield from _header("", *columns)
    for metric, (words, kind) in COMPARED.items():
        cells = []
        for arms in policies.values():
            device = arms["neither"][metric]["device"]
            cells.append(_cell(device, kind))
            for arm in ARMS:
                cells.append(_beside(arms[arm][metric]["simulated"], device, kind))
        yield f"| {words} | " + " | ".join(cells) + " |"


def summary(found: Recording) -> Lines:
    """Whole runs in short, for the README."""
    shown = ("slo_attainment", "mean_ttft_ms", "mean_tpot_ms", "output_throughput")
    yield from _header("on the H200 / simulated", "policy", *(COMPARED[name][0] for name in shown))
    for run in found.data["scenarios"]["checks"]:
        scene, arm = run.split("-")
        compared = found.check(FILLED, run)["metrics"]
        pairs = {m["name"]: m for m in compared if not m["service_class"]}
        cells = [_both(pairs[name], COMPARED[name][1]) for name in shown]
        yield f"| {SCENES[scene]} | {POLICIES[arm]} | " + " | ".join(cells) + " |"


def _both(pair: Checks, kind: str) -> str:
    return f"{_cell(pair['device'], kind)} / {_cell(pair['simulated'], kind)}"


def median_errors(results: Path) -> list[str]:
    """How far the simulator was off the runs on the device, for the README's table."""
    checks = read_json(results / "h200" / "results.json")[FILLED]["checks"]
    runs = [_errors(result) for result in checks.values()]
    metrics = ("mean_ttft_ms", "mean_tpot_ms", "output_throughput")
    shown = [f"{median(abs(run[name]) for run in runs) * 100:.1f} %" for name in metrics]
    return [f"{len(runs)} runs on an H200, median absolute error", *shown, "means"]


def _cell(value: float, kind: str) -> str:
    if kind == "share":
        return f"{value:.1%}"
    return (
        f"{value:.0f}" if kind == "count" else f"{value:,.4g}" if value < 1e3 else f"{value:,.0f}"
    )


def _beside(value: float, device: float, kind: str) -> str:
    if kind != "number" or not device:
        return _cell(value, kind)
    return f"{_cell(value, kind)} ({value / device - 1:+.1%})"


def cpu(folder: Path) -> Lines:
    """`make validate` on a CPU, if it was recorded."""
    path = folder / "validate.json"
    if not path.is_file():
        yield "No run is recorded yet."
        return
    found = read_json(path)
    machine, versions = found["machine"], found["versions"]
    yield (
        f"`{found['command']}`, {found['date']}: {machine['name']}, {machine['processors']} "
        f"processors, {machine['threads']} thread(s); Python {versions['python']}, torch "
        f"{versions['torch']}; load before it {found['load_before']}. Held-out steps are predicted "
        f"with a mean error of {found['fit']['step']['heldout_mape']:.1%}."
    )
    yield ""
    yield _yardsticks(found)
    yield ""
    outcomes = found["outcomes"]
    columns = [f"`{o['scheduler']}` {kind}" for o in outcomes for kind in ("device", "simulated")]
    yield from _header("", *columns)
    for metric, (words, kind) in COMPARED.items():
        cells = []
        for outcome in outcomes:
            (pair,) = (
                m for m in outcome["metrics"] if m["name"] == metric and not m["service_class"]
            )
            cells.append(_cell(pair["device"], kind))
            cells.append(_beside(pair["simulated"], pair["device"], kind))
        yield f"| {words} | " + " | ".join(cells) + " |"
    yield ""
    yield "".join(f"{line[:1].upper()}{line[1:]}. " for line in found["winners"]).rstrip()


def _yardsticks(found: Checks) -> str:
    """By how much the machine's speed changed, which the times below do not show."""
    stick = found["yardstick"]
    runs = [(o["scheduler"], one) for o in found["outcomes"] for one in o.get("yardsticks", [])]
    medians = ", ".join(f"{one['median']:.2f} (`{name}`)" for name, one in runs)
    reference_ms = stick["yardstick_s"] * 1e3
    return (
        f"Seconds are those of the steady clock. Its yardstick, {reference_ms:.2f} ms "
        f"where it is taken for 1, took {stick['median']:.2f} during calibration (90 % of "
        f"{stick['samples']:.0f} samples {stick['p5']:.2f} to {stick['p95']:.2f}), and in the runs "
        f"{medians}."
    )


def _header(*names: str) -> Lines:
    yield "| " + " | ".join(names) + " |"
    yield "|---|" + "--:|" * (len(names) - 1)


def h200(table: Callable[[Recording], Lines]) -> Show:
    """A table of what the H200 gave."""
    return lambda results: table(Recording(results / "h200", results / "h200-early"))


TABLES: dict[str, Show] = {
    f"h200 {table.__name__}": h200(table)
    for table in (
        machine,
        correctness,
        decode,
        prefill,
        large,
        attention,
        peers,
        prompts,
        showcase,
        swaps,
        scenarios,
        gain,
        predicted,
        validation,
    )
}
TABLES["cpu"] = lambda results: cpu(results / "cpu")
