"""A request gets the same tokens whatever happens to it on the way."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from executor_runs import CPU, Rig, sizes_for
from harness import FakeCost, request

from executor.answers import Answer, Answers
from executor.kv.tables import CopyJob
from executor.models import load_model
from executor.steps.sampler import Sampling
from superinfer.engine import Engine
from superinfer.memory.lru import LruMemory
from superinfer.memory.vllm_v1.policy import VllmV1Memory
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.schedulers.vllm import VllmScheduler
from superinfer.schedulers.vllm_v1 import VllmV1Scheduler

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 64,
    "vocab_size": 97,
    "max_position_embeddings": 256,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
TOKENS = 4
"""Of a block."""
VOCAB = CONFIG["vocab_size"]


def slow(value):
    """One more value of a parameter, for the slow tests."""
    return pytest.param(value, marks=pytest.mark.slow)


QUEUED = 2
"""In place of a lag: 1, with steps queued before the tokens of the one before are read."""
LAGS = (0, slow(1), QUEUED)
LEAST_GAP = 2e-4
"""Between the two largest logits: a hundred times what the order of additions changes."""


class Watched:
    """A model that notes how close its decisions were."""

    def __init__(self, model):
        self._model = model
        self.layout, self.vocab = model.layout, model.vocab
        self.max_model_len, self.device = model.max_model_len, model.device
        self.least_gap = float("inf")

    def forward(self, step, arena):
        logits = self._model.forward(step, arena)
        if len(logits):
            best = logits.topk(2).values
            self.least_gap = min(self.least_gap, float((best[:, 0] - best[:, 1]).min()))
        assert torch.isfinite(logits).all()
        return logits


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "config.json"
    path.write_text(json.dumps(CONFIG))
    return load_model(
        path, device=CPU, dtype=torch.float32, random_weights=True, block_tokens=TOKENS, seed=5
    )


def prompts_and_lengths(count=9, seed=1):
    """Prompts of 1 to 30 tokens; the last two are those of the first two again."""
    rng = random.Random(seed)
    prompts = [[rng.randrange(VOCAB) for _ in range(rng.randint(1, 30))] for _ in range(count - 2)]
    prompts[0] = [rng.randrange(VOCAB) for _ in range(24)]  # whole blocks
    prompts[1] = [*prompts[0][:13], *prompts[1]]
    return [*prompts, *prompts[:2]], [rng.randint(4, 24) for _ in range(count)]


PROMPTS, LENGTHS = prompts_and_lengths()


def run(
    model,
    scheduler,
    memory=None,
    *,
    order=None,
    blocks=400,
    sampling=None,
    apart_s=0.0,
    lag=0,
    **config,
):
    """Tokens of each request, in the order of `PROMPTS`; and the rig."""
    order = list(range(len(PROMPTS))) if order is None else order
    memory = memory or LruMemory()
    sizes = sizes_for(model.layout, memory, blocks, max_model_len=256, lag=min(lag, 1), **config)
    engine = Engine(scheduler, memory, FakeCost(), sizes)
    requests, answers = [], []
    for index, which in enumerate(order):
        prompt = PROMPTS[which]
        chain = tuple(
            hash(tuple(prompt[: stop + TOKENS])) for stop in range(0, len(prompt), TOKENS)
        )
        requests.append(
            request(
                index,
                len(prompt),
                0,
                index * apart_s,
                hash_ids=chain,
                hash_block_tokens=TOKENS,
                max_tokens=LENGTHS[which],
            )
        )
        chosen = {} if sampling is None else {"sampling": sampling[which]}
        answers.append(Answer(np.array(prompt), LENGTHS[which], **chosen))
    rig = Rig(engine, model, ahead=lag == QUEUED)
    rig.run(requests, Answers(answers))
    tokens = {which: answer.tokens for which, answer in zip(order, answers, strict=True)}
    return [tokens[which] for which in range(len(PROMPTS))], rig


@pytest.fixture(scope="module")
def alone(model):
    """What each request says when it is alone, its prompt in one piece."""
    watched = Watched(model)
    tokens, _ = run(watched, FcfsScheduler(max_num_batched_tokens=64, max_num_seqs=1))
    assert watched.least_gap > LEAST_GAP
    assert [len(answer) for answer in tokens] == LENGTHS
    assert len({tuple(answer[:4]) for answer in tokens}) > 5  # not all say the same
    return tokens


@pytest.mark.parametrize("lag", LAGS)
@pytest.mark.parametrize("chunk", [1, 7, *(slow(size) for size in (2, 3, 4, 5, 64))])
def test_mixed_batches_and_chunks(model, alone, chunk, lag):
    scheduler = FcfsScheduler(max_num_batched_tokens=8 + chunk, max_num_seqs=8)
    tokens, _ = run(model, scheduler, lag=lag)
    assert tokens == alone


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
def test_the_order_of_a_batch(model, alone, seed):
    order = random.Random(seed).sample(range(len(PROMPTS)), len(PROMPTS))
    tokens, _ = run(model, FcfsScheduler(max_num_batched_tokens=16, max_num_seqs=6), order=order)
    assert tokens == alone


@pytest.mark.parametrize("lag", LAGS)
@pytest.mark.parametrize("apart_s", [slow(0.0), 2.0, slow(40.0)])
def test_prefix_hits(model, alone, lag, apart_s):
    scheduler = FcfsScheduler(max_num_batched_tokens=40, max_num_seqs=6)
    tokens, rig = run(model, scheduler, lag=lag, prefix_caching=True, apart_s=apart_s)
    assert tokens == alone
    if apart_s:
        assert rig.engine.recorder.prefix_hit_tokens >= 3 * 12  # and the whole of a prompt


@pytest.mark.parametrize("lag", LAGS)
@pytest.mark.parametrize("prefix", [slow(False), True])
def test_preempt_and_recompute(model, alone, lag, prefix):
    scheduler = VllmScheduler(
        chunked=True, max_num_batched_tokens=16, max_num_seqs=8, preemption="recompute"
    )
    tokens, rig = run(model, scheduler, blocks=26, lag=lag, prefix_caching=prefix)
    assert tokens == alone
    assert sum(seq.recomputed_tokens > 0 for seq in rig.engine.recorder.sequences) >= 2


@pytest.mark.parametrize("lag", LAGS)
@pytest.mark.parametrize("blocks", [400, 27])
def test_blocks_that_are_findable_at_once(model, alone, lag, blocks):
    """In the memory of `vllm_v1`: equal prompts of one step share what that step computes, and who
    is preempted finds its own answer again.
    """
    scheduler = VllmV1Scheduler(max_num_batched_tokens=64, max_num_seqs=8)
    more = {"prefix_caching": True, "blocks": blocks, "lag": lag}
    tokens, rig = run(model, scheduler, VllmV1Memory(), **more)
    assert tokens == alone
    assert rig.engine.recorder.prefix_hit_tokens >= 2 * 12
    preempted = [seq for seq in rig.engine.recorder.sequences if seq.preemptions]
    assert bool(preempted) == (blocks < 400)


@pytest.mark.parametrize("lag", LAGS)
@pytest.mark.parametrize("timing", ["before_step", "background"])
def test_swap_out_and_resume(model, alone, lag, timing):
    scheduler = FcfsScheduler(max_num_batched_tokens=16, max_num_seqs=8)
    tokens, rig = run(model, scheduler, LruMemory("swap", timing), blocks=26, lag=lag)
    assert tokens == alone
    copies = [order for order in rig.manager.orders if isinstance(order, CopyJob)]
    assert {copy.direction for copy in copies} == {"d2h", "h2d"}


@pytest.mark.parametrize("lag", LAGS)
def test_drawn_tokens_are_the_same_under_any_batching(model, lag):
    sampling = [
        Sampling(0.9, top_p=0.9, seed=index, frequency_penalty=0.0) for index in range(len(PROMPTS))
    ]
    one, _ = run(model, FcfsScheduler(max_num_batched_tokens=64, max_num_seqs=1), sampling=sampling)
    many, rig = run(
        model,
        FcfsScheduler(max_num_batched_tokens=16, max_num_seqs=8),
        LruMemory("swap", "before_step"),
        sampling=sampling,
        blocks=26,
        lag=lag,
        order=[3, 1, 4, 0, 5, 8, 2, 6, 7],
    )
    assert many == one
    assert rig.engine.recorder.rotations > 0
