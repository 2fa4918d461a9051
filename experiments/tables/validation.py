"""Device and simulator beside each other, of `docs/hardware.md`: runs on an H200, and `make
validate` on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from experiments.studykit.reading import read_json
from experiments.tables.parts import Lines, Show, blocks, table
from experiments.tables.recording import PAGE, Checks, Recording, h200

__all__ = ["PAGE", "TABLES", "cpu", "cpu_steps", "median_errors", "summary"]

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


def scenarios(found: Recording) -> Lines:
    """Every run on the device, and how far the simulator was off."""
    rows = []
    for name, result in found.data["scenarios"]["checks"].items():
        sides = [_errors(found.data[part]["checks"][name]) for part in ("validate", FILLED)]
        cells = []
        for metric, kind in SCENARIO.values():
            errors = " / ".join(f"{side[metric]:+.1%}" for side in sides if metric in side)
            shown = _cell(result["summary"][metric], kind)
            cells.append(f"{shown} ({errors})" if kind == "number" else shown)
        rows.append([f"`{name}`", *cells])
    return table(["", *SCENARIO], rows)


def _errors(result: Checks) -> dict[str, float]:
    """Of the metrics of all requests together, as a share of the device's."""
    return {
        pair["name"]: pair["simulated"] / pair["device"] - 1
        for pair in result["metrics"]
        if not pair["service_class"] and pair["device"]
    }


def gain(found: Recording) -> Lines:
    """What a policy is worth against `vllm`, measured and simulated."""
    cells: dict[str, dict[str, str]] = {}
    for row in found.rows("gain", "gain"):
        if row["class"] == "all":
            points = row["metric"] == "slo_attainment"
            shown = [f"{row[side] * 100:+.0f}" if points else f"{row[side]:+.0%}" for side in SIDES]
            cells.setdefault(row["policy"], {})[row["metric"]] = " / ".join(shown)
    rows = ([f"`{name}`", *(each[metric] for metric in GAINS)] for name, each in cells.items())
    return table(["against `vllm`, measured / simulated", *GAINS.values()], rows)


def predicted(found: Recording) -> Lines:
    """How far predicted steps are from measured ones."""
    names = {
        "step": "held-out steps",
        "step_decode": "of these, decodes alone",
        "step_prefill": "of these, with chunks of prompts",
        "driver_step": "steps of the driver, mean",
    }
    fits = [found.again["fit"][arm] for arm in ("neither", "graphs")]
    rows = ([words, *(f"{fit[name]:.1%}" for fit in fits)] for name, words in names.items())
    return table(["mean error of predicted steps", "as recorded", "today"], rows)


def validation(found: Recording) -> Lines:
    """Device and simulator."""
    policies = found.again["policies"]
    columns = [f"`{policy}` {kind}" for policy in policies for kind in ("device", *ARMS.values())]
    rows = []
    for metric, (words, kind) in COMPARED.items():
        cells = []
        for arms in policies.values():
            device = arms["neither"][metric]["device"]
            cells.append(_cell(device, kind))
            for arm in ARMS:
                cells.append(_beside(arms[arm][metric]["simulated"], device, kind))
        rows.append([words, *cells])
    return table(["", *columns], rows)


def summary(found: Recording) -> Lines:
    """Whole runs in short, for the README."""
    shown = ("slo_attainment", "mean_ttft_ms", "mean_tpot_ms", "output_throughput")
    rows = []
    for run in found.data["scenarios"]["checks"]:
        scene, arm = run.split("-")
        compared = found.check(FILLED, run)["metrics"]
        pairs = {m["name"]: m for m in compared if not m["service_class"]}
        cells = [_both(pairs[name], COMPARED[name][1]) for name in shown]
        rows.append([SCENES[scene], POLICIES[arm], *cells])
    head = ["on the H200 / simulated", "policy", *(COMPARED[name][0] for name in shown)]
    return table(head, rows)


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
    winners = (f"{line[:1].upper()}{line[1:]}." for line in found["winners"])
    yield blocks(
        f"`{found['command']}`, {found['date']}: {machine['name']}, {machine['processors']} "
        f"processors, {machine['threads']} thread(s); Python {versions['python']}, torch "
        f"{versions['torch']}; load before it {found['load_before']}. Held-out steps are predicted "
        f"with a mean error of {found['fit']['step']['heldout_mape']:.1%}.",
        _yardsticks(found),
        _cpu_metrics(found["outcomes"]),
        " ".join(winners),
    )


def _cpu_metrics(outcomes: list[Checks]) -> Lines:
    columns = [f"`{o['scheduler']}` {kind}" for o in outcomes for kind in ("device", "simulated")]
    rows = []
    for metric, (words, kind) in COMPARED.items():
        cells = []
        for outcome in outcomes:
            (pair,) = (
                m for m in outcome["metrics"] if m["name"] == metric and not m["service_class"]
            )
            cells.append(_cell(pair["device"], kind))
            cells.append(_beside(pair["simulated"], pair["device"], kind))
        rows.append([words, *cells])
    return table(["", *columns], rows)


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


def cpu_steps(folder: Path) -> Lines:
    """The steps of these runs, each as the simulator would have timed it."""
    path = folder / "validate.json"
    found = read_json(path)["outcomes"] if path.is_file() else []
    if not any("steps" in outcome for outcome in found):
        yield "No steps are recorded yet."
        return
    head = ("policy", "steps", "rows", "number", "of the time", "device (ms)", "error", "scatter")
    rows = [_step_row(o["scheduler"], group) for o in found for group in o.get("steps", [])]
    yield from table(head, rows, texts=3)


def _step_row(policy: str, group: Checks) -> Sequence[str]:
    return (
        f"`{policy}`",
        group["kind"],
        group["rows"],
        f"{group['steps']:,}",
        f"{group['share']:.1%}",
        f"{group['measured_s'] / group['steps'] * 1e3:.2f}",
        f"{group['error']:+.1%}",
        f"{group['scatter']:.1%}",
    )


TABLES: dict[str, Show] = {
    f"h200 {show.__name__}": h200(show) for show in (scenarios, gain, predicted, validation)
}
TABLES["cpu"] = lambda results: cpu(results / "cpu")
TABLES["cpu steps"] = lambda results: cpu_steps(results / "cpu")
