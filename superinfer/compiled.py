"""Which form of the core runs: compiled modules, or their sources.

A build (`setup.py`) puts compiled modules beside their sources and notes what it compiled. They are
used while every source is as it was then; after an edit, or with `SUPERINFER_INTERPRETED=1`, all of
them run from source. Both forms give the same results, byte for byte.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import EXTENSION_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

MANIFEST = "superinfer/.compiled"
_PACKAGES = ("superinfer.", "sim.")
_ROOT = Path(__file__).parent.parent
_LIBRARY = "superinfer__mypyc"
_SUFFIX = EXTENSION_SUFFIXES[0]


def digest(root: Path, sources: Iterable[str]) -> str:
    """A digest of source files, named by their paths below `root`."""
    content = hashlib.sha256()
    for source in sources:
        content.update(source.encode() + b"\0" + (root / source).read_bytes())
    return content.hexdigest()


def manifest(root: Path, sources: list[str]) -> dict[str, object]:
    """What a build notes: its sources as they are now, and the interpreter that it is for."""
    return {"suffix": _SUFFIX, "digest": digest(root, sources), "sources": sources}


def up_to_date(root: Path) -> bool:
    """True if there are compiled modules, of these sources and for this interpreter."""
    try:
        noted = json.loads((root / MANIFEST).read_bytes())
        return bool(noted == manifest(root, noted["sources"])) and _library(root).exists()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _library(root: Path) -> Path:
    """The library that all compiled modules share."""
    return root / f"{_LIBRARY}{_SUFFIX}"


class _Library:
    """Finds the shared library from anywhere: it lies beside our packages, not in one."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the library."""
        if name != _LIBRARY:
            return None
        return spec_from_file_location(name, _library(_ROOT))


class _SourcesOnly:
    """Finds our modules as if nothing had been compiled."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module's source."""
        if not name.startswith(_PACKAGES):
            return None
        for folder in path or ():
            spec = FileFinder(folder, (SourceFileLoader, [".py"])).find_spec(name)
            if spec is not None and spec.loader is not None:
                return spec
        return None


def choose_form() -> bool:
    """Have the imports that follow take compiled modules if they may; returns whether they do."""
    wanted = os.environ.get("SUPERINFER_INTERPRETED", "0") in {"", "0"}
    if wanted and up_to_date(_ROOT):
        sys.meta_path.append(_Library)
        return True
    sys.meta_path.insert(0, _SourcesOnly)
    return False


def shadows_compiled(cls: type) -> bool:
    """True if a Python class has slots of its own for attributes of a compiled class that it
    extends, as `@dataclass(slots=True)` gives it: compiled methods would not see their values.
    """
    inherited = {name for base in cls.__mro__ for name in getattr(base, "__mypyc_attrs__", ())}
    own = (vars(base).get("__slots__", ()) for base in cls.__mro__)
    return any(not inherited.isdisjoint(slots) for slots in own)


def uncover_compiled(cls: type) -> None:
    """Take the defaults that a Python dataclass gives to fields of a compiled class that it extends
    off the class: there they hide the fields from compiled methods. What makes its instances has
    them all the same, but for fields that are not given to it (`init=False`), whose default is
    nowhere else.
    """
    inherited = {name for base in cls.__mro__ for name in getattr(base, "__mypyc_attrs__", ())}
    for base in cls.__mro__:
        if "__mypyc_attrs__" not in vars(base):
            made = vars(base).get("__dataclass_fields__", {})
            for name in inherited & {name for name, each in made.items() if each.init}:
                if name in vars(base) and not hasattr(vars(base)[name], "__get__"):
                    delattr(base, name)


def own_annotations(cls: type) -> dict[str, object]:
    """What a class itself declares, by name: types, or their text. A compiled one has forgotten all
    but plain types, so what it declares is read from its source.
    """
    if "__mypyc_attrs__" not in vars(cls):
        return dict(inspect.get_annotations(cls))
    file = Path(str(sys.modules[cls.__module__].__file__))
    source = file.with_name(f"{file.name.partition('.')[0]}.py").read_text(encoding="utf-8")
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    body = next(node.body for node in classes if node.name == cls.__name__)
    lines = (line for line in body if isinstance(line, ast.AnnAssign))
    return {ast.unparse(line.target): ast.unparse(line.annotation) for line in lines}
