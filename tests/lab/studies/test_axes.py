"""`--over`: what it takes, and what it says of what it does not."""

from __future__ import annotations

import pytest
from one_line import error_of

from superinfer.errors import ConfigError
from superinfer.lab.studies.axes import Axis, parse_axes, place_text, places, setting_text, shown


def values(text: str) -> tuple[object, ...]:
    (axis,) = parse_axes([text])
    return axis.values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rate=0.5:1.5:0.25", (0.5, 0.75, 1, 1.25, 1.5)),
        ("rate=0.1:0.7:0.2", (0.1, 0.3, 0.5, 0.7)),
        ("rate=1:2:0.3", (1, 1.3, 1.6, 1.9)),
        ("link=25:400:x2", (25, 50, 100, 200, 400)),
        ("link=1:10:x3", (1, 3, 9)),
        ("slo=0.25:4:x2", (0.25, 0.5, 1, 2, 4)),
        ("kv_blocks=500,1000", (500, 1000)),
        ("rate=2,0.5:1:0.5,2", (2, 0.5, 1)),
        ("rate=3:3:1", (3,)),
        ("scheduler.paced_chunks=true,false", (True, False)),
        ("scheduler.lengths=histogram,oracle", ("histogram", "oracle")),
        (" burstiness = 0, 1 ", (0, 1)),
    ],
)
def test_values(text: str, expected: tuple[object, ...]) -> None:
    found = values(text)
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


def test_axes_from_python() -> None:
    assert parse_axes("rate=1,2") == parse_axes(["rate=1,2"])
    assert places(parse_axes("rate=1,2")) == [(1,), (2,)]
    assert places(axis for axis in parse_axes("rate=1,2")) == [(1,), (2,)]  # type: ignore[arg-type]
    for wrong in ("rate=1,2", ["rate=1,2"]):
        expected = f"axes: expected what parse_axes gives, got {wrong!r}"
        assert error_of(lambda wrong=wrong: places(wrong)) == expected


def test_short_names_stand_for_settings() -> None:
    axes = parse_axes(["rate=1", "slo=1", "burstiness=1", "kv_blocks=9", "link=1", "run.tp=1,2"])
    assert [axis.key for axis in axes] == [
        "run.rate_scale",
        "run.slo_scale",
        "run.burstiness",
        "run.kv_blocks",
        "run.host_link_gb_per_s",
        "run.tp",
    ]


def test_a_grid_has_every_combination() -> None:
    axes = parse_axes(["rate=1,2", "scheduler.policy=fcfs,lpm"])
    found = places(axes)
    assert found == [(1, "fcfs"), (1, "lpm"), (2, "fcfs"), (2, "lpm")]
    assert place_text(axes, found[1]) == "rate=1 scheduler.policy=lpm"
    assert [axis.numeric for axis in axes] == [True, False]
    close = parse_axes(["kv_blocks=1000001,1000002", "rate=0.5000001,0.5000002"])
    assert len({place_text(close, place) for place in places(close)}) == 4, "names tell them apart"
    assert [shown(value) for value in (1000001, 1 / 3, True)] == ["1000001", "0.333333", "true"]
    assert not Axis("x", "run.x", (True, False)).numeric
    assert [setting_text(value) for value in (True, 0.5, "my:Own")] == ["true", "0.5", "my:Own"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate", "expected NAME=VALUES such as"),
        ("rate=", "expected NAME=VALUES such as"),
        ("=1", "expected NAME=VALUES such as"),
        ("rte=1", "unknown axis 'rte' (did you mean 'rate'?)"),
        ("scheduler=1", "unknown axis 'scheduler'"),
        ("tp=1,2", "unknown axis 'tp' (did you mean 'run.tp'?)"),
        ("shedule.x=1", "unknown axis"),
        ("rate=1,,2", "expected a value between the commas"),
        ("rate=1:2", "expected from:to:step or from:to:xFACTOR, got '1:2'"),
        ("rate=1:2:0", "expected from <= to and a step > 0"),
        ("rate=2:1:0.5", "expected from <= to and a step > 0"),
        ("rate=1:2:-1", "expected from <= to and a step > 0"),
        ("rate=1:2:x1", "expected 0 < from <= to and a factor > 1"),
        ("rate=0:2:x2", "expected 0 < from <= to and a factor > 1"),
        ("rate=a:2:1", "in numbers, got 'a'"),
        ("rate=1:nan:1", "in numbers, got 'nan'"),
        ("rate=0:1:1e-9", "expected at most 1000 values"),
        ("kv_blocks=1:600:1,1001:1600:1", "expected at most 1000 values"),
        ("rate=inf", "expected a finite number"),
        ("rate=[1]", "expected a number or a word"),
    ],
)
def test_mistakes_are_one_line(text: str, message: str) -> None:
    said = error_of(lambda: parse_axes([text]), ConfigError)
    assert said.startswith("--over") and message in said


def test_an_axis_comes_once() -> None:
    with pytest.raises(ConfigError, match=r"expected run\.rate_scale once"):
        parse_axes(["rate=1,2", "run.rate_scale=3"])
    with pytest.raises(ConfigError, match="expected NAME=VALUES"):
        parse_axes([])
