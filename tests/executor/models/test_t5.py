"""T5 against transformers: encoder, decoder with cross-attention from blocks, generation."""

from __future__ import annotations

import random

import pytest
import torch
from modelkit.harness import CLOSE, CPU, GAP, Harness, saved, transformers

from executor.models import load_model
from executor.models.relative import bias_by_distance, buckets, square_bias
from executor.models.seq2seq import generate
from executor.models.t5 import CrossKeys
from executor.steps.inputs import ChunkRows, DecodeRow, build_inputs
from superinfer.errors import InputError

CASES = {
    "relu": {},
    "gated": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "few-buckets": {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20},
}
SIZES = {
    "vocab_size": 97,
    "d_model": 48,
    "d_kv": 16,
    "d_ff": 80,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
}


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    library = transformers()
    config = library.T5Config(**(SIZES | CASES[request.param]))
    folder = tmp_path_factory.mktemp(request.param)
    oracle = saved(library.T5ForConditionalGeneration(config), folder, spread=0.15)
    return load(folder), oracle


def load(folder, **changes):
    settings = {"device": CPU, "dtype": torch.float32, "block_tokens": 16}
    return load_model(folder, **(settings | changes))


def prompt(length):
    return random.Random(length).choices(range(2, 97), k=length)


def truth(oracle, source, decoded):
    with torch.no_grad():
        ids = torch.tensor([source]), torch.tensor([decoded])
        return oracle(input_ids=ids[0], decoder_input_ids=ids[1]).logits[0]


class Recorder:
    """The model, with the logits of its steps kept."""

    def __init__(self, model):
        self.model, self.steps = model, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def forward(self, *inputs):
        self.steps.append(self.model.forward(*inputs))
        return self.steps[-1]


def test_the_encoder_in_a_padded_batch(pair):
    ours, oracle = pair
    sources = [prompt(length) for length in (1, 40, 17)]
    for source, encoded in zip(sources, ours.encode(sources), strict=True):
        with torch.no_grad():
            wanted = oracle.encoder(torch.tensor([source])).last_hidden_state[0]
        assert encoded.shape == wanted.shape
        assert (encoded - wanted).abs().max() <= CLOSE


@pytest.mark.parametrize("item_blocks", [1, 4])
def test_greedy_tokens_of_a_batch(pair, monkeypatch, item_blocks):
    monkeypatch.setattr("executor.models.seq2seq.ITEM_BLOCKS", item_blocks)
    ours, oracle = pair
    sources, recorder = [prompt(length) for length in (1, 33, 16)], Recorder(ours)
    answers = generate(recorder, sources, 24)
    for row, (source, answer) in enumerate(zip(sources, answers, strict=True)):
        logits = torch.stack([step[row] for step in recorder.steps])
        wanted = truth(oracle, source, [0, *answer[:-1]])
        assert (logits - wanted).abs().max() <= CLOSE
        top = wanted.topk(2).values
        clear = top[:, 0] - top[:, 1] > GAP
        assert clear.any()
        assert (logits.argmax(1) == wanted.argmax(1))[clear].all()


def test_generation_ends_at_its_tokens(pair):
    ours, _ = pair
    whole = generate(ours, [prompt(9), prompt(20)], 8)
    ends = {whole[0][2]}
    cut = generate(ours, [prompt(9), prompt(20)], 8, ends)
    for long, short in zip(whole, cut, strict=True):
        stop = next((n for n, token in enumerate(long) if token in ends), 7)
        assert short == long[: stop + 1]
    with pytest.raises(InputError, match="above the context of 512"):
        generate(ours, [prompt(513)], 4)


def test_a_prefix_of_the_decoder_in_chunks(pair):
    """Several decoder tokens given at once, beside a row that decodes."""
    ours, oracle = pair
    harness, source, decoded = Harness(ours), prompt(21), [0, *prompt(12)]
    other_source, other = prompt(5), [0, 7]
    cross, own = harness.sequence(source, 21), harness.sequence(decoded, 16)
    cross2, own2 = harness.sequence(other_source, 5), harness.sequence(other, 16)
    for sequence, encoded in zip((cross, cross2), ours.encode([source, other_source]), strict=True):
        write(ours, harness, sequence, encoded)
    place = (ours.layout, CPU)
    first = build_inputs([], [ChunkRows(own2.table, 0, [0], False)], *place, item_blocks=2)
    encoder = build_inputs([], [ChunkRows(cross2.table, 4, [0], False)], *place, item_blocks=2)
    ours.forward(first, harness.arena, CrossKeys(0, None, encoder.prefill))
    step = build_inputs(
        [DecodeRow(own2.table, 2, 7)],
        [ChunkRows(own.table, 0, decoded, True)],
        *place,
        item_blocks=2,
    )
    keys = build_inputs(
        [DecodeRow(cross2.table, 5, 0)],
        [ChunkRows(cross.table, 21 - 13, [0] * 13, True)],
        *place,
        item_blocks=2,
    )
    logits = ours.forward(step, harness.arena, CrossKeys(1, keys.decode, keys.prefill))
    assert (logits[0] - truth(oracle, other_source, other)[-1]).abs().max() <= CLOSE
    assert (logits[1] - truth(oracle, source, decoded)[-1]).abs().max() <= CLOSE


def write(model, harness, sequence, encoded):
    places = torch.arange(len(encoded))
    offsets = torch.from_numpy(sequence.table.offsets)[places // 16]
    model.write_cross(encoded, harness.arena, offsets, (places % 16).int())


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("count", "reach"), [(32, 128), (8, 20)])
def test_buckets_of_distances(both_ways, count, reach):
    attention = transformers().models.t5.modeling_t5.T5Attention
    distances = torch.arange(-300, 301)
    wanted = attention._relative_position_bucket(distances, both_ways, count, reach)
    assert torch.equal(buckets(distances, count, reach, both_ways), wanted)
    weight = torch.randn(count, 3)
    table = bias_by_distance(weight, reach, both_ways)
    assert torch.equal(table[:, (distances.clamp(-reach, reach) + reach)], weight[wanted].T)
    assert torch.equal(square_bias(table, 5)[:, 3, 1], table[:, reach - 2])
