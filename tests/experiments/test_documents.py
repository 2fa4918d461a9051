"""The commands of the pages run and print what is shown, or say why they do not run."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.documents import running
from experiments.documents.__main__ import main
from experiments.documents.blocks import ROOT, blocks, faults, pages
from experiments.documents.known import unknown
from experiments.documents.links import broken
from experiments.documents.running import run_page, same, shown_anew

PAGES = [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in pages()]
NEEDED = {"superinfer-exec": "torch", "train-reuse": "torch", 'engine_of("ray")': "ray"}
"""Libraries that not every installation has, by what a page says that takes them."""


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_run_or_says_why_not(page: Path) -> None:
    assert list(faults(page)) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_command_exists_with_its_options(page: Path) -> None:
    """Also of the blocks that are not run."""
    assert [fault for block in blocks(page) for fault in unknown(block)] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    assert list(broken(page)) == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    named = {page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name})" in index}
    assert {page.name for page in pages() if page.parent == ROOT / "docs"} == {*named, "README.md"}


def test_the_map_of_the_code_names_every_package() -> None:
    code = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = ("superinfer", "sim", "executor", "traces", "experiments")
    packages = [path.parent for top in folders for path in (ROOT / top).rglob("__init__.py")]
    assert [package for package in packages if f"{package.name}/" not in code] == []


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_commands_do_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    """To show what is printed now: python -m experiments.documents --write PAGE."""
    text = "".join(block.text for block in blocks(page) if block.not_run is None)
    for said, library in NEEDED.items():
        if said in text:
            pytest.importorskip(library)
    found = [fault for outcome in run_page(page, tmp_path) for fault in outcome.faults]
    assert not found, "\n\n".join(found)


PAGE = """\
# x

```console
$ echo one; echo two
one
three
```

<!-- exits with 2 -->
```sh
cat given.txt
exit 2
```

<!-- file: given.txt -->
```text
hello
```

<!-- not run: needs a second machine -->
```sh
false
```
"""


def _page(folder: Path, text: str = PAGE) -> Path:
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return path


def test_wrong_output_is_found_and_shown_anew(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    page = _page(tmp_path)
    session, script = run_page(page, tmp_path / "scratch")
    assert session.faults == [f"{page}:3: echo one; echo two\nprints\none\ntwo"]
    assert shown_anew(session) == ["$ echo one; echo two", "one", "two"]
    assert not session.failed
    assert len(script.faults) == 1  # the file comes only after it
    assert script.failed
    assert "exit code 1, not 2" in script.faults[0]


CHANGED = """\
```console
$ echo new
old
$ printf 'one\\ntwo\\n'
...
three
```

<!-- exits with 2 -->
```console
$ false
```
"""


def test_writing_ends_with_the_faults_that_are_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the first, which was mended; the second stays, as `...` hides what it stands for."""
    page = _page(tmp_path, CHANGED)
    assert main([str(page)]) == 1
    assert capsys.readouterr().err.endswith("\n3 faults\n")
    assert main(["--write", str(page)]) == 1
    told, *lines = capsys.readouterr().err.splitlines()
    assert told == "page.md: 2 blocks run, 2 faults, 1 mended"
    assert [line for line in lines if ": " in line and "page.md" in line] == [
        f"{page}:1: printf 'one\\ntwo\\n'",
        f"{page}:10: exit code 1, not 2, of",
    ]
    assert lines[-1] == "2 faults left"
    assert page.read_text() == CHANGED.replace("old", "new")


def test_writing_a_page_whose_output_alone_is_old_leaves_no_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = _page(tmp_path, "```console\n$ echo new\nold\n```\n")
    assert main(["--write", str(page)]) == 0
    assert capsys.readouterr().err.endswith("1 mended\n0 faults left\n")


def test_a_page_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Known before the first page is run, which could take minutes."""
    page = _page(tmp_path, "```console\n$ echo new\nold\n```\n")
    with pytest.raises(SystemExit) as caught:
        main(["--write", str(page), "none.md"])
    assert caught.value.code == 2 and "old" in page.read_text()
    assert capsys.readouterr().err.endswith("expected a page, got no such file as 'none.md'\n")


def test_a_command_that_takes_too_long_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "LIMIT_S", 0.2)
    page = _page(tmp_path, "```sh\nsleep 30\n```\n")
    (tmp_path / "scratch").mkdir()
    (outcome,) = run_page(page, tmp_path / "scratch")
    assert outcome.failed
    assert "exit code 124, not 0" in outcome.faults[0]


def test_a_file_is_there_for_the_blocks_behind_it(tmp_path: Path) -> None:
    head, script, rest = PAGE.partition("<!-- exits with 2 -->")
    body, given, tail = rest.partition("<!-- file")
    page = _page(tmp_path, f"{head}{given}{tail}\n{script}{body}")
    (tmp_path / "scratch").mkdir()
    outcomes = list(run_page(page, tmp_path / "scratch"))
    assert [len(outcome.faults) for outcome in outcomes] == [1, 0]


def test_a_port_is_one_that_is_free(tmp_path: Path) -> None:
    """The same wherever a block names it, while the one that the page shows is taken."""
    (tmp_path / "scratch").mkdir()
    page = _page(tmp_path, "```sh\necho 8417 84170 localhost:8417 > ports\n```\n")
    (outcome,) = run_page(page, tmp_path / "scratch")
    assert not outcome.failed
    port, other, address = (tmp_path / "scratch" / "ports").read_text().split()
    assert other == "84170" and port != "8417" and address == f"localhost:{port}"


def test_unmarked_and_unknown_commands_are_faults(tmp_path: Path) -> None:
    page = _page(
        tmp_path,
        "```\nmake run\n```\n\n"
        "<!-- not run: x -->\n```sh\nsuperinfer-sim run t.jsonl --ratescale 2\n"
        "superinfer-exec validate t.jsonl --run --no-graphs\n"
        "python -m experiments.no_such\npython -m experiments.tables.no.such\n"
        "superinfer-sim walk\n```\n\n"
        "    superinfer-sim run x\n",
    )
    said = "\n".join(faults(page))
    assert "page.md:1: commands in a block that is neither sh nor console" in said
    assert "page.md:6: no reason why it is not run" in said
    assert "page.md:14: a command in an indented block" in said
    missing = [fault for block in blocks(page) for fault in unknown(block)]
    assert [fault.rpartition("md:")[2] for fault in missing] == [
        "6: superinfer-sim run has no option --ratescale",
        "6: there is no module experiments.no_such",
        "6: there is no module experiments.tables.no.such",
        "6: superinfer-sim has no command 'walk'",
    ]


@pytest.mark.parametrize(
    ("shown", "printed", "alike"),
    [
        (["a", "...", "d"], ["a", "b", "c", "d"], True),
        (["...", "c", "..."], ["a", "b", "c", "d"], True),
        (["a", "...", "e"], ["a", "b", "c", "d"], False),
        (["results in runs/x-20260101-000000"], ["results in runs/x-20270202-101010"], True),
        (["wall time (s)   0.65 ", ""], ["wall time (s)   1.7"], True),
        (["runs/x-20260101-000000"], ["runs/x-20270202-101010-2"], True),
        (["a 1"], ["a 2"], False),
    ],
)
def test_what_counts_as_the_same_output(shown: list[str], printed: list[str], alike: bool) -> None:
    assert same(shown, printed) is alike


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = _page(
        tmp_path, "# A `b` c\n[x](#a-b-c) [y](#d) [z](gone.md) [w](https://example.org/)\n"
    )
    assert list(broken(page)) == ["page.md: no heading #d", "page.md: no file gone.md"]


def test_neither_colours_nor_locale_of_the_caller_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"FORCE_COLOR": "1", "LC_ALL": "C", "PYTHONUTF8": "0"}.items():
        monkeypatch.setenv(name, value)
    program = "from rich import print; print('[red]─ 1[/red]')"
    page = _page(tmp_path, f'```console\n$ python -c "{program}"\n─ 1\n```\n')
    (tmp_path / "scratch").mkdir()
    (outcome,) = run_page(page, tmp_path / "scratch")
    assert outcome.faults == []


def test_python_goes_on_from_block_to_block(tmp_path: Path) -> None:
    page = _page(tmp_path, "```python\nx = 1\n```\n\n```python\nassert x == 2, 'wrong'\n```\n")
    (tmp_path / "scratch").mkdir()
    (outcome,) = run_page(page, tmp_path / "scratch")
    (fault,) = outcome.faults
    assert "AssertionError: wrong" in fault
