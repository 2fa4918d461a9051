"""`check-policy`: run a scheduler, a memory policy and a router under strain."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from superinfer.lab.cli.complaints import complain
from superinfer.lab.cli.options import ConfigFile, Memory, Scheduler, Settings
from superinfer.lab.cli.terminal import say
from traces.cli.options import AsJson
from traces.printing import print_out, print_table

Seeds = Annotated[int, typer.Option(metavar="N", min=1, help="Workloads for each condition.")]
CheckedRouter = Annotated[
    str | None,
    typer.Option(
        help="Router, by name or as package.module:Class; adds replicas.", show_default="none"
    ),
]


def check_policy(
    scheduler: Scheduler = None,
    memory: Memory = None,
    router: CheckedRouter = None,
    seeds: Seeds = 2,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Run policies with little memory, a prefix cache, a lag; find what they break. A router has
    three replicas, or run.replicas.
    """
    from sim.notices.before import warn_of_notes
    from sim.studies.policy_check import check_policies, replaced, with_replicas
    from sim.studies.policy_check_page import findings_json, findings_table, told_once
    from superinfer.lab.config import load_config

    chosen = with_replicas(
        load_config(config, settings or (), scheduler=scheduler, memory=memory, router=router)
    )
    warn_of_notes(chosen)
    for note in replaced(chosen):
        say(f"note: {note}")
    found = check_policies(chosen, range(seeds))
    if as_json:
        print_out(json.dumps(findings_json(chosen, found), indent=2))
    else:
        print_table(findings_table(found))
    for note in told_once(found, "unfit"):
        say(f"note: {note}")
    code = max((complain(fault, 1) for fault in told_once(found, "fault")), default=0)
    raise typer.Exit(code)
