"""vLLM's Triton attention without vLLM: the kernel's own files out of the wheel, and stand-ins for
what they import of the rest.

The wheel has some 340 MB and needs many packages more; the kernel is two files that need a logger,
the platform's float8 type and an enumeration. None of them touches what is computed or how fast.
"""

from __future__ import annotations

import subprocess
import tempfile
import zipfile
from pathlib import Path

WHEEL = "vllm==0.33.0"
OPS = "vllm/v1/attention/ops"
FILES = (
    f"{OPS}/triton_unified_attention.py",
    f"{OPS}/triton_attention_helpers.py",
)
"""Taken as they are (Apache-2.0)."""
STAND_INS = {
    "vllm/envs.py": "VLLM_BATCH_INVARIANT = False\n",
    "vllm/logger.py": """\
import logging


class _Logger(logging.LoggerAdapter):
    def debug_once(self, *words):
        self.debug(*words)

    def warning_once(self, *words):
        self.warning(*words)

    def info_once(self, *words):
        self.info(*words)


def init_logger(name):
    return _Logger(logging.getLogger(name), {})
""",
    "vllm/platforms.py": """\
import torch


class current_platform:
    @staticmethod
    def fp8_dtype():
        return torch.float8_e4m3fn

    @staticmethod
    def is_device_capability_family(family):
        major, _ = torch.cuda.get_device_capability()
        return major == family // 10
""",
    "vllm/triton_utils.py": "import triton\nimport triton.language as tl\n",
    "vllm/v1/kv_cache_interface.py": """\
from enum import IntEnum


class KVQuantMode(IntEnum):
    NONE = 0
    FP8_PER_TENSOR = 1
    INT8_PER_TOKEN_HEAD = 2
    FP8_PER_TOKEN_HEAD = 3
    INT4_PER_TOKEN_HEAD = 4
""",
}
"""For vLLM 0.33; written for this, with the names and values that the kernel's files use."""
PACKAGES = ("vllm", "vllm/v1", "vllm/v1/attention", OPS)


def vllm_attention(download: list[str], folder: Path) -> int:
    """Leave a package `vllm` with nothing but that kernel in `folder`; `download` is the command of
    pip, without what and where to. Gives pip's exit code.
    """
    with tempfile.TemporaryDirectory(prefix="superinfer-vllm-") as there:
        code = subprocess.run([*download, "--dest", there, WHEEL], check=False).returncode
        if code:
            return code
        (wheel,) = Path(there).glob("vllm-*.whl")
        unpack(wheel, folder)
    return 0


def unpack(wheel: Path, folder: Path) -> None:
    """The kernel's files out of the wheel, and what stands in for the rest."""
    for package in PACKAGES:
        (folder / package).mkdir(parents=True, exist_ok=True)
        (folder / package / "__init__.py").touch()
    with zipfile.ZipFile(wheel) as archive:
        for name in FILES:
            (folder / name).write_bytes(archive.read(name))
    for name, text in STAND_INS.items():
        (folder / name).write_text(text, encoding="utf-8")
