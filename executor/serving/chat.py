"""From a conversation to a prompt: a model's chat template, in Jinja."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from executor.serving.http.bodies import Json, Message
from superinfer.errors import ConfigError, InputError
from superinfer.lab.json_files import read_object

NO_TEMPLATE = (
    "the model has no chat template: serve it with --chat-template, or use /v1/completions"
)
LONGEST_S = 5.0
"""For a template to render a conversation."""
_CHECK = "superinfer_within_time"
"""What loops and macros of a template call."""
_FILE, _SETTINGS = "chat_template.jinja", "tokenizer_config.json"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


class ChatTemplate:
    """Renders conversations."""

    def __init__(self, source: str, special: Json, file: str) -> None:
        """`special` are texts that the template may ask for (`bos_token`, ...). ConfigError for a
        source that is no template.
        """
        world = _BoundedWorld(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        world.filters["tojson"] = _as_json
        world.globals.update(special, raise_exception=_refuse, strftime_now=_now)
        try:
            self._template = world.from_string(source)
        except TemplateError as error:
            raise ConfigError(f"{file}: expected a chat template: {error}") from None

    def render(self, messages: Sequence[Message], more: Json | None = None) -> str:
        """The prompt after which the assistant speaks. InputError where the template refuses."""
        turns = [message.for_template() for message in messages]
        known = {"add_generation_prompt": True, **(more or {}), "messages": turns}
        known[_CHECK] = _Deadline(monotonic() + LONGEST_S)
        try:
            return self._template.render(known)
        except Exception as error:  # a template is a program of somebody else
            raise InputError(f"the chat template refuses: {error}", field="messages") from None


def load_template(given: Path | None, folder: Path | None) -> ChatTemplate | None:
    """That of a file, or else the model's own; None where there is none."""
    settings = _settings(folder)
    special = {name: _text(settings.get(name)) for name in _SPECIAL}
    beside = folder / _FILE if folder else None
    file = given or (beside if beside and beside.is_file() else None)
    if file is not None:
        return ChatTemplate(_read(file), special, str(file))
    source = settings.get("chat_template")
    if isinstance(source, list):  # several, by name
        source = next((_source(each) for each in source if _source(each)), None)
    if source is None:
        return None
    place = str(folder / _SETTINGS if folder else "")
    if not isinstance(source, str):
        raise InputError("expected text", file=place, field="chat_template")
    return ChatTemplate(source, special, place)


# -- inside ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Deadline:
    """When a template has to be done."""

    by_s: float

    def __call__(self) -> None:
        if monotonic() > self.by_s:
            _refuse(f"it takes more than {LONGEST_S:g} s")


class _BoundedWorld(ImmutableSandboxedEnvironment):
    """Templates whose loops and macros look at the clock in every turn, for no thread can be ended
    from outside. Nothing else in Jinja goes on for ever.
    """

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        bodies = [loop.body for loop in tree.find_all(nodes.For)]
        bodies += [macro.body for macro in tree.find_all(nodes.Macro)]
        for body in bodies:
            check = nodes.Call(nodes.Name(_CHECK, "load"), [], [], None, None)
            body.insert(0, nodes.ExprStmt(check, lineno=tree.lineno))
        return tree


def _settings(folder: Path | None) -> Json:
    file = folder / _SETTINGS if folder else None
    return read_object(file) if file is not None and file.is_file() else {}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError("expected text in UTF-8", file=str(file)) from None
    except OSError as error:
        raise InputError(str(error.strerror), file=str(file)) from None


def _source(named: Any) -> Any:
    """The template of an entry, if it is the one for plain chats."""
    default = isinstance(named, dict) and named.get("name") == "default"
    return named.get("template") if default else None


def _text(token: Any) -> str:
    """A special token, which files hold as text or as an object."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _as_json(value: Any, indent: int | None = None) -> str:
    """Without the escapes of HTML that Jinja's own filter makes."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(reason: str) -> NoReturn:
    raise TemplateError(reason)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
