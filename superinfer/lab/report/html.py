"""HTML that cannot be broken by what users write: every text is escaped unless it is `Html`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files


class Html(str):
    """Markup made by this package; anything else is text."""

    __slots__ = ()


Content = str | int | float | None

_SPACES = "\n\N{NO-BREAK SPACE}"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a browser may load for a report: nothing from outside, and not even a script."""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
{head}
</head>
<body>
{body}
</body>
</html>
"""


def text(content: Content) -> Html:
    """A text as markup; control characters become a visible mark."""
    if isinstance(content, Html):
        return content
    return Html("" if content is None else escape(visible(str(content))))


def visible(words: str) -> str:
    """A text with a mark in place of each character that controls instead of showing something."""
    if words.isprintable():
        return words
    return "".join(
        c if c.isprintable() or c in _SPACES else "\N{REPLACEMENT CHARACTER}" for c in words
    )


def join(*parts: Content, by: str = "") -> Html:
    """Parts one behind the other."""
    return Html(by.join(text(part) for part in parts))


def tag(name: str, *children: Content, **attributes: str | bool | None) -> Html:
    """An element; a trailing underscore of an attribute's name falls away, None leaves it out."""
    found = [
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{text(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    ]
    return Html(f"<{name}{''.join(found)}>{join(*children)}</{name}>")


def table(
    caption: str,
    head: Sequence[Content],
    rows: Sequence[Sequence[Content]],
    *,
    words: int = 1,
) -> Html:
    """A table whose first column names the row; columns from number `words` on hold numbers."""
    headings = [tag("th", item, scope="col", class_=_kind(i, words)) for i, item in enumerate(head)]
    body = [
        tag("th", row[0], scope="row")
        + join(*(tag("td", item, class_=_kind(i, words)) for i, item in enumerate(row[1:], 1)))
        for row in rows
    ]
    whole = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *headings)),
        tag("tbody", *(tag("tr", Html(cells)) for cells in body)),
    )
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def section(name: str, title: str, *parts: Content) -> Html:
    """A part of the page, reachable as `#name`."""
    heading = f"{name}-heading"
    return tag("section", tag("h2", title, id=heading), *parts, id=name, aria_labelledby=heading)


def figure(svg: Html, caption: Content, *, wide: bool = False) -> Html:
    """A picture with its caption; a wide one may be scrolled in a narrow window."""
    kind = "wide" if wide else None
    return tag("figure", tag("div", svg, class_="scroll"), tag("figcaption", caption), class_=kind)


def folded(summary: str, *parts: Content) -> Html:
    """What is there on demand."""
    return tag("details", tag("summary", summary), *parts)


def contents(sections: Sequence[tuple[str, str]]) -> Html:
    """Links to the sections, given as name and title."""
    links = [tag("li", tag("a", title, href=f"#{name}")) for name, title in sections]
    return tag("nav", tag("ul", *links), aria_label="Contents")


def page(title: str, *body: Content) -> str:
    """A whole document that needs nothing from outside."""
    style = files("superinfer.lab.report").joinpath("style.css").read_text(encoding="utf-8")
    head = join(
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Html('<link rel="icon" href="data:,">'),
        tag("title", title),
        tag("style", Html(style)),
        by="\n",
    )
    return _PAGE.format(head=head, body=join(*body, by="\n"))


def _kind(column: int, words: int) -> str | None:
    return "number" if column >= words else None
