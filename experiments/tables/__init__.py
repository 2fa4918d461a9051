"""The tables of results in `README.md` and `docs/`, made of recorded results.

`python -m experiments.tables` writes them anew; `--check` says which differ and exits with 1. No
figure in them is typed by hand. A table stands on its page between two comments:

    <!-- table: NAME -->
    <!-- end -->

One module of this package per page names the page in `PAGE` (below the root of the repository) and
in `TABLES` gives each name a function from the folder of results to lines of markdown, mostly
`recorded("folder/file.json", show)` with a function of what that file holds.
"""

from __future__ import annotations

from experiments.tables.parts import recorded
from experiments.tables.registry import differing, write_pages

__all__ = ["differing", "recorded", "write_pages"]
