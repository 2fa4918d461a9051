"""`python -m experiments.gpu_check.pack`: what the checks need on a machine without a network.

It makes a folder `.gpu` (which git ignores) with wheels of the packages that images for PyTorch
usually lack, the beginning of a real trace, and with `--peers` others' attention to compare with.
`experiments/gpu_check/offline.sh` installs the wheels and runs the checks.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from experiments.gpu_check.peer_files import vllm_attention

ROOT = Path(__file__).parents[2]
PACKAGES = (
    *(
        "mypy-extensions",
        "msgspec",
        "simpy",
        "tomli-w",
        "typer",
        "pydantic",
        "pydantic-core",
        "annotated-types",
    ),
    *("annotated-doc", "typing-inspection", "typing-extensions", "shellingham"),
    *("rich", "markdown-it-py", "mdurl", "pygments"),
    *("fastapi", "opentelemetry-api", "starlette", "uvicorn"),
)
"""Of the dependencies in `pyproject.toml`, all that Typer needs, of versions that go together, and
the server; `--packages` names others."""
FLASHINFER = ("flashinfer-python==0.6.13", "apache-tvm-ffi")
"""It compiles at its first call, with the machine's own nvcc, for a minute or two."""
PEERS = ("vllm", "flashinfer")
PLATFORMS = tuple(f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17, 12, 5))
SOURCES = ("superinfer", "sim", "traces", "executor")
BUILD_FILES = ("setup.py", "pyproject.toml", "constraints.txt", "README.md", "LICENSE")
"""What the hot path is compiled from."""
LINES = 401
"""Of the trace, the first one names its columns."""
TRACE = "traces/azure2023/AzureLLMInferenceTrace_conv.csv"
"""Below `SUPERINFER_DATA`: an hour of conversations at Azure in 2023 (CC-BY-4.0)."""


def main(arguments: list[str] | None = None) -> int:
    """Make the folder; 0, or the exit code of pip."""
    options = _parser().parse_args(arguments)
    wheels, peers = options.out / "wheels", options.out / "peers"
    for folder in (wheels, peers):
        shutil.rmtree(folder, ignore_errors=True)
    wheels.mkdir(parents=True)
    wanted = pinned(options.packages.split(","))
    wanted += FLASHINFER if "flashinfer" in options.peers else ()
    pip = download(options.python)
    code = subprocess.run([*pip, "--dest", str(wheels), *wanted], check=False).returncode
    if not code and "vllm" in options.peers:
        code = vllm_attention(pip, peers)
    if not code:
        code = compiled(options.compile, options.out / "compiled")
    if code:
        return code
    print(f"{wheels}: {', '.join(sorted(path.name for path in wheels.iterdir()))}")
    copied = cut(options.trace, options.out / "trace.csv")
    print(f"{options.out / 'trace.csv'}: {copied}")
    print("on the device, beside this folder: experiments/gpu_check/offline.sh --call a --out DIR")
    return 0


def pinned(names: list[str]) -> list[str]:
    """Names with the versions that run here, where they are installed."""
    return [_pinned(name) for name in names]


def _pinned(name: str) -> str:
    try:
        return f"{name}=={version(name)}"
    except PackageNotFoundError:
        return name


def download(python: str) -> list[str]:
    """The command that fetches wheels for that Python on x86-64 Linux, without what they need; the
    folder and what is wanted come behind it.
    """
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    return [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary=:all:", "--python-version", python),
        *("--implementation", "cp", *platforms),
    ]


def compiled(python: str, target: Path) -> int:
    """Leave the modules of the hot path as machine code for that interpreter, which has to be of
    the device's version: its own has no mypyc. Without one nothing is there, and the device runs
    from sources. Gives the exit code of what fails.
    """
    shutil.rmtree(target, ignore_errors=True)
    if not python:
        return 0
    with tempfile.TemporaryDirectory(prefix="superinfer-compiled-") as there:
        copy, own = Path(there) / "sources", Path(there) / "venv"
        _copy_sources(copy)
        built = {**os.environ, "SUPERINFER_COMPILE": "1"}
        for command in (
            [python, "-m", "venv", str(own)],
            [str(own / "bin" / "pip"), "install", "-q", "setuptools", *_compilers()],
            [str(own / "bin" / "python"), "setup.py", "-q", "build_ext", "--inplace"],
        ):
            code = subprocess.run(command, cwd=copy, env=built, check=False).returncode
            if code:
                return code
        for path in (*copy.rglob("*.so"), copy / "superinfer" / ".compiled"):
            if "build" not in path.relative_to(copy).parts:
                place = target / path.relative_to(copy)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, place)
    print(f"{target}: {sum(path.is_file() for path in target.rglob('*'))} files")
    return 0


def _copy_sources(folder: Path) -> None:
    """The packages as they are now, without what was compiled here."""
    nothing = shutil.ignore_patterns("*.so", ".compiled", "__pycache__")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / name, ignore=nothing)
    for name in BUILD_FILES:
        shutil.copy2(ROOT / name, folder / name)


def _compilers() -> list[str]:
    """Versions with which the sources are known to compile."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    return [pin for pin in pins if re.match(r"(mypy|msgspec|numpy|simpy)[=<>]", pin)]


def cut(source: Path, target: Path) -> str:
    """Write the first lines of a trace; says what was done, or that there is none."""
    if not source.is_file():
        target.unlink(missing_ok=True)
        return f"not made, {source} is not there (--trace names another)"
    with source.open(encoding="utf-8") as lines:
        kept = [line for _, line in zip(range(LINES), lines, strict=False)]
    target.write_text("".join(kept), encoding="utf-8")
    return f"the first {len(kept)} lines of {source}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="experiments.gpu_check.pack", description=__doc__)
    data = Path(os.environ.get("SUPERINFER_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--out", type=Path, default=ROOT / ".gpu", help="the folder")
    parser.add_argument("--python", default="3.12", help="version on the device")
    parser.add_argument(
        "--compile", default="", metavar="PYTHON", help="interpreter of it, to compile the core for"
    )
    parser.add_argument("--packages", default=",".join(PACKAGES), help="what is missing there")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=(), help="others' attention")
    parser.add_argument("--trace", type=Path, default=data / TRACE, help="a trace of Azure's form")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
