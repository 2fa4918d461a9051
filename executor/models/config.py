"""What a model is: its sizes, and what of its `config.json` changes the arithmetic.

Sizes come from `superinfer.costs.shapes`, so the executor and the simulator mean the same model by
the same name. Both spellings of rotary settings are read: `rope_theta` with `rope_scaling`, and
`rope_parameters` of newer files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from superinfer.costs.shapes import PRESETS, ModelShape, canonical_name, load_shape, stated_window
from superinfer.errors import ConfigError, InputError
from superinfer.settings import is_number

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "gpt2", "t5", "mt5")
"""What the executor runs of the models whose sizes are known (`load_shape`)."""
ROPE_KINDS = ("default", "linear", "llama3")
HEAD_DIM_STEP = 8
"""Rows of a block are copied in pieces of 16 bytes: 8 values of 16 bits."""
_HEAD_DIM_FIELDS = {"gpt2": "n_head", "t5": "d_kv", "mt5": "d_kv"}
"""What sets the size of heads where there is no `head_dim`."""


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions. `linear` divides positions by `factor`; `llama3` low frequencies alone."""

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_positions: int = 8192


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and arithmetic of one model. `family` is `llama`, `mixtral`, `gpt2` or `t5`."""

    family: str
    shape: ModelShape
    norm_eps: float
    rope: Rope = field(default_factory=Rope)
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied_head: bool = False
    window: int | None = None
    """Keys that a token sees at most; contexts end there, so that it never matters."""
    buckets: int = 32
    max_distance: int = 128
    scaled_head: bool = False
    """T5: the last hidden state is multiplied by hidden^-0.5 before the head."""
    start_token: int = 0
    """T5: the token with which decoding begins."""

    @property
    def biased(self) -> frozenset[str]:
        """Which projections have biases, by the names that the cost model has for them."""
        flags = {"qkv": self.qkv_bias, "o": self.out_bias}
        flags |= dict.fromkeys(("gate_up", "down"), self.mlp_bias)
        return frozenset(part for part, there in flags.items() if there)


def read_config(source: str | Path) -> tuple[ModelConfig, Path | None]:
    """The model and its folder; no folder for a preset.

    Raises ConfigError for a preset that the executor does not run or a name that is neither preset
    nor file, InputError for a config that cannot be used.
    """
    preset = PRESETS.get(canonical_name(str(source)))
    path = Path(source)
    if preset is not None and not path.exists():
        return _preset(preset), None
    # A folder may be called like a preset, but its config never is.
    if path.is_dir():
        path = path / "config.json"
        if not path.exists():
            raise ConfigError(f"{source}: expected a folder with a config.json, got none")
    shape = load_shape(path)
    raw = json.loads(path.read_text(encoding="utf-8"))
    return _from_file(raw, shape, str(path)), path.parent


def _preset(shape: ModelShape) -> ModelConfig:
    """The published settings of a preset."""
    name, tied = shape.name, shape.tied_embeddings
    if name.startswith("opt"):
        raise ConfigError(f"unknown architecture of {name}: the executor has no OPT")
    if shape.experts and not name.startswith("mixtral"):
        raise ConfigError(
            f"unknown architecture of {name}: the executor has Mixtral's experts alone"
        )
    if name == "gpt2":
        return _with_biases(shape, 1e-5)
    if shape.encoder_layers:
        return ModelConfig("t5", shape, 1e-6, tied_head=tied, scaled_head=tied)
    if name.startswith("qwen"):
        new = name.startswith("qwen3")
        return ModelConfig("llama", shape, 1e-6, Rope(1e6), qkv_bias=not new, qk_norm=new)
    if shape.experts:
        return ModelConfig("mixtral", shape, 1e-5, Rope(1e6))
    return ModelConfig("llama", shape, 1e-5, _llama_rope(name), tied_head=tied)


def _llama_rope(name: str) -> Rope:
    if name.startswith("llama-3.1"):
        return Rope(500000.0, "llama3", factor=8.0)
    return Rope(500000.0 if name.startswith("llama-3") else 10000.0)


def _from_file(raw: Mapping[str, Any], shape: ModelShape, file: str) -> ModelConfig:
    kind = str(raw["model_type"])
    if kind not in MODEL_TYPES:
        wanted = f"expected one of {', '.join(MODEL_TYPES)}; found {kind!r}"
        raise InputError(wanted, file=file, field="model_type")
    if raw.get("quantization_config"):
        wanted = "expected plain weights, which can become int8 at load"
        raise InputError(wanted, file=file, field="quantization_config")
    if shape.head_dim % HEAD_DIM_STEP:
        wanted = f"expected heads of a multiple of {HEAD_DIM_STEP} values, found {shape.head_dim}"
        raise InputError(wanted, file=file, field=_HEAD_DIM_FIELDS.get(kind, "head_dim"))
    if kind == "gpt2":
        return _gpt2(raw, shape, file)
    if kind in ("t5", "mt5"):
        return _t5(raw, shape, file)
    return _llama(raw, shape, kind, file)


def _llama(raw: Mapping[str, Any], shape: ModelShape, kind: str, file: str) -> ModelConfig:
    _require(raw, "hidden_act", ("silu", "swish"), file)
    if kind == "mixtral" and not shape.experts:
        raise InputError("expected an integer >= 1, found None", file=file, field=_EXPERTS)
    return ModelConfig(
        family="mixtral" if kind == "mixtral" else "llama",
        shape=shape,
        norm_eps=_number(raw, "rms_norm_eps", 1e-6, file),
        rope=_rope(raw, file),
        qkv_bias=bool(raw.get("attention_bias", kind == "qwen2")),
        out_bias=bool(raw.get("attention_bias", False)) and kind != "qwen2",
        mlp_bias=bool(raw.get("mlp_bias", False)),
        qk_norm=kind == "qwen3",
        tied_head=shape.tied_embeddings,
        window=_window(raw, file),
    )


_EXPERTS = "num_local_experts"


def _gpt2(raw: Mapping[str, Any], shape: ModelShape, file: str) -> ModelConfig:
    _require(raw, "activation_function", ("gelu_new", "gelu_pytorch_tanh"), file)
    for key, usual in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)):
        _require(raw, key, (usual,), file)
    eps = _number(raw, "layer_norm_epsilon", 1e-5, file)
    return _with_biases(shape, eps)


def _with_biases(shape: ModelShape, eps: float) -> ModelConfig:
    """GPT-2, whose projections all have one."""
    tied = shape.tied_embeddings
    return ModelConfig(
        "gpt2", shape, eps, qkv_bias=True, out_bias=True, mlp_bias=True, tied_head=tied
    )


def _t5(raw: Mapping[str, Any], shape: ModelShape, file: str) -> ModelConfig:
    """T5. Old files say with `tie_word_embeddings` whether the head's input is scaled."""
    _require(raw, "feed_forward_proj", ("relu", "gated-gelu"), file)
    buckets, distance = "relative_attention_num_buckets", "relative_attention_max_distance"
    count = _whole(raw, buckets, 32, file, least=4)
    return ModelConfig(
        family="t5",
        shape=shape,
        norm_eps=_number(raw, "layer_norm_epsilon", 1e-6, file),
        tied_head=shape.tied_embeddings,
        scaled_head=bool(raw.get("scale_decoder_outputs", shape.tied_embeddings)),
        buckets=count,
        max_distance=_whole(raw, distance, 128, file, least=count // 2 + 1),
        start_token=_start_token(raw, shape.vocab, file),
    )


def _start_token(raw: Mapping[str, Any], vocab: int, file: str) -> int:
    """The token with which decoding begins: that of padding where nothing else is named."""
    for key in ("decoder_start_token_id", "pad_token_id"):
        if raw.get(key) is not None:
            return check_token(raw[key], vocab, file, key)
    return 0


def _rope(raw: Mapping[str, Any], file: str) -> Rope:
    """Rotary settings of either spelling."""
    new, old = raw.get("rope_parameters"), raw.get("rope_scaling")
    settings: Mapping[str, Any] = new or old or {}
    if not isinstance(settings, dict):
        field = "rope_parameters" if new else "rope_scaling"
        raise InputError("expected an object", file=file, field=field)
    kind = str(settings.get("rope_type", settings.get("type", "default")))
    if kind not in ROPE_KINDS:
        known = ", ".join(ROPE_KINDS)
        raise InputError(f"expected one of {known}; found {kind!r}", file=file, field="rope_type")
    _require(settings, "partial_rotary_factor", (1.0, None), file)
    theta = settings.get("rope_theta", raw.get("rope_theta", 10000.0))
    low = _number(settings, "low_freq_factor", 1.0, file)
    high = _number(settings, "high_freq_factor", 4.0, file)
    if high <= low:
        wanted = f"expected more than low_freq_factor {low:g}, found {high:g}"
        raise InputError(wanted, file=file, field="high_freq_factor")
    return Rope(
        _number({"rope_theta": theta}, "rope_theta", 10000.0, file),
        kind,
        factor=_number(settings, "factor", 1.0, file),
        low_freq_factor=low,
        high_freq_factor=high,
        original_positions=_whole(settings, "original_max_position_embeddings", 8192, file),
    )


def check_token(value: object, vocab: int, file: str, field: str) -> int:
    """A token of the vocabulary, as it stands in a file; raises InputError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab:
        wanted = f"expected a token of the vocabulary, 0 to {vocab - 1}, found {value!r}"
        raise InputError(wanted, file=file, field=field)
    return value


def _number(raw: Mapping[str, Any], key: str, default: float, file: str) -> float:
    value = raw.get(key)
    if value is None:
        return default
    if not is_number(value, 0.0) or not value:
        raise InputError(f"expected a number above 0, found {value!r}", file=file, field=key)
    return float(value)


def _whole(raw: Mapping[str, Any], key: str, default: int, file: str, least: int = 1) -> int:
    value = raw.get(key)
    if value is None:
        return default
    # Some files write whole numbers as 8192.0.
    if not is_number(value, least) or value % 1:
        wanted = f"expected an integer >= {least}, found {value!r}"
        raise InputError(wanted, file=file, field=key)
    return int(value)


def _require(raw: Mapping[str, Any], key: str, allowed: tuple[object, ...], file: str) -> None:
    value = raw.get(key, allowed[0])
    if value not in allowed:
        wanted = " or ".join(repr(choice) for choice in allowed)
        raise InputError(f"expected {wanted}, found {value!r}", file=file, field=key)


def _window(raw: Mapping[str, Any], file: str) -> int | None:
    """The sliding window, if there is one."""
    if stated_window(raw) is None:
        return None
    return _whole(raw, "sliding_window", 1, file)
