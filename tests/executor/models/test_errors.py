"""What cannot be loaded ends in one clear line."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from modelkit.harness import CPU
from safetensors.torch import save_file

from executor import device
from executor.device import free_host_bytes
from executor.models import Group, check_length, load_model, require_memory
from executor.models.config import read_config
from executor.models.weights import FileWeights
from superinfer.errors import ConfigError, InputError, SuperInferError

CONFIG = {
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
SHAPES = {
    "model.embed_tokens.weight": (32, 16),
    "model.norm.weight": (16,),
    "lm_head.weight": (32, 16),
    "model.layers.0.input_layernorm.weight": (16,),
    "model.layers.0.post_attention_layernorm.weight": (16,),
    "model.layers.0.self_attn.q_proj.weight": (16, 16),
    "model.layers.0.self_attn.k_proj.weight": (16, 16),
    "model.layers.0.self_attn.v_proj.weight": (16, 16),
    "model.layers.0.self_attn.o_proj.weight": (16, 16),
    "model.layers.0.mlp.gate_proj.weight": (24, 16),
    "model.layers.0.mlp.up_proj.weight": (24, 16),
    "model.layers.0.mlp.down_proj.weight": (16, 24),
}
T5 = {"model_type": "t5", "d_model": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 9}
QWEN3_MOE = {
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
}
KEY = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def folder(tmp_path):
    """A model in two shards."""
    write(tmp_path)
    tensors = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    shards = {"a.safetensors": dict(list(tensors.items())[:5])}
    shards["b.safetensors"] = dict(list(tensors.items())[5:])
    places = {name: file for file, held in shards.items() for name in held}
    for file, held in shards.items():
        save_file(held, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    return tmp_path


def write(folder, **changes):
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    return folder


def change(folder, name, tensor):
    """Replace a tensor in the second shard, or take it away."""
    from safetensors.torch import load_file

    held = load_file(folder / "b.safetensors")
    if tensor is None:
        del held[name]
    else:
        held[name] = tensor
    save_file(held, folder / "b.safetensors")


def refused(kind, source, match, **changes):
    settings = {"device": CPU, "dtype": torch.float32} | changes
    with pytest.raises(kind, match=match) as caught:
        load_model(source, **settings)
    assert isinstance(caught.value, SuperInferError)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_shards_load(folder):
    model = load_model(folder, device=CPU, dtype=torch.float32, max_model_len=40)
    assert model.vocab == 32
    assert model.max_model_len == 40


@pytest.mark.parametrize("name", ["model.layers.1.x.weight", "layers.10.x.weight"])
def test_layers_that_the_configuration_leaves_out(folder, name):
    """They would change nothing but the answers."""
    places = json.loads((folder / "model.safetensors.index.json").read_text())
    places["weight_map"][name] = "b.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(places))
    match = f"b.safetensors: {name}: expected layers up to 0, because config.json says 1"
    refused(InputError, folder, match)


@pytest.mark.parametrize(
    ("family", "name", "known"),
    [
        ("gpt2", "transformer.h.2.ln_1.weight", "h.1.ln_1.weight"),
        ("t5", "decoder.block.2.layer.0.x", "decoder.block.1.layer.2.x"),
        ("t5", "encoder.block.3.layer.0.x", "encoder.block.2.layer.2.x"),
    ],
)
def test_layers_of_other_families(tmp_path, family, name, known):
    save_file({known: torch.zeros(1)}, tmp_path / "model.safetensors")
    counts = {"h": 2} if family == "gpt2" else {"encoder.block": 3, "decoder.block": 2}
    FileWeights(tmp_path).require_all_layers(counts)
    save_file({known: torch.zeros(1), name: torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="expected layers up to"):
        FileWeights(tmp_path).require_all_layers(counts)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_type": "mamba"}, "model_type: expected one of .* found 'mamba'"),
        ({"hidden_act": "gelu"}, "hidden_act: expected 'silu'"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_type: expected .* 'yarn'"),
        ({"rope_scaling": [1]}, "rope_scaling: expected an object"),
        ({"rope_parameters": "big"}, "rope_parameters: expected an object"),
        (
            {"rope_scaling": {"type": "llama3", "high_freq_factor": 1}},
            "more than low_freq_factor 1",
        ),
        ({"rope_theta": "big"}, "rope_theta: expected a number above 0"),
        *(
            ({"rms_norm_eps": eps}, "rms_norm_eps: expected a number above 0")
            for eps in (0, -1e-5, float("inf"), float("nan"), "small", True, [1e-5], 10**400)
        ),
        *(
            ({"sliding_window": window}, "sliding_window: expected an integer >= 1")
            for window in (-1, 0.5, float("inf"), float("nan"), "wide")
        ),
        ({"head_dim": 7}, "head_dim: expected heads of a multiple of 8 values, found 7"),
        ({"head_dim": 0}, "head_dim: expected an integer >= 1, found 0"),
        ({"head_dim": -8}, "head_dim: expected an integer >= 1, found -8"),
        ({"head_dim": 8.0}, "head_dim: expected an integer >= 1, found 8.0"),
        ({"hidden_size": 20}, "head_dim: expected heads of a multiple of 8 values, found 10"),
        ({"hidden_size": 17}, "num_attention_heads: expected a divisor of hidden_size 17, found 2"),
        ({"num_attention_heads": 32}, "num_attention_heads: expected a divisor of hidden_size 16"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: expected a divisor of num_attention"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: expected an integer >= 1, found 0"),
        ({"vocab_size": None}, "vocab_size: expected an integer >= 1, found None"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings: expected true or false, found 'no'"),
        ({"model_type": ["llama"]}, "model_type: expected one of"),
        (QWEN3_MOE, "model_type: expected one of .* found 'qwen3_moe'"),
        ({"model_type": "mixtral"}, "num_local_experts: expected an integer >= 1, found None"),
        (
            {"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 3},
            "num_experts_per_tok: expected at most 2 experts, found 3",
        ),
        ({"rope_scaling": {"partial_rotary_factor": 0.5}}, "rotary_factor: expected 1.0"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: expected plain weights"),
    ],
)
def test_configs_that_are_not_understood(tmp_path, changes, match):
    refused(InputError, write(tmp_path, **changes), match, random_weights=True)


@pytest.mark.parametrize(
    ("kind", "changes", "context"),
    [
        ("mistral", {"sliding_window": 16}, 16),
        ("mistral", {"sliding_window": 128}, 64),
        ("mistral", {"sliding_window": None}, 64),
        ("qwen2", {"sliding_window": 16}, 64),
        ("qwen2", {"sliding_window": 16, "use_sliding_window": True}, 16),
    ],
)
def test_contexts_end_with_the_sliding_window(tmp_path, kind, changes, context):
    write(tmp_path, model_type=kind, **changes)
    settings = {"device": CPU, "dtype": torch.float32, "random_weights": True}
    assert load_model(tmp_path, **settings).max_model_len == context


def test_gpt2_and_t5_of_other_kinds(tmp_path):
    gpt2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8}
    write(tmp_path, **gpt2, activation_function="relu")
    refused(InputError, tmp_path, "activation_function: expected 'gelu_new'", random_weights=True)
    write(tmp_path, **gpt2, scale_attn_by_inverse_layer_idx=True)
    refused(InputError, tmp_path, "inverse_layer_idx: expected False", random_weights=True)
    for changes, match in (
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj: expected 'relu' or"),
        ({"d_kv": 12}, "d_kv: expected heads of a multiple of 8 values, found 12"),
        ({"relative_attention_num_buckets": 2}, "num_buckets: expected an integer >= 4, found 2"),
        ({"relative_attention_max_distance": 16}, "max_distance: expected an integer >= 17"),
        ({"decoder_start_token_id": "first"}, "decoder_start_token_id: expected a token of"),
        ({"pad_token_id": [0]}, r"pad_token_id: expected a token of .* 0 to 31, found \[0\]"),
        ({"decoder_start_token_id": 32}, "decoder_start_token_id: expected a token of"),
    ):
        write(tmp_path, **(T5 | changes))
        refused(InputError, tmp_path, match, random_weights=True)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", '"llama"', "{", "[" * 100_000])
def test_configs_that_are_no_objects(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    match = r"config\.json: expected (JSON|a JSON object)"
    refused(InputError, tmp_path, match, random_weights=True)


def test_files_that_are_missing_or_broken(folder):
    (folder / "b.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    refused(InputError, folder, r"b\.safetensors: unreadable safetensors")
    (folder / "b.safetensors").unlink()
    refused(
        InputError, folder, r"b\.safetensors: missing shard, named in model\.safetensors\.index"
    )
    (folder / "model.safetensors.index.json").write_text("{}")
    refused(InputError, folder, r"index\.json: expected an object with weight_map")
    (folder / "model.safetensors.index.json").unlink()
    refused(
        InputError, folder, f"{KEY.split('.up', maxsplit=1)[0]}.*: missing tensor|missing tensor"
    )
    (folder / "a.safetensors").unlink()
    refused(ConfigError, folder, "has no .*safetensors")
    refused(ConfigError, folder / "config.json", "has no .*safetensors")
    refused(ConfigError, folder / "nothing", "unknown model")


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        (None, "missing tensor"),
        (torch.zeros(24, 17), r"expected shape \[24, 16\], found \[24, 17\]"),
        (torch.zeros(24, 16, dtype=torch.int8), "expected F32, F16 or BF16, found I8"),
    ],
)
def test_tensors_that_do_not_fit(folder, tensor, match, int8):
    change(folder, KEY, tensor)
    refused(InputError, folder, f"{KEY}: {match}", int8=int8)


def test_presets(tmp_path):
    refused(ConfigError, "llama-3.1-8b", "preset 'llama-3.1-8b' has no weights")
    refused(ConfigError, "opt-30b", "unknown architecture of opt-30b", random_weights=True)
    refused(ConfigError, "llama-9", "unknown model 'llama-9'", random_weights=True)


def test_a_folder_that_is_called_like_a_preset(folder):
    folder = folder.rename(folder.parent / "llama-3.1-8b")
    assert load_model(folder, device=CPU, dtype=torch.float32).vocab == 32


@pytest.mark.parametrize("length", [0, 65])
def test_contexts(tmp_path, length):
    write(tmp_path)
    refused(
        ConfigError,
        tmp_path,
        f"max_model_len {length} is not between 1 and the model's 64",
        random_weights=True,
        max_model_len=length,
    )


def test_requests_above_the_context(tmp_path):
    model = load_model(write(tmp_path), device=CPU, dtype=torch.float32, random_weights=True)
    check_length(model.max_model_len, 40, 24)
    with pytest.raises(InputError, match="40 prompt tokens and asks for 25 more: 65 are above"):
        check_length(model.max_model_len, 40, 25)


def test_devices_that_are_not_there(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(ConfigError, tmp_path, "no CUDA device", random_weights=True, device="cuda")
    refused(ConfigError, tmp_path, "unknown device 'abacus'", device="abacus")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    refused(ConfigError, tmp_path, "too old: sm_75", random_weights=True, device="cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.delitem(sys.modules, "executor.kernels.triton_ops", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in [name for name in sys.modules if name.startswith("executor.kernels.")]:
        if "reference" not in name and not name.endswith((".ops", ".registry")):
            monkeypatch.delitem(sys.modules, name)
    refused(ConfigError, tmp_path, "needs Triton: pip install", random_weights=True, device="cuda")


def test_weights_that_main_memory_does_not_hold(tmp_path, monkeypatch):
    """In place of the end of the process, which says nothing."""
    monkeypatch.setattr("executor.models.free_host_bytes", lambda: 10 << 30)
    words = r"llama-3.1-8b has 29.9 GiB of weights at 4 bytes each, and 10.0 GiB of memory are free"
    refused(ConfigError, "llama-3.1-8b", words, random_weights=True)
    refused(ConfigError, "llama-3.1-70b", "at 1 bytes", random_weights=True, int8=True)
    monkeypatch.setattr("executor.models.free_host_bytes", lambda: None)
    load_model(write(tmp_path), device=CPU, dtype=torch.float32, random_weights=True)


def test_a_rank_asks_main_memory_for_its_own_share(tmp_path, monkeypatch):
    """The others may have taken theirs already, so that less than all of it is free."""
    write(tmp_path)
    shape = read_config(tmp_path)[0].shape
    share = 4 * shape.gpu_parameters(2)
    monkeypatch.setattr("executor.models.free_host_bytes", lambda: share)
    late = {"device": CPU, "dtype": torch.float32, "random_weights": True, "group": Group(1, 2)}
    load_model(tmp_path, **late)
    require_memory(shape, 2, 4)
    with pytest.raises(ConfigError, match="out of memory at load"):
        require_memory(shape, 2, 4, ranks=2)
    monkeypatch.setattr("executor.models.free_host_bytes", lambda: share - 1)
    with pytest.raises(ConfigError, match="out of memory at load"):
        load_model(tmp_path, **late)


def test_what_is_free_of_main_memory(tmp_path, monkeypatch):
    assert free_host_bytes() is None or 0 < free_host_bytes() < 1 << 60
    monkeypatch.setattr(device, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(device, "_CONTAINER", tmp_path)
    assert free_host_bytes() is None
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:    4096 kB\nBuffers: 1 kB\n")
    assert free_host_bytes() == 4 << 20
    (tmp_path / "memory.current").write_text("1048576\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_host_bytes() == 4 << 20
    (tmp_path / "memory.max").write_text("3145728\n")
    assert free_host_bytes() == 2 << 20


def test_a_folder_without_a_config(tmp_path):
    refused(ConfigError, tmp_path, "expected a folder with a config.json, got none")


def test_memory_that_is_not_there(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate…\nmore lines")

    monkeypatch.setattr("executor.models.layers.torch.empty", full)
    refused(ConfigError, write(tmp_path), "out of memory at load", random_weights=True)


def test_tables_of_positions_that_do_not_fit(tmp_path):
    write(tmp_path, max_position_embeddings=2**45)
    expected = "tables for 35184372088832 positions do not fit on cpu; lower --max-model-len"
    refused(ConfigError, tmp_path, expected, random_weights=True)


@pytest.mark.parametrize("hidden", [16, 2**40])
def test_more_memory_than_a_computer_has(tmp_path, hidden):
    write(tmp_path, vocab_size=2**40, hidden_size=hidden, head_dim=8)
    refused(ConfigError, tmp_path, "out of memory at load", random_weights=True)
