"""What a policy from outside does wrong: one line with its file, and what was expected."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from specs import workload

from sim.run import build_engine, run_simulation
from superinfer.errors import ConfigError, PlanError, PolicyError, StuckError, SuperInferError
from superinfer.lab.config import load_config
from superinfer.lab.config.policies import build_policy
from superinfer.lab.config.policy_faults import faults_named

HEAD = """
from dataclasses import dataclass
from superinfer.memory.lru import LruMemory
from superinfer.request import Request
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.sequence import Sequence

"""
LINES = len(HEAD.splitlines())
CHATS = {
    "class": "chat",
    "rate_per_s": 4,
    "prompt": 200,
    "answer": 200,
    "system_prompts": [{"tokens": 64}],
}


def complaint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, body: str, **run: Any
) -> SuperInferError:
    """What a run says with such a scheduler or memory policy, from the file `own.py`."""
    decorated = f"@dataclass\nclass Own({base}):\n    {body}\n"
    (tmp_path / "own.py").write_text(HEAD + decorated)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    section = "memory" if base == "LruMemory" else "scheduler"
    run = {"scheduler": "fcfs", "prefix_caching": True, "kv_blocks": 30} | run
    run[section] = "own:Own"
    config = load_config(None, [], **run)
    asked = workload(tmp_path, duration_s=20, a=CHATS)
    with pytest.raises(SuperInferError) as caught:
        run_simulation(config, asked)
    return caught.value


def test_a_class_of_a_notebook_is_in_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "has no attribute 'Mine'; what a notebook defines is in no other process"
    with pytest.raises(ConfigError, match=words):
        load_config(None, [], scheduler="__main__:Mine")
    monkeypatch.setattr(sys.modules["__main__"], "Minne", type("Minne", (), {}), raising=False)
    with pytest.raises(ConfigError, match=r"'Mine' \(did you mean 'Minne'\?\); what a notebook"):
        load_config(None, [], scheduler="__main__:Mine")
    with pytest.raises(ConfigError, match=r"cannot import: No module named 'no_such'$"):
        load_config(None, [], scheduler="no_such:Mine")


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("def plan(self, draft, now): {}['chat']", PolicyError, "(own.py:{}): KeyError: 'chat'"),
        ("def ended(self, seq): raise OSError('no')", PolicyError, "(own.py:{}): OSError: no"),
        ("def plan(self, draft): pass", PolicyError, "(own.py): TypeError: Own.plan() takes 2"),
        ("def rank(self, seq): return None", PolicyError, "'own:Own' (own.py): TypeError: "),
        ("def plan(self, draft, now): pass", StuckError, "requests can never run (first: 1): the"),
        (
            "def plan(self, draft, now): draft.try_admit(Sequence(Request('x', 0.0, 9, 9)))",
            PlanError,
            "(own.py:{}): <Sequence x waiting> is no request of this run",
        ),
        (
            "def _prefill(self, draft, seq, budget): return draft.prefill(seq, 999)",
            PlanError,
            "prefilling>: expected a chunk of 1 to 264 tokens at 0, got 999",
        ),
        (
            "def _prefill(self, draft, seq, budget): return draft.prefill(seq, 10**5000)",
            PlanError,
            "expected a chunk of 1 to 264 tokens at 0, got a value of type int",
        ),
        (
            "def _make_room_for_growth(self, draft): return False",
            PlanError,
            "no memory for the next step: preempt or park before decoding",
        ),
        (
            "def decode(self, draft): draft.decode(0)\n"
            "    def plan(self, *args): FcfsScheduler.plan(self, *args); self.decode(args[0])",
            PlanError,
            "(own.py:{}): decode: expected at least one step, got 0",
        ),
        (
            "def plan(self, draft, now): draft.note('looked at', None)",
            PlanError,
            "note: expected one of promote, demote, relegate, prefetch, no_offload, got ",
        ),
        (
            "def rank(self, seq): return (1.0,)",
            PlanError,
            "have the rank (1.0,): expected unique ranks (`request.index` as the last entry",
        ),
        (
            "def rank(self, seq): return (float('nan'), seq.request.index)",
            PlanError,
            "has the rank (nan, 0): expected no nan in it",
        ),
        (
            "def plan(self, draft, now): pass\n    def next_wakeup(self, now): return now",
            PlanError,
            "next_wakeup: expected None or a time after now (",
        ),
        (
            "def plan(self, draft, now): pass\n    def next_wakeup(self, now): return float('nan')",
            PlanError,
            " s), got nan",
        ),
        (
            "def plan(self, draft, now): pass\n    def next_wakeup(self, now): return now + 1",
            PlanError,
            "next_wakeup: the scheduler was woken 100,000 times in a row until ",
        ),
        (
            "counters = {'waits': 'many'}",
            PolicyError,
            "'own:Own' (own.py): Own.counters['waits']: expected a number, got 'many'",
        ),
        ("counters = {'fair': True}", PolicyError, "expected a number, got True"),
        ("counters = {'mean': None}", PolicyError, "expected a number, got None"),
        ("counters = {'share': float('nan')}", PolicyError, "expected a number, got nan"),
        ("counters = {'big': 10**400}", PolicyError, "expected a number, got 1"),
        ("counters = None", PolicyError, "Own.counters: expected numbers by name, got None"),
        (
            "@property\n    def counters(self): return {'seen': self.nothing}",
            PolicyError,
            "AttributeError: 'Own' object has no attribute 'nothing'",
        ),
        (
            "def bind(self, machine): machine.blocks",
            PolicyError,
            "'own:Own' (own.py:{}): AttributeError: 'Machine' object has no attribute 'blocks'",
        ),
        (
            "def tell_lengths(self): pass",
            PolicyError,
            "'own:Own' (own.py): TypeError: Own.tell_lengths() takes 1",
        ),
        (
            "def plan(self, draft, now): raise SystemExit('so')",
            PolicyError,
            "(own.py:{}): SystemExit: so",
        ),
    ],
)
def test_a_scheduler_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, kind: type, words: str
) -> None:
    error = complaint(tmp_path, monkeypatch, "FcfsScheduler", body)
    assert type(error) is kind
    assert str(error).startswith("scheduler 'own:Own' (own.py")
    assert words.format(LINES + 3) in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (
            "def victim(self, blocks):\n        node, _ = super().victim(blocks)\n"
            "        return node, node.blocks + 1",
            PlanError,
            "(own.py): victim: expected 1 to ",
        ),
        (
            "def victim(self, blocks):\n        node, _ = super().victim(blocks)\n"
            "        return node, 0",
            PlanError,
            "blocks of its leaf, got 0",
        ),
        (
            "def victim(self, blocks):\n"
            "        self.taken = getattr(self, 'taken', None) or super().victim(blocks)\n"
            "        return self.taken",
            PlanError,
            "victim: expected ",
        ),
        (
            "def unused(self, node):\n"
            "        from superinfer.memory.leaves import Leaves\n"
            "        Leaves(lambda node: (float('nan'), 1.0), bool).push(node)",
            PlanError,
            "a leaf has the rank (nan, 1.0): expected no nan in it",
        ),
        ("def fate(self, seq, draft): return 'drop'", PlanError, "fate: expected 'recompute' or"),
        (
            "def fate(self, seq, draft): return 'drop' * 999",
            PlanError,
            f"'swap', got '{'drop' * 14}...",
        ),
        (
            "def victim(self, blocks): return super().victim(blocks)[0], 10**5000",
            PlanError,
            "blocks of its leaf, got a value of type int",
        ),
        ("def unused(self, node): {}['x']", PolicyError, "(own.py:{}): KeyError: 'x'"),
        ("def unused(self, node): pass", PolicyError, "AssertionError: nothing left to reclaim"),
        ("counters = {7: [1]}", PolicyError, "(own.py): Own.counters[7]: expected a number, got"),
        ("notes = [3]", PolicyError, "(own.py): Own.notes: expected texts, got 3"),
        ("notes = 'as one'", PolicyError, "Own.notes: expected a list of texts, got 'as one'"),
        ("notes = None", PolicyError, "(own.py): Own.notes: expected a list of texts, got None"),
        ("def index(self, pool): pass", PolicyError, "(own.py): TypeError: Own.index() takes 2 "),
        (
            "def index(self, pool, host, block_tokens): pass",
            PolicyError,
            "(own.py): index: expected an index of cached prefixes, got None",
        ),
    ],
)
def test_a_memory_policy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, kind: type, words: str
) -> None:
    error = complaint(tmp_path, monkeypatch, "LruMemory", body)
    assert type(error) is kind
    assert str(error).startswith("memory 'own:Own' (own.py")
    assert words.format(LINES + 3) in str(error)


@pytest.mark.parametrize("answer", ["8192", "None", "(8192, 256)"])
def test_a_largest_step_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    body = f"def largest_step(self, longest, caching): return {answer}"
    error = complaint(tmp_path, monkeypatch, "FcfsScheduler", body, kv_blocks=0)
    assert type(error) is PolicyError
    said = f"(own.py): largest_step: expected a LargestStep, got {answer}"
    assert str(error) == f"scheduler 'own:Own' {said}"


def test_an_engine_that_is_only_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a command makes one before it reads the trace: the policy is named as in the run."""
    body = "def bind(self, machine): machine.blocks"
    in_the_run = complaint(tmp_path, monkeypatch, "FcfsScheduler", body)
    with pytest.raises(PolicyError) as caught:
        build_engine(load_config(None, [], scheduler="own:Own"))
    assert str(caught.value) == str(in_the_run)
    assert str(in_the_run).count("own:Own") == 1


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("route: expected a replica from 0 to 1, got 2", "router 'c:Own' (c)"),
        ("victim: expected 1 to 2 blocks of its leaf, got 0", "memory 'b:Keep' (b)"),
        ("fate: expected 'recompute' or 'swap', got 'no'", "memory 'b:Keep' (b)"),
        ("next_wakeup: expected None or a time after now (1 s)", "scheduler 'a:Plan' (a)"),
        ("Keep.notes: expected a list of texts, got 3", "memory 'b:Keep' (b)"),
        (
            "2 blocks asked of 1",
            "scheduler 'a:Plan' (a) or memory 'b:Keep' (b) or router 'c:Own' (c)",
        ),
    ],
)
def test_of_several_who_is_meant_is_named_alone(message: str, named: str) -> None:
    several = {"scheduler": "a:Plan", "memory": "b:Keep", "router": "c:Own"}
    with pytest.raises(PlanError) as caught, faults_named(several):
        raise PlanError(message)
    assert str(caught.value) == f"{named}: {message}"


def test_an_end_that_was_asked_for_is_no_fault() -> None:
    with pytest.raises(SystemExit), faults_named({"scheduler": "own:Own"}):
        sys.exit(3)


def test_one_replica_of_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "def ended(self, seq): raise ValueError"
    error = complaint(tmp_path, monkeypatch, "FcfsScheduler", body, replicas=2)
    assert str(error) == f"scheduler 'own:Own' (own.py:{LINES + 3}): ValueError"


def test_what_is_not_theirs_is_left_alone() -> None:
    """Policies that come with us, a full disk, a mistake in the configuration."""
    with pytest.raises(KeyError), faults_named({"scheduler": "fcfs", "memory": "lru"}):
        raise KeyError("ours")
    with pytest.raises(OSError, match=r"^full$"), faults_named({"scheduler": "own:Own"}):
        raise OSError("full")
    with pytest.raises(ConfigError, match=r"^so$"), faults_named({"scheduler": "own:Own"}):
        raise ConfigError("so")
    with pytest.raises(SuperInferError, match=r"^full$"), faults_named({"scheduler": "own:Own"}):
        raise SuperInferError("full")
    two = {"scheduler": "a_policy:A", "memory": "mine:B"}
    with pytest.raises(PolicyError) as caught, faults_named(two):
        raise TypeError("which?")
    said = "scheduler 'a_policy:A' (a_policy) or memory 'mine:B' (mine): TypeError: which?"
    assert str(caught.value) == said
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 / 0", "cannot import: ZeroDivisionError: division by zero (own.py:1)"),
        ("def f(:", "cannot import: invalid syntax (own.py, line 1)"),
        ("raise SystemExit('so')", "cannot import: SystemExit: so (own.py:1)"),
        (
            "from dataclasses import dataclass\n@dataclass\nclass Own:\n    queue: list = []",
            "cannot import: ValueError: mutable default <class 'list'> for field queue is not "
            "allowed: use default_factory (own.py:2)",
        ),
        (
            "import nothing_here",
            "cannot import: ModuleNotFoundError: No module named 'nothing_here' (own.py:1)",
        ),
        (
            HEAD + "class Own(FcfsScheduler):\n    x: float = 1.0",
            "expected @dataclass above class Own too, for it has fields",
        ),
        (
            HEAD + "@dataclass\nclass Own(FcfsScheduler):\n"
            "    def __post_init__(self): self.nothing.here()",
            "cannot be made: AttributeError: 'Own' object has no attribute 'nothing' "
            f"(own.py:{LINES + 3})",
        ),
        (
            HEAD + "import sys\n@dataclass\nclass Own(FcfsScheduler):\n"
            "    def __post_init__(self): sys.exit('so')",
            f"cannot be made: SystemExit: so (own.py:{LINES + 4})",
        ),
        *(
            (HEAD + f"@dataclass\nclass Own(FcfsScheduler):\n    {body}", words)
            for body, words in (
                ("plan: int = 3", "plan: expected a method, got 3"),
                (
                    "async def plan(self, draft, now): pass",
                    "plan: expected a plain method, without async and yield",
                ),
                (
                    "def ended(self, seq): yield seq",
                    "ended: expected a plain method, without async and yield",
                ),
                (
                    "def __post_init__(self): self.block_tokens = 0",
                    "block_tokens: expected an integer >= 1, got 0",
                ),
                (
                    "def __post_init__(self): self.block_tokens = True",
                    "block_tokens: expected an integer, got True",
                ),
                (
                    "def __post_init__(self): self.block_tokens = '16'",
                    "block_tokens: expected an integer, got '16'",
                ),
                (
                    "def __post_init__(self): self.copies_per_block = None",
                    "copies_per_block: expected an integer, got None",
                ),
                ("def __post_init__(self): self.name = 3", "name: expected a text, got 3"),
            )
        ),
    ],
)
def test_a_module_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    (tmp_path / "own.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    with pytest.raises(ConfigError) as caught:
        build_policy("scheduler", "own:Own", {})
    assert str(caught.value) == f"scheduler 'own:Own': {words}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own:Owm", "cannot import: module 'own' has no attribute 'Owm' (did you mean 'Own'?)"),
        (
            "own:FcfsSchedular",
            "cannot import: module 'own' has no attribute 'FcfsSchedular' "
            "(did you mean 'FcfsScheduler'?)",
        ),
        ("onw:Own", "cannot import: No module named 'onw' (did you mean 'own'?)"),
        ("own.py:Own", "expected package.module:Class (did you mean 'own:Own'?)"),
        ("./inner/own.py:Own", "expected package.module:Class (did you mean 'inner.own:Own'?)"),
        ("inner/own:Own", "expected package.module:Class (did you mean 'inner.own:Own'?)"),
        ("{0}/own.py:Own", "expected package.module:Class (did you mean 'own:Own'?)"),
        ("{0}/../far.py:Own", "expected package.module:Class (did you mean 'far:Own' in {1}?)"),
        ("nothing.py:Own", "expected package.module:Class"),
        ("own:", "expected package.module:Class"),
        ("own.py", "expected package.module:Class, got a file"),
    ],
)
def test_what_is_meant_by_a_name_that_is_almost_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    here = tmp_path / "here"
    (here / "inner").mkdir(parents=True)
    for file in (here / "own.py", here / "inner/own.py", tmp_path / "far.py"):
        file.write_text(HEAD + "class Own:\n    pass\n")
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.chdir(here)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    asked = name.format(here)
    with pytest.raises(ConfigError) as caught:
        build_policy("scheduler", asked, {})
    assert str(caught.value) == f"scheduler {asked!r}: {words.format(here, tmp_path)}"


@pytest.mark.parametrize("module", ["sched", "time"])
def test_a_file_that_has_the_name_of_a_part_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """The current folder comes last, where modules are looked for."""
    (tmp_path / f"{module}.py").write_text("class Own:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    first = getattr(importlib.import_module(module), "__file__", "a part of Python")
    with pytest.raises(ConfigError) as caught:
        build_policy("scheduler", f"{module}:Own", {})
    said = f"; {module}.py here needs another name, for {first} comes before it"
    assert str(caught.value).endswith(f"has no attribute 'Own'{said}")


def test_a_memory_policy_whose_copies_come_at_no_known_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "def __post_init__(self): self.swap_in_timing = 'now'"
    (tmp_path / "own.py").write_text(HEAD + f"@dataclass\nclass Own(LruMemory):\n    {body}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own", raising=False)
    expected = "expected one of 'before_step', 'background', got 'now'"
    with pytest.raises(ConfigError, match=f"^memory 'own:Own': swap_in_timing: {expected}$"):
        build_policy("memory", "own:Own", {})
