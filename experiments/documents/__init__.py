"""The commands in `docs/`, `README.md` and two more pages, run: `python -m experiments.documents`.

A fenced block of a page whose language is `sh` is a script; one whose language is `console` has
commands behind `$ `, each followed by what it prints. The blocks of a page run in its order, in one
scratch folder that holds the bundled traces and a short `trace.jsonl`; behind them its blocks of
`python`, as one program. A comment before a block says what is special about it:

    <!-- not run: REASON -->      it cannot be run here: a GPU, the network, minutes
    <!-- exits with 2 -->         its last command ends with this code
    <!-- file: NAME -->           the block, of any language, is the content of this file

Shown output is compared, but for times of the machine and what stands in place of a line `...`.
`--write` puts what was printed in place of what was shown. A slow test runs every page.
"""
