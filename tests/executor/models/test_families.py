"""Every family in 16 bits on the torch operations."""

from __future__ import annotations

import pytest
import torch
from modelkit.families import CASES, both
from modelkit.folders import drawn_folder
from modelkit.harness import CPU

from executor.kernels.reference import TorchOps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_16_bits_are_close_to_32(tmp_path, name, dtype):
    config, int8 = CASES[name]
    folder = drawn_folder(tmp_path, config)
    place = {"device": CPU, "ops": TorchOps(), "int8": int8}
    wanted, given = both(folder, place | {"dtype": torch.float32}, place | {"dtype": dtype})
    assert given.isfinite().all()
    assert 0 < (given - wanted).norm() / wanted.norm() < 0.03
