"""Compile the hot path to machine code with mypyc, and leave studies out of a wheel; all else of
the build is in `pyproject.toml`.

`make compile` does it in a checkout, `SUPERINFER_COMPILE=1 pip install .` in an installation. It
needs a C compiler. Without it everything works the same from its sources, several times slower.
"""

from __future__ import annotations

import json
import os
import re
import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

MODULES = {
    "superinfer": "batch heaps plan request sequence",
    "superinfer/records": "recorder",
    "superinfer/costs": "base calibrated coverage encoder_decoder flexgen flexgen_placement graphs "
    "kernels learned roofline step tables",
    "sim": "backend cluster driver environment oracle stopwatch",
}
PACKAGES = tuple(
    f"superinfer/{name}" for name in ("draft", "engine", "memory", "schedulers", "transfers")
)
"""Compiled whole, but for the next."""
INTERPRETED = ("superinfer/memory/base.py",)
"""Protocols that are looked for at run time, which compiled ones do not allow."""
STUDIED = "__init__ belady category fifo gdsf lfu s3fifo tail_lru two_level"
"""Of `superinfer/memory/orders`, what runs from source: what few engines take."""

ROOT = Path(__file__).parent
COMPILED = runpy.run_path(str(ROOT / "superinfer" / "compiled.py"))


def below(pattern: str) -> set[str]:
    """Paths of files, relative to the root."""
    return {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)}


def sources() -> list[str]:
    """The modules to compile."""
    found = {f"{folder}/{name}.py" for folder, names in MODULES.items() for name in names.split()}
    for package in PACKAGES:
        found |= below(f"{package}/**/[a-z]*.py")
    studied = {f"superinfer/memory/orders/{name}.py" for name in STUDIED.split()}
    return sorted(found.difference(INTERPRETED, studied))


def depended_on() -> list[str]:
    """All that compiled code may have taken something from: types, constants."""
    ours = below("superinfer/**/*.py") - below("superinfer/lab/**/*.py")
    return sorted(ours | below("sim/load.py") | set(sources()))


def build_requirements() -> list[str]:
    """What the sources are checked against: a type error stops the compiler."""
    wanted = re.compile(r"(mypy|msgspec|numpy|simpy)[=<>]")
    return [line for line in (ROOT / "constraints.txt").read_text().split() if wanted.match(line)]


class BuildPackages(build_py):
    """Leaves out of a wheel what runs in a checkout alone: studies read and write files there."""

    def finalize_options(self) -> None:
        """Choose the packages."""
        super().finalize_options()
        if not self.editable_mode:
            self.packages = [each for each in self.packages if each.split(".")[0] != "experiments"]


class BuildCore(build_ext):
    """Leaves behind what the modules were compiled from, so that nobody runs stale ones."""

    manifest: str

    def run(self) -> None:
        """Build, then write the manifest."""
        target = ROOT if self.inplace else Path(self.build_lib)
        (target / COMPILED["MANIFEST"]).unlink(missing_ok=True)
        for folder in {target, Path(self.build_lib)}:
            for package in ("superinfer", "sim"):
                for library in folder.glob(f"{package}/**/*.so"):
                    library.unlink()
        super().run()
        (target / COMPILED["MANIFEST"]).write_text(self.manifest)


if os.environ.get("SUPERINFER_COMPILE", "0") in {"", "0"}:
    setup(cmdclass={"build_py": BuildPackages})
else:
    try:
        from mypyc.build import mypycify
    except ImportError:  # pip asks first what the build needs
        setup(setup_requires=build_requirements())
    else:
        # Noted before the sources are read: an edit during the build makes it stale.
        BuildCore.manifest = json.dumps(COMPILED["manifest"](ROOT, depended_on()), indent=1)
        extensions = mypycify(
            sources(), opt_level="2", debug_level="0", multi_file=True, group_name="superinfer"
        )
        commands = {"build_py": BuildPackages, "build_ext": BuildCore}
        setup(ext_modules=extensions, cmdclass=commands)
