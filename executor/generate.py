"""`superinfer-exec generate`: one prompt, and the text that a model goes on with, as it comes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import numpy as np

from executor.answers import Answer, Answers
from executor.arrivals import Arrivals
from executor.defaults import device_and_model
from executor.device import find_device
from executor.interrupt import stopping
from executor.models import Model
from executor.models.base import check_length
from executor.models.config import read_config
from executor.models.text import Text
from executor.models.tokenizer import Tokenizer, load_tokenizer
from executor.session import ModelOptions, Session, load_t5, open_session, out_of_memory, source_of
from executor.steps.sampler import History, Sampling
from executor.translate import translate
from superinfer.errors import ConfigError, InputError
from superinfer.lab.cli.complaints import INTERRUPTED
from superinfer.lab.cli.terminal import say
from superinfer.lab.config import Config, load_config
from superinfer.request import Request


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be generated."""

    prompt: str
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    model: str | None = None
    device: str | None = None
    max_model_len: int | None = None


def generate_command(wish: Wish, options: ModelOptions, seed: int, as_json: bool = False) -> int:
    """Print what a model makes of a prompt; returns the exit code."""
    if "" in wish.stop:
        raise ConfigError("--stop: expected text, got an empty one")
    prompt = _stdin() if wish.prompt == "-" else wish.prompt
    config = _config(wish, seed)
    found, folder = read_config(source_of(config.run.model))
    tokenizer = load_tokenizer(folder, found.shape.vocab)
    said: list[str] = []
    text = Text(tokenizer.stream(), wish.stop, said.append if as_json else _print)
    tokens = _tokens(tokenizer, prompt)
    if found.family == "t5":
        model = load_t5(config, options)
        limit = _limit(wish, model.max_model_len - 1)
        with out_of_memory("running a step", "--max-model-len"):
            translate(model, tokens, limit, tokenizer.end_tokens, wish.sampling, text.push)
        stopped = False
    else:
        session = open_session(config, options)
        answer = _answer(wish, session.model, tokenizer, tokens, text)
        stopped = _run(session, answer)
    text.finish()
    if as_json:
        counts = {"prompt_tokens": len(tokens), "output_tokens": text.tokens}
        print(json.dumps({"text": "".join(said), **counts, "interrupted": stopped}, indent=2))
    else:
        print()
    return INTERRUPTED if stopped else 0


# -- inside ---------------------------------------------------------------------------------------


def _config(wish: Wish, seed: int) -> Config:
    if wish.device is not None:
        find_device(wish.device, "--device")  # a fault is told by the option, not by the setting
    return load_config(
        None,
        (),
        None,
        scheduler="fcfs",
        seed=seed,
        host_memory_gib=0.0,
        max_model_len=wish.max_model_len,
        **device_and_model(wish.device, wish.model, None, ()),
    )


def _answer(
    wish: Wish, model: Model, tokenizer: Tokenizer, tokens: list[int], text: Text
) -> Answer:
    check_length(model.max_model_len, len(tokens), 1)
    limit = _limit(wish, model.max_model_len - len(tokens))
    ends = tokenizer.end_tokens
    sampling = wish.sampling
    history = History(tokens, model.vocab, model.device) if sampling.penalised else None
    ids = np.array(tokens, np.int64)
    return Answer(ids, limit, ends, sampling, history, text.push)


def _limit(wish: Wish, room: int) -> int:
    """Most tokens of the answer; a warning where the context has less room than was asked for."""
    if wish.max_tokens > room:
        say(f"warning: --max-tokens {wish.max_tokens}: the context has room for {room}")
    return min(wish.max_tokens, room)


def _tokens(tokenizer: Tokenizer, prompt: str) -> list[int]:
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise InputError("expected a prompt in UTF-8") from None
    tokens = tokenizer.encode(prompt)
    if not tokens:
        raise InputError("expected a prompt with at least one token")
    return tokens


def _run(session: Session, answer: Answer) -> bool:
    """Run one request to its end; True if it was interrupted."""
    request = Request("prompt", 0.0, len(answer.prompt), answer.limit)
    driver = session.driver(Answers([answer]), Arrivals([request]))
    with stopping(driver, ""), out_of_memory("running a step", "--max-model-len"):
        driver.run()
    return driver.stopped


def _print(text: str) -> None:
    print(text, end="", flush=True)


def _stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise InputError("expected text in UTF-8", file="standard input") from None
