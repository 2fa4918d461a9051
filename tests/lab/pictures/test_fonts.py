"""Letters that the usual font of pictures lacks."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from superinfer.lab.pictures import fonts
from superinfer.lab.pictures.canvas import write_png
from superinfer.lab.pictures.fonts import installed_fallbacks, letters_note

ODD = "\ue000"
"""A letter that DejaVu Sans, the usual font, lacks, and another that comes with matplotlib has."""
HAS_ODD = "STIXNonUnicode"
NOBODY_HAS = "\U0010fffd"


def picture(name: str) -> Figure:
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.barh([name, "plain"], [1, 2], label=name)
    axes.legend()
    axes.set_title(name)
    return figure


def written(name: str, folder: Path) -> bytes:
    return write_png(picture(name), folder / "p.png", software=False).read_bytes()


@pytest.fixture
def none_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "FALLBACKS", ("No such font",))


@pytest.fixture
def one_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "FALLBACKS", ("No such font", HAS_ODD))


@pytest.mark.usefixtures("none_installed")
def test_without_a_font_letters_are_boxes_and_no_warning(tmp_path: Path) -> None:
    assert installed_fallbacks() == []
    assert written(ODD, tmp_path).startswith(b"\x89PNG")  # a warning would be an error here


def test_letters_come_from_a_font_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fonts, "FALLBACKS", ())
    boxes, plain = written(ODD, tmp_path), written("plain name", tmp_path)
    monkeypatch.setattr(fonts, "FALLBACKS", ("No such font", HAS_ODD))
    assert installed_fallbacks() == [HAS_ODD]
    assert written(ODD, tmp_path) != boxes
    assert written("plain name", tmp_path) == plain, "where nothing lacks nothing changes"


@pytest.mark.usefixtures("one_installed")
def test_tick_labels_and_legends_have_them_too(tmp_path: Path) -> None:
    figure = picture(ODD)
    write_png(figure, tmp_path / "p.png")
    with_odd = [text for text in figure.findobj(Text) if ODD in getattr(text, "get_text")()]  # noqa: B009
    assert len(with_odd) >= 3
    assert all(getattr(text, "get_fontfamily")()[-1] == HAS_ODD for text in with_odd)  # noqa: B009


@pytest.mark.usefixtures("none_installed")
def test_other_warnings_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Figure.savefig

    def warning(self: Figure, *arguments: object, **options: object) -> None:
        warnings.warn("something else", UserWarning, stacklevel=1)
        save(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", warning)
    with pytest.warns(UserWarning, match="something else"):
        write_png(picture(ODD), tmp_path / "p.png")


@pytest.mark.usefixtures("one_installed")
def test_a_note_names_letters_that_no_font_has() -> None:
    assert letters_note({"classes": {"chat": {}}, "tenants": {"Ωμέγα": {}, ODD: {}}}) == ""
    found = letters_note({"classes": {f"{NOBODY_HAS}{ODD}": {}}, "tenants": None}, arms=["fcfs"])
    assert found.startswith(f"no font here has {NOBODY_HAS}: the pictures show boxes instead")
    assert letters_note({}, arms=[NOBODY_HAS]) == found
    many = "".join(chr(0x10FF00 + place) for place in range(9))
    assert f"{many[7]} and more: " in letters_note({}, arms=[many])
