"""Compile the hot path to machine code with mypyc; all else of the build is in `pyproject.toml`.

`make compile` does it in a checkout, `SUPERINFER_COMPILE=1 pip install .` in an installation. It
needs a C compiler. Without it everything works the same from its sources, several times slower.
"""

from __future__ import annotations

import json
import os
import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

MODULES = {
    "superinfer": "batch draft engine plan recorder request sequence",
    "superinfer/costs": "base calibrated coverage roofline step tables",
    "sim": "backend driver environment oracle stopwatch",
}
PACKAGES = ("superinfer/memory", "superinfer/schedulers")
"""Compiled whole, but for the next."""
INTERPRETED = ("superinfer/memory/base.py",)
"""Protocols that are looked for at run time, which compiled ones do not allow."""
TYPE_CHECKED_AGAINST = ["mypy", "msgspec", "numpy", "simpy"]

ROOT = Path(__file__).parent


def sources() -> list[str]:
    """Paths of the modules to compile."""
    named = [f"{folder}/{name}.py" for folder, names in MODULES.items() for name in names.split()]
    inside = [path for package in PACKAGES for path in ROOT.glob(f"{package}/**/[a-z]*.py")]
    found = {*named, *(path.relative_to(ROOT).as_posix() for path in inside)}
    return sorted(found.difference(INTERPRETED))


class BuildCore(build_ext):
    """Leaves behind what the modules were compiled from, so that nobody runs stale ones."""

    def run(self) -> None:
        """Build, then write the manifest."""
        super().run()
        compiled = runpy.run_path(str(ROOT / "superinfer" / "compiled.py"))
        target = ROOT if self.inplace else Path(self.build_lib)
        manifest = {"sources": sources(), "digest": compiled["digest"](ROOT, sources())}
        (target / compiled["MANIFEST"]).write_text(json.dumps(manifest, indent=1) + "\n")


if os.environ.get("SUPERINFER_COMPILE", "0") in {"", "0"}:
    setup()
else:
    try:
        from mypyc.build import mypycify
    except ImportError:  # pip asks first what the build needs
        setup(setup_requires=TYPE_CHECKED_AGAINST)
    else:
        extensions = mypycify(
            sources(), opt_level="2", debug_level="0", multi_file=True, group_name="superinfer"
        )
        setup(ext_modules=extensions, cmdclass={"build_ext": BuildCore})
