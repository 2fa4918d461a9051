"""The reference pages in `docs/`, made of the program itself.

`python -m experiments.reference` writes them, `--check` says which differ and exits with 1.
Commands and options come from the command lines, settings from the types and the docstrings below
them, metrics from `superinfer.metrics.meanings`. Nothing on these pages is typed by hand.
"""
