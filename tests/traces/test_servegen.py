"""Requests drawn from ServeGen's clients, against their files.

Tolerances are five standard errors: of a renewal process, the count in a time t has the variance
rate x t x CV^2 (Cox, "Renewal Theory", 1962, section 4.2); of n draws, the mean has the variance of
one draw over n. A test of a few dozen such figures then fails by chance once in 10^4 times at most,
and the seeds are fixed.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import one_line
import pytest
from public_data import needed

from superinfer.errors import ConfigError, InputError
from traces.servegen import Draw, arrival_times, sample_servegen
from traces.servegen_files import Client, Window, read_clients

ERRORS = 5.0
SHORT, LONG = {10: 0.25, 30: 0.75}, {1000: 1.0}


def row(window: int, rate: float, family: str = "Gamma", shape: float = 1.0) -> str:
    """One line of a trace file; its CV and scale are not used."""
    return f"{600 * window},{rate},1.5,{family if rate else ''},{shape if rate else 0},2.0"


def dataset(*windows: tuple[int, dict[int, float], dict[int, float]]) -> str:
    """A dataset file of windows (start, pdf of prompts, pdf of answers)."""
    return json.dumps(
        {str(s): {"input_tokens": str(i), "output_tokens": str(o)} for s, i, o in windows}
    )


def client(folder: Path, name: str, rows: list[str], lengths: str | None = None) -> None:
    """The files of one client; without `lengths` there is no dataset file."""
    (folder / f"{name}-trace.csv").write_text("\n".join(rows) + "\n")
    if lengths is not None:
        (folder / f"{name}-dataset.json").write_text(lengths)


def plain(folder: Path, *rows: str, name: str = "chunk-0") -> Path:
    """A folder of one client with the same lengths at all times."""
    client(folder, name, list(rows), dataset((0, SHORT, LONG)))
    return folder


def draw(folder: Path, seed: int = 0, **options: Any) -> list[Draw]:
    """Everything that is drawn from the first hour, unless told otherwise."""
    settings = {"duration_s": 3600.0, "start_s": 0.0, "rate_scale": 1.0, **options}
    return list(sample_servegen(folder, random=np.random.RandomState(seed), **settings))


def error_of(folder: Path, **options: Any) -> str:
    """The one line with which drawing ends."""
    return one_line.error_of(lambda: draw(folder, **options))


WINDOWS = [
    Window(0.5, "Gamma", 0.25),
    Window(0.5, "Gamma", 3.0),
    Window(0.5, "Weibull", 0.5),
    Window(0.5, "Weibull", 2.0),
]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("length_s", [30.0, 600.0])
def test_a_window_of_any_length_has_its_rate(window: Window, length_s: float) -> None:
    random = np.random.RandomState(1)
    counts = [len(arrival_times(window, 1.0, length_s, random)) for _ in range(1500)]
    error = np.std(counts) / len(counts) ** 0.5
    assert abs(np.mean(counts) - 0.5 * length_s) < ERRORS * error
    assert error < 0.03 * 0.5 * length_s  # so that a biased border would be seen


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_gaps_have_the_moments_of_their_family(window: Window) -> None:
    times = arrival_times(window, 2.0, 50_000.0, np.random.RandomState(2))
    gaps = np.diff(times)
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(1.0, abs=ERRORS * window.gap_cv / len(gaps) ** 0.5)
    assert gaps.std() / gaps.mean() == pytest.approx(window.gap_cv, rel=0.1)


def test_the_cv_of_each_family() -> None:
    assert Window(1.0, "Gamma", 0.25).gap_cv == 2.0
    # Weibull with shape 1/2: mean 2, second moment 24.
    assert Window(1.0, "Weibull", 0.5).unit_mean == pytest.approx(2.0)
    assert Window(1.0, "Weibull", 0.5).gap_cv == pytest.approx(5**0.5)
    assert Window(1.0, "Weibull", 1.0).gap_cv == pytest.approx(1.0)
    assert Window(1.0, "Weibull", 1e9).gap_cv == pytest.approx(0.0, abs=1e-6)


def test_each_window_has_its_own_rate_and_silence(tmp_path: Path) -> None:
    plain(tmp_path, row(0, 2.0), row(1, 0), row(3, 0.5, "Weibull", 0.8))
    draws = draw(tmp_path)
    counts = Counter(int(arrival_s // 600) for arrival_s, *_ in draws)
    assert set(counts) == {0, 3}
    for window, expected, cv in ((0, 1200, 1.0), (3, 300, Window(1, "Weibull", 0.8).gap_cv)):
        assert abs(counts[window] - expected) < ERRORS * cv * expected**0.5


def test_requests_come_in_order_of_time(tmp_path: Path) -> None:
    for name in ("chunk-0", "chunk-1"):
        plain(tmp_path, row(0, 1.0), row(1, 3.0), name=name)
    draws = draw(tmp_path)
    assert all(before[0] <= after[0] for before, after in pairwise(draws))
    assert {name for *_, name in draws} == {"chunk-0", "chunk-1"}


def test_the_rate_is_scaled_and_the_variation_is_not(tmp_path: Path) -> None:
    plain(tmp_path, *(row(window, 0.5, "Gamma", 0.5) for window in range(6)))
    gaps = np.diff([arrival_s for arrival_s, *_ in draw(tmp_path, rate_scale=10.0)])
    assert abs(len(gaps) - 18_000) < ERRORS * (2 * 18_000) ** 0.5
    assert gaps.std() / gaps.mean() == pytest.approx(2**0.5, rel=0.05)


def test_a_part_of_the_days_begins_at_zero(tmp_path: Path) -> None:
    plain(tmp_path, row(0, 0.1), row(1, 4.0), row(2, 0))
    draws = draw(tmp_path, start_s=900.0, duration_s=450.0)
    arrivals = [arrival_s for arrival_s, *_ in draws]
    assert 0 <= arrivals[0] < 5
    assert 295 < arrivals[-1] < 300
    assert abs(len(draws) - 1200) < ERRORS * 1200**0.5


def test_a_duration_ends_within_a_window(tmp_path: Path) -> None:
    plain(tmp_path, row(0, 4.0))
    draws = draw(tmp_path, duration_s=100.0)
    assert abs(len(draws) - 400) < ERRORS * 400**0.5
    assert draws[-1][0] < 100


def test_lengths_are_those_of_their_time_or_of_the_nearest(tmp_path: Path) -> None:
    rows = [row(window, 1.0) for window in range(6)]
    lengths = dataset((0, {}, {}), (1200, {5: 1.0}, {6: 1.0}), (2400, {7: 1.0}, {8: 1.0}))
    client(tmp_path, "chunk-0", rows, lengths)
    pairs = {(int(t // 1200), prompt, answer) for t, prompt, answer, _ in draw(tmp_path)}
    assert pairs == {(0, 5, 6), (1, 5, 6), (2, 7, 8)}


def test_lengths_follow_their_distribution(tmp_path: Path) -> None:
    draws = draw(plain(tmp_path, row(0, 20.0)))
    prompts = np.array([prompt for _, prompt, *_ in draws])
    assert set(prompts) == {10, 30}
    # 20 x a Bernoulli variable with chance 3/4.
    error = 20 * (0.75 * 0.25 / len(prompts)) ** 0.5
    assert abs(prompts.mean() - 25.0) < ERRORS * error
    assert {answer for *_, answer, _ in draws} == {1000}


def test_probabilities_need_not_sum_to_one(tmp_path: Path) -> None:
    client(tmp_path, "chunk-0", [row(0, 5.0)], dataset((0, {1: 2.0, 2: 2.0}, {3: 0.5})))
    prompts = [prompt for _, prompt, *_ in draw(tmp_path)]
    assert abs(np.mean(prompts) - 1.5) < ERRORS * 0.5 / len(prompts) ** 0.5


@pytest.mark.parametrize("lengths", [None, dataset((0, {}, {}))])
def test_a_client_without_lengths_borrows_them_by_rate(tmp_path: Path, lengths: str | None) -> None:
    client(tmp_path, "chunk-0", [row(0, 10.0)], lengths)
    client(tmp_path, "chunk-1", [row(0, 3.0)], dataset((0, {11: 1.0}, {12: 1.0})))
    client(tmp_path, "chunk-2", [row(0, 1.0)], dataset((0, {21: 1.0}, {22: 1.0})))
    borrowed = [(i, o) for _, i, o, name in draw(tmp_path) if name == "chunk-0"]
    assert set(borrowed) == {(11, 12), (21, 22)}
    share = borrowed.count((11, 12)) / len(borrowed)
    assert abs(share - 0.75) < ERRORS * (0.75 * 0.25 / len(borrowed)) ** 0.5
    # They are mixed: neither lender's come in one run.
    changes = sum(a != b for a, b in pairwise(borrowed))
    assert changes > len(borrowed) / 4


def test_a_lender_that_is_silent_lends_all_the_same(tmp_path: Path) -> None:
    client(tmp_path, "chunk-0", [row(0, 1.0)])
    client(tmp_path, "chunk-1", [row(1, 1.0)], dataset((0, {11: 1.0}, {12: 1.0})))
    assert {draw[1:3] for draw in draw(tmp_path)} == {(11, 12)}


def test_equal_seeds_give_equal_draws(tmp_path: Path) -> None:
    plain(tmp_path, row(0, 1.0), row(1, 2.0, "Weibull", 0.7))
    assert draw(tmp_path, 3) == draw(tmp_path, 3)
    assert draw(tmp_path, 3) != draw(tmp_path, 4)


def test_a_client_has_a_stream_of_its_own(tmp_path: Path) -> None:
    plain(tmp_path, row(0, 1.0), row(1, 2.0))
    alone = draw(tmp_path)
    plain(tmp_path, row(0, 5.0), name="chunk-1")
    client(tmp_path, "chunk-2", [row(0, 1.0), row(1, 1.0)])
    together = draw(tmp_path)
    assert [item for item in together if item[3] == "chunk-0"] == alone
    borrower = [item[0] for item in together if item[3] == "chunk-2"]
    (tmp_path / "chunk-1-trace.csv").unlink()
    (tmp_path / "chunk-1-dataset.json").unlink()
    assert [item[0] for item in draw(tmp_path) if item[3] == "chunk-2"] == borrower


def test_equal_clients_do_not_send_at_equal_times(tmp_path: Path) -> None:
    for name in ("chunk-0", "chunk-1"):
        plain(tmp_path, row(0, 1.0), name=name)
    times = [arrival_s for arrival_s, *_ in draw(tmp_path)]
    assert len(set(times)) == len(times)


def test_an_archive_is_as_good_as_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    plain(folder, row(0, 1.0))
    archive = tmp_path / "published" / "m.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for file in folder.iterdir():
            tar.add(file, f"m/{file.name}")
    assert draw(archive) == draw(archive.parent) == draw(folder)
    with tarfile.open(archive.parent / "n.tar", "w") as tar:
        tar.add(folder / "chunk-0-trace.csv", "chunk-0-trace.csv")
    assert "expected one file chunk-0-trace.csv, got " in error_of(archive.parent)


def test_nothing_is_drawn_before_it_is_asked_for(tmp_path: Path) -> None:
    plain(tmp_path, *(row(window, 100.0) for window in range(100)))
    draws = sample_servegen(
        tmp_path, duration_s=60_000, start_s=0, rate_scale=1, random=np.random.RandomState(0)
    )
    assert all(item[0] < 1 for item in islice(draws, 5))


BAD_ROWS = {
    "columns": ("0,1,1,Gamma,1", "expected 6 columns (start, rate, CV, family, two parameters), "),
    "start": ("10,1,1,Gamma,1,1", 'start: expected a multiple of 600 s, got "10"'),
    "order": ("0,1,1,Gamma,1,1", "start: expected one after 0, got 0"),
    "rate": ("600,-1,1,Gamma,1,1", 'rate: expected a number >= 0, got "-1"'),
    "text": ("600,fast,1,Gamma,1,1", 'rate: expected a number >= 0, got "fast"'),
    "family": ("600,1,1,Pareto,1,1", 'family: expected Gamma or Weibull, got "Pareto"'),
    "shape": ("600,1,1,Gamma,0,1", "first parameter: expected a shape >= 0.001, got"),
    "weibull": ("600,1,1,Weibull,0.01,1", "first parameter: expected a shape >= 0.05, got"),
    "endless": ("600,inf,1,Gamma,1,1", "rate: expected a number >= 0, got"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_named(tmp_path: Path, case: str) -> None:
    line, expected = BAD_ROWS[case]
    plain(tmp_path, row(0, 1.0), line)
    place = tmp_path / "chunk-0-trace.csv"
    assert error_of(tmp_path).startswith(f"{place}:2: {expected}")


BAD_PDFS = ["{1: 0.5, 2}", "{a: 1}", "{0: 1.0}", "{1.5: 1.0}", "{1: -1}", "{1: 0.0}", "[1]", "{1:1"]


@pytest.mark.parametrize("text", [*BAD_PDFS, "{99999999: 1}"])
def test_a_bad_distribution_is_named(tmp_path: Path, text: str) -> None:
    lengths = json.dumps({"0": {"input_tokens": text, "output_tokens": "{1: 1}"}})
    client(tmp_path, "chunk-0", [row(0, 1.0)], lengths)
    place = tmp_path / "chunk-0-dataset.json"
    assert error_of(tmp_path).startswith(f"{place}: 0.input_tokens: expected a text like ")


def test_an_answer_of_no_token_counts_as_one(tmp_path: Path) -> None:
    lengths = json.dumps({"0": {"input_tokens": "{5: 1}", "output_tokens": "{0: 0.5, 1: 0.5}"}})
    client(tmp_path, "chunk-0", [row(0, 1.0)], lengths)
    assert {answer for _, _, answer, _ in draw(tmp_path)} == {1}


BAD_DATASETS = {
    "": "expected JSON, got a broken document: Input data was truncated",
    "{": "expected JSON, got a broken document: Input data was truncated",
    "[]": "expected an object, got a list",
    '{"0": 1}': "0: expected an object, got 1",
    '{"x": {}}': 'window: expected a number >= 0, got "x"',
    '{"0": {"input_tokens": "{}"}}': "0.output_tokens: expected a text, got nothing",
}


@pytest.mark.parametrize("text", BAD_DATASETS)
def test_a_bad_dataset_file_is_named(tmp_path: Path, text: str) -> None:
    client(tmp_path, "chunk-0", [row(0, 1.0)], text)
    assert error_of(tmp_path) == f"{tmp_path / 'chunk-0-dataset.json'}: {BAD_DATASETS[text]}"


def test_a_folder_without_clients_is_an_error(tmp_path: Path) -> None:
    expected = f"{tmp_path}: expected files like chunk-0-trace.csv, got none"
    assert error_of(tmp_path) == expected
    client(tmp_path, "chunk-0", [row(0, 1.0)])
    assert "expected length distributions" in error_of(tmp_path)
    assert "no such file" in error_of(tmp_path / "nowhere")


BAD_ARGUMENTS = [
    ("duration_s", 0.0),
    ("duration_s", float("inf")),
    ("rate_scale", -1.0),
    ("rate_scale", float("nan")),
    ("start_s", -1.0),
    ("start_s", 600.0),
]


@pytest.mark.parametrize(("name", "value"), BAD_ARGUMENTS)
def test_bad_arguments_are_errors(tmp_path: Path, name: str, value: float) -> None:
    plain(tmp_path, row(0, 1.0))
    with pytest.raises(ConfigError, match=f"^{name}: expected a "):
        draw(tmp_path, **{name: value})


def test_files_are_read_before_the_first_draw(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        sample_servegen(
            tmp_path, duration_s=1, start_s=0, rate_scale=1, random=np.random.RandomState(0)
        )


@pytest.fixture(params=["reason_deepseek-r1", "language_m-small"])
def published(request: pytest.FixtureRequest) -> Path:
    """One of ServeGen's folders, as an archive."""
    return needed(f"traces/servegen/{request.param}.tar.gz")


START_S, HOURS_S = 36_000.0, 7200.0


def expected_count(clients: list[Client], scale: float) -> tuple[float, float]:
    """Requests of two hours from START_S, and their standard deviation."""
    windows = [
        window
        for client in clients
        for start, window in client.windows.items()
        if START_S <= start < START_S + HOURS_S
    ]
    counts = [scale * window.rate_per_s * 600 for window in windows]
    spread = sum(n * window.gap_cv**2 for n, window in zip(counts, windows, strict=True))
    return sum(counts), spread**0.5


def test_every_published_distribution_is_read(published: Path) -> None:
    known = [client.lengths for client in read_clients(published) if client.lengths is not None]
    for lengths in known:
        for start_s in lengths.starts:
            assert all(each.mean >= 1 for each in lengths.at(start_s))


def test_published_clients_keep_rate_and_lengths(published: Path) -> None:
    clients = read_clients(published)
    expected, _ = expected_count(clients, 1.0)
    scale = 60_000 / expected
    draws = draw(published, start_s=START_S, duration_s=HOURS_S, rate_scale=scale)
    expected, deviation = expected_count(clients, scale)
    assert abs(len(draws) - expected) < ERRORS * deviation
    counts = Counter(name for *_, name in draws)
    known = [client for client in clients if client.lengths is not None]
    for busy in sorted(known, key=lambda known_client: -counts[known_client.name])[:5]:
        assert counts[busy.name] > 500
        for column in (0, 1):
            check_lengths(busy, draws, column)


def check_lengths(busy: Client, draws: list[Draw], column: int) -> None:
    """The mean of one client's prompts or answers, against its distributions."""
    assert busy.lengths is not None
    mine = [item for item in draws if item[3] == busy.name]
    at = [600 * int((START_S + item[0]) // 600) for item in mine]
    means = {time_s: busy.lengths.at(time_s)[column].mean for time_s in set(at)}
    expected = np.mean([means[time_s] for time_s in at])
    lengths = np.array([item[1 + column] for item in mine])
    assert abs(lengths.mean() - expected) < ERRORS * lengths.std() / len(mine) ** 0.5


def test_published_gaps_keep_their_variation(published: Path) -> None:
    windows = [window for client in read_clients(published) for window in client.windows.values()]
    smooth = [window for window in windows if 0.3 < window.gap_cv < 2.0]
    assert len(smooth) > len(windows) / 2
    for number, window in enumerate(smooth[:: len(smooth) // 20]):
        random = np.random.RandomState(number)
        gaps = np.diff(arrival_times(window, 1.0, 20_000 / window.rate_per_s, random))
        assert gaps.std() / gaps.mean() == pytest.approx(window.gap_cv, rel=0.15)
        assert gaps.mean() * window.rate_per_s == pytest.approx(1.0, abs=0.1)
