"""The same run in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUN = """
import sys
from property.exact_runs import play
from property.workloads import Job

jobs = [
    Job((i * 7 % 5) / 4, 1 + i * 11 % 36, 1 + i * 13 % 36, i % 4, i % 2, i % 3 == 0)
    for i in range(40)
]
lag, *arms = sys.argv[1:]
for arm in arms:
    run = play(jobs, None, scale_s=1.0, arm=arm, lag=int(lag), prefix=True)
    columns = [run.record.table.finish_s, run.record.tokens.decode_end_s, run.record.timeline.t_s]
    sys.stdout.buffer.write("\\n".join([arm, *map(repr, run.events)]).encode())
    sys.stdout.buffer.write(b"".join(column.tobytes() for column in columns))
"""


def bytes_of_runs(arms: Iterable[str], lag: int, hash_seed: str) -> bytes:
    """Events and columns of runs with preemptions, copies and a prefix cache."""
    env = {
        **os.environ,
        "PYTHONHASHSEED": hash_seed,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    command = [sys.executable, "-c", RUN, str(lag), *arms]
    return subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE).stdout
