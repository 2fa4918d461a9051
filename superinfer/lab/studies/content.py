"""What a run's result depends on, as one hash: settings, seed, input files, code and versions.

Two runs with equal keys give equal results (but for the times of the machine), so a stored
result may stand for either.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import pickle
import platform
import re
import sys
import sysconfig
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from superinfer.errors import ConfigError, InputError
from superinfer.lab.config import Config
from superinfer.lab.versions import version_of
from superinfer.settings import shown_value

Runner = Callable[[Config, Path], object]
"""Simulates a configuration and writes a result folder at the path, which does not exist yet."""

OURS = frozenset(("superinfer", "sim", "traces", "executor", "experiments"))
_LIBRARIES = ("numpy", "simpy")
_DATA = (".json", ".jsonl", ".npz", ".toml")
"""Beside our modules: profiles, traces, weights of the reuse model, specifications."""
_SPEC_FILES = ("servegen", "trace", "sharegpt")
"""Keys by which the specification of a workload names files and folders."""
_IMPORT = re.compile(r"^\s*(?:from\s+(\w+)|import\s+([\w., \t]+))", re.MULTILINE)
_PLUGIN = re.compile(r"(\w+)(?:\.\w+)*:\w+")


class Keys:
    """Keys of the runs of one runner; every file is read once in the life of this object."""

    def __init__(self, runner: str | Runner, inputs: Sequence[Path] = ()) -> None:
        self._runner = runner if isinstance(runner, str) else hash_of(_pickled(runner))
        self._roots = {"superinfer", runner_module(runner).partition(".")[0]}
        self._inputs = tuple(inputs)
        self._content: dict[Path, str] = {}
        self._code: dict[frozenset[str], str] = {}

    def key(self, config: Config) -> str:
        """32 hexadecimal digits that differ whenever a result could differ.

        They stand for the resolved settings with the seed, the content of every file that these
        name (trace, specification and the files it names, model, profile) and of the inputs, the
        source of our packages, of the runner's and of policies that plug in, with whatever these
        import that is neither the standard library nor installed, and the versions of the
        libraries that compute. Raises InputError for an input that cannot be read.
        """
        parts = {
            "config": config.resolved(),
            "runner": self._runner,
            "content": self.content(config),
            "versions": {name: version_of(name) for name in ("superinfer", *_LIBRARIES)},
            "python": [platform.python_implementation(), *sys.version_info[:3]],
        }
        return hash_of(json.dumps(parts, sort_keys=True, default=str).encode())[:32]

    def content(self, config: Config) -> str:
        """Hash of the files and the source alone: what can change while a run is made."""
        settings = config.resolved()
        files = (*named_files(settings), *self._inputs)
        parts = {str(path): self._content_of(path) for path in files}
        code = self._code_of(frozenset(self._roots | _plugins(settings)))
        return hash_of(json.dumps(parts, sort_keys=True).encode(), code.encode())

    def _content_of(self, path: Path) -> str:
        if path not in self._content:
            self._content[path] = content_hash(path)
        return self._content[path]

    def _code_of(self, roots: frozenset[str]) -> str:
        if roots not in self._code:
            self._code[roots] = code_hash(roots)
        return self._code[roots]


def runner_module(runner: str | Runner) -> str:
    """Name of the module that defines a runner; ConfigError if no other process could import it."""
    if isinstance(runner, str):
        module, _, name = runner.partition(":")
        if not (module and name):
            raise ConfigError(f"runner {runner!r}: expected package.module:function")
        return module
    inner = getattr(runner, "func", runner)  # of a functools.partial
    module = getattr(inner, "__module__", None) or type(inner).__module__
    if module == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):
        raise ConfigError("runner: expected a function in a module that a process can import")
    # A worker knows the main script by another name.
    return "__main__" if module == "__mp_main__" else str(module)


def load_runner(runner: str | Runner) -> Runner:
    """The runner itself; ConfigError where its name leads nowhere."""
    if not isinstance(runner, str):
        return runner
    module, name = runner_module(runner), runner.partition(":")[2]
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"runner {runner!r}: cannot import: {error}") from None
    if not callable(found):
        raise ConfigError(f"runner {runner!r}: expected a function, got {shown_value(found)}")
    checked: Runner = found
    return checked


def content_hash(path: Path) -> str:
    """Hash of a file, or of all files in a folder with their names."""
    try:
        if not path.is_dir():
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        files = sorted(inner for inner in path.rglob("*") if inner.is_file())
        return hash_of(*(f"{f.relative_to(path)}\n{content_hash(f)}".encode() for f in files))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", file=str(path)) from None


def hash_of(*parts: bytes) -> str:
    """Hash of byte strings, each with its length."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def named_files(settings: Mapping[str, Any]) -> list[Path]:
    """The files and folders that resolved settings name, and those that a specification names."""
    found = {Path(text) for _, text in _texts(settings) if _is_file(Path(text))}
    trace = Path(settings.get("run", {}).get("trace") or "-")
    if trace.is_dir():
        found.add(trace)
    if trace.suffix == ".toml" and trace in found:
        tables = (_toml(trace), settings.get("workload", {}))
        named = [item for table in tables for item in _texts(table) if item[0] in _SPEC_FILES]
        found |= {path for _, text in named if (path := trace.parent / text).exists()}
    return sorted(found)


def code_hash(roots: Iterable[str]) -> str:
    """Hash of the source of top-level modules and packages and of what they import.

    Packages count as a whole, ours with the data beside the modules (`_DATA`).
    Modules of the standard library and installed libraries stand for themselves by their version.
    """
    files = source_files(roots)
    return hash_of(*(f"{name}\n".encode() + path.read_bytes() for name, path in files))


def source_files(roots: Iterable[str]) -> list[tuple[str, Path]]:
    """Name and path of each source file that `code_hash` reads, in order of name."""
    pending, seen = list(roots), set[str]()
    files: dict[str, Path] = {}
    while pending:
        name = pending.pop()
        if name not in seen:
            seen.add(name)
            new = dict(_files_of(name))
            files |= new
            pending += (imported for path in new.values() for imported in _imports(path))
    return sorted(files.items())


# -- inside ---------------------------------------------------------------------------------------


def _pickled(runner: Runner) -> bytes:
    try:
        return pickle.dumps(runner)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(f"runner: expected what another process can import: {error}") from None


def _texts(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested tables and lists, with the key it stands under."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _texts(value, str(name))
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _texts(value, key)
    elif isinstance(tree, str) and tree:
        yield key, tree


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that cannot be a path
        return False


def _toml(path: Path) -> dict[str, Any]:
    """The tables of a specification; none where its reader will complain."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}


def _plugins(settings: Mapping[str, Any]) -> set[str]:
    """Top-level modules of policies that are named as `package.module:Class`."""
    matches = (_PLUGIN.fullmatch(text) for _, text in _texts(settings))
    return {match[1] for match in matches if match}


def _imports(path: Path) -> Iterator[str]:
    """Top-level names that a module imports; now and then a word of its text, which is harmless."""
    if path.suffix != ".py":
        return
    for match in _IMPORT.finditer(path.read_text(encoding="utf-8", errors="replace")):
        for name in (match[1] or match[2]).split(","):
            yield name.strip().partition(".")[0].partition(" ")[0]


def _files_of(name: str) -> Iterator[tuple[str, Path]]:
    if name == "__main__":
        main = getattr(sys.modules["__main__"], "__file__", None)
        if main:
            yield name, Path(main)
        return
    for origin in _origins(name):
        if origin.is_file():
            yield origin.name, origin
            continue
        suffixes = (".py", *_DATA) if name in OURS else (".py",)
        for path in origin.rglob("*"):
            if path.suffix in suffixes and path.is_file():
                yield f"{name}/{path.relative_to(origin).as_posix()}", path


def _origins(name: str) -> list[Path]:
    """The file of a module or the folders of a package; none for what is installed or unknown."""
    if not name or name in sys.stdlib_module_names:
        return []
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    origin = [spec.origin] if spec.has_location and spec.origin else []
    paths = [Path(path) for path in spec.submodule_search_locations or origin]
    if name in OURS:
        return paths
    installed = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib")}
    return [path for path in paths if not (installed & set(path.parents) or _in_site(path))]


def _in_site(path: Path) -> bool:
    """True below a folder of installed libraries, also of an environment that this one extends."""
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
