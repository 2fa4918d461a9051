"""Workloads made from a specification: arrivals, lengths, sessions, shared prompts, tenants.

`load_spec` reads a TOML specification or a bundled one, `generate` makes the workload. Equal
specifications and seeds give equal workloads in any process.
"""

from __future__ import annotations

from traces.generate.load import Spec, bundled_specs, load_spec
from traces.generate.workload import generate

__all__ = ["Spec", "bundled_specs", "generate", "load_spec"]
