"""Run configuration: layers, settings, policies, and what each mistake says."""

from __future__ import annotations

import importlib
import json
import math
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pytest
import tomli_w
from one_line import error_of

from superinfer.costs import list_profiles
from superinfer.lab.config import Config, RunConfig, load_config
from superinfer.lab.config.policies import build_policy
from superinfer.memory import MEMORY_POLICIES
from superinfer.memory.lru import LruMemory
from superinfer.schedulers import SCHEDULERS
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.schedulers.rotating import RotatingScheduler
from superinfer.settings import did_you_mean

if TYPE_CHECKING:
    from decimal import Decimal


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `package.module:Class` find the classes of this file."""
    monkeypatch.setitem(sys.modules, "own_policies", sys.modules[__name__])


def outside(cls: type) -> str:
    return f"own_policies:{cls.__name__}"


@dataclass
class Bounded(FcfsScheduler):
    """Fields with bounds and units of their own."""

    slope: Annotated[float, msgspec.Meta(ge=-1, le=1)] = 0.0
    patience_s: float = math.inf
    weights: tuple[float, ...] = (1.0, 2.0)
    label: str = "x"
    name: str = field(default="bounded", init=False)


@dataclass
class Unstorable(FcfsScheduler):
    """A setting that no file can hold."""

    what: Any = field(default_factory=object)


@dataclass
class Unresolvable(FcfsScheduler):
    """An annotation that exists for the type checker only."""

    share: Decimal | None = None


@dataclass
class Picky(FcfsScheduler):
    """Refuses its settings when it is made."""

    def __post_init__(self) -> None:
        raise ValueError("expected something else")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def message(*arguments: Any, **overrides: Any) -> str:
    return error_of(lambda: load_config(*arguments, **overrides))


# -- layers ---------------------------------------------------------------------------------------


def test_defaults() -> None:
    config = load_config()
    assert config.run == RunConfig()
    assert (config.scheduler, config.memory, config.classes, config.notes) == ({}, {}, {}, ())
    assert isinstance(config.build_scheduler(), RotatingScheduler)
    assert isinstance(config.build_memory(), LruMemory)


def test_later_layers_win(tmp_path: Path) -> None:
    base = write(tmp_path / "a.toml", "[run]\ntp = 2\nlag = 1\nkv_blocks = 5\nlimit = 9\n")
    arm = write(tmp_path / "b.toml", "[run]\nlag = 0\nlimit = 8\n")
    run = load_config([base, arm], ["run.kv_blocks=6", "run.limit=7"], limit=3, seed=None).run
    assert (run.tp, run.lag, run.kv_blocks, run.limit, run.seed) == (2, 0, 6, 3, 0)
    assert load_config(iter([base, arm])).run.kv_blocks == 5


def test_the_last_of_equal_settings_wins() -> None:
    assert load_config(None, ["run.tp=2", "run.tp=4"]).run.tp == 4


def test_every_section_can_be_set(tmp_path: Path) -> None:
    file = write(
        tmp_path / "x.toml",
        '[run]\nscheduler = "fcfs"\n[scheduler]\nmax_num_seqs = 7\n[memory]\npreemption = "swap"\n'
        "[classes.chat]\nttft_ms = 300\n",
    )
    config = load_config(file, ["scheduler.watermark=0.5", "memory.swap_in_timing=background"])
    scheduler, memory = config.build_scheduler(), config.build_memory()
    assert (scheduler.max_num_seqs, scheduler.watermark) == (7, 0.5)
    assert (memory.preemption, memory.swap_in_timing) == ("swap", "background")
    assert config.classes == {"chat": {"ttft_ms": 300}}


def test_every_build_gives_a_fresh_policy() -> None:
    config = load_config()
    assert config.build_scheduler() is not config.build_scheduler()
    assert config.build_memory() is not config.build_memory()


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(b"\xef\xbb\xbf[run]\ntp = 2\n")
    assert load_config(file).run.tp == 2


def test_what_a_stored_configuration_says_of_itself_sets_nothing(tmp_path: Path) -> None:
    text = 'version = 1\n[made_by]\nsuperinfer = "0.0"\nprofile_sha256 = "ab"\n[run]\ntp = 2\n'
    config = load_config(write(tmp_path / "x.toml", text))
    assert config == load_config(write(tmp_path / "plain.toml", "[run]\ntp = 2\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version = 2\n", "version: expected 1, got 2"),
        ("version = true\n", "version: expected 1, got True"),
        ("version = 1.0\n", "version: expected 1, got 1.0"),
        ("[version]\n", "version: expected 1, got {}"),
        ("made_by = 'me'\n", "made_by: expected a table, got 'me'"),
    ],
)
def test_another_form_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    file = write(tmp_path / "x.toml", text)
    assert message(file) == f"{file}: {expected}"


def test_a_profile_file_says_what_it_ignores(tmp_path: Path) -> None:
    shipped = list_profiles()[0].path
    assert load_config(costs=str(shipped)).notes == ()
    data = json.loads(shipped.read_text(encoding="utf-8"))
    file = write(tmp_path / "p.json", json.dumps(data | {"later": 1}))
    assert load_config(costs=str(file)).notes == (f"{file}: ignored as unknown: later",)
    # What is wrong with a file is said where it is needed.
    assert load_config(costs=str(write(tmp_path / "bad.json", "{"))).notes == ()


def test_a_policy_table_goes_with_the_policy_of_its_file(tmp_path: Path) -> None:
    file = write(tmp_path / "x.toml", '[run]\nscheduler = "vllm"\n[scheduler]\nchunked = true\n')
    assert load_config(file).scheduler == {"chunked": True}
    other = load_config(file, scheduler="fcfs")
    assert other.scheduler == {}
    assert other.notes == (f"{file}: [scheduler] is for vllm: not used with fcfs",)


def test_a_table_without_a_name_is_for_whatever_is_chosen(tmp_path: Path) -> None:
    file = write(tmp_path / "x.toml", "[scheduler]\nmax_num_seqs = 9\n")
    for name in ("vllm", "fcfs", "priority", "rotating"):  # all that have such a setting
        config = load_config(file, scheduler=name)
        assert (config.build_scheduler().max_num_seqs, config.notes) == (9, ())


def test_classes_are_merged_key_by_key(tmp_path: Path) -> None:
    file = write(tmp_path / "x.toml", "[classes.chat]\nttft_ms = 1\ntpot_ms = 2\n")
    classes = write(tmp_path / "c.toml", "[classes.chat]\ntpot_ms = 3\nweight = 4\n[classes.new]\n")
    settings = ["classes.chat.weight=5", 'classes."mlperf-llama3.1-8b-server".ttft_ms=6']
    assert load_config(file, settings, classes).classes == {
        "chat": {"ttft_ms": 1, "tpot_ms": 3, "weight": 5},
        "new": {},
        "mlperf-llama3.1-8b-server": {"ttft_ms": 6},
    }


# -- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("run.model=llama-2-7b", "llama-2-7b"),
        ('run.model="llama-2-7b"', "llama-2-7b"),
        ("run.model='llama-2-7b'", "llama-2-7b"),
        (" run.model = llama-2-7b ", "llama-2-7b"),
        ('run."model"=a=b', "a=b"),
        ("run.model=", ""),
        ("run.model=größe", "größe"),
        ("run.model=a # b", "a # b"),
    ],
)
def test_text_needs_no_quotes(setting: str, value: str) -> None:
    assert load_config(None, [setting]).run.model == value


def test_values_are_toml() -> None:
    config = load_config(
        None,
        [
            "run.host_step_ms=2",
            "run.host_memory_gib=1e1",
            "run.kv_blocks=1_000",
            "run.spread=true",
            "scheduler.weights=[3, 4.5]",
            "scheduler.slope=-0.5",
        ],
        scheduler=outside(Bounded),
    )
    run, scheduler = config.run, config.build_scheduler()
    assert (run.host_step_ms, run.host_memory_gib, run.kv_blocks) == (2.0, 10.0, 1000)
    assert run.spread is True
    assert (scheduler.weights, scheduler.slope) == ((3.0, 4.5), -0.5)


@pytest.mark.parametrize("setting", ["", "=", "run", "run=3", "tp=3", ".tp=3", "run.=3"])
def test_what_is_no_setting(setting: str) -> None:
    assert message(None, [setting]) == f"--set {setting!r}: expected section.key=value"


def test_settings_and_files_of_another_kind() -> None:
    expected = "settings: expected a list of texts such as 'run.lag=1', got "
    assert message(None, "run.lag=1") == f"{expected}'run.lag=1'"
    assert message(None, {"run.lag": 1}) == f"{expected}{{'run.lag': 1}}"
    expected = "expected the path of a TOML file, or several, got "
    assert message(3) == f"{expected}3"
    assert message(["a.toml", 3]) == f"{expected}['a.toml', 3]"


def test_settings_that_contradict_each_other() -> None:
    text = message(None, ["classes.chat=3", "classes.chat.ttft_ms=3"])
    assert text == "--set 'classes.chat.ttft_ms=3': chat is not a table"


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("rum.tp=3", "unknown (did you mean 'run'?); sections are: classes, memory, router, run"),
        (
            "run.modle=x",
            "run.modle: unknown (did you mean 'model'?); known are: as_released, backlog, ",
        ),
        ("run.tp=0", "run.tp: expected an integer >= 1, got 0"),
        ("run.tp=x", "run.tp: expected an integer, got 'x'"),
        ("run.tp=2000-01-01", "run.tp: expected an integer, got datetime.date(2000, 1, 1)"),
        ("run.links_per_bridge=0", "run.links_per_bridge: expected an integer >= 1, got 0"),
        ("run.links_per_bridge=2", "run.links_per_bridge: expected a divisor of run.tp 1, got 2"),
        ("run.trace=[1]", "run.trace: expected a text, got [1]"),
        ("run.host_step_ms=x", "run.host_step_ms: expected a number, got 'x'"),
        ("run.host_step_ms=-1", "run.host_step_ms: expected a number >= 0, got -1"),
        ("run.host_per_sequence_us=inf", "run.host_per_sequence_us: expected a number <= "),
        ("run.seed=-1", "run.seed: expected an integer >= 0, got -1"),
        ("run.seed=9223372036854775808", "run.seed: expected an integer <= 9223372036854775807"),
        ("run.max_model_len=1e9", "run.max_model_len: expected an integer, got 1000000000.0"),
        (
            "scheduler.max_num_sequences=3",
            "(did you mean 'max_num_seqs'?); rotating takes: ",
        ),
        ("scheduler.max_num_seqs=x", "scheduler.max_num_seqs: expected an integer, got 'x'"),
        (
            "scheduler.max_num_batched_tokens=x",
            "max_num_batched_tokens: expected an integer, got 'x'",
        ),
        (
            "scheduler.max_num_seqs=9223372036854775808",
            "scheduler.max_num_seqs: expected at most 2**63 - 1, got 9223372036854775808",
        ),
        (
            f"scheduler.max_num_seqs=-1{400 * '0'}",
            "scheduler.max_num_seqs: expected a number >= 0, got -1000",
        ),
        ("scheduler.watermark=-1", "scheduler.watermark: expected a number >= 0, got -1"),
        ("memory.preemption=maybe", "expected one of 'recompute', 'swap', 'cheaper', got 'maybe'"),
        ("classes.chat.weight=0", "classes.chat.weight: expected a number > 0, got 0"),
        ("classes.chat=1", "classes.chat: expected a table, got 1"),
    ],
)
def test_wrong_settings(setting: str, words: str) -> None:
    assert words in message(None, [setting])


def test_a_wrong_number_is_shown_as_it_was_given() -> None:
    assert message(None, ["scheduler.watermark=-1"]).endswith("expected a number >= 0, got -1")


def test_long_values_are_shortened() -> None:
    assert len(message(None, ["run.tp=" + "x" * 999])) < 120


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[run\n", "expected TOML: "),
        ("a = " + "[" * 9999, "expected TOML: "),
        ("a = " + "9" * 9999, "expected TOML: "),
        ("[rnu]\n", "[rnu]: unknown (did you mean 'run'?); sections are: "),
        ("run = []\n", "run: expected a table, got []"),
        ("[run]\ntp = -1\n", "run.tp: expected an integer >= 1, got -1"),
        ("[run]\nmemory = 'lur'\n", "memory 'lur': unknown (did you mean 'lru'?)"),
        ("[run]\nscheduler = 3\n", "run.scheduler: expected a text, got 3"),
        ("[memory]\npreemption = 3\n", "memory.preemption: expected one of 'recompute'"),
        ("[classes.chat]\nttft = 3\n", "classes.chat.ttft: expected a known key"),
        ("[[classes]]\n", "classes: expected a table, got [{}]"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, words: str) -> None:
    file = write(tmp_path / "x.toml", text)
    found = message(file)
    assert found.startswith(f"{file}: {words}")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert message(tmp_path).endswith(": cannot read: Is a directory")
    assert message(tmp_path / "x").endswith(": cannot read: No such file or directory")
    bad = write(tmp_path / "c.toml", "[classes.chat]\nttft = 3\n")
    assert message(None, (), bad).startswith(f"{bad}: classes.chat.ttft: ")


@pytest.mark.parametrize("key", ["trace", "model", "costs"])
def test_file_names_must_be_text(key: str) -> None:
    found = message(**{key: "caf\udce9"})
    assert found == f"run.{key}: expected UTF-8 text, got 'caf\\udce9'"


# -- policies -------------------------------------------------------------------------------------


def test_outside_policies_bring_their_own_bounds() -> None:
    scheduler = outside(Bounded)
    built = load_config(None, ["scheduler.slope=-1"], scheduler=scheduler).build_scheduler()
    assert (built.slope, built.patience_s) == (-1.0, math.inf)
    assert "slope: expected a number >= -1, got -2" in message(
        None, ["scheduler.slope=-2"], scheduler=scheduler
    )
    assert "label: expected a text, got 3" in message(
        None, ["scheduler.label=3"], scheduler=scheduler
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fcsf", "scheduler 'fcsf': unknown (did you mean 'fcfs'?); expected package.module:Class"),
        ("FCFS", "(did you mean 'fcfs'?)"),
        ("nothing:Here", "cannot import: No module named 'nothing'"),
        ("own_policies:Here", "cannot import: module"),
        (":Here", "cannot import: Empty module name"),
        ("own_policies:message", "expected a dataclass, got <function message"),
        ("superinfer.lab.config:RunConfig", "expected a dataclass, got <class"),
        ("superinfer.schedulers.base:Machine", "missing 6 required positional arguments"),
        (outside(Picky), "expected something else"),
        (outside(Unresolvable), "cannot read its annotations: name 'Decimal' is not defined"),
        (outside(Unstorable), "own_policies:Unstorable: cannot store its settings: "),
        ("superinfer.memory.lru:LruMemory", "expected a scheduler with block_tokens, "),
    ],
)
def test_what_is_no_scheduler(name: str, words: str) -> None:
    assert words in message(scheduler=name)


def test_what_is_no_memory_policy() -> None:
    words = (
        "memory 'own_policies:Bounded': expected a memory policy with swap_in_timing, index, fate"
    )
    assert message(memory=outside(Bounded)).startswith(words)


def test_build_policy_by_name() -> None:
    built = build_policy("scheduler", "fcfs", {"max_num_seqs": 3})
    assert isinstance(built, FcfsScheduler) and built.max_num_seqs == 3


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("vlm", " (did you mean 'vllm'?)"),
        ("VLLM", " (did you mean 'vllm'?)"),
        ("rot", " (did you mean 'rotasched' or 'rotating'?)"),
    ],
)
def test_hints(word: str, hint: str) -> None:
    assert did_you_mean(word, SCHEDULERS) == hint
    assert did_you_mean("something else", SCHEDULERS) == ""


# -- resolved -------------------------------------------------------------------------------------


def without_nulls(tables: dict[str, Any]) -> dict[str, Any]:
    return {
        key: without_nulls(value) if isinstance(value, dict) else value
        for key, value in tables.items()
        if value is not None
    }


@pytest.mark.parametrize("scheduler", [*SCHEDULERS, outside(Bounded)])
def test_the_resolved_configuration_can_be_read_again(tmp_path: Path, scheduler: str) -> None:
    own = {"tensorrt_llm": "max_batch_size", "flexgen": "gpu_batch_size"}
    most = own.get(scheduler, "max_num_seqs")
    config = load_config(
        None,
        ["run.host_step_ms=0.1", "classes.chat.ttft_ms=33", f"scheduler.{most}=11"],
        scheduler=scheduler,
        trace="größe.jsonl",
        seed=5,
    )
    text = tomli_w.dumps(without_nulls(config.resolved()))
    again = load_config(write(tmp_path / "x.toml", text))
    assert again.run == config.run
    assert again.classes == config.classes
    assert again.notes == ()
    assert again.resolved() == config.resolved()


def test_tables_by_class_can_be_read_again(tmp_path: Path) -> None:
    settings = ["memory.priorities.chat=80", "memory.host_cache_gib=2"]
    config = load_config(None, settings, memory="retention")
    assert config.build_memory().priorities == {"chat": 80}
    again = load_config(write(tmp_path / "x.toml", tomli_w.dumps(without_nulls(config.resolved()))))
    assert again.resolved() == config.resolved()
    words = "memory.priorities.chat: expected from 0 to 100, got 101"
    assert message(None, ["memory.priorities.chat=101"], memory="retention") == words


def test_resolved_names_every_setting() -> None:
    resolved = load_config(None, (), scheduler="priority", replicas=2).resolved()
    assert set(resolved) == {"run", "scheduler", "memory", "router", "classes", "workload"}
    assert set(resolved["run"]) == set(RunConfig.__struct_fields__)
    assert set(resolved["scheduler"]) >= {"max_num_seqs", "watermark", "pace_margin"}
    assert resolved["memory"] == {"preemption": "recompute", "swap_in_timing": "before_step"}


def test_a_configuration_does_not_change() -> None:
    config = load_config()
    with pytest.raises(AttributeError):
        config.run.tp = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        config.scheduler = {}  # type: ignore[misc]
    assert isinstance(config, Config)


@pytest.mark.parametrize(
    ("section", "target"),
    [
        *(("scheduler", target) for target in SCHEDULERS.values()),
        *(("memory", target) for target in MEMORY_POLICIES.values()),
    ],
)
def test_every_policy_can_be_extended(
    monkeypatch: pytest.MonkeyPatch, section: str, target: str
) -> None:
    module, _, name = target.partition(":")
    base = getattr(importlib.import_module(module), name)
    mine = dataclass(type("Mine", (base,), {"__module__": __name__, "__annotations__": {}}))
    monkeypatch.setattr(sys.modules[__name__], "Mine", mine, raising=False)
    policy, parent = build_policy(section, "own_policies:Mine", {}), base()
    assert plain_values(policy) == plain_values(parent)


def plain_values(policy: Any) -> dict[str, Any]:
    """The type of each field that is set, and the value of simple ones."""
    found = {f.name: getattr(policy, f.name) for f in fields(policy) if hasattr(policy, f.name)}
    return {n: v if isinstance(v, str | int | float) else type(v) for n, v in found.items()}
