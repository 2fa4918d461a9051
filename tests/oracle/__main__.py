"""Hold the model against the installed vLLM: `python -m oracle` with `.` and `tests` on the path.

`make oracle` sets up an environment of its own for it. `--record FOLDER` writes the golden traces
that ordinary tests replay without vLLM.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

from oracle import model
from oracle.cases import STEP_LIMIT, Case, Step, random_case, random_offload_case
from oracle.golden import NAMED, write


def first_difference(real: list[Step], ours: list[Step]) -> str | None:
    """The first step at which two runs part."""
    if min(len(real), len(ours)) >= STEP_LIMIT:  # cut off: who finished in the last is not known
        real, ours = real[: STEP_LIMIT - 2], ours[: STEP_LIMIT - 2]
    for number, (one, other) in enumerate(zip(real, ours, strict=False)):
        if one != other:
            return f"step {number}:\n  vLLM {one}\n  ours {other}"
    if len(real) != len(ours):
        return f"vLLM takes {len(real)} steps, ours {len(ours)}"
    return None


def attempt(case: Case) -> tuple[list[Step], str | None, bool]:
    """Both runs: the real steps, the first difference, and whether a cached prefix was hit."""
    from oracle import real

    expected = real.run(case)
    try:
        ours = model.Run(case)
    except Exception as error:  # a crash is a divergence like any other
        return expected, f"ours raises {error!r}", False
    hit = ours.engine.recorder.prefix_hit_tokens > 0
    return expected, first_difference(expected, ours.steps), hit


def what(case: Case, steps: list[Step], hit: bool) -> list[str]:
    """Which kinds of thing happen in a case."""
    settings = case.settings
    longest = max(job.prompt_tokens for job in case.jobs)
    found = {
        "preemption": any(step.preempted for step in steps),
        "prefix hits": hit,
        "chunks": longest > settings.max_num_batched_tokens,
        "priority": settings.policy == "priority",
        "async": settings.async_scheduling,
        "no caching": not settings.enable_prefix_caching,
        "offload": settings.offload is not None,
        "loads": any(step.loads for step in steps),
    }
    return [key for key, holds in found.items() if holds]


def draw(number: int, offload: bool) -> Case:
    """The random case of this number."""
    return (random_offload_case if offload else random_case)(Random(number))


def compare(cases: int, seed: int, keep_going: int, offload: bool) -> int:
    """Random cases; returns how many differ."""
    kinds: Counter[str] = Counter()
    bad, steps, started = 0, 0, time.perf_counter()
    for number in range(seed, seed + cases):
        case = draw(number, offload)
        expected, difference, hit = attempt(case)
        steps += len(expected)
        kinds.update(what(case, expected, hit))
        if difference is not None:
            bad += 1
            print(f"case {number}: {difference}\n  {case.settings}", flush=True)
            if bad >= keep_going:
                break
    seconds = time.perf_counter() - started
    done = number - seed + 1
    print(f"{done} cases, {steps} steps, {bad} differ ({seconds:.0f} s); with {dict(kinds)}")
    return bad


def record(folder: Path) -> None:
    """Write the golden traces."""
    from oracle import real

    for name, case in NAMED.items():
        write(
            folder / f"{name}.json",
            case,
            real.run(case),
            real.identity(case.settings.offload is not None),
        )


def show(seed: int, offload: bool) -> None:
    """One random case, as JSON."""
    print(json.dumps(draw(seed, offload).to_json()))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Hold the model of vLLM V1 against vLLM.")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop-after", type=int, default=5, help="differing cases")
    parser.add_argument("--record", type=Path, help="write golden traces to this folder instead")
    parser.add_argument("--show", type=int, help="print the random case of this seed")
    parser.add_argument("--offload", action="store_true", help="cases with copies to the host")
    options = parser.parse_args()
    if options.show is not None:
        show(options.show, options.offload)
    elif options.record is not None:
        record(options.record)
    else:
        number, seed, most = options.cases, options.seed, options.stop_after
        sys.exit(bool(compare(number, seed, most, options.offload)))


if __name__ == "__main__":
    main()
