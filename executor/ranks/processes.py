"""The processes of the ranks: started, met, and ended.

The others heed no signals, which may go to a whole group of processes: they end when rank 0 says so
or is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from executor.device import HOST
from executor.models import Group, require_memory
from executor.models.config import read_config
from executor.ranks.following import follow
from executor.ranks.orders import Channel
from executor.session import ModelOptions, open_session, source_of
from superinfer.errors import ConfigError, SuperInferError
from superinfer.lab.cli.terminal import say
from superinfer.lab.config import Config

JOIN_S = 30.0
"""How long a rank has to end by itself."""
GRACE_S = 10.0
"""Between the end of a rank's connections and its own."""
NOTICE_S = 1.0
"""The same of rank 0, for who wants to know whether the fault is there."""
MEETING = timedelta(minutes=5)
"""How long ranks wait for each other at the start."""


def _rank(rank: int, meeting: str, config: Config, options: ModelOptions) -> None:
    """What the process of a rank other than 0 does."""
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)
    threading.Thread(target=_end_with_leader, daemon=True).start()
    try:
        channel = _join(rank, meeting, config)
        session = open_session(config, options, channel=channel)
        follow(session.runner, session.mover, channel)
    except SuperInferError as error:
        say(f"rank {rank}: {error}")
        sys.exit(error.exit_code)
    except RuntimeError:  # what torch.distributed raises when somebody is gone
        if not _ended(multiprocessing.parent_process(), NOTICE_S):
            raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _end_with_leader() -> None:
    """Wherever this rank is: a step may wait for rank 0 for ever."""
    leader = multiprocessing.parent_process()
    assert leader is not None
    leader.join()
    os._exit(1)


def _join(rank: int, meeting: str, config: Config) -> Channel:
    """Meet the other ranks; each has a GPU of its own."""
    size, backend = config.run.tp, "gloo"
    if config.run.device == HOST:
        torch.set_num_threads(max(1, torch.get_num_threads() // size))
    else:
        torch.cuda.set_device(rank)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend, init_method=meeting, rank=rank, world_size=size, timeout=MEETING
    )
    return Channel(Group(rank, size))


def _require(config: Config, options: ModelOptions) -> None:
    """ConfigError for what no group of ranks can do, before any is started."""
    run, shape = config.run, read_config(source_of(config.run.model))[0].shape
    Group(0, run.tp).require(shape)
    if run.device == HOST:  # all ranks share its memory
        weight_bytes = 1 if options.int8 else options.torch_dtype(torch.device(HOST)).itemsize
        require_memory(shape, run.tp, weight_bytes, ranks=run.tp)
    if run.device.startswith("cuda:"):
        raise ConfigError(f"run.device: each of {run.tp} ranks has its own, got {run.device!r}")
    if run.device != HOST and torch.cuda.device_count() < run.tp:
        raise ConfigError(f"run.tp={run.tp}: torch finds {torch.cuda.device_count()} CUDA devices")


@contextmanager
def ranks_of(config: Config, options: ModelOptions) -> Iterator[Channel | None]:
    """The other ranks of a run, started and in the end stopped; None for a run on one device."""
    if config.run.tp == 1:
        yield None
        return
    _require(config, options)
    spawn = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "ranks").as_uri()
        others = [
            spawn.Process(target=_rank, args=(rank, meeting, config, options), daemon=True)
            for rank in range(1, config.run.tp)
        ]
        for process in others:
            process.start()
        try:
            channel = _join(0, meeting, config)
            yield channel
            channel.send(None)
            for process in others:
                process.join(JOIN_S)
        except RuntimeError as error:  # what torch.distributed raises when somebody is gone
            if not any(_ended(process) for process in others):
                raise
            raise SuperInferError("a rank has ended before its time; see above") from error
        finally:
            for process in others:
                process.kill()
                process.join()
            if dist.is_initialized():
                dist.destroy_process_group()


def _ended(process: Any, within_s: float = GRACE_S) -> bool:
    """True if a process is over, or about to be."""
    process.join(within_s)
    return not process.is_alive()
