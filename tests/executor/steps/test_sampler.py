"""How tokens are drawn."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from executor.steps.sampler import (
    GREEDY,
    ROWS_AT_ONCE,
    History,
    Sampling,
    SamplingRow,
    exponential_noise,
    remember,
    sample,
)
from superinfer.errors import ConfigError

CPU = torch.device("cpu")
LOGITS = torch.log(torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625]))


def draws(sampling, count=4000, logits=LOGITS):
    """How often each token is drawn at `count` positions."""
    rows = [SamplingRow(sampling, position) for position in range(count)]
    tokens = sample(logits.expand(count, -1).float(), rows)
    return torch.bincount(tokens, minlength=len(logits)).double()


def chi_square(counts, shares):
    expected = torch.tensor(shares, dtype=torch.float64) * counts.sum()
    kept = expected > 0
    assert counts[~kept].sum() == 0
    return float(((counts - expected)[kept] ** 2 / expected[kept]).sum())


CRITICAL_0_001 = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47}
"""Chi-square that one draw in a thousand exceeds, by degrees of freedom."""


@pytest.mark.parametrize(
    ("sampling", "shares"),
    [
        (Sampling(1.0, seed=1), [0.5, 0.25, 0.125, 0.0625, 0.0625]),
        (Sampling(0.5, seed=2), [0.25, 0.0625, 0.015625, 0.00390625, 0.00390625]),
        (Sampling(1.0, top_p=0.8, seed=3), [0.5, 0.25, 0.125, 0, 0]),
        (Sampling(1.0, top_p=0.75, seed=4), [0.5, 0.25, 0, 0, 0]),
        (Sampling(1.0, top_k=2, seed=5), [0.5, 0.25, 0, 0, 0]),
        (Sampling(1.0, top_k=3, top_p=0.6, seed=6), [0.5, 0.25, 0, 0, 0]),
        (Sampling(1.0, min_p=0.25, seed=7), [0.5, 0.25, 0.125, 0, 0]),
    ],
)
def test_tokens_come_with_their_probability(sampling, shares):
    shares = [share / sum(shares) for share in shares]
    freedom = sum(share > 0 for share in shares) - 1
    assert chi_square(draws(sampling), shares) < CRITICAL_0_001[freedom]


def test_other_seeds_draw_other_tokens():
    rows = [[SamplingRow(Sampling(1.0, seed=seed), i) for i in range(64)] for seed in (1, 2)]
    logits = torch.zeros(64, 100)
    first, second = (sample(logits, each) for each in rows)
    assert (first == second).sum() < 10


def test_noise_is_exponential():
    noise = exponential_noise([(9, i) for i in range(50)], 4000, CPU).double()
    assert noise.min() > 0
    assert noise.mean() == pytest.approx(1.0, abs=0.01)
    assert noise.var() == pytest.approx(1.0, abs=0.03)
    for quantile in (0.01, 0.5, 0.99):
        exact = -torch.log1p(torch.tensor(-quantile, dtype=torch.float64))
        assert (noise < exact).double().mean() == pytest.approx(quantile, abs=0.005)
    rows = torch.corrcoef(noise[:20])
    assert (rows - torch.eye(20)).abs().max() < 0.08


def test_company_does_not_change_a_token():
    settings = [
        Sampling(1.0, seed=3),
        GREEDY,
        Sampling(0.7, top_k=5, top_p=0.9, seed=4),
        Sampling(1.3, min_p=0.1, seed=5),
        Sampling(0.9, frequency_penalty=0.5, repetition_penalty=1.2, seed=6),
    ]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 300, generator=generator) * 3
    history = History([1, 2, 3], 300, CPU)
    rows = [
        SamplingRow(s, 17 + i, history if s.penalised else None) for i, s in enumerate(settings)
    ]
    together = sample(logits, rows).tolist()
    alone = [int(sample(logits[i : i + 1], rows[i : i + 1])[0]) for i in range(5)]
    order = [3, 0, 4, 1, 2]
    permuted = sample(logits[order], [rows[i] for i in order]).tolist()
    assert together == alone
    assert permuted == [together[i] for i in order]
    assert together[1] == int(logits[1].argmax())


@pytest.mark.parametrize("count", [127, 128, 129, 300])
def test_many_rows_are_drawn_some_at_a_time(monkeypatch, count):
    """Memory does not grow with their number, and no token changes."""
    made = []

    def noise(keys, vocab, device):
        made.append(len(keys))
        return exponential_noise(keys, vocab, device)

    monkeypatch.setattr("executor.steps.sampler.exponential_noise", noise)
    logits = torch.randn(count, 40, generator=torch.Generator().manual_seed(1))
    history = History([1, 2, 3], 40, CPU)
    settings = (Sampling(1.0, seed=3), Sampling(0.9, presence_penalty=2.0, seed=6), GREEDY)
    rows = [
        SamplingRow(s, 17, history if s.penalised else None) for s in (settings * count)[:count]
    ]
    found = sample(logits, rows)
    assert max(made) == min(count, ROWS_AT_ONCE)
    assert found.tolist() == [
        int(sample(logits[i : i + 1], rows[i : i + 1])[0]) for i in range(count)
    ]


def test_penalties_change_logits_as_defined():
    history = History([0, 1], 5, CPU)
    for token in (2, 2, 1):
        history.add(torch.tensor([token]))
    logits = torch.tensor([[4.0, -1.0, 3.0, 2.9, 0.0]])
    settings = Sampling(repetition_penalty=2.0)
    # 4 / 2, -1 * 2, 3 / 2, 2.9, 0
    assert int(sample(logits, [SamplingRow(settings, 5, history)])[0]) == 3
    # 4, -1, 3, 2.9, 0: presence and frequency leave the prompt alone
    settings = Sampling(presence_penalty=9.0, frequency_penalty=9.0)
    assert int(sample(logits, [SamplingRow(settings, 5, history)])[0]) == 0
    # without the prompt's best: 3 - 2 * 0.04 = 2.92 beats 2.9; one step more does not
    logits[0, 0] = -9.0
    for penalty, winner in ((0.04, 2), (0.06, 3)):
        settings = Sampling(frequency_penalty=penalty)
        assert int(sample(logits, [SamplingRow(settings, 5, history)])[0]) == winner


def test_greedy_takes_the_largest_and_leaves_the_logits_alone():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    before = logits.clone()
    assert sample(logits, [SamplingRow(GREEDY, 0)] * 2).tolist() == [1, 0]
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": float("inf")},
        {"temperature": 1e39},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": 1e-46},
        {"repetition_penalty": 1e39},
    ],
)
def test_a_value_out_of_range_is_one_line(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong)) + ": expected a "):
        Sampling(**wrong)


@pytest.mark.parametrize("repetition", [0.01, 100.0])
@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e6])
def test_what_is_in_range_can_be_computed(repetition, temperature):
    """No logit becomes infinite or no number, so that a token is drawn that may be."""
    logits = torch.tensor([[5.0, -5.0, -torch.inf]])
    history = History([0, 1], 3, CPU)
    row = SamplingRow(Sampling(temperature, repetition_penalty=repetition), 1, history)
    assert sample(logits, [row]).tolist()[0] in (0, 1)


# -- penalties beside others, and what the host waits for -----------------------------------------

MIXED = (
    Sampling(repetition_penalty=1.4),
    GREEDY,
    Sampling(0.8, seed=1, frequency_penalty=0.6, presence_penalty=-0.3),
    Sampling(1.0, seed=2, top_k=7, top_p=0.9, min_p=0.01),
    Sampling(1.2, seed=3, repetition_penalty=0.9, presence_penalty=0.5),
)
VOCAB = 50


def rows_of(settings, position, histories):
    pairs = zip(settings, histories, strict=True)
    return [SamplingRow(each, position, history) for each, history in pairs]


def histories_of(settings, device):
    prompts = ([i, 2 * i, 2 * i + 7] for i in range(len(settings)))
    pairs = zip(settings, prompts, strict=True)
    return [History(prompt, VOCAB, device) if s.penalised else None for s, prompt in pairs]


def penalised_one_by_one(logits, sampling, prompt, answer):
    """The definition, token by token."""
    changed = logits.tolist()
    for token in {*prompt, *answer}:
        repetition = sampling.repetition_penalty
        changed[token] *= 1 / repetition if changed[token] > 0 else repetition
    for token in set(answer):
        changed[token] -= answer.count(token) * sampling.frequency_penalty
        changed[token] -= sampling.presence_penalty
    return torch.tensor(changed, dtype=torch.float32)


def test_rows_with_penalties_beside_others_draw_what_each_would_alone():
    """Over some steps: from the penalties' definition, by plain sampling of changed logits."""
    histories, answers = histories_of(MIXED, CPU), [[] for _ in MIXED]
    generator = torch.Generator().manual_seed(1)
    for position in range(3, 43):
        logits = torch.randn(len(MIXED), VOCAB, generator=generator) * 2
        rows = rows_of(MIXED, position, histories)
        found = sample(logits, rows)
        for i, each in enumerate(MIXED):
            prompt = [i, 2 * i, 2 * i + 7]
            changed = penalised_one_by_one(logits[i], each, prompt, answers[i])
            (alone,) = rows_of([each], position, [None])
            assert int(found[i]) == int(sample(changed[None], [alone])[0]), (position, i)
            answers[i].append(int(found[i]))
        remember(found, rows)


class NoValues(TorchFunctionMode):
    """Fails where values of the host go to a device inside of torch, out of ordinary memory: in
    `torch.tensor` with a device, or by a list as an index.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in {torch.tensor, torch.as_tensor, torch.asarray}:
            assert torch.device(kwargs.get("device") or "cpu") == CPU, func
        if func in {torch.Tensor.__getitem__, torch.Tensor.__setitem__}:
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(isinstance(place, list) for place in places), func
        return func(*args, **kwargs)


class Watched(TorchDispatchMode):
    """Fails for what would have the host wait for a device: an operation that needs a value of it,
    or takes tensors of two places, or copies out of memory that is not pinned.
    """

    def __init__(self, pinned):
        super().__init__()
        self.pinned, self.copies = pinned, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        assert name not in {"nonzero", "_local_scalar_dense", "masked_select", "unique"}, name
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        places = {tensor.device.type for tensor in tensors if tensor.dim()}
        target = kwargs.get("device")
        crossing = len(places) > 1 or (target is not None and places - {torch.device(target).type})
        if crossing:
            assert name in {"_to_copy", "copy_"}, f"{name} of tensors at {places}"
            waits = not (kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,)))
            assert not waits and any(id(tensor) in self.pinned for tensor in tensors), name
            self.copies += 1
        return func(*args, **kwargs)


def test_nothing_waits_for_the_device(monkeypatch):
    """On a device that has no values to wait for (torch's `meta`)."""
    pinned, device = {}, torch.device("meta")

    def pin_memory(tensor):
        made = tensor.clone()
        pinned[id(made)] = made
        return made

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    with NoValues(), Watched(pinned) as watched:
        histories = histories_of(MIXED, device)
        logits = torch.zeros(len(MIXED), VOCAB, device=device)
        for position in (3, 4):
            rows = rows_of(MIXED, position, histories)
            tokens = sample(logits, rows)
            assert tokens.device == device and tokens.shape == (len(MIXED),)
            remember(tokens, rows)
    # Three prompts; in each step penalties and rows, settings, and the state of the noise.
    assert watched.copies == 3 + 2 * 4
