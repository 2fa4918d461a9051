"""The page that tells where the shipped model comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PAGE = """\
# The model that ships

A byte-level Llama of {weights:,} weights (bfloat16), so that everything here runs with a real model
and without a download. Hugging Face's layout: `config.json`, `model.safetensors`, `tokenizer.json`.
A token is a byte and its id is the byte's value; 256 is `<|end|>`, 257 `<|pad|>`.

| held-out text, windows of | bits per byte |
|--:|--:|
{measured}

Written by `experiments/tiny/train.py`; do not edit.

**Corpus.** The King James Version of the Bible (1611), whose copyright has expired, as Debian's
packages `bible-kjv` and `bible-kjv-text` print it: one verse to a line, without references, an
empty line between chapters, which is where the model sees `<|end|>`. The programs of those packages
are under the GPL; nothing of them is here.

**Split.** By position. The last 5 % of the text were not trained on: `heldout.txt`
({heldout_bytes:,} bytes, the figures above) and a rest that decided which of the averaged weights
were kept ({judged_bits_per_byte:.3f} bits per byte there).

**Training.** {steps:,} steps over {tokens:,} bytes ({epochs:.1f} times the {train_bytes:,} of the
training part) in {seconds:.0f} seconds on {device}, torch {torch}, seed {seed}. Rows of {short:,}
bytes, at the end of {long:,}; into many of them passages were copied further on, so that the model
learns to repeat what it saw far back. The learning rate follows the clock: a second run gives
another model of about the same quality.

    apt-get install bible-kjv bible-kjv-text
    python -m experiments.tiny.kjv -o kjv.txt
    python -m experiments.tiny.train --corpus kjv.txt

**What it is for.** It writes words in the manner of its corpus and knows nothing else. It is too
small to have the outlier channels of large models; `superinfer-exec quality` puts them in. The
weights and this page are under the licence of the repository.
"""


def page(record: Mapping[str, Any]) -> str:
    """`README.md` of the folder, from what `training.json` holds."""
    measured = "\n".join(
        f"| {int(window):,} | {bits:.3f} |"
        for window, bits in record["bits_per_byte_by_window"].items()
    )
    short, long = record["rows"]
    epochs = record["tokens"] / record["train_bytes"]
    return _PAGE.format(measured=measured, short=short, long=long, epochs=epochs, **record)
