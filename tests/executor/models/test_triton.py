"""Whole models on Triton's kernels, in its interpreter."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from modelkit.families import CASES, both
from modelkit.folders import drawn_folder
from modelkit.harness import CPU

from executor.kernels.reference import TorchOps
from executor.kernels.tiles import INTERPRETED


@pytest.mark.parametrize(
    "name", [n if n == "llama" else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
@pytest.mark.skipif(not INTERPRETED, reason="needs the interpreter: set TRITON_INTERPRET=1")
def test_kernels_in_the_interpreter(tmp_path, name):
    from executor.kernels.triton_ops import TritonOps

    config, int8 = CASES[name]
    folder = drawn_folder(tmp_path, config)
    place = {"device": CPU, "dtype": torch.float32, "int8": int8}
    wanted, given = both(folder, place | {"ops": TorchOps()}, place | {"ops": TritonOps()})
    assert (given - wanted).abs().max() <= 1e-4
