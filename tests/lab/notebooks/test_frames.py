"""Summaries and quantiles as frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pages import plain
from records import CLASSES, Job, build, large_record

from superinfer.errors import ConfigError
from superinfer.lab import load_run, quantile_frame, summary_frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    record = large_record(requests=600, steps=6000, mean_tokens=30)
    return plain(tmp_path_factory.mktemp("runs") / "vllm", record)


def test_a_row_per_run_and_per_class(folder: Path) -> None:
    summary = load_run(folder).summary
    frame = summary_frame(folder)
    assert frame.index.tolist() == ["vllm"]
    assert frame.loc["vllm", "p99_ttft_ms"] == summary["p99_ttft_ms"]
    classes = summary_frame({"a": folder, "b": folder}, ["submitted", "ttft_attainment"], "classes")
    assert classes.index.names == ["run", "class"]
    assert classes.loc[("b", "chat"), "submitted"] == 200
    wanted = summary["classes"]["chat"]["ttft_attainment"]
    assert classes.loc[("a", "chat"), "ttft_attainment"] == wanted
    assert np.isnan(classes.loc[("a", "batch"), "ttft_attainment"])  # it has no such target
    tenants = summary_frame(folder, ["submitted"], by="tenants")
    assert (tenants.index.names, len(tenants)) == (["run", "tenant"], 4)


def test_seeds_are_averaged(tmp_path: Path) -> None:
    runs = [
        plain(tmp_path / f"s{n}", build([Job(0, 10, 1, n, n, slo=CLASSES[0].slo)], []))
        for n in (1, 2)
    ]
    frame = summary_frame({"arm": runs}, ["mean_ttft_ms"])
    assert frame.loc["arm", "mean_ttft_ms"] == pytest.approx(1500)


def test_keys_and_groups_that_are_not_there(folder: Path) -> None:
    with pytest.raises(ConfigError, match="expected a number of the summary, got 'p99_tftt_ms'"):
        summary_frame(folder, ["p99_tftt_ms"])
    with pytest.raises(ConfigError, match="expected classes or tenants, got 'class'"):
        summary_frame(folder, by="class")  # type: ignore[arg-type]


@pytest.mark.parametrize("slo_class", [None, "chat"])
def test_quantiles_have_intervals_and_what_lies_beyond(slo_class: str | None, folder: Path) -> None:
    run = load_run(folder)
    frame = quantile_frame(run, "ttft", slo_class=slo_class)
    group = run.summary["classes"][slo_class] if slo_class else run.summary
    waits = run.requests["ttft_ms"]
    if slo_class:
        waits = waits[run.requests["class"] == slo_class]
    assert frame.index.tolist() == ["p50", "p90", "p95", "p99", "p99.9"]
    for name, key in (("p50", "median"), ("p99", "p99"), ("p99.9", "p999")):
        row = frame.loc[name]
        assert row["value_ms"] == pytest.approx(group[f"{key}_ttft_ms"])
        assert row["beyond"] == (waits > row["value_ms"]).sum()
    shown = frame["beyond"] >= 10
    assert shown["p50"] and not shown["p99.9"]
    assert (frame["low_ms"] < frame["high_ms"])[shown].all()
    assert frame["low_ms"][~shown].isna().all()
    middle = frame.loc["p50"]
    assert middle["low_ms"] < middle["value_ms"] < middle["high_ms"]


def test_too_few_requests_have_no_interval(tmp_path: Path) -> None:
    few = plain(tmp_path / "few", build([Job(i, 10, 1, i + 1, i + 1) for i in range(5)], []))
    frame = quantile_frame(few)
    assert frame.loc["p50", "value_ms"] == pytest.approx(1000)
    assert frame["low_ms"].isna().all()


def test_metrics_and_classes_without_quantiles(folder: Path) -> None:
    with pytest.raises(ConfigError, match="expected ttft or e2el, got 'itl'"):
        quantile_frame(folder, "itl")
    with pytest.raises(ConfigError, match="expected ttft or e2el, got 'tpot'"):
        quantile_frame(folder, "tpot")
    with pytest.raises(ConfigError, match="expected a class of batch, chat, code, got 'chta'"):
        quantile_frame(folder, slo_class="chta")
