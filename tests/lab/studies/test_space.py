"""What a tuning may change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from one_line import error_of

from sim.run import build_engine
from superinfer.errors import ConfigError, SuperInferError
from superinfer.lab.config import Config, load_config
from superinfer.lab.studies.axes import Value
from superinfer.lab.studies.space import Choices, Range, check_space, derived_space, read_space
from superinfer.schedulers import SCHEDULERS


def config_of(scheduler: str, *settings: str) -> Config:
    return load_config(None, settings, trace="t.jsonl", scheduler=scheduler)


def test_the_space_of_rotating_follows_from_its_parameters() -> None:
    space = derived_space(config_of("rotating"))
    assert space["scheduler.max_num_seqs"] == Range(64, 1024, log=True, whole=True)
    assert space["scheduler.max_wait_s"] == Range(7.5, 120.0, log=True)
    assert space["scheduler.hysteresis"] == Range(0.05, 0.8)
    assert space["scheduler.pace_margin"] == Range(0.2375, 1.0), "refused above 1"
    absent = ("lengths", "length_scale", "layout", "rotation", "relegation_margin_s")
    assert not {f"scheduler.{name}" for name in absent} & space.keys()


def test_it_lies_around_what_is_configured() -> None:
    space = derived_space(config_of("rotating", "scheduler.level_steps=20"))
    assert space["scheduler.level_steps"] == Range(5, 80, log=True, whole=True)


def test_words_are_choices_and_switches_come_by_name() -> None:
    space = derived_space(config_of("vllm"))
    assert space["scheduler.preemption"] == Choices(("recompute", "swap"))
    asked = derived_space(config_of("rotating"), ["rotation", "hysteresis"])
    assert asked == {
        "scheduler.rotation": Choices((True, False)),
        "scheduler.hysteresis": Range(0.05, 0.8),
    }


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
def test_every_end_is_accepted(scheduler: str) -> None:
    config = config_of(scheduler)
    try:
        space = derived_space(config, build=build_engine)
    except ConfigError as error:
        assert "has no parameters to tune" in str(error)
        return
    for key, span in space.items():
        for value in span.ends():
            build_engine(config_of(scheduler, f"{key}={value}"))
        assert span.holds(span.tidy(span.ends()[0]))


def test_names_that_do_not_fit_are_told() -> None:
    config = config_of("rotating")
    with pytest.raises(ConfigError, match=r"--params 'histeresis': unknown \(did you mean 'hyst"):
        derived_space(config, ["histeresis"])
    with pytest.raises(ConfigError, match="no range follows from its value"):
        derived_space(config, ["relegation_margin_s"])


# -- files ----------------------------------------------------------------------------------------

FILE = """
[scheduler]
max_num_seqs = { low = 64, high = 512, log = true }
hysteresis = { low = 0, high = 0.5 }
paced_chunks = [true, false]
[run]
lag = [0, 1]
[classes.chat]
weight = { low = 1.0, high = 4.0 }
"""


def test_a_file_says_what_is_tuned(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(FILE)
    space = read_space(tmp_path / "s.toml")
    assert space == {
        "scheduler.max_num_seqs": Range(64, 512, log=True, whole=True),
        "scheduler.hysteresis": Range(0, 0.5),
        "scheduler.paced_chunks": Choices((True, False)),
        "run.lag": Choices((0, 1)),
        "classes.chat.weight": Range(1.0, 4.0),
    }
    some = read_space(tmp_path / "s.toml", ["lag", "classes.chat.weight"])
    assert set(some) == {"run.lag", "classes.chat.weight"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[scheduler]\nx = 3\n", "s.toml: scheduler.x: expected a list, or low < high"),
        ("[scheduler]\nx = { low = 2, high = 1 }\n", "expected a list, or low < high"),
        ("[scheduler]\nx = { low = 0, high = 1, log = true }\n", "(then low > 0)"),
        (f"[scheduler]\nx = {{ low = 1, high = {10**400} }}\n", "expected a list, or low < high"),
        ("[scheduler]\nx = { low = 1 }\n", "expected a list, or low < high"),
        ("[scheduler]\nx = { low = 1, high = 2, step = 1 }\n", "expected a list, or low < high"),
        ("[scheduler]\nx = []\n", "expected different values"),
        ("[scheduler]\nx = [1, 1]\n", "expected different values"),
        ("[scheduler]\nx = [[1]]\n", "expected different values"),
        ("[shedule]\nx = [1]\n", "unknown (did you mean 'scheduler'?)"),
        ("[scheduler]\n", "expected at least one setting"),
        ("x", "expected TOML"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    assert message in error_of(lambda: read_space(tmp_path / "s.toml"))


def test_a_file_that_is_absent_or_lacks_a_name(tmp_path: Path) -> None:
    with pytest.raises(SuperInferError, match="cannot read"):
        read_space(tmp_path / "none.toml")
    (tmp_path / "s.toml").write_text(FILE)
    with pytest.raises(ConfigError, match="--params 'lagg': unknown"):
        read_space(tmp_path / "s.toml", ["lagg"])


def test_values_are_tried_on_the_configuration() -> None:
    def config_at(settings: Mapping[str, Value]) -> object:
        given = (f"{key}={value}" for key, value in settings.items())
        return build_engine(config_of("rotating", *given))

    check_space({"scheduler.hysteresis": Range(0.0, 1.0)}, config_at)
    with pytest.raises(ConfigError, match=r"space of scheduler\.pace_margin: .* at most 1, got 2"):
        check_space({"scheduler.pace_margin": Range(0.5, 2.0)}, config_at)
    with pytest.raises(ConfigError, match=r"space of scheduler\.pace: .*unknown"):
        check_space({"scheduler.pace": Choices((1, 2))}, config_at)


def test_drawn_numbers_are_tidy_and_stay_inside() -> None:
    assert Range(0.0, 1.0).tidy(0.123456) == 0.1235
    assert Range(0.12345, 0.12346).tidy(0.123451) == 0.12346
    assert Range(1, 9, whole=True).tidy(3.0) == 3
    assert not Range(1, 9).holds(True) and not Choices((True,)).holds(1)
    assert Range(1, 9).holds(2.5) and not Range(1, 9, whole=True).holds(2.5)
    assert Range(1, 9, whole=True).holds(9)
