"""Files that a command writes: known before, whole or not at all, folders made, streams kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from superinfer.errors import InputError, SuperInferError
from superinfer.outputs import check_writable, replacing


@pytest.mark.parametrize(
    ("path", "file", "reason"),
    [
        ("new/folder/result", False, None),
        ("there.json", True, None),
        ("new.json", True, None),
        (".", True, "expected a file, got a folder"),
        ("there.json/result", False, "cannot write here: Not a directory"),
        ("there.json", False, "expected a folder, got a file"),
        ("not\udcff", False, r"not\\udcff: expected a name in UTF-8"),
        ("x" * 245 + ".json", True, "cannot write here: File name too long"),
        ("x" * 300 + "/result", False, "cannot write here: File name too long"),
    ],
)
def test_whether_a_result_can_be_written(
    tmp_path: Path, path: str, file: bool, reason: str | None
) -> None:
    """Known before there is one; looking leaves nothing behind."""
    (tmp_path / "there.json").write_text("{}")
    if reason is None:
        check_writable(tmp_path / path, file=file)
    else:
        with pytest.raises(InputError, match=reason):
            check_writable(tmp_path / path, file=file)
    assert [(kept.name, kept.read_text()) for kept in tmp_path.iterdir()] == [("there.json", "{}")]


@pytest.mark.parametrize("name", ["there.json", "./there.json", "link.json"])
def test_what_is_read_is_not_replaced(tmp_path: Path, name: str) -> None:
    there = tmp_path / "there.json"
    there.write_text("{}")
    (tmp_path / "link.json").symlink_to(there)
    check_writable(tmp_path / name, file=True, inputs=[tmp_path / "other.json", "mixed"])
    with pytest.raises(InputError, match="expected another file than the one that is read"):
        check_writable(tmp_path / name, file=True, inputs=["mixed", str(there)])


@pytest.mark.parametrize("file", [False, True])
def test_standard_output_is_no_name(file: bool) -> None:
    with pytest.raises(InputError, match=r"^-: expected a name, for only traces go to"):
        check_writable(Path("-"), file=file)


def test_folders_are_made(tmp_path: Path) -> None:
    with replacing(tmp_path / "a/b/c.txt") as staged:
        staged.write_text("all")
    assert [each.name for each in (tmp_path / "a/b").iterdir()] == ["c.txt"]
    assert (tmp_path / "a/b/c.txt").read_text() == "all"


def test_what_was_there_stays_until_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_text("before")

    def half() -> None:
        with replacing(path) as staged:
            staged.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert [each.name for each in tmp_path.iterdir()] == ["c.txt"]
    assert path.read_text() == "before"


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/c.txt").write_text("before")
    (tmp_path / "link.txt").symlink_to("there/c.txt")
    check_writable(tmp_path / "link.txt", file=True)
    with replacing(tmp_path / "link.txt") as staged:
        staged.write_text("after")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "there/c.txt").read_text() == "after"


def test_a_pipe_is_written_to_as_it_is(tmp_path: Path) -> None:
    """As `/dev/stdout` and `/dev/null` are."""
    read, write = os.pipe()
    path = Path(f"/proc/self/fd/{write}")
    if not path.exists():
        pytest.skip("no /proc")
    check_writable(path, file=True)
    with replacing(path) as staged:
        staged.write_text("through")
    os.close(write)
    with os.fdopen(read) as end:
        assert end.read() == "through"


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("")
    with (
        pytest.raises(SuperInferError, match=r"cannot write .*c\.txt/d: ") as raised,
        replacing(tmp_path / "c.txt/d"),
    ):
        pass
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_is_known_before(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(InputError, match="Permission denied"):
            check_writable(tmp_path / "new/c.txt", file=True)
    finally:
        tmp_path.chmod(0o755)
