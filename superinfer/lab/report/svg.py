"""Figures as pictures inside a page: text stays text, and the same figure gives the same bytes."""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from superinfer.lab.report.html import Html, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_POINTS_PER_REM = 12
_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"url\(#")
_FAMILY = re.compile(r"font-family: [^;]*(; )?")
_LINE_TO = re.compile(r"\s+L\s+")
_CURVE = re.compile(r"[CQAHVST]", re.IGNORECASE)
_DRAWN = ("d", "points", "transform", "x", "y", "width", "height")


def inline_svg(figure: Figure, name: str, title: str, description: str) -> Html:
    """A figure as an `svg` element; `name` keeps its ids apart from those of other pictures."""
    root = ElementTree.fromstring(_drawn(figure))
    _drop(root, "metadata")
    _drop(root, "style")
    for element in root.iter():
        _tidy(element, name)
    width_pt = float(root.attrib.pop("width").removesuffix("pt"))
    del root.attrib["height"]
    root.set("style", f"max-width: {width_pt / _POINTS_PER_REM:g}rem")
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for place, (kind, words) in enumerate((("title", title), ("desc", description))):
        child = ElementTree.Element(f"{{{_SVG}}}{kind}", {"id": f"{name}-{kind}"})
        child.text = visible(words)
        root.insert(place, child)
    return Html(_serialised(root))


def _drawn(figure: Figure) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    settings = matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "superinfer"})
    with settings, warnings.catch_warnings():
        # The reader's browser has glyphs that the font used for measuring lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    return buffer.getvalue()


def _drop(root: ElementTree.Element, kind: str) -> None:
    for parent in root.iter():
        for child in parent.findall(f"{{{_SVG}}}{kind}"):
            parent.remove(child)


def _tidy(element: ElementTree.Element, name: str) -> None:
    """Make ids unique in the page, numbers short, and fonts those of the page."""
    for key, value in list(element.attrib.items()):
        if key == "id":
            element.set(key, f"{name}-{value}")
        elif key == f"{{{_XLINK}}}href":  # the plain attribute is what HTML knows
            del element.attrib[key]
            element.set("href", value.replace("#", f"#{name}-"))
        elif key in _DRAWN:
            element.set(key, _short_path(_NUMBER.sub(_short, value)))
        elif key in ("style", "clip-path"):
            element.set(key, _FAMILY.sub("", _REFERENCE.sub(f"url(#{name}-", value)))


def _short_path(drawn: str) -> str:
    """A line through many points needs no letter before each of them."""
    plain = drawn if _CURVE.search(drawn) else _LINE_TO.sub(" ", drawn)
    return " ".join(plain.split())


def _short(number: re.Match[str]) -> str:
    short = f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if short == "-0" else short


def _serialised(root: ElementTree.Element) -> str:
    ElementTree.register_namespace("", _SVG)
    lines = ElementTree.tostring(root, encoding="unicode").splitlines()
    return "\n".join(line.strip() for line in lines if line.strip())
