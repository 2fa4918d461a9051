"""The table of errors in `docs/profiles.md`, from the profiles that ship."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from experiments.studykit.reading import read_json
from experiments.tables.parts import Lines, Numbers, number, table

PAGE = "docs/profiles.md"
FOLDER = Path(__file__).parents[2] / "superinfer" / "costs" / "profiles"
DEVICES = ("a100-80g", "h100", "h200")
MODELS = {"8B TP 1": "llama-3.1-8b_tp1", "70B TP 4": "llama-3.1-70b_tp4"}
MODELS["70B TP 8"] = "llama-3.1-70b_tp8"
KERNELS = (
    "gemm_qkv",
    "gemm_o",
    "gemm_gate_up",
    "gemm_down",
    "gemm_lm_head",
    "norm",
    "rope_write",
    "activation",
    "embed",
    "all_reduce",
    "attention_prefill",
    "attention_decode_16",
)


def errors(results: Path) -> Lines:
    """Held-out errors of every kernel in every profile, in per cent."""
    fits = list(_fits())
    rows = (
        [f"`{kernel}`", *(number(fit.get(kernel, {}).get("heldout_mape"), 1, 100) for fit in fits)]
        for kernel in KERNELS
    )
    head = [f"{device[:4].rstrip('-').upper()} {model}" for device in DEVICES for model in MODELS]
    return table(["kernel", *head], rows)


TABLES = {"profile errors": errors}

# -- inside ---------------------------------------------------------------------------------------


def _fits() -> Iterator[Numbers]:
    for device in DEVICES:
        for name in MODELS.values():
            profile = read_json(FOLDER / f"{device}_{name}.json")
            yield profile["fit"]
