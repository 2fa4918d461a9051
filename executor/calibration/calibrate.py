"""From a device and a model to a profile: kernels, copies, real steps, host work."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from executor.calibration.cases import RandomArena
from executor.calibration.ceilings import ceilings, hardware
from executor.calibration.files import WITHOUT_STEPS
from executor.calibration.fit import with_steps
from executor.calibration.links import measure_links
from executor.calibration.report import warnings_of
from executor.calibration.rounds import Say, kernels_in_rounds
from executor.calibration.steps import (
    Limits,
    Steps,
    middle_steps,
    random_workload,
    run_batches,
    run_driver,
    workload_within,
)
from executor.calibration.subject import Subject, Wish
from executor.calibration.tables import Family
from executor.calibration.timing import Deadline, forget_workspaces, rounds_within
from executor.clocks.timers import SteadyTimer, Timer, timed_by
from executor.clocks.yardstick import timer_for
from executor.device import executor_versions, find_device
from executor.kv.arena import Arena, arena_size
from executor.models import require_weights
from executor.session import HOST, Session, open_session, source_of
from executor.step_log import Step
from superinfer.costs import build_cost
from superinfer.costs.devices import Link
from superinfer.costs.profile import HostCost, Profile
from superinfer.engine import Engine, EngineConfig
from superinfer.lab.config import load_config
from superinfer.memory.blocks.slabs import ONE_BLOCK_SLABS

DTYPE_NAMES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
KERNEL_SHARE, LINK_SHARE = 0.55, 0.08
"""Of the time; the rest is for loading and for steps."""
GPU_CHUNKS, CPU_CHUNKS = 3, 6
"""Of a random batch at the most; a CPU computes one after the other."""
HOST_MEMORY_GIB = 0.25
"""For blocks of requests that rotate."""
PLAIN_SHARE = 0.75
"""Of the time that is left for steps on a CPU: what is not for those of the rotating scheduler."""
BATCHES = 64
"""Random batches; half of them are held out."""
Keep = Callable[[Profile], None]


@dataclass(frozen=True, slots=True)
class Calibration:
    """A profile, and the steps that it was brought in line with."""

    profile: Profile
    steps: Steps
    opening_s: dict[str, float]
    """Seconds that it took to open the session whose steps were measured (`Session.opening_s`)."""


def calibrate(wish: Wish, say: Say, keep: Keep = lambda _: None) -> Calibration:
    """Measure everything within about `wish.minutes`. As soon as kernels and copies are known,
    `keep` is given a profile of them, which is of use to who stops it before the end.
    """
    subject = Subject.of(wish)
    check_session(subject)
    with timed_by(timer_for(wish.clock, subject.device)) as timer:
        found = _measured(subject, say, lambda profile: keep(_with_yardstick(profile, timer)))
    return replace(found, profile=_with_yardstick(found.profile, timer))


def _with_yardstick(profile: Profile, timer: Timer) -> Profile:
    """What the clock was, where it was no wall clock."""
    return replace(profile, yardstick=timer.report()) if isinstance(timer, SteadyTimer) else profile


def _measured(subject: Subject, say: Say, keep: Keep) -> Calibration:
    wish = subject.wish
    begin_s, total_s = time.time(), 60 * wish.minutes
    whole = Deadline(total_s)
    say(f"{subject.shape.name} on {hardware(subject.device)['name']}")
    rates = ceilings(subject.device, min(2.0, total_s / 60))
    found = kernels_in_rounds(subject, Deadline(KERNEL_SHARE * total_s), say)
    links = measure_links(subject.device, LINK_SHARE * total_s)
    profile = replace(_profile(subject, found, links, rates), made_s=begin_s)
    keep(replace(profile, sources=[*profile.sources, WITHOUT_STEPS]))
    say("steps of the model")
    forget_workspaces(subject.device)  # or they would be missing in the KV cache
    session = open_session(_config(subject), wish.loading)
    profile = _of_session(profile, session)
    steps = run_steps(subject, session, whole.left_s * (1.0 if subject.gpu else PLAIN_SHARE))
    opening_s = session.opening_s
    del session  # its weights, before they are loaded once more
    if not subject.gpu:
        steps = replace(steps, driven=steps.driven + rotated_steps(subject, whole.left_s))
    profile = with_steps(profile, subject.shape, steps)
    step = profile.fit["step"]
    if "heldout_mape" in step:
        error, points = step["heldout_mape"], step["points"]
        say(f"whole steps, predicted against measured: {error:.1%} off on average ({points} steps)")
    for warning in warnings_of(profile):
        say(warning)
    return Calibration(profile, steps, opening_s)


def check_session(subject: Subject) -> None:
    """Raise, before minutes are spent on kernels, what would keep the session from being opened:
    settings, weights that are not there, an arena beyond the device's memory.
    """
    wish, config, layout = subject.wish, _config(subject), subject.layout
    cost = build_cost(subject.shape, find_device(wish.device).spec, 1, config.run.costs, HOST)
    sizes = EngineConfig(
        total_blocks=wish.kv_blocks or subject.max_model_len,
        block_tokens=layout.block_tokens,
        block_bytes=layout.block_bytes[16],
        max_model_len=subject.max_model_len,
        layers=layout.layers,
    )
    Engine(config.build_scheduler(), config.build_memory(), cost, sizes)
    require_weights(source_of(wish.model), wish.loading.random_weights)
    if wish.kv_blocks:
        size = arena_size(layout, wish.kv_blocks, ONE_BLOCK_SLABS, smaller=False)
        Arena(layout, size, subject.device)
    if subject.gpu:
        torch.cuda.empty_cache()


# -- the profile --------------------------------------------------------------------------------


def _config(subject: Subject, scheduler: str = "vllm", host_memory_gib: float = 0.0) -> Any:
    """A session whose steps are measured; by default plain continuous batching without a host."""
    wish = subject.wish
    sequences = f"scheduler.max_num_seqs={subject.sequences}"
    return load_config(
        None,
        [sequences, f"run.host_memory_gib={host_memory_gib}"],
        scheduler=scheduler,
        memory="lru",
        model=wish.model,
        device=wish.device,
        block_tokens=wish.block_tokens,
        max_model_len=wish.max_model_len or None,
        kv_blocks=wish.kv_blocks or None,
        trace="calibration",
    )


def _profile(
    subject: Subject,
    found: dict[str, Family],
    links: dict[str, dict[str, float]],
    rates: dict[str, float],
) -> Profile:
    """What is known without a session."""
    wish, device = subject.wish, subject.device
    machine = hardware(device)
    quantised = ", int8 weights" if wish.loading.int8 else ""
    return Profile(
        device=find_device(wish.device).spec.name,
        model=subject.shape.name,
        tp=1,
        dtype=DTYPE_NAMES[str(subject.layout.dtype).removeprefix("torch.")],
        kernels={name: family.kernel for name, family in found.items()},
        links={way: Link(link["bytes_per_s"], link["setup_s"]) for way, link in links.items()},
        host=HOST,
        memory={
            "device_bytes": machine.get("memory_bytes"),
            "block_tokens": wish.block_tokens,
            "block_bytes": subject.layout.block_bytes[16],
            **rates,
        },
        fit={name: family.fit() for name, family in found.items()},
        range={name: family.range for name, family in found.items() if family.range},
        sources=[f"superinfer-exec calibrate, {wish.minutes:g} minutes{quantised}"],
        versions={**executor_versions(), "device": str(machine["name"])},
    )


def _of_session(profile: Profile, session: Session) -> Profile:
    """With what a session has: blocks and graphs. Its host time is yet to be fitted."""
    blocks = {"kv_blocks": session.engine.config.total_blocks}
    graphs = session.runner.graphs.known if session.runner.graphs else None
    host = HostCost(0.0, 0.0, "measured")
    return replace(profile, host=host, graphs=graphs, memory={**profile.memory, **blocks})


def run_steps(subject: Subject, session: Session, seconds: float) -> Steps:
    """Random batches through the runner, some to fit and some to judge, and requests through the
    driver.
    """
    deadline, least_s = Deadline(max(4.0, seconds)), 2.0 / subject.rounds
    limits, random = _limits(subject, session), np.random.default_rng(1)
    blocks = min(session.engine.config.total_blocks, 8192)
    source = RandomArena.over(subject.layout, session.runner.arena, blocks)
    # Each set covers all by itself.
    shapes = [limits.batch(random, i % 2 == 1, i // 4, _is_held_out(i)) for i in range(BATCHES)]
    rounds: list[list[Step]] = []
    driven: list[Step] = []
    for done in rounds_within(subject.rounds, deadline):
        part = Deadline(max(least_s, deadline.left_s / (subject.rounds - done)))
        time_s = Deadline(max(least_s, 0.65 * part.left_s))
        rounds.append(run_batches(session.runner, source, shapes, time_s))
        time_s = Deadline(max(least_s, part.left_s))
        workload = workload_within(limits, rounds[-1], time_s.left_s, seed=done)
        driven += run_driver(session, workload, time_s)
    ran = middle_steps(rounds)
    fitted = [step for index, step in enumerate(ran) if not _is_held_out(index)]
    unseen = [step for index, step in enumerate(ran) if _is_held_out(index)]
    return Steps(fitted, unseen, driven)


def _is_held_out(index: int) -> bool:
    """Pairs take turns, so that a change of the machine's speed meets both sets."""
    return index % 4 >= 2


def rotated_steps(subject: Subject, seconds: float) -> list[Step]:
    """Steps of the driver under the rotating scheduler, with requests that go to the host and come
    back. On a CPU one thread plans, copies and computes, so that nothing of this is hidden.
    """
    deadline, least_s = Deadline(max(2.0, seconds)), 1.0 / subject.rounds
    session = open_session(_config(subject, "rotating", HOST_MEMORY_GIB), subject.wish.loading)
    limits, found = _limits(subject, session), []
    for done in rounds_within(subject.rounds, deadline):
        part = Deadline(max(least_s, deadline.left_s / (subject.rounds - done)))
        found += run_driver(session, random_workload(limits, 96, seed=done), part)
    return found


def _limits(subject: Subject, session: Session) -> Limits:
    """Batches that fit into the tables and the arena."""
    grids, sizes = subject.grids(), session.engine.config
    total = min(sizes.total_blocks * sizes.block_tokens, grids.most_context)
    context = min(subject.max_model_len - 1, grids.contexts[-1], total // 4)
    if subject.gpu:
        chunk = min(grids.chunks[-1], context, 4096)
        return Limits(subject.sequences, context, chunk, total, GPU_CHUNKS)
    chunk = min(grids.tokens[-1], total // 2)
    return Limits(subject.sequences, context, chunk, total, CPU_CHUNKS)
