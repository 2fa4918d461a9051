"""Which page has which tables, and the pages with them filled in."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from experiments.studykit.modules import exists
from experiments.studykit.reading import fields_of, read_json
from experiments.tables.parts import Show

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parents[1] / "results"
END = "<!-- end -->"
_BEGIN = re.compile(r"<!-- table: (.+?) -->\n")
_MACHINERY = {"parts", "recording", "registry", "__main__"}


def shown() -> dict[Path, dict[str, Show]]:
    """The functions of all tables by their names, by page."""
    pages: dict[Path, dict[str, Show]] = {}
    for module in _modules():
        tables = pages.setdefault(ROOT / module.PAGE, {})
        for name, show in module.TABLES.items():
            if name in tables:
                raise KeyError(f"{module.PAGE}: two tables are named {name!r}")
            tables[name] = show
    return pages


def tables(results: Path = RESULTS) -> dict[Path, dict[str, str]]:
    """Every table of every page by its name."""
    return {
        page: {name: "\n".join(show(results)) for name, show in named.items()}
        for page, named in shown().items()
    }


def filled(page: str, found: dict[str, str]) -> str:
    """The page with these tables between their comments. KeyError for a table without a place, and
    for a place without a table.
    """
    for name, text in found.items():
        head, begin, rest = page.partition(f"<!-- table: {name} -->\n")
        _, end, tail = rest.partition(END)
        if not (begin and end):
            raise KeyError(f"no place for {name!r}")
        page = f"{head}{begin}{text}\n{end}{tail}"
    for name in places(page):
        if name not in found:
            raise KeyError(f"no table {name!r}")
    return page


def places(page: str) -> list[str]:
    """The names of the tables that a page has a place for."""
    return _BEGIN.findall(page)


def pages() -> Iterator[tuple[Path, str]]:
    """Each page that is made of recorded results, and what it should hold."""
    found = tables()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        if path in found or places(text):
            try:
                yield path, filled(text, found.pop(path, {}))
            except KeyError as error:
                raise KeyError(f"{path.name}: {error.args[0]}") from None
    if found:
        raise KeyError(f"no page {', '.join(str(path) for path in found)}")
    for summary in sorted((RESULTS / "simulated").glob("**/summary.json")):
        if (page := summary.with_name("results.md")).is_file():
            yield page, _study(summary)


def differing() -> list[Path]:
    """The pages that do not show what was recorded."""
    return [path for path, text in pages() if path.read_text(encoding="utf-8") != text]


def write_pages() -> list[Path]:
    """Write the tables into the pages; returns those that this changed."""
    changed = []
    for path, text in list(pages()):
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


# -- inside ---------------------------------------------------------------------------------------


def _modules() -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if found.name not in _MACHINERY:
            yield importlib.import_module(f"experiments.tables.{found.name}")


def _study(summary: Path) -> str:
    """The page of a study, out of its summary: `page` of `experiments/<study>/table.py`, or of
    `<part>_page.py` for a part of one. LookupError where there is neither.
    """
    study = ".".join(summary.parent.relative_to(RESULTS / "simulated").parts)
    for name in (f"experiments.{study}.table", f"experiments.{study}_page"):
        if exists(name):
            module, found = importlib.import_module(name), read_json(summary)
            with fields_of(summary):
                return str(module.page(found))
    raise LookupError(f"nothing makes the page beside {summary}")
