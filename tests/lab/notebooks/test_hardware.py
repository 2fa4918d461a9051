"""Recorded pairs of device and simulation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from superinfer.errors import ConfigError, InputError
from superinfer.lab import gain_frame, load_resimulated, load_steady, plot_errors, plot_parity

RESULTS = Path(__file__).resolve().parents[3] / "experiments" / "results"
H200 = RESULTS / "h200-early" / "resimulated.json"
STEADY = RESULTS / "simulated" / "accuracy" / "steady" / "summary.json"


def made(path: Path) -> Path:
    """Two policies and two cost models by hand."""

    def pairs(device: float, simulated: float) -> dict[str, dict[str, float]]:
        return {
            "mean_ttft_ms": {"device": device, "simulated": simulated},
            "rotations": {"device": 0, "simulated": 3},
        }

    policies = {
        "vllm": {"less": pairs(100, 80), "whole": pairs(100, 110)},
        "rotating": {"less": pairs(50, 20), "whole": pairs(50, 44)},
    }
    path.write_text(json.dumps({"policies": policies}))
    return path


def test_rows_and_errors_by_hand(tmp_path: Path) -> None:
    frame = load_resimulated(made(tmp_path / "x.json"))
    assert len(frame) == 8
    row = frame.set_index(["group", "cost_model", "metric"]).loc[("vllm", "whole", "mean_ttft_ms")]
    assert row["error"] == pytest.approx(0.1)
    assert frame.loc[frame["metric"] == "rotations", "error"].isna().all()
    whole = frame[frame["cost_model"] == "whole"]
    gains = gain_frame(whole, "vllm", "rotating")
    assert gains.index.tolist() == ["mean_ttft_ms"]  # the other has no base
    assert gains.loc["mean_ttft_ms", "device"] == pytest.approx(-0.5)
    assert gains.loc["mean_ttft_ms", "simulated"] == pytest.approx(-0.6)


def test_gains_of_what_is_not_there(tmp_path: Path) -> None:
    frame = load_resimulated(made(tmp_path / "x.json"))
    with pytest.raises(ConfigError, match="expected a frame with one cost model"):
        gain_frame(frame, "vllm", "rotating")
    with pytest.raises(ConfigError, match="expected one of vllm, rotating, got 'edf'"):
        gain_frame(frame[frame["cost_model"] == "less"], "vllm", "edf")


def test_the_recordings_are_read_as_they_are() -> None:
    stored = json.loads(H200.read_text(encoding="utf-8"))["policies"]["rotating"]
    frame = load_resimulated(H200)
    assert list(dict.fromkeys(frame["cost_model"])) == list(stored)
    whole = list(stored)[-1]
    rows = frame.query("group == 'rotating' and cost_model == @whole").set_index("metric")
    pair = stored[whole]["p99_tpot_ms"]
    assert rows.loc["p99_tpot_ms", ["device", "simulated"]].tolist() == list(pair.values())
    steady = load_steady(STEADY)
    recorded = json.loads(STEADY.read_text(encoding="utf-8"))["median_errors"]["all"]
    for key in ("ttft", "tpot"):
        errors = steady.loc[steady["metric"] == f"{key}_ms", "error"]
        assert len(errors) == recorded["points"]
        assert errors.abs().median() == pytest.approx(recorded[key])


def test_points_of_parity_and_of_errors(tmp_path: Path) -> None:
    frame = load_resimulated(made(tmp_path / "x.json"))
    whole = frame[frame["cost_model"] == "whole"]
    axes = plot_parity(whole)
    FigureCanvasAgg(axes.figure).draw()  # type: ignore[arg-type]
    shown = {line.get_label(): line.get_data() for line in axes.lines}
    assert [float(np.asarray(part)[0]) for part in shown["vllm"]] == [100, 110]
    assert "TTFT mean" in axes.get_title()
    errors = plot_errors(whole, ["mean_ttft_ms"])
    assert {
        str(line.get_label()): float(np.asarray(line.get_xdata())[0]) for line in errors.lines[:2]
    } == pytest.approx({"vllm": 10, "rotating": -12})
    assert [label.get_text() for label in errors.get_yticklabels()] == ["TTFT mean"]


def test_nothing_to_draw(tmp_path: Path) -> None:
    frame = load_resimulated(made(tmp_path / "x.json"))
    with pytest.raises(ConfigError, match="expected at least one point above 0"):
        plot_parity(frame[frame["metric"] == "rotations"])
    with pytest.raises(ConfigError, match="metrics: expected some of mean_ttft_ms, rotations"):
        plot_errors(frame, ["p99_ttft_ms"])


@pytest.mark.parametrize("load", [load_resimulated, load_steady])
def test_other_files(load: object, tmp_path: Path) -> None:
    assert callable(load)
    path = tmp_path / "x.json"
    with pytest.raises(InputError, match="cannot read: No such file"):
        load(path)
    for text in ("", "{}", "[]", '{"policies": {"a": 3}, "points": [1]}', "[" * 100_000):
        path.write_text(text)
        with pytest.raises(InputError, match="expected recorded pairs of device and simulation"):
            load(path)
