"""Profiles with some of their times multiplied: what would be if they were wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from superinfer.costs.devices import Link
from superinfer.costs.profile import HOST_TIMES, Kernel, Profile


def with_kernels(profile: Profile, by: Mapping[str, float]) -> Profile:
    """The times of the named kernels multiplied."""
    kernels = {name: _slower(each, by.get(name, 1.0)) for name, each in profile.kernels.items()}
    return replace(profile, kernels=kernels)


def with_links(profile: Profile, by: float) -> Profile:
    """The time of every copy between device and host multiplied."""
    links = {
        name: Link(link.bytes_per_s / by, link.setup_s * by) for name, link in profile.links.items()
    }
    return replace(profile, links=links)


def with_host(profile: Profile, by: float) -> Profile:
    """All host times multiplied: per step and sequence, of launching, of steps with chunks, and
    between steps that are queued ahead.
    """
    host = replace(profile.host, **{name: by * getattr(profile.host, name) for name in HOST_TIMES})
    return replace(profile, host=host)


def _slower(kernel: Kernel, by: float) -> Kernel:
    if by == 1.0:
        return kernel
    seconds = kernel.seconds and tuple(
        tuple(by * value for value in row) if isinstance(row, tuple | list) else by * row
        for row in kernel.seconds
    )
    coefficients = {name: by * value for name, value in kernel.coefficients.items()}
    return replace(kernel, seconds=seconds, coefficients=coefficients)
