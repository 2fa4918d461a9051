"""The fits: small cases worked by hand, and the shipped profiles refitted from the data."""

from __future__ import annotations

import json

import numpy as np
import pytest

from superinfer.costs import list_profiles
from superinfer.costs.profile import profile_json

pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

from experiments import fit_profiles, kernel_fits
from experiments.kernel_fits import Points

DATA = fit_profiles.data_folder()
with_data = pytest.mark.skipif(
    not (DATA / "profiles" / "vidur").is_dir(),
    reason="needs the public measurements: set SUPERINFER_DATA",
)


def test_thirds_hold_out_every_inner_point_once() -> None:
    masks = list(kernel_fits.thirds(11))
    held = np.sum(masks, axis=0)
    assert held.tolist() == [0, *[1] * 9, 0]


def test_isotonic_pools_violators_by_geometric_mean() -> None:
    found = kernel_fits.isotonic(np.array([1.0, 4.0, 1.0, 3.0]))
    assert found == pytest.approx([1.0, 2.0, 2.0, 3.0])


def test_thin_keeps_the_corners() -> None:
    x = np.arange(1.0, 10.0)
    y = np.where(x < 5, 4.0, 4.0 + (x - 4))
    assert [int(x[i]) for i in kernel_fits.thin(x, y)] == [1, 4, 9]


def test_spikes_are_dropped() -> None:
    points = Points(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 1.1]))
    assert kernel_fits.despiked(points).x.tolist() == [1.0, 3.0]


def test_a_line_is_fitted_without_error() -> None:
    x = np.arange(1.0, 50.0)
    fitted = kernel_fits.fit_table(Points(x, 1e-6 * (3 + x)), "tokens")
    assert fitted.errors.max() < 0.006
    assert fitted.curve.at(100.0) == pytest.approx(103e-6, rel=0.01)


def test_two_regimes_keep_their_jump() -> None:
    x = np.array([1.0, 2.0, 3.0, 8.0, 9.0, 10.0])
    y = np.array([1.0, 2.0, 3.0, 80.0, 90.0, 100.0])
    curve = kernel_fits.fit_regimes(Points(x, y), "bytes", 8.0).curve
    assert curve.at(7.0) == pytest.approx(7.0)
    assert curve.at(8.0) == pytest.approx(80.0)


def test_stairs_rise_at_tile_edges() -> None:
    x = np.array([1.0, 64.0, 128.0, 192.0, 1024.0])
    curve = kernel_fits.fit_stairs(Points(x, x / 64))
    assert curve.at(65.0) == curve.at(128.0) == 2.0
    assert curve.at(17.0) == curve.at(64.0) == 1.0
    assert curve.at(1024.0) == 16.0


def test_decode_grid_fills_holes_and_never_falls() -> None:
    rows, columns = np.array([1.0, 2.0]), np.array([1.0, 2.0, 4.0])
    values = np.array([[1.0, 2.0, 4.0], [3.0, 4.0, np.nan]])
    grid = kernel_fits.decode_grid(rows, columns, values)
    # The row above grows by 1 per token of total context, and two sequences add two per step.
    assert grid.at(2, 4) == pytest.approx(8.0)


def test_relative_fit_recovers_coefficients() -> None:
    chunk = np.array([16.0, 64.0, 256.0, 1024.0, 4096.0, 128.0, 512.0])
    batch = np.array([1.0, 2.0, 4.0, 8.0, 1.0, 64.0, 2.0])
    features = kernel_fits.causal_features(batch, chunk, 2.0 * chunk)
    truth = np.array([1e-5, 3e-7, 2e-8, 9e-11, 1e-8])
    assert kernel_fits.relative_fit(features, features @ truth) == pytest.approx(truth, rel=1e-4)


@with_data
@pytest.mark.parametrize(
    "target", fit_profiles.TARGETS, ids=lambda target: "-".join(map(str, target))
)
def test_shipped_profiles_are_what_the_data_gives(target: tuple[str, str, int]) -> None:
    again = json.loads(json.dumps(profile_json(fit_profiles.fit_profile(DATA, *target))))
    name = next(name for name in list_profiles() if name[:3] == target)
    stored = json.loads(name.path.read_text())
    assert again["fit"].keys() == stored["fit"].keys()
    for kernel, entry in again["fit"].items():
        assert entry == pytest.approx(stored["fit"][kernel], abs=2e-4), kernel
        assert entry["heldout_mape"] <= (0.10 if kernel.startswith("attention") else 0.05), kernel
    for kernel, table in again["kernels"].items():
        assert table["axes"] == stored["kernels"][kernel]["axes"], kernel
        _same(table, stored["kernels"][kernel])


def _same(found: dict[str, object], stored: dict[str, object]) -> None:
    if found["model"] is None:
        assert np.allclose(np.array(found["seconds"]), np.array(stored["seconds"]), rtol=1e-3)
    else:
        assert found["coefficients"] == pytest.approx(stored["coefficients"], rel=1e-3)


@with_data
def test_a_missing_data_folder_is_named(tmp_path: object) -> None:
    with pytest.raises(FileNotFoundError, match="set SUPERINFER_DATA"):
        fit_profiles.Data(DATA / "nowhere", "a100-80g")
