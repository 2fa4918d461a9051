"""`python -m experiments.gpu_check --out DIR [--parts a,b] [--minutes M]`.

Every part takes under ten minutes and stands alone; what an earlier call has done well is skipped.
`DIR/results.json` holds everything and is written after every check; files that belong to a part
come beside it as `DIR/<part>.tar.gz`. `--call a` and `--call b` are the parts of two short calls,
with `--fast`; with `--adopt` the second has the kernels that the first found faster. `--device cpu`
runs the same code on tiny sizes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
import tarfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from experiments.gpu_check.checks import Context, Part, Results, line, run_part
from experiments.gpu_check.parts import CALLS, LAST_S, ORDER, part
from experiments.studykit.reading import exit_code_of
from superinfer.errors import ConfigError


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; the number of checks that did not end well, at most 1."""
    options = _parser().parse_args(arguments)
    names = _names(options)
    if options.adopt and "tune" in names:
        raise ConfigError("--adopt: the part tune measures kernels as they are; name other --parts")
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TRITON_CACHE_DIR", str(options.work / "triton"))
    options.work.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(options.work / "inbox", ignore_errors=True)
    results = Results(out / "results.json")
    end_s = time.monotonic() + 60 * options.minutes - _gone_s(options)
    try:
        if options.adopt:
            _adopt(options, results)
        for name in names:
            _run(name, options, results, end_s - (0.0 if name == names[-1] else LAST_S))
    except KeyboardInterrupt:
        print("interrupted; what is known is in results.json", flush=True)
        return 130
    print(report(results, [*(["adopted"] if options.adopt else []), *names]), flush=True)
    bad = [r for name in names for r in results.checks(name).values() if not r.get("ok")]
    return min(1, len(bad))


def _gone_s(options: argparse.Namespace) -> float:
    """Seconds of the time for all parts that went by before this process, 0 if nobody says."""
    return max(0.0, time.time() - options.began) if options.began else 0.0


def _names(options: argparse.Namespace) -> list[str]:
    """The parts that are asked for, in their order; all where none is named."""
    if options.call:
        return list(CALLS[options.call])
    names = options.parts.split(",") if options.parts else list(ORDER)
    if unknown := [name for name in names if name not in ORDER]:
        raise ConfigError(f"--parts: expected some of {','.join(ORDER)}, got {unknown[0]!r}")
    return names


def _run(name: str, options: argparse.Namespace, results: Results, end_s: float) -> None:
    """One part: never raises, and leaves what it made in the results."""
    begin_s = time.monotonic()
    try:
        found = part(name, options.fast)
        _know_compiler()
        left_s = min(found.seconds, end_s - begin_s)
        print(f"{name} (up to {max(left_s, 0):.0f} s)", flush=True)
        context = Context(options.device, left_s, vars(options), options.work)
        results.checks(name).pop("part", None)  # of an earlier call, in which it did not load
        results.recorded = partial(_pack, name, found, options)
        run_part(name, found, context, results, options.again)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        results.record(name, "part", {"ok": False, "error": f"{type(error).__name__}: {error}"})
    finally:
        results.recorded = lambda: None
    if not all(result.get("earlier") for result in results.checks(name).values()):
        results.data[name] |= {
            "seconds": round(time.monotonic() - begin_s, 1),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join(sys.argv[1:]),
        }
    results.write()


def _adopt(options: argparse.Namespace, results: Results) -> None:
    """Set what an earlier call has measured to be faster; what fails here ends no call."""
    try:
        from experiments.gpu_check.tune.adopt import START_S, adopt

        adopt(Context(options.device, START_S, vars(options), options.work), results)
    except Exception as error:
        results.record(
            "adopted", "part", {"ok": False, "error": f"{type(error).__name__}: {error}"}
        )


def _know_compiler() -> None:
    """Have Triton digest its own files (half a second) before checks are forked, once for all."""
    with suppress(ImportError, AttributeError):
        from triton.runtime.cache import triton_key

        triton_key()


def _pack(name: str, found: Part, options: argparse.Namespace) -> None:
    """Put the files of a part into one archive beside the results, after every check: who ends a
    call in the middle of a part has those of the checks before.
    """
    wanted = {item.format(check=check) for item in found.artefacts for check in found.checks}
    there = [item for item in sorted(wanted) if (options.work / item).exists()]
    if not there:
        return
    archive, aside = options.out / f"{name}.tar.gz", options.out / f"{name}.tmp"
    try:
        with tarfile.open(aside, "w:gz") as made:
            for item in there:
                made.add(options.work / item, arcname=item)
        os.replace(aside, archive)
    except (OSError, tarfile.TarError) as error:  # the next check writes there: the one after packs
        print(f"  {archive.name}: {error}", flush=True)


def report(results: Results, names: list[str]) -> str:
    """A line for each check."""
    lines = []
    for name in names:
        lines.append(f"== {name} ({results.data.get(name, {}).get('seconds', 0)} s)")
        lines += [f"{check:24} {line(found)}" for check, found in results.checks(name).items()]
        for found in results.checks(name).values():
            lines += found.get("table", [])
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="experiments.gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--parts", default="", help=f"some of {','.join(ORDER)}")
    parser.add_argument("--call", choices=sorted(CALLS), help="the parts of one of two calls")
    parser.add_argument("--again", action="store_true", help="what is known is measured anew")
    parser.add_argument("--adopt", action="store_true", help="with what tune has found faster here")
    parser.add_argument("--minutes", type=float, default=60.0, help="time for all parts")
    parser.add_argument("--began", type=int, default=0, help="Unix time from which minutes count")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--fast", action="store_true", help="less of everything")
    parser.add_argument("--work", type=Path, default=Path("/tmp/gpu_check"), help="other files")
    parser.add_argument("--model", default="", help="for run and validate; else llama-3.1-8b")
    parser.add_argument("--trace", type=Path, default=Path(".gpu/trace.csv"), help="a real one")
    parser.add_argument("--corpus", type=Path, default=Path(".gpu/kjv.txt"))
    parser.add_argument("--train-seconds", type=float, default=60.0)
    parser.add_argument("--profile", type=Path, help="for validate; else what calibrate-8b wrote")
    return parser


def _interrupt(*_: Any) -> None:
    """Told to end: as by the keyboard, so that no check is left behind."""
    raise KeyboardInterrupt


def leave(code: int) -> None:
    """End this process, whatever becomes of children that were killed and are still there."""
    if multiprocessing.active_children():  # the interpreter would wait for them
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    leave(exit_code_of(main))
