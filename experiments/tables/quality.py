"""The table of `docs/quality.md`, from `superinfer-exec quality --json`."""

from __future__ import annotations

from experiments.tables.parts import Lines, Numbers, recorded, table

PAGE = "docs/quality.md"
FILE = "cpu/quality.json"
NAIVE = "4 bits, K per token"


def forms(found: Numbers) -> Lines:
    """What every form of keys and values costs, without and with outlier channels."""
    head = ["keys and values", "perplexity", "+/-", "KL", "same top 1"]
    head += ["with outliers: perplexity", "+/-", "KL"]
    outliers = found["outliers"]["forms"]
    rows = (
        [
            f"{name} (naive)" if name == NAIVE else name,
            *_change(each),
            f"{each['same_top1']:.1%}".replace("%", " %"),
            *_change(outliers[name]),
        ]
        for name, each in found["plain"]["forms"].items()
    )
    return table(head, rows)


def about(found: Numbers) -> Lines:
    """What was measured."""
    tokens = next(iter(found["plain"]["forms"].values()))["tokens"]
    yield (
        f"{found['windows']} windows of {found['length_tokens']} tokens on `{found['device']}`, "
        f"{tokens:,} predictions, torch {found['versions']['torch']}; +/- is one standard error."
    )


TABLES = {"quality": recorded(FILE, forms), "quality run": recorded(FILE, about)}

# -- inside ---------------------------------------------------------------------------------------


def _change(form: Numbers) -> list[str]:
    return [
        f"{100 * form['perplexity_change']:+.2f} %",
        f"{100 * form['perplexity_error']:.2f}",
        f"{form['kl']:.1e}".replace("e-0", "e-"),
    ]
