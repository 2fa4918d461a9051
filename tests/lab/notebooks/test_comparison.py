"""Results of commands, found again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pages import plain
from records import Job, build

from superinfer.errors import InputError
from superinfer.lab import compare_runs, load_comparison, newest_folder


def stored(folder: Path, ttft_s: float = 0.5) -> Path:
    return plain(folder, build([Job(i, 10, 1, i + ttft_s, i + ttft_s) for i in range(4)], []))


def aged(folder: Path, seconds: int) -> None:
    for path in folder.iterdir():
        os.utime(path, (seconds, seconds))


def test_the_newest_of_a_name_is_taken_and_no_other_name(tmp_path: Path) -> None:
    first, second, third = (stored(tmp_path / "look") for _ in range(3))
    assert (second.name, third.name) == ("look-2", "look-3")
    stored(tmp_path / "look-out")
    for age, folder in enumerate((first, third, second)):
        aged(folder, 1000 + age)
    assert newest_folder(tmp_path / "look") == second
    assert newest_folder(str(tmp_path / "look-out")).name == "look-out"


@pytest.mark.parametrize("name", ["look", "nowhere/look"])
def test_without_a_result_there_is_no_newest(name: str, tmp_path: Path) -> None:
    (tmp_path / "look").mkdir()  # empty: a command that failed
    with pytest.raises(InputError, match="expected a result folder here"):
        newest_folder(tmp_path / name)


def compared(root: Path) -> Path:
    """A folder as `compare --seeds 2` leaves it."""
    arms: dict[str, list[dict[str, object]]] = {"vllm": [], "rotating": []}
    for arm, ttft_s in (("vllm", 0.8), ("rotating", 0.4)):
        for seed in (0, 1):
            folder = stored(root / arm / f"seed-{seed}", ttft_s + seed / 10)
            arms[arm].append({"seed": seed, "folder": str(folder.relative_to(root))})
    (root / "comparison.json").write_text(json.dumps({"arms": arms}))
    return root


def test_arms_of_a_comparison_come_in_order_with_their_seeds(tmp_path: Path) -> None:
    arms = load_comparison(compared(tmp_path / "c"))
    assert list(arms) == ["vllm", "rotating"]
    assert [run.folder.name for run in arms["rotating"]] == ["seed-0", "seed-1"]
    assert arms["vllm"][1].summary["mean_ttft_ms"] == pytest.approx(900)
    assert newest_folder(tmp_path / "c") == tmp_path / "c"
    table = compare_runs(arms, ["mean_ttft_ms"])
    assert table["difference"].tolist() == pytest.approx([-400])


def test_what_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        load_comparison(tmp_path)
    expected = "expected a comparison made by `superinfer-sim compare`"
    assert str(error.value) == f"{tmp_path}: {expected}"
    with pytest.raises(InputError, match=r"superinfer-sim compare`: there is no folder .*/gone$"):
        load_comparison(tmp_path / "gone")
    with pytest.raises(InputError, match=r"compare`: below .* are the results .*/c$"):
        load_comparison(compared(tmp_path / "c").parent)
    broken = ("{", "{}", "[]", '{"arms": {"a": [{}]}}', '{"arms": []}', "[" * 100_000)
    for text in broken:
        (tmp_path / "comparison.json").write_text(text)
        with pytest.raises(InputError, match="expected what `compare` writes"):
            load_comparison(tmp_path)
    (tmp_path / "comparison.json").unlink()
    os.mkfifo(tmp_path / "comparison.json")
    with pytest.raises(InputError, match="expected a file, got a pipe"):
        load_comparison(tmp_path)
