"""Conversations, by a model's chat template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from serving_kit import serving

from executor.serving import chat
from executor.serving.chat import ChatTemplate, load_template
from executor.serving.http.bodies import ChatBody
from executor.shipped import TINY
from superinfer.errors import ConfigError, InputError

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def render(source: str, messages: list[dict[str, Any]], **more: Any) -> str:
    body = ChatBody(messages=messages, **more)
    return ChatTemplate(source, {"bos_token": "<s>"}, "file").render(
        body.messages, body.chat_template_kwargs
    )


def test_turns_become_a_prompt() -> None:
    turns = [
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    assert render(TEMPLATE, turns) == "<s>system: Be brief.\nuser: ab\nassistant:"
    unprompted = render(TEMPLATE, turns, chat_template_kwargs={"add_generation_prompt": False})
    assert unprompted.endswith("user: ab\n")


def test_what_templates_use() -> None:
    source = "{{ messages[0].tags | tojson }}{% if strftime_now('%Y') | int > 2000 %}!{% endif %}"
    turns = [{"role": "user", "content": "x", "tags": ["<é>"]}]
    assert render(source, turns) == '["<é>"]!'


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('no system') }}", "no system"),
        ("{{ 1 // 0 }}", "integer division"),
        ("{{ '{5}'.format() }}", ""),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_a_template_that_refuses(source: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"messages: the chat template refuses: .*{reason}"):
        render(source, [{"role": "user", "content": "x"}])


LOOP, END = "{% for i in range(100000) %}", "{% endfor %}"
SLOW = {
    "loops": LOOP + LOOP + END + END,
    "loops that say something": LOOP + LOOP + "{{ loop.index }}" + END + END,
    "an else": "{% for i in [] %}{% else %}" + LOOP + LOOP + END + END + END,
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(90) }}",
}


@pytest.mark.parametrize("name", SLOW)
def test_a_template_that_does_not_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "LONGEST_S", 0.05)
    with pytest.raises(InputError, match=r"the chat template refuses: it takes more than 0\.05 s"):
        render(SLOW[name], [{"role": "user", "content": "x"}])


def test_looking_at_the_clock_changes_no_text() -> None:
    """Blanks and scopes are as they were."""
    source = (
        "{% macro say(m) %}{{ m.role }}{{ caller() }}{% endmacro %}\n"
        "{% for m in messages if m.role != 'system' %}\n"
        "  {%- call say(m) %}: {{ m.content }}{% endcall %} {{ loop.index }}\n"
        "{% else %}none{% endfor %}"
    )
    turns = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    wanted = plain.from_string(source).render(messages=turns)
    assert render(source, turns) == wanted == "user: y 1\n"


def test_a_template_is_kept_from_the_machine() -> None:
    hostile = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(InputError, match="the chat template refuses"):
        render(hostile, [{"role": "user", "content": "x"}])


def test_parts_that_are_no_text() -> None:
    turns = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    with pytest.raises(InputError, match="content: expected parts of type text, got image_url"):
        render(TEMPLATE, turns)


def test_special_tokens_are_those_of_the_template() -> None:
    """For a chat vLLM's default is to add none."""
    turns = [{"role": "user", "content": "hi"}]
    ChatBody(messages=turns, add_special_tokens=False).require_served()
    for field, value in (("add_special_tokens", True), ("add_generation_prompt", False)):
        with pytest.raises(InputError, match=f"{field}: not supported here"):
            ChatBody(messages=turns, **{field: value}).require_served()


def test_a_conversation_without_end() -> None:
    """While it is read all other clients wait."""
    turns = [{"role": "user", "content": "a"}] * 16385
    with pytest.raises(ValueError, match="at most 16384 items"):
        ChatBody.model_validate({"messages": turns})


def test_a_file_that_is_no_template(tmp_path: Path) -> None:
    file = tmp_path / "broken.jinja"
    file.write_text("{% for %}")
    with pytest.raises(ConfigError, match=r"broken\.jinja: expected a chat template"):
        load_template(file, None)


@pytest.mark.parametrize("form", ["text", "named", "file"])
def test_where_templates_are(tmp_path: Path, form: str) -> None:
    settings: dict[str, Any] = {"bos_token": {"content": "<s>"}}
    if form == "text":
        settings["chat_template"] = TEMPLATE
    elif form == "named":
        settings["chat_template"] = [{"name": "default", "template": TEMPLATE}]
    else:
        (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    template = load_template(None, tmp_path)
    assert template is not None
    turns = ChatBody(messages=[{"role": "user", "content": "hi"}]).messages
    assert template.render(turns) == "<s>user: hi\nassistant:"


@pytest.mark.parametrize(
    "settings", ['{"chat_template": 5}', "[]", "{", "[" * 100_000, '{"chat_template": "{% for"}']
)
def test_settings_that_are_none(tmp_path: Path, settings: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(settings)
    with pytest.raises((InputError, ConfigError), match=r"tokenizer_config\.json: "):
        load_template(None, tmp_path)


def test_no_template(tmp_path: Path) -> None:
    assert load_template(None, tmp_path) is None and load_template(None, None) is None
    others = {"chat_template": [{"name": "tools", "template": "x"}, "x", {}, {"name": "default"}]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(others))
    assert load_template(None, tmp_path) is None


def test_a_conversation_over_http(tmp_path: Path) -> None:
    """A chat is the completion of its prompt; its limit is the class's where it names none."""
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**settings, "chat_template": TEMPLATE.replace("{{ bos_token }}", "")})
    )
    with serving(tmp_path, model=str(folder)) as served:
        body = {"messages": [{"role": "user", "content": "And God said"}], "temperature": 0}
        reply = served.client.post("/v1/chat/completions", json={**body, "max_tokens": 9}).json()
        (choice,) = reply["choices"]
        prompt = "user: And God said\nassistant:"
        text = served.text(prompt, max_tokens=9)
        assert choice["message"] == {"role": "assistant", "content": text}
        assert reply["usage"]["prompt_tokens"] == len(prompt)
        stream = {**body, "max_completion_tokens": 9, "stream": True}
        lines = served.client.post("/v1/chat/completions", json=stream).text.split("\n\n")
        deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines[:-2]]
        assert deltas[0]["role"] == "assistant" and "role" not in deltas[-1]
        assert "".join(delta["content"] for delta in deltas) == text
        limited = served.client.post(
            "/v1/chat/completions", json={**body, "ignore_eos": True, "service_tier": "code"}
        )
        assert limited.json()["usage"]["completion_tokens"] == 256


def test_a_model_without_a_template(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        body = {"messages": [{"role": "user", "content": "hi"}]}
        assert "has no chat template" in served.refusal(body, path="chat/completions")
        assert "messages: " in served.refusal({"messages": []}, path="chat/completions")
