"""The parts by name, in the order in which they run."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

from experiments.gpu_check.checks import Part

ORDER: dict[str, tuple[str, float, float, tuple[str, ...]]] = {
    # module, seconds, seconds with --fast, files
    "env": ("env", 60, 25, ()),
    "kernels": ("kernels", 300, 75, ()),
    "graphs": ("graphs", 120, 30, ()),
    "speed": ("speed", 400, 75, ()),
    "train": ("train", 300, 90, ("train",)),
    "floors": ("floors", 500, 80, ()),
    "calibrate-8b": ("calibrate", 500, 100, ("profiles",)),
    "run": ("runs", 500, 100, ("runs",)),
    "validate": ("validation", 590, 120, ("validation",)),
    "70b": ("large", 400, 80, ()),
}


def part(name: str, fast: bool) -> Part:
    """A part; its module is imported here, so that one that fails to import fails alone."""
    module, seconds, fast_seconds, artefacts = ORDER[name]
    checks = import_module(f"experiments.gpu_check.{module}").CHECKS
    found = Part(checks, seconds, artefacts)
    return replace(found, seconds=fast_seconds) if fast else found
