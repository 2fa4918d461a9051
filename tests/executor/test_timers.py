"""The steady clock, by a processor whose speed the test sets; and where it can be used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from executor_runs import call

from executor import replay
from executor.clocks import yardstick as yardsticks
from executor.clocks.clock import RealTime
from executor.clocks.timers import (
    FIRST_SAMPLES,
    WINDOW,
    SteadyTimer,
    WallTimer,
    current_timer,
    timed_by,
)
from executor.clocks.yardstick import timer_for, yardstick
from superinfer.costs import (
    CalibratedCost,
    list_profiles,
    load_profile,
    load_shape,
    write_profile,
)
from superinfer.errors import ConfigError, InputError

CPU = torch.device("cpu")
STICK_S = 0.005


class Processor:
    """Counts the seconds of work that takes `slowness` times as long as it would at first."""

    def __init__(self) -> None:
        self.now_s, self.slowness, self.sticks = 100.0, 1.0, 0

    def work(self, seconds: float) -> None:
        self.now_s += seconds * self.slowness

    def stick(self) -> None:
        self.sticks += 1
        self.work(STICK_S)

    def timer(self, reference_s: float = 0.0) -> SteadyTimer:
        return SteadyTimer(self.stick, reference_s, lambda: self.now_s, every_s=0.1)


def run(processor: Processor, timer: SteadyTimer, seconds: float) -> None:
    """Pieces of 20 ms with rests between them."""
    for _ in range(round(seconds / 0.02)):
        processor.work(0.02)
        timer.rest()


def test_work_counts_and_the_yardstick_does_not() -> None:
    processor = Processor()
    timer = processor.timer()
    begin_s = timer.read()
    run(processor, timer, 2.0)
    assert timer.read() - begin_s == pytest.approx(2.0)
    assert processor.sticks == 1 + len(timer.samples)
    assert FIRST_SAMPLES + 15 <= len(timer.samples) <= FIRST_SAMPLES + 21


def test_a_slower_machine_gives_the_same_times() -> None:
    """Once the window has seen it; until then at most the slowdown of as many samples."""
    processor = Processor()
    timer = processor.timer()
    run(processor, timer, 1.0)
    processor.slowness = 1.5
    begin_s = timer.read()
    run(processor, timer, 1.0)
    assert 1.0 <= timer.read() - begin_s <= 1.0 + 0.5 * WINDOW * 0.12
    begin_s = timer.read()
    run(processor, timer, 4.0)
    assert timer.read() - begin_s == pytest.approx(4.0)
    processor.slowness = 0.5
    run(processor, timer, 4.0)
    begin_s = timer.read()
    run(processor, timer, 4.0)
    assert timer.read() - begin_s == pytest.approx(4.0)


def test_what_was_timed_keeps_the_speed_that_was_known() -> None:
    """A look at the yardstick changes nothing that was read before."""
    processor = Processor()
    timer = processor.timer()
    processor.slowness = 2.0
    processor.work(0.2)
    before = timer.read()
    timer.rest()
    assert timer.read() == pytest.approx(before)


def test_one_disturbed_sample_changes_no_speed() -> None:
    processor = Processor()
    timer = processor.timer()
    processor.slowness = 50.0
    processor.work(0.1 / 50)
    timer.rest()
    processor.slowness = 1.0
    begin_s = timer.read()
    processor.work(0.05)
    assert timer.read() - begin_s == pytest.approx(0.05)


def test_a_reference_of_another_day_counts() -> None:
    """A run is timed at the speed that the profile's yardstick had."""
    processor = Processor()
    timer = processor.timer(reference_s=STICK_S / 2)
    begin_s = timer.read()
    processor.work(1.0)
    assert timer.read() - begin_s == pytest.approx(0.5)
    report = timer.report()
    assert report["yardstick_s"] == STICK_S / 2 and report["median"] == pytest.approx(2.0)
    assert report["p5"] == pytest.approx(2.0) and report["samples"] == FIRST_SAMPLES


def test_idle_time_is_left_out() -> None:
    """The clock jumps: a processor that does nothing does not tell when an arrival has come."""
    processor = Processor()
    timer = processor.timer()
    clock = RealTime(list, lambda: False, timer=timer)
    assert clock.sleep(0.0, 1000.0) == pytest.approx(1000.0)
    processor.work(0.3)
    assert clock.step_end(None, 0, 1000.0, None) == pytest.approx(1000.3)  # type: ignore[arg-type]
    taken = len(timer.samples)
    assert clock.read() == pytest.approx(1000.3)
    assert taken == FIRST_SAMPLES + 1
    assert not WallTimer().skips_idle


def test_a_timer_is_chosen_for_what_is_inside() -> None:
    """And no longer, whatever happens there."""
    timer = Processor().timer()
    assert isinstance(current_timer(), WallTimer)
    with pytest.raises(ZeroDivisionError), timed_by(timer):
        assert current_timer() is timer
        _ = 1 / 0
    assert isinstance(current_timer(), WallTimer)


def test_the_yardstick_is_a_step_of_the_shipped_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timed by the time of this thread, in whose seconds no other thread's work is."""
    monkeypatch.setattr(yardsticks.torch, "get_num_threads", lambda: 1)
    work = yardstick()
    work()
    timer = timer_for("steady", CPU)
    assert isinstance(timer, SteadyTimer)
    assert timer.reference_s > 0 and len(timer.samples) == FIRST_SAMPLES
    assert isinstance(timer_for("wall", CPU), WallTimer)


@pytest.mark.parametrize(
    ("clock", "device", "threads", "expected"),
    [
        ("sun", "cpu", 1, "expected one of wall, steady, got 'sun'"),
        ("steady", "cuda", 1, "only on a CPU"),
        ("steady", "cpu", 2, "set OMP_NUM_THREADS=1"),
    ],
)
def test_where_there_is_no_steady_clock(
    monkeypatch: pytest.MonkeyPatch, clock: str, device: str, threads: int, expected: str
) -> None:
    monkeypatch.setattr(yardsticks.torch, "get_num_threads", lambda: threads)
    with pytest.raises(ConfigError, match=expected):
        timer_for(clock, torch.device(device))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--clock", "sun"], "--clock: expected one of wall, steady, got 'sun'"),
        (["--clock", "steady", "--set", "run.tp=2"], "counts one process; run.tp is 2"),
    ],
)
def test_a_clock_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    expected: str,
) -> None:
    monkeypatch.setattr(yardsticks.torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(replay, "load_workload", lambda config: 1 / 0)
    code, _, errors = call(monkeypatch, capsys, "run", "t.jsonl", "--device", "cpu", *options)
    assert code == 2 and expected in errors and errors.count("\n") == 1


def test_a_run_says_by_which_clock_it_went(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An hour between two requests is jumped over, and the yardstick's samples are told."""
    monkeypatch.setattr(yardsticks.torch, "get_num_threads", lambda: 1)
    trace = tmp_path / "trace.jsonl"
    rows = [{"timestamp": 3.6e6 * i, "input_length": 20, "output_length": 3} for i in range(2)]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = ("--device", "cpu", "--kv-blocks", 30, "--clock", "steady", "--json", "--no-plots")
    code, text, _ = call(monkeypatch, capsys, "run", trace, *options, "--out", tmp_path / "out")
    summary = json.loads(text)
    found = summary["run"]
    assert code == 0 and summary["completed"] == 2 and summary["duration"] > 3600
    assert (found["clock"], found["idle_time_left_out"]) == ("steady", True)
    assert found["yardstick"]["samples"] >= FIRST_SAMPLES and found["yardstick"]["yardstick_s"] > 0


@pytest.mark.parametrize(("stick", "reference_s"), [({"yardstick_s": 0.004}, 0.004), ({}, 0.0)])
def test_a_run_goes_by_the_reference_of_its_profile(
    stick: dict[str, float], reference_s: float
) -> None:
    shipped = load_profile(list_profiles()[0].path)
    cost = CalibratedCost(replace(shipped, yardstick=stick), load_shape(shipped.model))
    assert replay._reference_s(SimpleNamespace(cost=cost)) == reference_s  # type: ignore[arg-type]


def test_a_profile_keeps_its_yardstick(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    stick = {"yardstick_s": 0.004, "samples": 9, "median": 1.0, "p5": 0.9, "p95": 1.1}
    write_profile(replace(load_profile(list_profiles()[0].path), yardstick=stick), path)
    assert load_profile(path).yardstick == stick
    data = json.loads(path.read_text(encoding="utf-8"))
    data["yardstick"]["yardstick_s"] = 0.0
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(InputError, match=r"yardstick.yardstick_s: expected a number > 0"):
        load_profile(path)


@pytest.mark.parametrize(
    ("count", "call_s", "captured"),
    [(2, 2e-6, [2, 64]), (30, 2e-6, [30, 90]), (2, 100e-6, [2, 4]), (2, 1e-3, [2])],
)
def test_what_a_replay_itself_takes_is_shared_by_many_calls(
    monkeypatch: pytest.MonkeyPatch, count: int, call_s: float, captured: list[int]
) -> None:
    """A device on which a replay costs 6 us beside its calls."""
    from executor.calibration import timing

    graphs: list[int] = []

    def capture(calls: list[object]) -> object:
        graphs.append(len(calls))
        return lambda: None

    monkeypatch.setattr(timing, "captured", capture)
    monkeypatch.setattr(timing, "between_events", lambda run: 6e-6 + graphs[-1] * call_s)
    calls = [lambda: None] * count
    found = timing.time_calls(calls, torch.device("cuda"), 0.01)
    assert graphs == captured
    assert found.seconds == pytest.approx(call_s, rel=0.06)
