"""From tokens to the text of answers, in the two processes that take part."""

from __future__ import annotations

import asyncio
from multiprocessing import Pipe
from typing import Any, cast

import numpy as np
import pytest
from serving_kit import ended

from executor.models.tokenizer import ByteTokenizer
from executor.serving.engine.clients import Voice
from executor.serving.engine.letters import Ended, Wish
from executor.serving.engine.outbox import Outbox
from executor.serving.objectives import Objective
from executor.serving.prompts import Naming
from executor.serving.streams import Listeners, Stream
from executor.steps.sampler import GREEDY
from superinfer.request import DEFAULT_CLASS, SLO

ENDS = frozenset({10})
TOKENIZER = ByteTokenizer(256)


def wish(stop: tuple[str, ...] = ()) -> Wish:
    """Seven tokens after one."""
    objective = Objective(SLO(), DEFAULT_CLASS, "me", 0, None)
    prompt = np.zeros(1, np.int64)
    return Wish(prompt, (), Naming(32), 7, ENDS, stop, GREEDY, objective)


def stream(news: asyncio.Event, whole: bool = False) -> Stream:
    """One that nobody else listens to."""
    listeners = Listeners(*[lambda *_: None] * 3)
    return Stream(ended()[0], TOKENIZER.stream(), ENDS, news, listeners, whole=whole)


class Letters:
    """An outbox that keeps them."""

    def __init__(self) -> None:
        self.put_in: list[Any] = []

    def put(self, letter: Any) -> None:
        """Keep one."""
        self.put_in.append(letter)


@pytest.mark.parametrize("stop", [(), ("zz",), ("lo",)])
def test_a_stream_passes_on_what_is_said(stop: tuple[str, ...]) -> None:
    """Texts to stop at are seen at once, where they are said."""
    letters = Letters()
    voice = Voice(0, wish(stop), TOKENIZER, cast(Outbox, letters))
    stopped = [voice.say(token) for token in b"hallo z"]
    heard = stream(asyncio.Event())
    for index, token, text, time_s in letters.put_in:
        assert index == 0 and (text is not None) == bool(stop)
        heard.hear(token, text, time_s)
    heard.end(Ended(0, "finished", None, 1, 1, 2, 7, 0, 0, voice.finish(), voice.stopped))
    assert heard.output_tokens == 7
    text = heard.drain()
    assert heard.drain() is None
    if stop == ("lo",):
        assert (text, heard.finish_reason) == ("hal", "stop") and stopped[3:5] == [False, True]
    else:
        assert (text, heard.finish_reason) == ("hallo z", "length") and not any(stopped)


@pytest.mark.parametrize("stop", [(), ("x",)])
def test_a_token_that_ends_an_answer_is_no_text(stop: tuple[str, ...]) -> None:
    letters = Letters()
    voice = Voice(0, wish(stop), TOKENIZER, cast(Outbox, letters))
    for token in b"ab\n":
        voice.say(token)
    heard = stream(asyncio.Event())
    for _, token, text, time_s in letters.put_in:
        heard.hear(token, text, time_s)
    heard.end(Ended(0, "finished", None, 1, 1, 2, 3, 0, 0, voice.finish()))
    assert (heard.drain(), heard.finish_reason, heard.output_tokens) == ("ab", "stop", 3)


def test_who_waits_for_the_whole_is_not_woken_before() -> None:
    news = asyncio.Event()
    heard = stream(news, whole=True)
    heard.hear(97, None, 0.0)
    assert not news.is_set()
    heard.end(ended(output_tokens=1)[1])
    assert news.is_set() and heard.drain() == "a"


def test_letters_travel_together_and_in_order() -> None:
    here, there = Pipe()
    outbox = Outbox(there)
    for number in range(1000):
        outbox.put(number)
    outbox.close()
    there.close()
    lists = []
    with pytest.raises(EOFError):
        while True:
            lists.append(here.recv())
    assert [number for numbers in lists for number in numbers] == list(range(1000))
    assert len(lists) < 500


def test_an_outbox_whose_reader_is_gone_ends() -> None:
    here, there = Pipe()
    outbox = Outbox(there)
    here.close()
    for number in range(1000):
        outbox.put(number)
    outbox.close()
