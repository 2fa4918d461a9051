"""The tables of `README.md`: the bundled trace, the profiles that ship, and an H200."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from experiments.studykit.reading import read_json
from experiments.tables.parts import Lines, Numbers, number, recorded, table
from experiments.tables.recording import h200
from experiments.tables.validation import median_errors, summary
from superinfer.lab.report.values import NONE

PAGE = "README.md"
SAMPLE = "simulated/sample/summary.json"
ROWS = (
    ("slo_attainment", "requests that met their SLO", 1, 100, "%"),
    ("tpot_attainment", "requests that met their TPOT target", 1, 100, "%"),
    ("median_ttft_ms", "TTFT median", 1, 1e-3, "s"),
    ("p99_ttft_ms", "TTFT p99", 1, 1e-3, "s"),
    ("p99_itl_ms", "ITL p99", 0, 1, "ms"),
    ("output_throughput", "output tokens/s", 0, 1, ""),
)
PROFILES = Path(__file__).parents[2] / "superinfer" / "costs" / "profiles"
SHOWN = {"8B, TP 1": "llama-3.1-8b_tp1", "70B, TP 4": "llama-3.1-70b_tp4"}
SHOWN["70B, TP 8"] = "llama-3.1-70b_tp8"
KERNELS = {
    "GEMM (worst kernel)": "gemm_",
    "decode attention": "attention_decode_16",
    "prefill attention": "attention_prefill",
    "all-reduce": "all_reduce",
}


def sample(found: Numbers) -> Lines:
    """Four schedulers on the bundled trace."""
    arms = found["arms"]
    rows = (
        [words, *(number(arm[key], digits, scale, unit) for arm in arms.values())]
        for key, words, digits, scale, unit in ROWS
    )
    return table(["", *(f"`{name}`" for name in arms)], rows)


def outside(found: Numbers) -> Lines:
    """How much of these runs the profile had to extrapolate."""
    shares = (
        f"{number(arm['extrapolated_share'], 2, 100, '%')} (`{name}`)"
        for name, arm in found["arms"].items()
    )
    yield f"Step time outside the measured range in the table at the top: {', '.join(shares)}."


def fits(results: Path) -> Lines:
    """Errors of the A100 profiles on held-out points."""
    found = {
        title: read_json(PROFILES / f"a100-80g_{name}.json")["fit"] for title, name in SHOWN.items()
    }
    rows = (
        [words, *(_worst(fit, kernel) for fit in found.values())]
        for words, kernel in KERNELS.items()
    )
    return table(["mean absolute error on held-out points", *found], rows)


def accuracy(results: Path) -> Lines:
    """How far simulated runs are off measured ones, in short."""
    steady = read_json(results / "simulated" / "accuracy" / "steady" / "summary.json")
    again = read_json(results / "h200-early" / "resimulated.json")
    head = ["simulated against measured", "TTFT", "TPOT", "tokens/s", "of"]
    rows = [*_steady(steady["median_errors"]["all"]), *_device(again["policies"])]
    rows.append(median_errors(results))
    serving = results / "simulated" / "accuracy" / "serving" / "summary.json"
    return table(head, [*(_serving(read_json(serving)) if serving.is_file() else ()), *rows])


TABLES = {
    "accuracy": accuracy,
    "sample": recorded(SAMPLE, sample),
    "sample extrapolated": recorded(SAMPLE, outside),
    "profile fits": fits,
    "h200 summary": h200(summary),
}

# -- inside ---------------------------------------------------------------------------------------


def _worst(fit: Numbers, prefix: str) -> str:
    errors = [each["heldout_mape"] for name, each in fit.items() if name.startswith(prefix)]
    return number(max(errors), 1, 100, "%") if errors else NONE


def _serving(found: Numbers) -> Iterator[list[str]]:
    """The run that is compared request by request, if it is recorded."""
    errors = {(line["metric"], line["statistic"]): line["error"] for line in found["lines"]}
    for statistic, words in (("mean", "means"), ("P99", "P99")):
        cells = (f"{100 * errors[metric, statistic]:+.1f} %" for metric in ("TTFT", "TPOT"))
        model = found["model"].rpartition("/")[2]
        said = f"a run of vLLM {found['vllm']} on an RTX PRO 6000, {model}"
        yield [said, *cells, NONE, words]


def _steady(errors: Numbers) -> Iterator[list[str]]:
    shares = (number(errors[name], 1, 100, "%") for name in ("ttft", "tpot"))
    said = f"{errors['points']} closed loops of vLLM on H100 and H200, median absolute error"
    yield [said, *shares, NONE, "means"]


def _device(policies: Numbers) -> Iterator[list[str]]:
    for policy, arms in policies.items():
        pairs = arms["graphs and both ways"]
        for kind in ("mean", "p99"):
            names = (f"{kind}_ttft_ms", f"{kind}_tpot_ms", "output_throughput")
            errors = [_error(pairs[name]) for name in names]
            rate = errors[2] if kind == "mean" else NONE
            said = f"an H200 under memory pressure, `{policy}`"
            yield [said, *errors[:2], rate, "means" if kind == "mean" else "P99"]


def _error(pair: Numbers) -> str:
    return f"{100 * (pair['simulated'] / pair['device'] - 1):+.1f} %"
