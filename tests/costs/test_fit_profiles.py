"""The fits: small cases worked by hand, made-up measurements, and the shipped profiles refitted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from measurement_folder import (
    FP8_PACE,
    LAUNCH_S,
    experts_s,
    gemm_s,
    pointwise_s,
    write_folder,
    write_model,
)

from experiments import fit_profiles
from superinfer.costs import Coverage, ModelShape, build_cost, load_shape
from superinfer.costs.profile import Profile
from superinfer.costs.tables import Curve
from superinfer.errors import ConfigError, InputError, SuperInferError
from superinfer.lab.notices.trust import assumed_warning
from superinfer.lab.profiles import fits
from superinfer.lab.profiles.build import build_profile, save_profile
from superinfer.lab.profiles.fits import Fitted, Points
from superinfer.lab.profiles.kernels import GemmShape, GemmTable, padded
from superinfer.lab.profiles.measurements import Measurements
from superinfer.lab.profiles.pointwise import pieces, streaming_ratio

# -- fits -----------------------------------------------------------------------------------------


def test_thirds_hold_out_every_inner_point_once() -> None:
    masks = list(fits.thirds(11))
    held = np.sum(masks, axis=0)
    assert held.tolist() == [0, *[1] * 9, 0]


def test_isotonic_pools_violators_by_geometric_mean() -> None:
    found = fits.isotonic(np.array([1.0, 4.0, 1.0, 3.0]))
    assert found == pytest.approx([1.0, 2.0, 2.0, 3.0])


def test_thin_keeps_the_corners() -> None:
    x = np.arange(1.0, 10.0)
    y = np.where(x < 5, 4.0, 4.0 + (x - 4))
    assert [int(x[i]) for i in fits.thin(x, y)] == [1, 4, 9]


def test_thin_ends_where_two_points_share_an_x() -> None:
    x, y = np.array([1.0, 2.0, 2.0, 3.0]), np.array([1.0, 2.0, 4.0, 5.0])
    assert set(fits.thin(x, y)) >= {0, 3}


def test_spikes_are_dropped() -> None:
    points = Points(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 1.1]))
    assert fits.despiked(points).x.tolist() == [1.0, 3.0]


def test_a_line_is_fitted_without_error() -> None:
    x = np.arange(1.0, 50.0)
    fitted = fits.fit_table(Points(x, 1e-6 * (3 + x)), "tokens")
    assert fitted.errors.max() < 0.006
    assert fitted.curve.at(100.0) == pytest.approx(103e-6, rel=0.01)


def test_two_regimes_keep_their_jump() -> None:
    x = np.array([1.0, 2.0, 3.0, 8.0, 9.0, 10.0])
    y = np.array([1.0, 2.0, 3.0, 80.0, 90.0, 100.0])
    curve = fits.fit_regimes(Points(x, y), "bytes", 8.0).curve
    assert curve.at(7.0) == pytest.approx(7.0)
    assert curve.at(8.0) == pytest.approx(80.0)


def test_two_regimes_never_step_down() -> None:
    x = np.array([1.0, 2.0, 3.0, 8.0, 9.0, 10.0])
    y = np.array([1.0, 2.0, 3.0, 4.0, 4.5, 5.0])
    curve = fits.fit_regimes(Points(x, y), "bytes", 8.0).curve
    assert curve.at(7.0) == curve.at(8.0) == pytest.approx(4.0)


def test_stairs_rise_at_tile_edges() -> None:
    x = np.array([1.0, 64.0, 128.0, 192.0, 1024.0])
    curve = fits.fit_stairs(Points(x, x / 64))
    assert curve.at(65.0) == curve.at(128.0) == 2.0
    assert curve.at(17.0) == curve.at(64.0) == 1.0
    assert curve.at(1024.0) == 16.0


def test_smoothing_takes_out_scatter_that_a_plain_table_follows() -> None:
    x = 2.0 ** (np.arange(4, 60) / 4)
    truth = 1e-6 * (20 + 0.05 * x)
    scatter = np.where(np.arange(len(x)) % 2, 1.08, 0.92)
    points = Points(x, truth * scatter)

    def error(curve: Curve) -> float:
        return float(np.mean([abs(curve.at(a) / b - 1) for a, b in zip(x, truth, strict=True)]))

    assert error(fits.fit_smooth(points)) < 0.02 < error(fits.fit_curve(points))


def test_repeats_are_one_point() -> None:
    points = Points(np.array([1.0, 2.0, 256.0, 257.0, 512.0]), np.array([1.0, 1.0, 4.0, 9.0, 8.0]))
    found = fits.without_repeats(points)
    assert found.x.tolist() == [1.0, 2.0, 257.0, 512.0]
    assert found.y == pytest.approx([1.0, 1.0, 6.0, 8.0])


def test_a_table_goes_on_by_the_line_of_its_upper_points() -> None:
    x = np.arange(1.0, 101.0)
    points = Points(x, 1e-6 * (10 + x))
    noisy_end = Fitted(fits.fit_table(points, "tokens").kernel, np.array([0.01]), 100).reshaped(
        Curve((1.0, 99.0, 100.0), (11e-6, 109e-6, 109e-6))
    )
    curve = fits.continued(noisy_end, points, 1000.0).curve
    assert curve.axis[-1] == 1000.0
    assert curve.at(1000.0) == pytest.approx(1009e-6, rel=1e-3)
    assert curve.at(100.0) == pytest.approx(109e-6)


def test_scaling_leaves_the_launch_alone() -> None:
    curve = fits.scaled_above_floor(Curve((1.0, 100.0), (4e-6, 24e-6)), 0.5)
    assert curve.seconds == pytest.approx((4e-6, 14e-6))


def test_decode_grid_fills_holes_and_never_falls() -> None:
    rows, columns = np.array([1.0, 2.0]), np.array([1.0, 2.0, 4.0])
    values = np.array([[1.0, 2.0, 4.0], [3.0, 4.0, np.nan]])
    grid = fits.decode_grid(rows, columns, values)
    # The row above grows by 1 per token of total context, and two sequences add two per step.
    assert grid.at(2, 4) == pytest.approx(8.0)


def test_relative_fit_recovers_coefficients() -> None:
    chunk = np.array([16.0, 64.0, 256.0, 1024.0, 4096.0, 128.0, 512.0])
    batch = np.array([1.0, 2.0, 4.0, 8.0, 1.0, 64.0, 2.0])
    features = fits.causal_features(batch, chunk, 2.0 * chunk)
    truth = np.array([1e-5, 3e-7, 2e-8, 9e-11, 1e-8])
    assert fits.relative_fit(features, features @ truth) == pytest.approx(truth, rel=1e-4)


def test_reading_between_measured_shapes() -> None:
    axis = np.array([1.0, 2.0, 4.0, 8.0])
    read: list[float] = []

    def at(x: float) -> fits.Array:
        read.append(x)
        return np.array([1.0 + x, 10.0 * x])

    assert fits.through(axis, 3.0, at, 1) == pytest.approx([4.0, 30.0])
    assert read == [2.0, 4.0]
    assert fits.through(axis, 3.0, at, 2) == pytest.approx([4.0, 30.0])
    assert fits.through(axis, 16.0, at, 2) == pytest.approx([17.0, 160.0])
    assert fits.through(axis, 4.0, at, 2).tolist() == [5.0, 40.0]


# -- made-up measurements -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("measured"), ("a100-80g", "h100", "h200"))


def tiny(tmp_path: Path, **changes: object) -> ModelShape:
    return load_shape(write_model(tmp_path / "config.json", **changes))


def test_layers_that_vidur_measured_are_taken_from_it(folder: Path, tmp_path: Path) -> None:
    profile = build_profile(folder, "A100-80G-SXM", tiny(tmp_path), 1)
    gate_up = _curve(profile, "gemm_gate_up")
    assert gate_up.at(700) == pytest.approx(gemm_s(700, 4096, 1024), rel=0.01)
    assert _curve(profile, "norm").at(3000) == pytest.approx(3 * pointwise_s(3000, 1024), rel=0.01)
    assert profile.fit["gemm_gate_up"]["other_source_mape"] < 0.01
    assert "shape_mape" not in profile.fit["gemm_gate_up"]
    assert profile.sources[0].endswith("Tiny, bf16, the exact shapes at 11 token counts")
    assert "PCIe 4 at 25 GB/s" in profile.sources[-1]


def test_a_dense_source_gives_the_gemm_of_other_shapes(folder: Path, tmp_path: Path) -> None:
    profile = build_profile(folder, "h100", tiny(tmp_path, vocab_size=5120), 1)
    head = _curve(profile, "gemm_lm_head")
    for tokens in (1, 100, 5000):
        assert head.at(tokens) == pytest.approx(gemm_s(tokens, 5120, 1024, 0.5), rel=0.02)
    assert profile.fit["gemm_lm_head"]["shape_mape"] < 0.02
    assert "shape_mape" not in profile.fit["gemm_qkv"]
    assert "gemm_lm_head (n 5120, k 1024)" in profile.sources[0]


def test_attention_and_all_reduce_are_found(folder: Path, tmp_path: Path) -> None:
    table = Measurements(folder, "h100").all_reduce(2)
    assert table.x[0] == 256.0 and table.y[0] == pytest.approx(LAUNCH_S + 128e-11 / 2)
    profile = build_profile(folder, "h100", tiny(tmp_path), 1)
    found = profile.kernels["attention_prefill"].coefficients
    assert found["floor_s"] == pytest.approx(LAUNCH_S, rel=0.01)
    assert found["per_token_s"] == pytest.approx(0.5e-9, rel=0.05)
    assert found["per_pair_s"] == pytest.approx(0.5e-11, rel=0.01)
    decode = profile.kernels["attention_decode_16"]
    assert decode.seconds is not None
    assert decode.seconds[-1][-1] == pytest.approx(LAUNCH_S + 32 * 4096 * 0.5e-10, rel=0.01)
    assert profile.range["attention_prefill"] == {"keys": [1, 4096]}
    assert profile.range["attention_decode_16"] == {"total_context_tokens": [1, 32 * 4096]}


def test_a_device_without_vidur_is_scaled_by_measured_bandwidth(
    folder: Path, tmp_path: Path
) -> None:
    shape = tiny(tmp_path)
    h100, h200 = (Measurements(folder, name) for name in ("h100", "h200"))
    ratio = streaming_ratio(h100, h200)
    # 0.4 / 0.5 of the time, but for the launch.
    assert 0.8 < ratio < 0.82
    profile = build_profile(folder, "h200", shape, 1)
    # In a graph the three kernels are two, each as short as the shortest GEMM at one token.
    floor = 2 * gemm_s(1, 512, 512, 0.4)
    expected = floor + 3 * 4000 * 1024 * 1e-12 * 0.5 * ratio
    assert _curve(profile, "norm").at(4000) == pytest.approx(expected, rel=0.01)
    assert _curve(profile, "norm").at(1) == pytest.approx(floor, rel=0.01)
    assert 0.0 < profile.fit["norm"]["scaling_mape"] < 0.1
    assert profile.range["norm"] == {"tokens": [1, 4096]}
    assert profile.kernels["norm"].axes["tokens"][-1] == 32768
    assert "not measured on this device" in profile.sources[1]
    assert "scaling_mape" not in build_profile(folder, "h100", shape, 1).fit["norm"]


def test_widths_decide_which_table_a_kernel_takes(folder: Path, tmp_path: Path) -> None:
    data = Measurements(folder, "h100")
    (part,) = pieces(data, tiny(tmp_path, vocab_size=8192), 1, "activation")
    assert (part.model, part.tp, part.share) == ("Tiny-1B", 1, 1.0)
    wider = tiny(tmp_path, intermediate_size=3072)
    assert pieces(data, wider, 1, "norm") == (part,)
    (stretched,) = pieces(data, wider, 1, "activation")
    assert (stretched.model, stretched.share, stretched.stretch) == ("Tiny-1B", 1.0, 1.5)


def test_two_tables_share_a_width_between_them(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", ("h100",))
    first = root / "vidur/h100/Tiny-1B/mlp.csv.gz"
    wide = pd.read_csv(first).assign(n_expanded_embd=4096)
    wide["time_stats.mlp_act.median"] = 1e3 * pointwise_s(wide.num_tokens, 4096, 0.5)
    (root / "vidur/h100/Wide-1B").mkdir()
    wide.to_csv(root / "vidur/h100/Wide-1B/mlp.csv.gz", index=False)
    profile = build_profile(root, "h100", tiny(tmp_path, intermediate_size=2560), 1)
    found = _curve(profile, "activation").at(2000)
    assert found == pytest.approx(pointwise_s(2000, 2560, 0.5), rel=0.01)
    assert "activation 0.75 x Tiny-1B tp1 + 0.25 x Wide-1B tp1" in profile.sources[1]


def test_the_error_of_an_unmeasured_shape_is_that_of_leaving_its_neighbours_out(
    tmp_path: Path,
) -> None:
    root = write_folder(tmp_path, ("h100",))
    path = root / "aiconfigurator/h100_sxm/gemm/vllm/0.24.0/gemm_perf.parquet"
    table = pd.read_parquet(path)
    # One of the two neighbours of n = 2560 takes a tenth more than the others' line says.
    table.loc[table.n == 2048, "latency"] *= 1.1
    table.to_parquet(path)
    measured = GemmTable(Measurements(root, "h100"))
    assert 0.04 < measured.shape_error(GemmShape(2560, 1024)) < 0.1


@pytest.mark.parametrize(
    ("device", "changes", "tp", "words"),
    [
        ("l40s", {}, 1, "no measurements of 'l40s' are known; known devices: a100-80g, h100, h200"),
        ("a100-80g", {}, 3, "tp=3 does not divide the 8 attention heads"),
        ("tpu", {}, 1, "unknown device 'tpu'"),
        ("a100-80g", {}, 8, "no all-reduce of 8 GPUs; measured: 2, 4"),
    ],
)
def test_what_was_not_measured_is_refused(
    folder: Path, tmp_path: Path, device: str, changes: dict[str, object], tp: int, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        build_profile(folder, device, tiny(tmp_path, **changes), tp)


def test_unmeasured_gpus_are_named(folder: Path) -> None:
    data = Measurements(folder, "a100-80g")
    with pytest.raises(ConfigError, match=r"no all-reduce of 8 GPUs; measured: 2, 4"):
        data.all_reduce(8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weight_dtype": "fp8_block"}, r"GEMM with weights of fp8_block .*: bfloat16, fp8"),
        ({"kv_dtype": "int8"}, r"cache of int8 was not measured; measured: bfloat16, fp8"),
    ],
)
def test_unmeasured_dtypes_are_named(
    folder: Path, tmp_path: Path, changes: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        build_profile(folder, "h100", replace(tiny(tmp_path), **changes), 1)


def test_encoders_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="t5-base: profiles are built for decoder-only models"):
        build_profile(folder, "a100-80g", load_shape("t5-base"), 1)


# -- dtypes, experts, and what lies outside -------------------------------------------------------


def test_weights_and_caches_of_eight_bits(folder: Path, tmp_path: Path) -> None:
    shape = replace(tiny(tmp_path), weight_dtype="fp8", kv_dtype="fp8")
    profile = build_profile(folder, "h100", shape, 1)
    assert (profile.weight_dtype, profile.kv_dtype) == ("fp8", "fp8")
    assert _curve(profile, "gemm_down").at(64) == pytest.approx(
        gemm_s(64, 1024, 2048, 0.5 * FP8_PACE), rel=0.01
    )
    # The LM head keeps 16 bits.
    assert _curve(profile, "gemm_lm_head").at(64) == pytest.approx(
        gemm_s(64, 4096, 1024, 0.5), rel=0.01
    )
    decode = profile.kernels["attention_decode_8"]
    assert "attention_decode_16" not in profile.kernels and decode.seconds is not None
    assert decode.seconds[-1][-1] == pytest.approx(LAUNCH_S + 32 * 4096 * 0.25e-10, rel=0.01)
    assert "fp8, LM head bfloat16" in profile.sources[0]
    assert not profile.assumed
    save_profile(profile, tmp_path / "fp8.json")
    cost = build_cost(tiny(tmp_path), "h100", 1, str(tmp_path / "fp8.json"))
    plain = tiny(tmp_path)
    assert cost.kv_bytes_per_token == plain.kv_bytes_per_token() // 2
    assert cost.shape.weight_bytes() < 0.75 * plain.weight_bytes()
    assert cost.step_s((), 8, 8 * 1000) > 0.0


def test_counts_just_past_a_tile_are_left_out_where_graphs_run() -> None:
    x = np.array([16.0, 17.0, 32.0, 33.0, 513.0, 1024.0, 1025.0])
    assert padded(Points(x, x)).x.tolist() == [16.0, 32.0, 1024.0, 1025.0]


def test_experts_are_one_kernel(folder: Path, tmp_path: Path) -> None:
    moe = {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
    shape = tiny(tmp_path, intermediate_size=512, **moe)
    profile = build_profile(folder, "h100", shape, 1)
    assert _curve(profile, "moe_gemm").at(300) == pytest.approx(experts_s(300, 1, 0.5), rel=0.01)
    assert {"gemm_gate_up", "gemm_down", "activation"}.isdisjoint(profile.kernels)
    assert list(profile.assumed) == ["moe_route"]
    assert "experts" not in profile.sources[0] and "routing measured" in "".join(profile.sources)
    wide = tiny(tmp_path, intermediate_size=1024, **moe)
    assumed = build_profile(folder, "h100", wide, 1)
    assert "scaled by 2 above its shortest time" in assumed.assumed["moe_gemm"]
    twice = _curve(assumed, "moe_gemm").at(2000) / _curve(profile, "moe_gemm").at(2000)
    assert 1.4 < twice < 2.0


def test_heads_that_were_not_measured_are_scaled_from_the_nearest(
    folder: Path, tmp_path: Path
) -> None:
    shape = tiny(tmp_path, num_attention_heads=16, num_key_value_heads=4, head_dim=128)
    profile = build_profile(folder, "h100", shape, 1)
    found = profile.kernels["attention_prefill"].coefficients
    assert found["per_pair_s"] == pytest.approx(2 * 0.5e-11, rel=0.02)
    decode = profile.kernels["attention_decode_16"].seconds
    assert decode is not None
    assert decode[-1][-1] == pytest.approx(LAUNCH_S + 2 * 32 * 4096 * 0.5e-10, rel=0.01)
    assert "8 query and 2 KV heads of 128, scaled by 2" in profile.assumed["attention_decode_16"]
    assert "Tiny-1B at tp 1, scaled by 2" in profile.assumed["rope_write"]


def test_a_norm_of_queries_and_keys_takes_as_long_as_their_rotation(
    folder: Path, tmp_path: Path
) -> None:
    plain = build_profile(folder, "h100", tiny(tmp_path), 1)
    normed = build_profile(folder, "h100", tiny(tmp_path, model_type="qwen3"), 1)
    before, after = (_curve(each, "rope_write").at(3000) for each in (plain, normed))
    assert after == pytest.approx(2 * before, rel=0.01)
    assert "Norm of queries and keys: assumed" in "".join(normed.sources)


def test_a_model_without_gate_and_rotation(folder: Path, tmp_path: Path) -> None:
    shape = replace(tiny(tmp_path), gated_mlp=False, learned_positions=True)
    profile = build_profile(folder, "h100", shape, 1)
    assert "rope_write" not in profile.kernels
    assert _curve(profile, "gemm_gate_up").at(64) == pytest.approx(
        gemm_s(64, 2048, 1024, 0.5), rel=0.01
    )
    assert "activation" in profile.assumed


def test_trust_names_what_was_assumed(folder: Path, tmp_path: Path) -> None:
    shape = tiny(tmp_path, num_attention_heads=16, num_key_value_heads=4, head_dim=128)
    profile = build_profile(folder, "h100", shape, 1)
    save_profile(profile, tmp_path / "p.json")
    trust = build_cost(shape, "h100", 1, str(tmp_path / "p.json")).trust(Coverage())
    assert trust["assumed"] == profile.assumed
    line = assumed_warning(trust)
    assert line.startswith("h100_") and "attention_prefill" in line and "rope_write" in line
    assert assumed_warning({**trust, "assumed": {}}) == ""


def test_broken_files_are_named(tmp_path: Path) -> None:
    root, shape = write_folder(tmp_path / "data"), tiny(tmp_path)
    csv = root / "vidur/a100/Tiny-1B/mlp.csv.gz"
    with pytest.raises(InputError, match=r"nowhere: expected a folder with aiconfigurator/"):
        build_profile(tmp_path / "nowhere", "a100-80g", shape, 1)
    rows = pd.read_csv(csv)
    rows.drop(columns="time_stats.mlp_act.median").to_csv(csv, index=False)
    with pytest.raises(InputError, match=r"expected the columns time_stats\.mlp_act\.median"):
        build_profile(root, "a100-80g", shape, 1)


def test_files_that_are_no_tables_are_named(tmp_path: Path) -> None:
    root, shape = write_folder(tmp_path / "data"), tiny(tmp_path)
    csv = root / "vidur/a100/Tiny-1B/mlp.csv.gz"
    csv.write_bytes(b"no gzip")
    with pytest.raises(InputError, match=r"mlp\.csv\.gz: "):
        build_profile(root, "a100-80g", shape, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_text("x"), "expected Parquet"),
        (
            lambda path: pd.DataFrame({"m": [1], "n": [1]}).to_parquet(path),
            "expected the columns gemm_dtype, k, latency",
        ),
        (
            lambda path: pd.read_parquet(path).assign(latency=0.0).to_parquet(path),
            "latency: expected times > 0",
        ),
    ],
)
def test_a_bad_gemm_table(tmp_path: Path, change: Callable[[Path], None], words: str) -> None:
    root = write_folder(tmp_path / "data")
    change(root / "aiconfigurator/a100_sxm/gemm/vllm/0.14.0/gemm_perf.parquet")
    with pytest.raises(InputError, match=rf"gemm_perf\.parquet: {words}"):
        build_profile(root, "a100-80g", tiny(tmp_path), 1)


def test_a_profile_is_written_whole_or_not_at_all(folder: Path, tmp_path: Path) -> None:
    profile = build_profile(folder, "a100-80g", tiny(tmp_path), 1)
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(SuperInferError, match="cannot write"):
        save_profile(profile, taken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "taken"]


def _curve(profile: Profile, kernel: str) -> Curve:
    entry = profile.kernels[kernel]
    return Curve(entry.axes["tokens"], entry.seconds or ())


# -- the shipped profiles -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def public_measurements(data_dir: Path) -> Path:
    folder = data_dir / "profiles"
    if not (folder / "vidur").is_dir():
        pytest.skip(f"needs the public measurements: {folder} lacks vidur/")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "target", fit_profiles.TARGETS, ids=lambda target: "-".join(map(str, target))
)
def test_shipped_profiles_are_what_the_data_gives(
    public_measurements: Path, target: tuple[str, str, int], tmp_path: Path
) -> None:
    """Equal but for a few last digits that differ by one.

    Times are written with four digits and errors with four decimals. CPUs sum in different orders,
    so a value half-way between two such numbers may go either way.
    """
    device, model, tp = target
    name = fit_profiles.file_name(*target)
    folder = public_measurements / fit_profiles.FOLDERS.get(device, "")
    save_profile(build_profile(folder, device, load_shape(model), tp), tmp_path / name)
    rebuilt, shipped = (
        json.loads((folder / name).read_text()) for folder in (tmp_path, fit_profiles.OUT)
    )
    changed = list(changed_numbers(rebuilt, shipped))
    for place, one, other in changed:
        digit = 1e-4 if place.startswith(".fit") else 10.0 ** (math.floor(math.log10(other)) - 3)
        assert abs(one - other) < 1.01 * digit, place
    assert len(changed) <= MOST_CHANGED, changed


MOST_CHANGED = 5
"""Of the 1,329 to 4,163 fractions in a profile."""


def changed_numbers(one: Any, other: Any, place: str = "") -> Iterator[tuple[str, float, float]]:
    """Fractions that differ, and where; all else of two decoded JSON values has to be equal."""
    assert type(one) is type(other), place
    if isinstance(one, dict):
        assert list(one) == list(other), place
        for key in one:
            yield from changed_numbers(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), place
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from changed_numbers(*pair, f"{place}[{number}]")
    elif not isinstance(one, float) or ".axes." in place:
        assert one == other, place
    elif one != other:
        yield place, one, other


def test_the_script_ships_what_the_package_lists() -> None:
    shipped = {path.name for path in fit_profiles.OUT.glob("*.json")}
    assert shipped == {fit_profiles.file_name(*target) for target in fit_profiles.TARGETS}


def test_the_script_names_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"profiles: expected a folder with aiconfigurator/"):
        fit_profiles.main(["--data", str(tmp_path), "--out", str(tmp_path)])
