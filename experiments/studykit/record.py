"""What the studies have in common: what their numbers rest on, and the files that they write."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from superinfer.lab.results import summary_json
from superinfer.lab.studies.content import code_hash
from superinfer.outputs import replacing

SIMULATED = Path(__file__).parents[1] / "results" / "simulated"
PROFILE_70B = "a100-80g_llama-3.1-70b_tp4"
"""Step times of Llama-3.1-70B on four A100-80G."""
MACHINE_70B = "Llama-3.1-70B on four A100-80G (TP 4), step times of the profile"
"""In words, before the name of that profile."""


def made_by(command: str, **more: object) -> dict[str, Any]:
    """The command, versions and sources of a study, and what it says beside that."""
    names = ("superinfer", "numpy", "simpy")
    versions = {name: version(name) for name in names} | {"Python": platform.python_version()}
    source = code_hash(("superinfer", "sim", "traces"))[:12]
    return {"command": command, "versions": versions, "source": source, **more}


def write_result(
    out: Path, summary: Mapping[str, Any], page: Callable[[dict[str, Any]], str]
) -> dict[str, Any]:
    """Write `summary.json` and the page made of it; returns the summary as it can be read back."""
    whole = {"kind": "simulated", **summary}
    read: dict[str, Any] = json.loads(summary_json(whole))
    text = page(read)  # where it cannot be made, nothing is written
    write_summary(out / "summary.json", whole)
    _write(out / "results.md", text)
    return read


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write the figures of a study as JSON."""
    _write(path, summary_json(summary) + "\n")


def _write(path: Path, text: str) -> None:
    with replacing(path) as staged:
        staged.write_text(text, encoding="utf-8")


def provenance(made_by: Mapping[str, Any], what: str) -> str:
    """A sentence for the top of a page."""
    return f"{simulated_by(made_by)}; {what}."


def simulated_by(made_by: Mapping[str, Any]) -> str:
    """The beginning of such a sentence: the command, versions and source."""
    versions = ", ".join(f"{name} {text}" for name, text in made_by["versions"].items())
    return f"**Simulated**, by `{made_by['command']}` with {versions}; source {made_by['source']}"
