"""Every kernel, compiled for the GPUs it is meant for, without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from executor.kernels import compile as offline
from executor.kernels.registry import Entry, entries
from superinfer.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


def without_interpreter(cache: Path) -> dict[str, str]:
    """An environment in which kernels are compiled, into a cache of its own."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return env | {"TRITON_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_every_kernel_compiles_to_what_it_is_meant_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No spills, shared memory that fits, tensor cores, asynchronous copies, few registers,
    and nothing that other kernels write is touched before the wait for them."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    try:
        offline.check_tools()
    except ConfigError as error:
        pytest.skip(f"needs NVIDIA's assembler, which Triton brings on Linux: {error}")
    command = [sys.executable, "-m", "executor.kernels.compile", "--json", "--processes", "2"]
    env = without_interpreter(tmp_path)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert {(one["name"], one["capability"]) for one in found} == {
        (entry.name, entry.capability) for entry in entries()
    }
    assert {
        (one["name"], one["capability"]): one["problems"] for one in found if one["problems"]
    } == {}
    copies = {(one["name"], one["capability"]): one["async_copies"] for one in found}
    copied = [name for name, _ in copies if name.endswith(" copied")]
    assert copied and all(
        copies[name, chip] == copies[name.removesuffix(" copied"), chip] + 4  # one a stage
        for name in copied
        for chip in (80, 90)
    )
    assert done.returncode == 0


def test_entries_have_names_of_their_own_and_both_architectures() -> None:
    names = Counter((entry.name, entry.capability) for entry in entries())
    assert max(names.values()) == 1
    assert {capability for _, capability in names} == {80, 90}


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: f"{entry.name} {entry.capability}")
def test_entry_names_every_argument(entry: Entry) -> None:
    """Types and constants together are the arguments of the kernel."""
    given = {*entry.types, *entry.constants}
    assert given == set(entry.kernel.arg_names)
    assert not set(entry.types) & set(entry.constants)
    assert set(entry.aligned) <= set(entry.types)


def entry_with(**changes: object) -> Entry:
    fields: dict[str, object] = {"constants": {}, "dot": False, "pipelined": False}
    fields |= {"max_registers": 100} | changes
    return Entry("one", None, 80, {}, **fields)  # type: ignore[arg-type]


FIGURES = {
    "registers": 100,
    "stack_bytes": 0,
    "shared_bytes": 163 * 1024,
    "tensor_cores": 0,
    "last_of_group": 0,
    "async_copies": 0,
    "waits": 1,
    "early_loads": 0,
    "early_stores": 0,
}


@pytest.mark.parametrize(
    ("asked", "figures", "problems"),
    [
        ({}, {}, []),
        ({}, {"stack_bytes": 8}, ["spills 8 bytes"]),
        ({"max_stack_bytes": 8}, {"stack_bytes": 8}, []),
        ({}, {"shared_bytes": 163 * 1024 + 1}, ["more than 166912 bytes of shared memory"]),
        ({}, {"registers": 101}, ["more than 100 registers"]),
        ({"dot": True}, {}, ["no tensor cores"]),
        ({"dot": True, "pipelined": True}, {"tensor_cores": 1}, ["no asynchronous copies"]),
        ({"dot": True, "pipelined": True}, {"tensor_cores": 1, "async_copies": 9}, []),
        ({"grouped": True}, {"tensor_cores": 8, "last_of_group": 4}, []),
        ({"grouped": True}, {"tensor_cores": 8, "last_of_group": 5}, ["waits for each product"]),
        ({}, {"waits": 0}, []),
        ({"constants": {"EARLY": False}}, {"waits": 0}, []),
        ({"constants": {"EARLY": True}}, {}, []),
        ({"constants": {"EARLY": True}}, {"waits": 0}, ["does not wait for the kernel before"]),
        ({"max_early_loads": 2}, {"early_loads": 2}, []),
        ({"max_early_loads": 2}, {"early_loads": 3}, ["3 loads before it waits"]),
        ({}, {"early_stores": 1}, ["stores before it waits"]),
    ],
)
def test_problems_are_named(
    asked: dict[str, object], figures: dict[str, int], problems: list[str]
) -> None:
    assert offline.problems(entry_with(**asked), FIGURES | figures) == problems


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("/*0a*/  HMMA.16816.F32.BF16 R4, R8, R10, R4 ;", "tensor_cores"),
        ("/*0a*/  HGMMA.64x16x16.F32.BF16 R24, R20, gdesc[UR4] ;", "tensor_cores"),
        ("/*0a*/  HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], RZ, !UPT ;", "tensor_cores"),
        ("/*0a*/  @P0 LDGSTS.E.BYPASS.128 [R3], [R4.64] ;", "async_copies"),
        ("/*0a*/  LDG.E.128 R4, [R2.64] ;", "wide_loads"),
        ("/*0a*/  LDG.E.EF.128.CONSTANT R4, [R2.64] ;", "wide_loads"),
        ("/*0a*/  LDG.E.64 R4, [R2.64] ;", None),
        ("/*0a*/  FFMA R4, R8, R10, R4 ;", None),
        ("/*0a*/  STS.128 [R3], R4 ;", None),
    ],
)
def test_instructions_are_told_apart(code: str, kind: str | None) -> None:
    assert [name for name, found in offline.counts(code).items() if found] == (
        [kind] if kind else []
    )


def test_what_comes_before_the_wait_is_told_apart() -> None:
    load, store = "LDG.E.128 R4, [R2.64] ;", "@P0 STG.E [R4.64], R6 ;"
    add, ask, wait = "ATOMG.E.ADD.GPU PT, R2, [R4.64], R6 ;", "CCTL.E.PF2 [R6] ;", "ACQBULK ;"
    found = offline.counts("\n".join((ask, load, wait, load, store, add)))
    assert (found["waits"], found["early_loads"], found["early_stores"]) == (1, 1, 0)
    found = offline.counts("\n".join((load, store, add, wait)))
    assert (found["waits"], found["early_loads"], found["early_stores"]) == (1, 1, 2)
    found = offline.counts("\n".join((load, store)))
    assert (found["waits"], found["early_loads"], found["early_stores"]) == (0, 0, 0)


def test_the_last_product_of_a_group_counts_twice() -> None:
    code = "/*0a*/  HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], R24, gsb0 ;"
    found = offline.counts(code)
    assert (found["tensor_cores"], found["last_of_group"]) == (1, 1)


def test_the_interpreter_is_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ConfigError, match="unset it to compile"):
        offline.check_tools()


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(offline, "_tool", lambda name: tmp_path / name)
    with pytest.raises(ConfigError, match="comes without ptxas, cuobjdump, nvdisasm"):
        offline.check_tools()


def test_unknown_kernels_are_an_error() -> None:
    with pytest.raises(ConfigError, match="no kernel with 'nonsense' in its name"):
        offline.wanted(None, "nonsense")
    assert {capability for _, capability in offline.wanted(90, "rms")} == {90}
