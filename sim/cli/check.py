"""`check-policy`: run a scheduler and a memory policy under strain."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from superinfer.lab.complaints import complain
from superinfer.lab.options import ConfigFile, Memory, Scheduler, Settings
from traces.cli import print_out, print_table

Seeds = Annotated[int, typer.Option(metavar="N", min=1, help="Workloads for each condition.")]


def check_policy(
    scheduler: Scheduler = None,
    memory: Memory = None,
    seeds: Seeds = 2,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
) -> None:
    """Run policies with little memory, a prefix cache, a lag; find what they break."""
    from sim.studies.policy_check import check_policies, findings_json, findings_table, place
    from superinfer.lab.config import load_config

    chosen = load_config(config, settings or (), scheduler=scheduler, memory=memory)
    found = check_policies(chosen, range(seeds))
    if as_json:
        print_out(json.dumps(findings_json(chosen, found), indent=2))
    else:
        print_table(findings_table(found))
    code = 0
    for finding in found:
        if finding.unfit:
            print(f"note: {place(finding.condition)}: {finding.unfit}", file=sys.stderr)
        if finding.fault:
            code = complain(f"{place(finding.condition)}: {finding.fault}", 1)
    raise typer.Exit(code)
