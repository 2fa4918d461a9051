"""What a profile says of quality: the figures that it takes from a report."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from superinfer.costs import Profile, load_profile, write_profile
from superinfer.costs.shapes import load_shape
from superinfer.errors import SuperInferError
from superinfer.lab.cli.terminal import say

Report = dict[str, Any]


def figures(report: Report) -> Report:
    """The `quality` of a profile: per precision, on the model as it is."""
    keys = ("kl", "perplexity_change", "same_top1")
    forms = report["plain"]["forms"]
    return {bits: {key: forms[f"{bits} bits"][key] for key in keys} for bits in ("8", "4")}


def write_figures(report: Report, path: Path) -> None:
    """Put the figures into a profile that is there, or write a file that has them alone."""
    profile = _profile_at(path)
    if profile is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"quality": figures(report)}, indent=1) + "\n", "utf-8")
        return
    source = f"quality: superinfer-exec quality on {report['model']}"
    others = [text for text in profile.sources if not text.startswith("quality: ")]
    write_profile(replace(profile, quality=figures(report), sources=[*others, source]), path)


def _profile_at(path: Path) -> Profile | None:
    """The profile that is to take the figures; None where there is none, or a file that has such
    figures alone. Raises InputError for another file.
    """
    if not path.exists() or _has_figures_alone(path):
        return None
    return load_profile(path)


def _has_figures_alone(path: Path) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(found, dict) and list(found) == ["quality"]


def check_profile(path: Path, measured: Path) -> None:
    """Before the work: raise for what is no profile; say so where one is to get the figures of a
    model of another shape than its own.
    """
    profile = _profile_at(path)
    if profile is None:
        return
    for note in profile.notes:  # what is ignored is not written back
        say(f"warning: {note}")
    with suppress(SuperInferError):  # a profile of a model that is at no hand
        shape, other = load_shape(measured), load_shape(profile.model)
        if (shape.layers, shape.hidden) != (other.layers, other.hidden):
            text = f"a profile of {profile.model}; these figures are of {measured.name}"
            say(f"warning: {path}: {text}")
