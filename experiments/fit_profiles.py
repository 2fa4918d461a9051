"""Rebuild the shipped profiles from public kernel measurements.

    python -m experiments.fit_profiles [--data DIR] [--out DIR]

`DIR` holds `profiles/aiconfigurator`, `profiles/vidur` and `profiles/llmservingsim` (default: the
environment variable `SUPERINFER_DATA`, else `../shared/data`). How they are fitted, with their
errors: docs/profiles.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.studykit.reading import data_folder, exit_code_of
from superinfer.costs import load_shape
from superinfer.lab.profiles.build import build_profile, save_profile
from superinfer.lab.profiles.report import error_lines

OUT = Path(__file__).parents[1] / "superinfer" / "costs" / "profiles"
TARGETS = (
    *(
        (device, model, tp)
        for device in ("a100-80g", "h100", "h200")
        for model, tp in (("llama-3.1-8b", 1), ("llama-3.1-70b", 4), ("llama-3.1-70b", 8))
    ),
    *(("rtxpro6000", model, 1) for model in ("llama-3.1-8b", "qwen3-32b", "qwen3-30b-a3b")),
)
FOLDERS = {"rtxpro6000": "llmservingsim"}
"""Where measurements lie that are not those of aiconfigurator and Vidur."""


def file_name(device: str, model: str, tp: int) -> str:
    """The name under which a profile is shipped."""
    return f"{device}_{model}_tp{tp}.json"


def main(arguments: list[str] | None = None) -> int:
    """Fit and write every profile of `TARGETS`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    for device, model, tp in TARGETS:
        path = options.out / file_name(device, model, tp)
        folder = options.data / "profiles" / FOLDERS.get(device, "")
        profile = build_profile(folder, device, load_shape(model), tp)
        save_profile(profile, path)
        sys.stdout.write("\n".join([path.name, *error_lines(profile)]) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
