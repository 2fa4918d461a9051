"""`profiles list`, `show` and `build`: what the step times of a run are made of."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superinfer.lab.cli.terminal import say
from superinfer.outputs import check_writable
from traces.cli.options import AsJson
from traces.printing import print_out, print_table

if TYPE_CHECKING:
    from superinfer.costs import Profile

app = typer.Typer(
    help="Show and build profiles: kernel times measured on a device.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

LEGEND = """\
Worst and mean error over kernels, on measurements held out of the fit; other: the worst error where
a shape, a device or earlier context was not measured. Tokens and context: where measuring ended.
`superinfer-sim profiles show DEVICE_MODEL_tpTP`, as in h100_llama-3.1-8b_tp1, prints one."""


class _Dtype(StrEnum):
    """A dtype by name; a profile leaves out the one that everything else has."""

    @property
    def name_in_profile(self) -> str:
        """Empty for bf16."""
        return "" if self.value == "bf16" else self.value


class WeightDtype(_Dtype):
    """Weights of which GEMM were measured."""

    BF16 = "bf16"
    FP8 = "fp8"
    FP8_BLOCK = "fp8_block"


class KvDtype(_Dtype):
    """Caches over which attention was measured."""

    BF16 = "bf16"
    FP8 = "fp8"


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the shipped profiles."""
    from superinfer.costs import list_profiles, load_profile
    from superinfer.lab.profiles.report import list_table, summary

    rows = [summary(load_profile(name.path)) for name in list_profiles()]
    if as_json:
        print_out(json.dumps(rows, indent=2))
    else:
        print_table(list_table(rows))
        print_out(LEGEND)


@app.command()
def show(
    profile: Annotated[
        str, typer.Argument(metavar="PROFILE", help="DEVICE_MODEL_tpTP, or a profile file.")
    ],
    as_json: AsJson = False,
) -> None:
    """Print a profile: kernels, errors, sources."""
    from superinfer.lab.profiles import report

    found = report.find_profile(profile)
    for note in found.notes:
        say(f"warning: {note}")
    if as_json:
        print_out(json.dumps(report.full_json(found), indent=2))
        return
    print_out("\n".join(report.heading_lines(found)))
    print_table(report.kernel_table(found))
    print_out("\n".join(report.source_lines(found)))


@app.command()
def build(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of measurements (docs/profiles.md).")
    ],
    model: Annotated[str, typer.Option(help="Preset, or a config.json.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Profile to write.")
    ],
    tp: Annotated[int, typer.Option(min=1, help="Tensor-parallel GPUs.")] = 1,
    device: Annotated[str, typer.Option(help="Device preset.")] = "a100-80g",
    weights: Annotated[
        WeightDtype, typer.Option(help="Of the layers' matrices.")
    ] = WeightDtype.BF16,
    kv: Annotated[KvDtype, typer.Option(help="Of the KV cache.")] = KvDtype.BF16,
    as_json: AsJson = False,
) -> None:
    """Fit a profile to kernel measurements.

    Prints the held-out error of each kernel, and what stands in for a shape outside the measured.
    """
    from superinfer.costs import load_shape
    from superinfer.costs.shapes import shape_file
    from superinfer.lab.profiles.build import build_profile, save_profile

    check_writable(output, file=True, inputs=[shape_file(model)])
    shape = replace(
        load_shape(model), weight_dtype=weights.name_in_profile, kv_dtype=kv.name_in_profile
    )
    found = build_profile(source, device, shape, tp)
    save_profile(found, output)
    _print_errors(found, as_json=as_json)
    typer.echo(f"wrote {output}", err=True)


def _print_errors(profile: Profile, *, as_json: bool) -> None:
    from superinfer.lab.profiles.report import error_table

    if as_json:
        print_out(json.dumps(profile.fit, indent=2))
    else:
        print_table(error_table(profile))
        print_out("".join(f"assumed {name}: {text}\n" for name, text in profile.assumed.items()))
