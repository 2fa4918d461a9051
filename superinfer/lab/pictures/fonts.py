"""Fonts for names whose letters the usual font of pictures lacks: Chinese, Japanese, Korean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from superinfer.lab.cli.terminal import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FALLBACKS: Final = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans GB",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Microsoft YaHei",
    "SimHei",
    "Yu Gothic",
    "Meiryo",
    "Malgun Gothic",
    "NanumGothic",
    "IPAGothic",
    "Arial Unicode MS",
)
"""Families that Linux, macOS and Windows bring along or that are often installed, best first."""
_MOST_NAMED = 8
"""Letters that a note names."""


def installed_fallbacks() -> list[str]:
    """Those of `FALLBACKS` that matplotlib finds."""
    from matplotlib.font_manager import fontManager

    known = {font.name for font in fontManager.ttflist}
    return [name for name in FALLBACKS if name in known]


def use_fallbacks(figure: Figure) -> bool:
    """Let every text of a figure take letters that its own font lacks from the fallbacks; False
    where none is installed.
    """
    from matplotlib.text import Text

    found: Any = installed_fallbacks()
    for text in figure.findobj(Text) if found else ():
        assert isinstance(text, Text)
        text.set_fontfamily([*text.get_fontfamily(), *found])
    return bool(found)


def letters_note(*summaries: Mapping[str, Any], arms: Iterable[str] = ()) -> str:
    """What to tell of classes, tenants and arms whose letters no font has, in one line; empty if
    all letters are there.
    """
    groups = (each.get(kind) or {} for each in summaries for kind in ("classes", "tenants"))
    names = {*arms, *(name for group in groups for name in group)}
    letters = sorted({letter for name in names if not name.isascii() for letter in printable(name)})
    if not letters or not (absent := _absent(letters)):
        return ""
    more = " and more" if len(absent) > _MOST_NAMED else ""
    return (
        f"no font here has {' '.join(absent[:_MOST_NAMED])}{more}: the pictures show boxes instead "
        f"(fonts that have them, such as {FALLBACKS[0]}, are used where they are installed)"
    )


# -- inside ---------------------------------------------------------------------------------------


def _absent(letters: Iterable[str]) -> list[str]:
    """Letters that neither the usual font nor a fallback has."""
    import matplotlib
    from matplotlib.font_manager import FontProperties, findfont, get_font

    families = [*matplotlib.rcParams["font.family"], *installed_fallbacks()]
    fonts = [get_font(findfont(FontProperties(family=[name]))) for name in families]
    return [each for each in letters if not any(font.get_char_index(ord(each)) for font in fonts)]
