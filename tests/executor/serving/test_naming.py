"""Ids of content, by which KV caches are found."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from executor.answers import Answer
from executor.serving.prompts import Naming


def test_content_ids_are_chained() -> None:
    tokens = list(range(70))
    ids = Naming(32).ids(tokens)
    assert len(ids) == 3 and len(set(ids)) == 3
    assert all(-(2**63) <= each < 2**63 for each in ids)
    longer = Naming(32).ids([*tokens, 70])
    assert longer[:2] == ids[:2] and longer[2] != ids[2]
    other = Naming(32).ids([1, *tokens[1:]])
    assert not set(other) & set(ids), "what comes first changes all that follows"
    assert not set(Naming(32, "mine").ids(tokens)) & set(ids)


@given(
    prompt=st.lists(st.integers(0, 9), min_size=1, max_size=20),
    said=st.lists(st.integers(0, 9), min_size=1, max_size=20),
    salt=st.sampled_from(["", "mine"]),
)
def test_names_of_a_whole_text_are_those_of_it_as_a_prompt(
    prompt: list[int], said: list[int], salt: str
) -> None:
    """Up to the last full block before the last token."""
    naming, answer = Naming(4, salt), Answer(np.array(prompt, np.int64), 99)
    answer.tokens = said
    text = [*prompt, *said][:-1]
    whole = naming.ids(text[: len(text) // 4 * 4])
    assert naming.longer(naming.ids(prompt), len(prompt), answer) == whole
