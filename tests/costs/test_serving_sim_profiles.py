"""Profiles from LLMServingSim's layout: made-up tables with known kernels, and the shipped ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from superinfer.costs import CalibratedCost, Chunk, ModelShape, load_profile, load_shape
from superinfer.costs.coverage import Coverage
from superinfer.costs.profile import PARTLY_FITTED, Profile
from superinfer.costs.tables import Curve, Grid
from superinfer.errors import ConfigError, InputError
from superinfer.lab.notices.trust import assumed_warning
from superinfer.lab.profiles import fits, serving_sim
from superinfer.lab.profiles.build import build_profile
from superinfer.lab.profiles.fits import Points
from superinfer.lab.profiles.report import target

TOKENS = (*range(1, 17), *range(32, 513, 16))
LAUNCH_US = 8.0
SKEW, UNEVEN_US = 1.2, 0.5
DENSE = {"qkv_proj": 40.0, "o_proj": 20.0, "gate_up_proj": 100.0, "down_proj": 60.0}
STREAMING = ("layernorm", "qk_norm", "rotary_emb", "act_fn", "embedding", "final_layernorm")


def gemm_us(base: float, tokens: int) -> float:
    """Tiles of 128 rows."""
    return base * (1 + (tokens - 1) // 128)


def attention_us(chunk: int, prior: int, decodes: int, context: int) -> float:
    pairs = chunk * (prior + chunk / 2)
    kind = 0.02 if chunk else 0.01
    return LAUNCH_US + 1e-4 * pairs + kind * decodes * context + 1e-3 * chunk * decodes


def write_tables(root: Path, *, experts: bool = False) -> Path:
    folder = root / "RTXPRO6000" / "Somebody" / "Tiny-1B" / "bf16" / "tp1"
    folder.mkdir(parents=True)
    (folder.parent / "meta.yaml").write_text("profiler: 1\nvllm_version: 0.19.0\n")
    dense = [(name, n, gemm_us(us, n)) for name, us in DENSE.items() for n in TOKENS]
    dense += [(name, n, 2.0 + 0.01 * n) for name in STREAMING for n in TOKENS]
    columns = ["layer", "tokens", "time_us"]
    pd.DataFrame(dense, columns=columns).to_csv(folder / "dense.csv", index=False)
    rows = [(name, n, 50.0 + n) for name in ("lm_head", "sampler") for n in (1, 2, 4, 8, 16, 32)]
    columns = ["layer", "sequences", "time_us"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "per_sequence.csv", index=False)
    sizes = (0, 16, 64, 128, 256, 512), (0, 64, 512, 2048)
    batches = (0, 1, 2, 4, 8, 16, 256), (0, 16, 128, 512, 1024)
    attention = [
        (t, c, n, k, attention_us(t, c, n, k))
        for t, c, n, k in product(*sizes, *batches)
        if (t or n) and (t or not c) and (bool(n) == bool(k))
    ]
    columns = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"]
    pd.DataFrame(attention, columns=columns).to_csv(folder / "attention.csv.gz", index=False)
    skew = [("mixed", n, 1, 400.0, 160.0, 100.0, 100.0 * SKEW) for n in (2, 4, 8, 16)]
    for n in (2, 4, 8, 16, 256):
        mean, more = 100.0 * (n + 3) / n, UNEVEN_US if n > 150 else 0.0
        equal = attention_us(0, 0, n, int(mean))
        skew.append(("pure", n, 1, 400.0, mean, equal, equal + more * (400.0 - mean)))
    columns = ["regime", "n", "nb", "kv_big", "kv_mean", "t_mean_us", "t_skew_us"]
    pd.DataFrame(skew, columns=columns).to_csv(folder / "skew.csv", index=False)
    if experts:
        moe = [(n, e, 5.0 * e + n) for n in (1, 2, 4, 8, 16, 64, 512) for e in (2, 4, 8)]
        columns = ["tokens", "activated_experts", "time_us"]
        pd.DataFrame(moe, columns=columns).to_csv(folder / "moe.csv", index=False)
    return root


def tiny(experts: int = 0) -> ModelShape:
    shape = ModelShape("tiny-1b", 2, 1024, 8, 2, 128, 2048, 4096, 8192)
    if not experts:
        return shape
    return ModelShape(
        *("tiny-1b", 2, 1024, 8, 2, 128, 2048, 4096, 8192), experts=8, experts_per_token=2
    )


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return build_profile(write_tables(tmp_path_factory.mktemp("p")), "rtxpro6000", tiny(), 1)


def curve(profile: Profile, kernel: str) -> Curve:
    entry = profile.kernels[kernel]
    (axis,) = entry.axes.values()
    return Curve(axis, entry.seconds or ())


def grid(profile: Profile, kernel: str) -> Grid:
    rows, columns = profile.kernels[kernel].axes.values()
    return Grid(rows, columns, profile.kernels[kernel].seconds or ())


def test_a_tile_begins_with_its_first_row(profile: Profile) -> None:
    found = curve(profile, "gemm_gate_up")
    for tokens in (1, 100, 128, 129, 140, 256, 257, 512):
        assert found.at(tokens) == pytest.approx(1e-6 * gemm_us(100.0, tokens)), tokens


def test_jumps_between_neighbouring_counts_stay_lines() -> None:
    points = Points(fits.np.array([64.0, 65.0, 80.0]), fits.np.array([1.0, 2.0, 2.0]))
    found = fits.fit_edges(points)
    assert found.axis == (64.0, 65.0, 80.0)


def test_norms_are_counted_as_often_as_a_layer_has_them(profile: Profile) -> None:
    # Two of the layer and one each of queries and keys.
    assert curve(profile, "norm").at(512) == pytest.approx(4e-6 * (2.0 + 5.12), rel=0.01)
    assert curve(profile, "embed").at(512) == pytest.approx(2e-6 * (2.0 + 5.12), rel=0.01)


def test_tables_go_on_past_what_was_measured_and_the_profile_says_where(profile: Profile) -> None:
    assert profile.range["norm"] == {"tokens": [1, 512]}
    assert curve(profile, "norm").at(5000) == pytest.approx(4e-6 * 52.0, rel=0.02)
    assert curve(profile, "gemm_o").at(5000) > 8 * curve(profile, "gemm_o").at(512)
    chunk = grid(profile, "attention_prefill")
    measured = chunk.at(512, 0) - 1e-6 * LAUNCH_US
    assert chunk.at(4096, 0) == pytest.approx(64 * measured, rel=0.1)


def test_attention_of_a_whole_step(profile: Profile) -> None:
    """A chunk of 512 with 2048 before it, beside 16 decodes at 512."""
    cost = CalibratedCost(profile, tiny())
    mixed = grid(profile, "attention_mixed_16").at(16, 512)
    alone = grid(profile, "attention_decode_16").at(16, 512)
    assert alone == pytest.approx(1e-6 * attention_us(0, 0, 16, 512), rel=0.01)
    assert mixed == pytest.approx(SKEW * 1e-6 * attention_us(16, 0, 16, 512), rel=0.05)
    idle = profile.kernels["attention_idle"].coefficients["per_unit_s"]
    # The decodes' own table has the 16 queries of the shortest chunk already.
    assert idle == pytest.approx(1e-9, rel=0.08)
    prefill = 1e-6 * attention_us(512, 2048, 0, 0)
    launch = 1e-6 * LAUNCH_US * 1.0
    attention = cost._prefill_s([Chunk(512, 2048)]) / 2
    assert attention == pytest.approx(prefill, rel=0.02)
    step, decode = cost.step_s([Chunk(512, 2048)], 16, 16 * 512), mixed - launch
    others = cost._fixed_s(528) + cost._rows_s(17) + profile.host.chunked_s
    expected = others + 2 * (prefill + decode + 16 * 512 * 1e-9)
    assert step == pytest.approx(expected, rel=0.02)


def test_the_longest_context_counts_where_kernels_do_not_split(profile: Profile) -> None:
    """Two KV heads: contexts are not split from 151 sequences on, so in the graph of 152."""
    cost = CalibratedCost(profile, tiny())
    assert cost.knows_longest
    found = [cost.uneven_s(n, n * 100, 400) for n in (16, 144, 145, 256)]
    expected = 2 * 1e-6 * UNEVEN_US * 300
    assert found == pytest.approx([0.0, 0.0, expected, expected], rel=0.05)
    assert cost.uneven_s(200, 200 * 100, 100) == 0.0


def test_decodes_are_computed_in_the_graphs_that_vllm_captures(profile: Profile) -> None:
    cost = CalibratedCost(profile, tiny())
    assert profile.graphs is not None
    assert [profile.graphs.held_decodes(n) for n in (3, 9, 249, 257, 512)] == [4, 16, 256, 272, 512]
    padded = cost.step_s((), 9, 900) - cost._fixed_s(16) - cost._rows_s(16)
    assert padded > 2 * grid(profile, "attention_decode_16").at(9, 100) - 1e-9
    # Beside a chunk they are launched as they are.
    chunk = [Chunk(16, 0)]
    assert cost._beside_decode(chunk, 9) == pytest.approx(
        cost._fixed_s(25)
        + cost._rows_s(10)
        + cost._prefill_s(chunk)
        + cost._idle_s * (10 * 16 - 16)
        + profile.host.chunked_s
    )


def test_experts_are_read_at_what_the_tokens_reach(tmp_path: Path) -> None:
    found = build_profile(write_tables(tmp_path, experts=True), "rtxpro6000", tiny(8), 1)
    reached = 8 * (1 - 0.75**16)
    assert curve(found, "moe_gemm").at(16) == pytest.approx(1e-6 * (5 * reached + 16), rel=0.01)
    assert curve(found, "moe_gemm").at(1) == pytest.approx(11e-6, rel=0.01)
    assert "gemm_gate_up" not in found.kernels and "experts" in found.sources[0]
    assert CalibratedCost(found, tiny(8)).step_s((), 4, 400) > 0


Change = Callable[[Path], None]


def change(name: str, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> Change:
    """Edits one of the files in place."""

    def apply(folder: Path) -> None:
        path = next(folder.glob(f"{name}.csv*"))
        edit(pd.read_csv(path)).to_csv(path, index=False)

    return apply


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda at: (at / "skew.csv").unlink(), InputError, "skew.csv: no such file"),
        (lambda at: at.rename(at.parent / "tp2"), ConfigError, "not measured at tp=1"),
        (
            lambda at: at.parents[1].rename(at.parents[2] / "Other"),
            ConfigError,
            "tiny-1b was not measured; known there: other",
        ),
        (
            lambda at: (at / "dense.csv").write_text("layer,tokens,time_us\nqkv_proj,1,0\n"),
            InputError,
            "time_us: expected times > 0",
        ),
        (
            lambda at: (at / "dense.csv").write_text("layer,tokens,time_us\nact_fn,1,1\n"),
            InputError,
            "dense.csv: expected rows of qkv_proj at 3 or more tokens, got 0",
        ),
        (
            change("dense", lambda t: t.astype(object).replace({"time_us": {40.0: "fast"}})),
            InputError,
            r"dense.csv:\d+: time_us: expected times > 0 \(us\), got fast",
        ),
        (
            change("dense", lambda t: t.assign(tokens=t.tokens.where(t.tokens != 512, -4))),
            InputError,
            r"dense.csv:\d+: tokens: expected a number from 1, got -4",
        ),
        (
            change("dense", lambda t: t.assign(tokens=t.tokens.where(t.tokens != 512, np.inf))),
            InputError,
            r"dense.csv:\d+: tokens: expected a number from 1, got inf",
        ),
        (
            change("dense", lambda t: t.groupby("layer").head(1)),
            InputError,
            "dense.csv: expected rows of qkv_proj at 3 or more tokens, got 1",
        ),
        *(
            (
                change("dense", lambda t, name=name: t[t.layer != name]),
                InputError,
                f"dense.csv: expected rows of {name} at 3 or more tokens, got 0",
            )
            for name in ("layernorm", "embedding", "final_layernorm", "rotary_emb", "act_fn")
        ),
        (
            change(
                "dense",
                lambda t: t[(t.layer != "embedding") | (t.tokens % 2 == 1)][
                    lambda u: (u.layer != "final_layernorm") | (u.tokens % 2 == 0)
                ],
            ),
            InputError,
            "3 or more counts of tokens in common for embedding, final_layernorm, got 0",
        ),
        (
            change("attention", lambda t: t[t.prefill_chunk == 0]),
            InputError,
            r"attention.csv.gz: expected chunks alone \(n_decode 0\) at 3 or more values of",
        ),
        (
            change("attention", lambda t: t[t.n_decode == 0]),
            InputError,
            r"attention.csv.gz: expected decodes alone \(prefill_chunk 0\) at 3 or more",
        ),
        (
            change("attention", lambda t: t[(t.n_decode == 0) | (t.prefill_chunk == 0)]),
            InputError,
            "attention.csv.gz: expected decodes beside the shortest chunk at 3 or more",
        ),
        (
            change("attention", lambda t: pd.concat([t.head(1) * 0, t])),
            InputError,
            "attention.csv.gz:2: time_us: expected times > 0",
        ),
        (
            change("attention", lambda t: pd.concat([(t.head(1) * 0).assign(time_us=5.0), t])),
            InputError,
            "attention.csv.gz:2: expected a prefill_chunk or n_decode above 0",
        ),
        (
            change("attention", lambda t: t[(t.prefill_chunk != 64) | (t.kv_prefill == 2048)]),
            InputError,
            "attention.csv.gz: expected rows of chunks without holes at small contexts",
        ),
        (
            change("skew", lambda t: t[t.regime == "pure"]),
            InputError,
            "skew.csv: expected rows of the regime mixed at 3 or more n, got 0",
        ),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, spoil: Change, error: type[Exception], words: str
) -> None:
    root = write_tables(tmp_path)
    spoil(root / "RTXPRO6000" / "Somebody" / "Tiny-1B" / "bf16" / "tp1")
    with pytest.raises(error, match=words):
        build_profile(root, "rtxpro6000", tiny(), 1)


def test_layers_meet_at_their_token_counts(tmp_path: Path, profile: Profile) -> None:
    """One of them lacks a count, and the rows of another come in no order."""
    root = write_tables(tmp_path)
    folder = root / "RTXPRO6000" / "Somebody" / "Tiny-1B" / "bf16" / "tp1"
    change(
        "dense",
        lambda t: t[(t.layer != "qk_norm") | (t.tokens != 64)].sample(frac=1, random_state=1),
    )(folder)
    found = build_profile(root, "rtxpro6000", tiny(), 1)
    assert curve(found, "norm").at(300) == pytest.approx(curve(profile, "norm").at(300), rel=1e-3)
    assert found.fit["norm"]["points"] == profile.fit["norm"]["points"] - 1


def test_other_devices_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no measurements of 'h100' are known there"):
        build_profile(write_tables(tmp_path), "h100", tiny(), 1)


# -- shipped --------------------------------------------------------------------------------------

SHIPPED = Path(fits.__file__).parents[2] / "costs" / "profiles"
OVER = {("qwen3-30b-a3b", "moe_gemm"): 0.06, ("qwen3-30b-a3b", "attention_idle"): 0.105}
"""Errors over their targets, which docs/profiles.md states."""


@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-32b", "qwen3-30b-a3b"])
def test_errors_of_the_shipped_profiles(model: str) -> None:
    found = load_profile(SHIPPED / f"rtxpro6000_{model}_tp1.json")
    for kernel, entry in found.fit.items():
        limit = OVER.get((model, kernel), target(kernel))
        assert 0.0 < entry["heldout_mape"] <= limit, kernel
    assert "casys-kaist/LLMServingSim" in json.dumps(found.sources)
    cost = CalibratedCost(found, load_shape(model))
    assert 0.004 < cost.step_s((), 1, 1000) < cost.step_s((), 128, 128_000) < 0.12


@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-32b", "qwen3-30b-a3b"])
def test_shipped_steps_of_unequal_contexts_never_fall(model: str) -> None:
    """Not with more sequences, nor with more tokens of the longest or of the others."""
    found = load_profile(SHIPPED / f"rtxpro6000_{model}_tp1.json")
    cost = CalibratedCost(found, load_shape(model))

    def step_s(count: int, mean: int, longest: int) -> float:
        return cost.step_s((), count, count * mean) + cost.uneven_s(count, count * mean, longest)

    for longest in (1000, 1500, 2500, 6000):
        by_count = [step_s(count, 1000, longest) for count in range(1, 257)]
        assert by_count == sorted(by_count)
    for count in (4, 40, 100, 200):
        by_mean = [step_s(count, mean, 6000) for mean in range(100, 6000, 50)]
        assert by_mean == sorted(by_mean)
        by_longest = [step_s(count, 1000, longest) for longest in range(1000, 9000, 50)]
        assert by_longest == sorted(by_longest)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-32b", "qwen3-30b-a3b"])
@pytest.mark.parametrize(("ratio", "most"), [(4, 0.0005), (8, 0.0005), (16, 0.005), (64, 0.015)])
def test_more_sequences_hardly_shorten_a_step_with_one_long_context(
    model: str, ratio: int, most: float
) -> None:
    """In the skew tables no context is longer than 5.6 mean ones; further on slopes of neighbouring
    batch sizes go apart, and docs/profiles.md says how far.
    """
    found = load_profile(SHIPPED / f"rtxpro6000_{model}_tp1.json")
    cost = CalibratedCost(found, load_shape(model))
    for mean in (64, 128, 256, 512, 1000, 2000, 4000):
        if mean * ratio > 16384:
            continue
        longest_s = 0.0
        for count in range(ratio, 257):
            context = count * mean
            step_s = cost.step_s((), count, context) + cost.uneven_s(count, context, ratio * mean)
            assert step_s > (1 - most) * longest_s, (count, mean)
            longest_s = max(longest_s, step_s)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-32b", "qwen3-30b-a3b"])
def test_the_origin_of_the_host_time_says_what_was_fitted(model: str) -> None:
    found = load_profile(SHIPPED / f"rtxpro6000_{model}_tp1.json")
    assert found.host == serving_sim._host("rtxpro6000")
    assert found.host.origin == PARTLY_FITTED and "chunked_s (3.15 ms)" in found.sources[-1]
    assert CalibratedCost(found, load_shape(model)).trust(Coverage())["host_overhead_origin"] == (
        PARTLY_FITTED
    )


def test_without_a_fitted_constant_the_host_is_assumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_sim, "CHUNKED", {})
    found = build_profile(write_tables(tmp_path), "rtxpro6000", tiny(), 1)
    assert (found.host.origin, found.host.chunked_s) == ("assumed", 0.0)
    assert found.sources[-1] == "Host and links: assumed"


def test_an_assumed_all_reduce_is_named(tmp_path: Path, profile: Profile) -> None:
    root = write_tables(tmp_path)
    model = root / "RTXPRO6000" / "Somebody" / "Tiny-1B" / "bf16"
    (model / "tp1").rename(model / "tp2")
    found = build_profile(root, "rtxpro6000", tiny(), 2)
    trust = CalibratedCost(found, tiny()).trust(Coverage())
    assert found.assumed == trust["assumed"] == {"all_reduce": "a ring over the nominal link"}
    assert "assumes all_reduce" in assumed_warning(trust)
    assert not profile.assumed
