"""Text to tokens and back, and streams that hold back half characters."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executor.models.tokenizer import ByteTokenizer, FileTokenizer, end_tokens, load_tokenizer
from superinfer.errors import ConfigError, InputError

BROKEN = "\N{REPLACEMENT CHARACTER}"
TEXT = "In the beginning, naïve 漢字 and 🙂🙃 were there. " * 4


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """Folders with byte-level BPE, and with bytes as a last resort and words marked by `▁`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    first, second = tmp_path_factory.mktemp("bpe"), tmp_path_factory.mktemp("fallback")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([TEXT], trainer)
    bpe.save(str(first / "tokenizer.json"))
    words = ["▁", "a", "n", "d", "e", "t", "h", "r", "▁the"]
    vocab = {f"<0x{n:02X}>": n for n in range(256)} | {w: 256 + n for n, w in enumerate(words)}
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    vocab |= {"th": len(vocab), "the": len(vocab) + 1}
    fallback = Tokenizer(models.BPE(vocab, merges, byte_fallback=True))
    fallback.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    fallback.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    fallback.save(str(second / "tokenizer.json"))
    return {"bpe": first, "fallback": second}


def streamed(tokenizer, tokens):
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in tokens]
    return [*pieces, stream.finish()]


@pytest.mark.parametrize("kind", ["bpe", "fallback", "bytes"])
@settings(max_examples=40, deadline=None)
@given(text=st.text(alphabet="the rand 漢字é🙂\u200b", max_size=30))
def test_streams_say_what_decoding_says(spoken, kind, text):
    tokenizer = load_tokenizer(spoken.get(kind), 300)
    tokens = tokenizer.encode(text)
    pieces = streamed(tokenizer, tokens)
    assert "".join(pieces) == tokenizer.decode(tokens) == text
    assert not any(BROKEN in piece for piece in pieces)


@pytest.mark.parametrize("kind", ["bpe", "fallback"])
@settings(max_examples=40, deadline=None)
@given(text=st.text(alphabet="the rand 漢字é🙂\u200b<end>", max_size=30))
def test_tokens_are_those_of_the_library(spoken, kind, text):
    from tokenizers import Tokenizer

    known = Tokenizer.from_file(str(spoken[kind] / "tokenizer.json"))
    tokenizer = load_tokenizer(spoken[kind], 300)
    for whole in (False, True):
        assert tokenizer.encode(text, whole) == known.encode(text, add_special_tokens=not whole).ids


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
@settings(max_examples=40, deadline=None)
@given(tokens=st.lists(st.integers(0, 255), max_size=20))
def test_streams_of_any_tokens_end_where_decoding_does(spoken, kind, tokens):
    tokenizer = load_tokenizer(spoken.get(kind), 300)
    assert "".join(streamed(tokenizer, tokens)) == tokenizer.decode(tokens)


def test_broken_bytes_do_not_stop_a_stream(spoken):
    """The decoder calls the whole run broken, which is out already; what follows is told."""
    tokenizer = load_tokenizer(spoken["fallback"], 300)
    tokens = [*"漢".encode(), 0xE6, *tokenizer.encode("and the end")]
    pieces = streamed(tokenizer, tokens)
    assert pieces[2] == "漢"
    assert "".join(pieces).endswith("and the end")
    assert BROKEN in "".join(pieces)


def test_text_goes_out_as_soon_as_it_is_whole():
    stream = ByteTokenizer(256).stream()
    assert [stream.push(byte) for byte in "a漢b".encode()] == ["a", "", "", "漢", "b"]
    assert stream.push(0xE6) == ""
    assert stream.finish() == BROKEN


def test_tokens_above_bytes_have_no_text():
    tokenizer = ByteTokenizer(300, frozenset([256]))
    assert tokenizer.decode([104, 105, 256]) == "hi"
    assert tokenizer.decode([104, 0xE6, 299, 105]) == f"h{BROKEN}{BROKEN}i"


def test_special_tokens_are_left_out(spoken):
    tokenizer = FileTokenizer(spoken["bpe"] / "tokenizer.json", 300)
    tokens = tokenizer.encode("the end")
    assert tokenizer.decode([*tokens, 0]) == "the end"


@pytest.mark.parametrize("end", [7, [7, 8]])
def test_end_tokens(tmp_path, end):
    assert end_tokens(tmp_path, 256) == frozenset()
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 3}))
    assert end_tokens(tmp_path, 256) == {3}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    assert end_tokens(tmp_path, 256) == ({7, 8} if isinstance(end, list) else {7})
    assert load_tokenizer(tmp_path, 256).end_tokens == end_tokens(tmp_path, 256)


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("end", ["</s>", [[7]], [7, None], 256, -1, 2.0, True, {"id": 7}])
def test_end_tokens_that_are_none(tmp_path, name, end):
    (tmp_path / name).write_text(json.dumps({"eos_token_id": end}))
    with pytest.raises(InputError, match=rf"{name}: eos_token_id: expected a token .* 0 to 255"):
        load_tokenizer(tmp_path, 256)


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000])
def test_settings_that_are_no_object(tmp_path, text):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(InputError, match=r"generation_config\.json: expected"):
        load_tokenizer(tmp_path, 256)


def test_settings_that_are_not_utf8(tmp_path):
    (tmp_path / "generation_config.json").write_bytes('{"a": "\xe9"}'.encode("latin-1"))
    with pytest.raises(InputError, match=r"generation_config\.json: expected JSON in UTF-8$"):
        load_tokenizer(tmp_path, 256)


def test_a_tokenizer_that_knows_more_than_the_model(spoken):
    folder = spoken["bpe"]
    most = max(load_tokenizer(folder, 300).encode("the end"))
    assert load_tokenizer(folder, most + 1).encode("the end")
    with pytest.raises(
        InputError, match=rf"vocab: expected tokens below the model's {most}, found"
    ):
        load_tokenizer(folder, most).encode("the end")


def test_what_is_no_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: expected a tokenizer"):
        load_tokenizer(tmp_path, 300)
    with pytest.raises(ConfigError, match="vocabulary of 100 tokens"):
        load_tokenizer(None, 100)
