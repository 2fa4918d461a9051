"""What clients send: the bodies of OpenAI's completions and chat completions, with the further
fields that clients of vLLM know, and a request's own targets.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator

from executor.steps.sampler import Sampling
from superinfer.errors import ConfigError, InputError
from superinfer.slo_classes import MAX_LENGTH_TOKENS
from traces.formats.native import MAX_NUMBER

MOST_CHOICES = 128
COMPLETION_TOKENS = 16
"""Of an answer whose body names no limit, as OpenAI documents it for completions."""
NOT_SERVED = (
    *("include_stop_str_in_output", "continue_final_message", "chat_template", "documents"),
    *("logits_processors", "thinking_token_budget", "reasoning_effort", "function_call"),
    *("echo", "suffix", "logprobs", "top_logprobs", "prompt_logprobs", "logit_bias"),
    *("tools", "functions", "min_tokens", "bad_words", "allowed_token_ids", "use_beam_search"),
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"),
    *("prompt_embeds", "audio", "truncate_prompt_tokens", "web_search_options", "verbosity"),
    *("return_token_ids", "return_tokens_as_token_ids", "repetition_detection", "vllm_xargs"),
    *("regex", "ebnf", "json_schema", "structural_tag", "stop_regex", "lora_path"),
    *("best_of", "tool_choice"),
)
"""Fields that would change the answer, and do not here: better no answer than another one."""
ASKING = ("logprobs", "prompt_logprobs", "web_search_options")
"""Those of them that ask for something if they are 0 or empty, too: `logprobs` of 0 for that of the
token itself, and options of a search for the search."""
DEFAULTS: Mapping[str, tuple[Any, ...]] = {
    "verbosity": ("medium",),
    "reasoning_effort": ("none", "medium"),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
}
"""Values with which they ask for nothing: OpenAI's defaults, which clients may send all the same.
The effort is `medium` for its models before gpt-5.1, and the choice `auto` if there are tools, of
which there are none here."""

MOST_LINE_CHARACTERS = 512
MOST_STOPS, MOST_STOP_CHARACTERS = 64, 1000
"""Each token is looked through for every text to stop at."""
MOST_LISTED = 1 << 14
"""Prompts, messages or tokens to stop at: while a body is read all other clients wait."""


def line(text: str) -> str:
    """Text that can be written down in a line; ValueError for other text."""
    if not text.isprintable() or len(text) > MOST_LINE_CHARACTERS:
        most = f"of at most {MOST_LINE_CHARACTERS} characters"
        raise ValueError(f"expected text in one line {most}, without control characters")
    return text


Tokens = Annotated[int, Field(ge=1, le=MAX_LENGTH_TOKENS)]
Whole = Annotated[int, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Line = Annotated[str, AfterValidator(line)]
Target = Annotated[float, Field(ge=0, le=MAX_NUMBER, allow_inf_nan=False)]
Json = dict[str, Any]


class Slo(BaseModel):
    """A request's own targets, as in a trace: they replace those of its class; 0 takes one away."""

    model_config = ConfigDict(extra="forbid")

    ttft_ms: Target | None = None
    tpot_ms: Target | None = None
    e2el_ms: Target | None = None
    min_tokens_per_s: Target | None = None


class StreamOptions(BaseModel):
    """What a stream tells besides text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    """vLLM's; not served."""


def _stops(value: Any) -> tuple[str, ...]:
    """Texts to stop at, out of one, a list or nothing."""
    texts = [] if value is None else value if isinstance(value, list) else [value]
    fit = all(isinstance(text, str) and len(text) <= MOST_STOP_CHARACTERS for text in texts)
    if not fit or len(texts) > MOST_STOPS:
        most = f"at most {MOST_STOPS} texts of at most {MOST_STOP_CHARACTERS} characters"
        raise ValueError(f"expected text or a list of {most}")
    return tuple(texts)


class Body(BaseModel):
    """What both kinds of completions have. `null` is the same as an absent field."""

    model_config = ConfigDict(extra="allow")
    always: ClassVar[Mapping[str, bool]] = {
        "skip_special_tokens": True,
        "add_special_tokens": True,
        "add_generation_prompt": True,
    }
    """Fields of vLLM that would change the answer with another value."""

    model: Line | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_k: Whole | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: Annotated[tuple[str, ...], PlainValidator(_stops)] = ()
    """Texts that end an answer and are no part of it."""
    stop_token_ids: Annotated[list[Whole], Field(max_length=MOST_LISTED)] | None = None
    ignore_eos: bool | None = None
    user: Line | None = None
    service_tier: Line | None = None
    priority: Whole | None = None
    cache_salt: Line | None = None
    response_format: Json | None = None
    slo: Slo | None = None

    @property
    def limit(self) -> int | None:
        """Most tokens of the answer, by either of its names."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def choices(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def with_usage(self) -> bool:
        """True if a stream ends with the counts of its tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def require_served(self) -> None:
        """InputError for a field that would change the answer and is not known here."""
        extra = self.model_extra or {}
        defaults = {**DEFAULTS, "best_of": (1, self.choices)}
        asked = (name for name, value in extra.items() if _wanted(name, value, defaults))
        other = (name for name, so in self.always.items() if extra.get(name) not in (None, so))
        wanted = next(asked, None) or next(other, None)
        if wanted is None and self.stream_options and self.stream_options.continuous_usage_stats:
            wanted = "stream_options.continuous_usage_stats"
        if wanted is not None:
            raise InputError("not supported here", field=wanted)
        self._require_text()

    def sampling(self, choice: int) -> Sampling:
        """How the tokens of one of the choices are drawn; InputError for what cannot be."""
        seed = secrets.randbits(63) if self.seed is None else self.seed + choice
        try:
            return Sampling(
                _given(self.temperature, 1.0),
                max(0, _given(self.top_k, 0)),  # -1 means all, too
                _given(self.top_p, 1.0),
                _given(self.min_p, 0.0),
                _given(self.repetition_penalty, 1.0),
                _given(self.presence_penalty, 0.0),
                _given(self.frequency_penalty, 0.0),
                seed,
            )
        except ConfigError as error:
            field, _, expected = str(error).partition(": ")
            raise InputError(expected, field=field) from None

    def _require_text(self) -> None:
        """InputError where the answer is to be something else."""
        kind = (self.response_format or {"type": "text"}).get("type")
        if kind != "text":
            raise InputError(f"expected type text, got {kind}", field="response_format")
        told = (self.model_extra or {}).get("modalities") or ["text"]
        if told != ["text"]:
            raise InputError(f'expected ["text"], got {json.dumps(told)}', field="modalities")


def _prompts(value: Any) -> Any:
    """One prompt after the other, out of one or of a list of them."""
    single = not isinstance(value, list) or (value and type(value[0]) is int)
    prompts = [value] if single else value
    if len(prompts) > MOST_LISTED:
        raise ValueError(f"expected at most {MOST_LISTED} prompts, got {len(prompts)}")
    if not prompts or not all(map(_is_prompt, prompts)):
        raise ValueError("expected text, tokens, or a list of either")
    return prompts


def _is_prompt(value: Any) -> bool:
    listed = isinstance(value, list) and all(type(token) is int for token in value)
    return isinstance(value, str) or listed


class CompletionBody(Body):
    """Of `/v1/completions`: one prompt or several, as text or as tokens."""

    prompts: Annotated[list[str | list[int]], PlainValidator(_prompts), Field(alias="prompt")]


def _content(value: Any) -> Any:
    parts = isinstance(value, list) and all(isinstance(part, dict) for part in value)
    if not (value is None or isinstance(value, str) or parts):
        raise ValueError("expected text or a list of parts, each an object")
    return value


class Message(BaseModel):
    """One turn of a conversation; templates may use further fields."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: Annotated[str | list[Json] | None, PlainValidator(_content)] = None

    def for_template(self) -> Json:
        """As chat templates want it: the parts of a content as one text."""
        whole = self.model_dump(exclude_none=True)
        if isinstance(self.content, list):
            whole["content"] = "".join(map(_text_of, self.content))
        return whole


class ChatBody(Body):
    """Of `/v1/chat/completions`."""

    always: ClassVar[Mapping[str, bool]] = {**Body.always, "add_special_tokens": False}
    """The template has them."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_LISTED)]
    chat_template_kwargs: Json | None = None


def _wanted(name: str, value: Any, defaults: Mapping[str, tuple[Any, ...]]) -> bool:
    """Whether a field asks for something that is not served."""
    if name not in NOT_SERVED or value is None or value is False:
        return False
    return (name in ASKING or bool(value)) and value not in defaults.get(name, ())


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _text_of(part: Json) -> str:
    """The text of one part of a content; InputError for a picture or a sound."""
    if part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise InputError(f"expected parts of type text, got {part.get('type')}", field="content")
    return str(part["text"])
