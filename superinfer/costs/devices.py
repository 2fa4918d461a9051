"""Accelerators by their nominal figures: datasheet peaks, not what kernels reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from superinfer.errors import ConfigError

GIB = 2**30
_SETUP_S = 10e-6  # assumed: one asynchronous copy as seen by its stream


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between device and host: bytes/s, and seconds of setup per copy."""

    bytes_per_s: float
    setup_s: float = _SETUP_S

    def seconds(self, nbytes: int, pieces: int) -> float:
        """Seconds to move `nbytes` in `pieces` copies."""
        return pieces * self.setup_s + nbytes / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """Nominal figures of one accelerator: bytes, bytes/s (one direction), FLOP/s, seconds."""

    name: str
    memory_bytes: int
    memory_bytes_per_s: float
    bf16_flops: float
    h2d: Link
    d2h: Link
    peer_bytes_per_s: float
    """Bytes/s that one device sends to its peers in an all-reduce."""
    all_reduce_latency_s: float


def _spec(
    name: str,
    gib: float,
    memory: float,
    flops: float,
    host: float,
    peer: float,
    latency: float,
) -> DeviceSpec:
    link = Link(host)
    return DeviceSpec(name, int(gib * GIB), memory, flops, link, link, peer, latency)


def _gh200_144g() -> DeviceSpec:
    """NVIDIA GH200 with 144 GB of HBM3e: 4.9 TB/s by its datasheet, the GPU of the one with 96 GB.

    Usable memory: the share that the other one has. NVLink-C2C as copies reach it, 375 GB/s from
    and 297 GB/s to the host (Schieffer et al., arXiv 2407.07850, on one with 96 GB). 1.4 us per
    copy is what makes copies of 32 KiB reach the 5 % of the link that arXiv 2601.20309 names.
    """
    spec = _spec("gh200-144g", 144 * 97871 / 96 / 1024, 4.9e12, 990e12, 375e9, 450e9, 6e-6)
    setup_s = 1.4e-6
    return replace(spec, h2d=Link(375e9, setup_s), d2h=Link(297e9, setup_s))


# All-reduce latency: 5 to 6 us is what vLLM's one-node kernel takes for small messages in a CUDA
# graph (aiconfigurator, A100, vLLM 0.14.0); without NVLink 20 us is assumed.
DEVICES: Mapping[str, DeviceSpec] = {
    spec.name: spec
    for spec in (
        # NVIDIA A100 datasheet (SXM4): 312 TFLOP/s, 1,555 GB/s (40 GB), 2,039 GB/s (80 GB),
        # NVLink 300 GB/s each way; PCIe 4 x16: 32 GB/s on paper, about 25 reached by copies.
        _spec("a100-40g", 40, 1.555e12, 312e12, 25e9, 300e9, 6e-6),
        _spec("a100-80g", 80, 2.039e12, 312e12, 25e9, 300e9, 6e-6),
        # NVIDIA H100 datasheet (SXM5) and aiconfigurator h100_sxm.yaml: dense bf16 989 TFLOP/s,
        # 3.35 TB/s, NVLink 450 GB/s each way; PCIe 5 x16: 64 GB/s on paper, about 50 reached.
        _spec("h100", 80, 3.35e12, 989e12, 50e9, 450e9, 6e-6),
        # NVIDIA H200 datasheet and h200_sxm.yaml: 141 GB (143,771 MiB usable), 4.8 TB/s.
        _spec("h200", 143771 / 1024, 4.8e12, 989e12, 50e9, 450e9, 6e-6),
        # NVIDIA L40S datasheet: 48 GB GDDR6 (46,068 MiB with ECC), 864 GB/s, dense bf16
        # 362 TFLOP/s, PCIe 4 x16 and no NVLink.
        _spec("l40s", 46068 / 1024, 0.864e12, 362e12, 25e9, 25e9, 20e-6),
        # NVIDIA GH200 datasheet (96 GB HBM3): 4 TB/s, dense bf16 990 TFLOP/s, NVLink-C2C
        # 450 GB/s each way, nominal.
        _spec("gh200", 97871 / 1024, 4.0e12, 990e12, 450e9, 450e9, 6e-6),
        _gh200_144g(),
        # AMD Instinct MI300X datasheet: 192 GB HBM3, 5.3 TB/s, dense bf16 1,307 TFLOP/s, seven
        # Infinity Fabric links of 64 GB/s each way, PCIe 5 x16.
        _spec("mi300x", 196592 / 1024, 5.3e12, 1307.4e12, 50e9, 448e9, 10e-6),
    )
}


def load_device(name: str) -> DeviceSpec:
    """A preset by name (case-insensitive; a trailing `-sxm` is dropped); ConfigError if unknown."""
    spec = DEVICES.get(name.lower().removesuffix("-sxm"))
    if spec is None:
        raise ConfigError(f"unknown device {name!r}; known: {', '.join(DEVICES)}")
    return spec
