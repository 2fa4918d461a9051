"""How tokens are drawn."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from executor.sampler import (
    GREEDY,
    History,
    Sampling,
    SamplingRow,
    exponential_noise,
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
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
    ],
)
def test_a_value_out_of_range_is_one_line(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong)) + ": expected a "):
        Sampling(**wrong)
