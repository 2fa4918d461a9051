"""The model that ships with the project: a byte-level Llama in `executor/tiny`.

A token is a byte and its id is the value of the byte; `END` closes a document, `PAD` is never
predicted. `executor/tiny/README.md` says from what it was trained and how well it predicts.
"""

from __future__ import annotations

from pathlib import Path

TINY = Path(__file__).with_name("tiny")
"""Its folder, in the layout of Hugging Face; the default of every command that needs a model."""
HELDOUT = TINY / "heldout.txt"
"""Text that it was not trained on; an empty line between chapters."""
END, PAD = 256, 257


def documents(text: str) -> list[list[int]]:
    """The tokens of each document of a text that has an empty line between documents."""
    return [[*f"{part}\n".encode(), END] for part in text.strip("\n").split("\n\n")]
