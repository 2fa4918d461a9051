"""Compile every kernel for GPUs that are not there, and read what became of it.

Triton brings NVIDIA's assembler along, so that any machine can compile for any GPU and count
registers, spills, shared memory and instructions:

    python -m executor.kernels.compile --capability 90 --name linear
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from executor.kernels.registry import Entry, entries
from superinfer.errors import ConfigError

SHARED_LIMITS = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes of shared memory that one program can have (CUDA C++ programming guide, table of technical
specifications per compute capability)."""
LIMIT_S = 300
"""Compiling one kernel takes seconds."""
PATTERNS = {
    "tensor_cores": r"\b[HIQ]G?MMA\.",
    "last_of_group": r"\b[HIQ]GMMA\.[^;]*\bgsb0\b",
    "async_copies": r"\bLDGSTS\b|\bUTMALDG\b|\bUBLKCP\b",
    "wide_loads": r"\bLDG\.E\.(?:\w+\.)*128\b",
}
"""Instructions that are counted: products on tensor cores, those of sm_90 that end a group of them
(what is waited for is a group), copies from global to shared memory that do not wait, loads of 16
bytes."""
WAIT = r"\bACQBULK\b"
"""For the kernel before, of those that are launched early (`early`)."""
BEFORE_WAIT = {"early_loads": r"\bLDG\b|\bLDGSTS\b", "early_stores": r"\b(?:STG|ATOMG?|REDG?)\b"}
"""Instructions that are counted where they come before that: a compiler may have moved them."""


@dataclass(frozen=True)
class Compiled:
    """What the assembler says of one entry."""

    name: str
    capability: int
    registers: int
    """Per thread."""
    stack_bytes: int
    """Per thread; more than 0 means that registers are spilled to memory."""
    shared_bytes: int
    tensor_cores: int
    last_of_group: int
    async_copies: int
    wide_loads: int
    waits: int
    """1 if it waits for the kernel before."""
    early_loads: int
    early_stores: int
    seconds: float
    """That compiling took."""
    problems: tuple[str, ...]
    """Where it falls short of what its entry asks for."""


def compile_entry(entry: Entry) -> Compiled:
    """Compile one entry for its architecture.

    Raises ConfigError where the interpreter stands in for the compiler, or tools are missing.
    """
    check_tools()
    begin = time.perf_counter()
    binary, shared = _binary(entry)
    seconds = time.perf_counter() - begin
    usage = _run("cuobjdump", binary, "-res-usage")
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise ConfigError(f"cuobjdump names no registers of {entry.name}: {usage!r}")
    code = _run("nvdisasm", binary, "-c")
    figures = {"registers": int(found[1]), "stack_bytes": int(found[2]), "shared_bytes": shared}
    figures |= counts(code)
    short = tuple(problems(entry, figures))
    return Compiled(entry.name, entry.capability, **figures, seconds=seconds, problems=short)


def counts(code: str) -> dict[str, int]:
    """How many instructions of each kind there are in disassembled code."""
    before, *after = re.split(WAIT, code, maxsplit=1)
    ahead = before if after else ""
    return {
        **{name: len(re.findall(pattern, code)) for name, pattern in PATTERNS.items()},
        **{name: len(re.findall(pattern, ahead)) for name, pattern in BEFORE_WAIT.items()},
        "waits": len(after),
    }


def check_tools() -> None:
    """Raise ConfigError if nothing can be compiled here, with the reason."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise ConfigError("TRITON_INTERPRET=1 replaces the compiler; unset it to compile kernels")
    missing = [name for name in ("ptxas", "cuobjdump", "nvdisasm") if not _tool(name).is_file()]
    if missing:
        raise ConfigError(f"this installation of Triton comes without {', '.join(missing)}")


def _binary(entry: Entry) -> tuple[bytes, int]:
    """The machine code of an entry, and its bytes of shared memory."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = entry.kernel.arg_names
    source = ASTSource(
        fn=entry.kernel,
        signature={name: entry.types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in entry.constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in entry.aligned},
    )
    target = GPUTarget("cuda", entry.capability, 32)
    compiled = triton.compile(source, target=target, options=dict(entry.options))
    return compiled.asm["cubin"], compiled.metadata.shared


def problems(entry: Entry, figures: dict[str, int]) -> list[str]:
    """Where the figures of a compiled entry fall short of what the entry asks for."""
    limit = SHARED_LIMITS[entry.capability]
    found = {
        f"spills {figures['stack_bytes']} bytes": figures["stack_bytes"] > entry.max_stack_bytes,
        f"more than {limit} bytes of shared memory": figures["shared_bytes"] > limit,
        f"more than {entry.max_registers} registers": figures["registers"] > entry.max_registers,
        "no tensor cores": entry.dot and not figures["tensor_cores"],
        "waits for each product": entry.grouped
        and 2 * figures["last_of_group"] > figures["tensor_cores"],
        "no asynchronous copies": entry.pipelined and not figures["async_copies"],
        "does not wait for the kernel before": bool(entry.constants.get("EARLY"))
        and not figures["waits"],
        f"{figures['early_loads']} loads before it waits": figures["early_loads"]
        > entry.max_early_loads,
        "stores before it waits": figures["early_stores"] > 0,
    }
    return [problem for problem, holds in found.items() if holds]


def _tool(name: str) -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name


def _run(tool: str, binary: bytes, flag: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [str(_tool(tool)), flag, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def compile_all(
    named: list[tuple[str, int]], processes: int, tell: Callable[[Compiled], None]
) -> list[Compiled]:
    """Compile entries, given by name and capability, in processes of their own.

    `tell` gets each one when it is ready. Raises ConfigError if one takes longer than LIMIT_S.
    """
    found: list[Compiled] = []
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        ready = pool.imap(_compile_named, named)
        for name, capability in named:
            try:
                found.append(ready.next(timeout=LIMIT_S))
            except multiprocessing.TimeoutError:
                late = f"{name} for sm_{capability} is not ready after {LIMIT_S} s"
                raise ConfigError(late) from None
            tell(found[-1])
    return found


def _compile_named(named: tuple[str, int]) -> Compiled:
    """In a process of its own, where the entry itself cannot be sent."""
    found = next(entry for entry in entries() if (entry.name, entry.capability) == named)
    return compile_entry(found)


def main(
    capability: Annotated[
        int | None, typer.Option(help="Only for this compute capability: 80 or 90.")
    ] = None,
    name: Annotated[str, typer.Option(help="Only entries with this in their name.")] = "",
    processes: Annotated[int, typer.Option(help="How many compile at once.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Compile the kernels and print what they use; fails if one falls short of its entry.

    Columns: registers per thread, bytes of stack (spilled registers), shared memory, instructions
    on tensor cores, asynchronous copies, loads of 16 bytes, and seconds that compiling took.
    """
    try:
        check_tools()
        found = compile_all(wanted(capability, name), processes, _tell)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    if as_json:
        typer.echo(json.dumps([asdict(compiled) for compiled in found], indent=1))
    else:
        _print_table(found)
    raise typer.Exit(int(any(compiled.problems for compiled in found)))


def _tell(compiled: Compiled) -> None:
    """All of them take minutes on a slow machine."""
    typer.echo(f"sm_{compiled.capability} {compiled.name}: {compiled.seconds:.1f} s", err=True)


def wanted(capability: int | None, name: str) -> list[tuple[str, int]]:
    """Names and capabilities of entries; raises ConfigError if there are none."""
    named = [
        (entry.name, entry.capability)
        for entry in entries()
        if name in entry.name and capability in (None, entry.capability)
    ]
    if not named:
        chip = "" if capability is None else f" for capability {capability}"
        raise ConfigError(f"there is no kernel with {name!r} in its name{chip}")
    return named


def _print_table(found: list[Compiled]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Kernels as compiled")
    table.add_column("kernel", overflow="fold")
    for column in ("sm", "regs", "stack", "KiB", "mma", "async", "wide", "s"):
        table.add_column(column, justify="right", min_width=len(column))
    for compiled in found:
        table.add_row(*_row(compiled))
    Console().print(table)
    for compiled in found:
        for problem in compiled.problems:
            typer.echo(f"{compiled.name}, sm_{compiled.capability}: {problem}")


def _row(compiled: Compiled) -> list[str]:
    figures: list[Any] = [
        compiled.name,
        compiled.capability,
        compiled.registers,
        compiled.stack_bytes,
        f"{compiled.shared_bytes / 1024:.1f}",
        compiled.tensor_cores,
        compiled.async_copies,
        compiled.wide_loads,
        f"{compiled.seconds:.1f}",
    ]
    return [str(figure) for figure in figures]


if __name__ == "__main__":
    typer.run(main)
