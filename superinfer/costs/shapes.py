"""Model shapes: the sizes from which weights, KV bytes and kernel work follow.

Biases are left out (under 0.1 % of the parameters of every preset). Presets carry the published
`config.json` values of each model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from superinfer.errors import ConfigError, InputError
from superinfer.memory.blocks.slabs import block_bytes
from superinfer.settings import did_you_mean, shown_value

ONE_BYTE_DTYPES = ("fp8", "fp8_block")
"""Values of 8 bits, with a scale per tensor or per block of weights."""
CACHE_DTYPES = ("fp8",)
"""Those that a KV cache can have: scales of square blocks belong to matrices of weights."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of one model. `layers` are decoder layers; `intermediate` is per expert."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    max_model_len: int
    tied_embeddings: bool = False
    gated_mlp: bool = True
    experts: int = 0
    experts_per_token: int = 0
    encoder_layers: int = 0
    learned_positions: bool = False
    dtype_bytes: int = 2
    weight_dtype: str = ""
    """Of the matrices of the layers, one of `ONE_BYTE_DTYPES`; empty: that of everything else."""
    kv_dtype: str = ""
    """Of the cache, likewise one of `CACHE_DTYPES`."""
    qk_norm: bool = False
    """Queries and keys are normed per head before the rotation, as in Qwen3."""
    routing_skew: float = 0.0
    """How much the router prefers some experts (`superinfer.costs.experts`); 0: not at all."""

    @property
    def parameters(self) -> int:
        """All weights of the model, biases left out."""
        return self.gpu_parameters(1)

    def gpu_parameters(self, tp: int) -> int:
        """Weights on one of `tp` GPUs: matrices split, norms and the MoE router replicated."""
        self.require_tp(tp)
        tables = 1 if self.tied_embeddings else 2
        positions = self.max_model_len * self.hidden if self.learned_positions else 0
        attention, mlp = self._attention_weights(tp), self._mlp_weights(tp)
        norm = self.hidden
        cross = attention + norm if self.encoder_layers else 0
        decoder = self.layers * (attention + mlp + 2 * norm + cross)
        encoder = self.encoder_layers * (attention + mlp + 2 * norm)
        final_norms = norm * (2 if self.encoder_layers else 1)
        vocabulary = tables * -(-self.vocab // tp) * self.hidden
        return vocabulary + positions + decoder + encoder + final_norms

    def weight_bytes(self, tp: int = 1) -> int:
        """Bytes of weights on one of `tp` GPUs; embeddings and LM head keep their 16 bits."""
        weights = self.gpu_parameters(tp) * self.dtype_bytes
        if self.weight_dtype not in ONE_BYTE_DTYPES:
            return weights
        matrices = self.layers * (self._attention_weights(tp) + self._mlp_weights(tp))
        return weights - matrices * (self.dtype_bytes - 1)

    def kv_bytes_per_token(self, tp: int = 1) -> int:
        """Bytes of K and V of one token over all decoder layers, on one of `tp` GPUs."""
        value = 1 if self.kv_dtype in CACHE_DTYPES else self.dtype_bytes
        return 2 * self.layers * self.gpu_kv_heads(tp) * self.head_dim * value

    def kv_block_bytes(self, tp: int, block_tokens: int, bits: int) -> int:
        """Bytes of a block of K and V at a precision, its scales included, on one of `tp` GPUs."""
        return block_bytes(self.gpu_kv_heads(tp), self.head_dim, self.layers, block_tokens, bits)

    def gpu_heads(self, tp: int) -> int:
        """Query heads on one of `tp` GPUs."""
        return self.heads // tp

    def gpu_kv_heads(self, tp: int) -> int:
        """KV heads on one of `tp` GPUs; replicated once there are more GPUs than heads."""
        return max(1, self.kv_heads // tp)

    def require_tp(self, tp: int) -> None:
        """Raise ConfigError unless the query heads divide among `tp` GPUs."""
        if tp < 1 or self.heads % tp:
            raise ConfigError(
                f"tp={tp} does not divide the {self.heads} attention heads of {self.name}"
            )

    def _attention_weights(self, tp: int) -> int:
        query = self.gpu_heads(tp) * self.head_dim
        key = self.gpu_kv_heads(tp) * self.head_dim
        return self.hidden * (2 * query + 2 * key)

    def _mlp_weights(self, tp: int) -> int:
        matrices = 3 if self.gated_mlp else 2
        dense = matrices * self.hidden * self.intermediate // tp
        return self.experts * (dense + self.hidden) if self.experts else dense


_LLAMA2_70B = ModelShape("llama-2-70b", 80, 8192, 64, 8, 128, 28672, 32000, 4096)
_LLAMA3_8B = ModelShape("llama-3-8b", 32, 4096, 32, 8, 128, 14336, 128256, 8192)
_OPT_30B = ModelShape(
    *("opt-30b", 48, 7168, 56, 56, 128, 28672, 50272, 2048),
    tied_embeddings=True,
    gated_mlp=False,
    learned_positions=True,
)
_LLAMA3_70B = ModelShape("llama-3-70b", 80, 8192, 64, 8, 128, 28672, 128256, 8192)

PRESETS: Mapping[str, ModelShape] = {
    shape.name: shape
    for shape in (
        ModelShape("llama-2-7b", 32, 4096, 32, 32, 128, 11008, 32000, 4096),
        ModelShape("llama-2-13b", 40, 5120, 40, 40, 128, 13824, 32000, 4096),
        _LLAMA2_70B,
        _LLAMA3_8B,
        _LLAMA3_70B,
        replace(_LLAMA3_8B, name="llama-3.1-8b", max_model_len=131072),
        replace(_LLAMA3_70B, name="llama-3.1-70b", max_model_len=131072),
        ModelShape("llama-3.1-405b", 126, 16384, 128, 8, 128, 53248, 128256, 131072),
        ModelShape(
            *("mixtral-8x7b", 32, 4096, 32, 8, 128, 14336, 32000, 32768),
            experts=8,
            experts_per_token=2,
        ),
        ModelShape("qwen2.5-32b", 64, 5120, 40, 8, 128, 27648, 152064, 32768),
        ModelShape("qwen3-32b", 64, 5120, 64, 8, 128, 25600, 151936, 40960, qk_norm=True),
        ModelShape(
            *("qwen3-30b-a3b", 48, 2048, 32, 4, 128, 768, 151936, 40960),
            experts=128,
            experts_per_token=8,
            qk_norm=True,
        ),
        ModelShape(
            *("gpt2", 12, 768, 12, 12, 64, 3072, 50257, 1024),
            tied_embeddings=True,
            gated_mlp=False,
            learned_positions=True,
        ),
        _OPT_30B,
        replace(
            _OPT_30B,
            name="opt-175b",
            layers=96,
            hidden=12288,
            heads=96,
            kv_heads=96,
            intermediate=49152,
        ),
        ModelShape(
            *("t5-base", 12, 768, 12, 12, 64, 3072, 32128, 512),
            tied_embeddings=True,
            gated_mlp=False,
            encoder_layers=12,
        ),
        ModelShape(*("flan-t5-xl", 24, 2048, 32, 32, 64, 5120, 32128, 512), encoder_layers=24),
    )
}
_ALIASES = {"gpt-2": "gpt2", "t5": "t5-base", "flan-t5": "flan-t5-xl"}


def load_shape(name_or_path: str | Path) -> ModelShape:
    """A preset by name (case-insensitive), or a Hugging Face `config.json` or its folder.

    Raises ConfigError for a name that is neither, InputError for a config that cannot be used.
    """
    preset = PRESETS.get(canonical_name(str(name_or_path)))
    if preset is not None:
        return preset
    path = _config_path(name_or_path)
    if not path.is_file():
        known = ", ".join(PRESETS) + did_you_mean(str(name_or_path), PRESETS)
        raise ConfigError(f"unknown model {str(name_or_path)!r}: no such file; presets: {known}")
    return _from_config(_read_config(path), path)


def shape_file(name_or_path: str | Path) -> Path | None:
    """The file that a shape is read from; None for a preset."""
    preset = canonical_name(str(name_or_path)) in PRESETS
    return None if preset else _config_path(name_or_path)


def left_out(name_or_path: str | Path, context_tokens: int) -> list[str]:
    """Keys of a model's `config.json` that change weights, or caches of so many tokens, and no
    `ModelShape` has; none of a preset. InputError for a config that cannot be used.
    """
    if canonical_name(str(name_or_path)) in PRESETS:
        return []
    config = _read_config(_config_path(name_or_path))
    found = ["quantization_config"] if config.get("quantization_config") else []
    window = stated_window(config)
    if isinstance(window, int | float) and 0 < window < context_tokens:
        found.append("sliding_window")
    return found


def stated_window(config: Mapping[str, Any]) -> Any:
    """What a `config.json` says of a sliding window, unchecked; None where it has none. Qwen's
    files state a window and a switch, Mistral's a window alone.
    """
    is_qwen = str(config.get("model_type")).startswith("qwen")
    return config.get("sliding_window") if config.get("use_sliding_window", not is_qwen) else None


def canonical_name(name: str) -> str:
    """The preset spelling of a model name: `meta-llama/Llama-3.1-8B-Instruct` to `llama-3.1-8b`."""
    text = name.rsplit("/", 1)[-1].lower().removeprefix("meta-")
    for suffix in ("-2507", "-hf", "-v0.1", "-instruct", "-chat"):
        text = text.removesuffix(suffix)
    return _ALIASES.get(text, text)


def _config_path(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    return path / "config.json" if path.is_dir() else path


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise InputError("expected JSON in UTF-8", file=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected JSON: {error}", file=str(path)) from None
    if not isinstance(config, dict):
        raise InputError("expected a JSON object (Hugging Face config.json)", file=str(path))
    return config


def _from_config(config: dict[str, Any], path: Path) -> ModelShape:
    kind = config.get("model_type")
    name = path.parent.name if path.name == "config.json" else path.stem
    fields = _Fields(config, str(path))
    if kind == "gpt2":
        return _gpt2(fields, name)
    if kind in ("t5", "mt5"):
        return _t5(fields, name)
    if kind in ("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe"):
        return _llama(fields, name)
    raise InputError(
        "expected one of llama, mistral, qwen2, qwen3, mixtral, qwen3_moe, gpt2, t5; "
        f"found {shown_value(kind)}",
        file=str(path),
        field="model_type",
    )


class _Fields:
    """Positive integers out of a config; errors name the file and the key."""

    def __init__(self, config: dict[str, Any], file: str) -> None:
        self.config, self.file = config, file

    def __call__(self, key: str, default: int | None = None) -> int:
        value = self.config.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.refuse(key, f"expected an integer >= 1, found {shown_value(value)}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.config.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(key, f"expected true or false, found {shown_value(value)}")
        return bool(value)

    def share(self, key: str, whole: int, of: str) -> int:
        """A number that divides `whole`, the value of the key `of`."""
        value = self(key, whole)
        if whole % value:
            self.refuse(key, f"expected a divisor of {of} {whole}, found {value}")
        return value

    def refuse(self, key: str, reason: str) -> NoReturn:
        """Raise the error."""
        raise InputError(reason, file=self.file, field=key)


def _llama(get: _Fields, name: str) -> ModelShape:
    hidden, heads = get("hidden_size"), get("num_attention_heads")
    kind = str(get.config.get("model_type"))
    many = kind == "qwen3_moe"  # it has other names for the experts' sizes
    if get.config.get("head_dim") is None:
        get.share("num_attention_heads", hidden, "hidden_size")
    experts = get("num_experts") if many else get("num_local_experts", 0)
    per_token = get("num_experts_per_tok") if experts else 0
    if per_token > experts:
        get.refuse("num_experts_per_tok", f"expected at most {experts} experts, found {per_token}")
    return ModelShape(
        name=name,
        layers=get("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=get.share("num_key_value_heads", heads, "num_attention_heads"),
        head_dim=get("head_dim", hidden // heads),
        intermediate=get("moe_intermediate_size" if many else "intermediate_size"),
        vocab=get("vocab_size"),
        max_model_len=get("max_position_embeddings"),
        tied_embeddings=get.flag("tie_word_embeddings", False),
        experts=experts,
        experts_per_token=per_token,
        qk_norm=kind.startswith("qwen3"),
    )


def _gpt2(get: _Fields, name: str) -> ModelShape:
    hidden, heads = get("n_embd"), get("n_head")
    get.share("n_head", hidden, "n_embd")
    return ModelShape(
        name=name,
        layers=get("n_layer"),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        intermediate=get("n_inner", 4 * hidden),
        vocab=get("vocab_size"),
        max_model_len=get("n_positions"),
        tied_embeddings=get.flag("tie_word_embeddings", True),
        gated_mlp=False,
        learned_positions=True,
    )


def _t5(get: _Fields, name: str) -> ModelShape:
    encoder, heads = get("num_layers"), get("num_heads")
    return ModelShape(
        name=name,
        layers=get("num_decoder_layers", encoder),
        hidden=get("d_model"),
        heads=heads,
        kv_heads=heads,
        head_dim=get("d_kv"),
        intermediate=get("d_ff"),
        vocab=get("vocab_size"),
        max_model_len=get("n_positions", 512),
        tied_embeddings=get.flag("tie_word_embeddings", True),
        gated_mlp=str(get.config.get("feed_forward_proj", "relu")).startswith("gated"),
        encoder_layers=encoder,
    )
