"""Accelerators by their nominal figures: datasheet peaks, not what kernels reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from superinfer.errors import ConfigError
from superinfer.settings import did_you_mean

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
class Offloading:
    """What the runtime of FlexGen reaches where it keeps tensors off the device, in bytes/s and
    FLOP/s. Loads from the host take the plain link.
    """

    cache_store_bytes_per_s: float
    """KV cache from the device to the host."""
    activation_store_bytes_per_s: float
    disk_read_bytes_per_s: float
    disk_write_bytes_per_s: float
    cpu_attention_flops: float


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
    fitted: Offloading | None = None
    """Where somebody fitted it to runs."""

    @property
    def offloading(self) -> Offloading:
        """As fitted; else stores take the plain link, and disk and CPU are assumed to be those of
        the T4's machine.
        """
        if self.fitted is not None:
            return self.fitted
        store = self.d2h.bytes_per_s
        return replace(_T4, cache_store_bytes_per_s=store, activation_store_bytes_per_s=store)


_T4 = Offloading(0.97 * GIB, 4.82 * GIB, 0.473 * GIB, 0.746 * GIB, 12.3e9)
"""FlexGen's own fit (`CostModelConfig` in experimental/cost_model.py, where a GB is 2**30 bytes) to
runs on a Google Cloud instance with a T4, 208 GB of memory and an SSD of 1.5 TB."""


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


def _t4_16g() -> DeviceSpec:
    """NVIDIA T4 datasheet: 16 GB GDDR6 (15,109 MiB with ECC), 320 GB/s, 65 TFLOP/s in fp16 (it has
    no bf16), PCIe 3 x16. The link is FlexGen's fit, 12.89 GiB/s. It also fits 21 TFLOP/s to prefill
    and 4.3 to decodes: the board's 70 W and FlexGen's kernels do not hold the datasheet's peak.
    """
    spec = _spec("t4-16g", 15109 / 1024, 0.32e12, 65e12, 12.89 * GIB, 12.89 * GIB, 20e-6)
    return replace(spec, fitted=_T4)


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
        # NVIDIA RTX PRO 6000 Blackwell Server Edition datasheet: 96 GB GDDR7 (97,887 MiB with ECC),
        # 1,597 GB/s, dense bf16 500 TFLOP/s, PCIe 5 x16 and no NVLink.
        _spec("rtxpro6000", 97887 / 1024, 1.597e12, 500e12, 50e9, 50e9, 20e-6),
        # NVIDIA GH200 datasheet (96 GB HBM3): 4 TB/s, dense bf16 990 TFLOP/s, NVLink-C2C
        # 450 GB/s each way, nominal.
        _spec("gh200", 97871 / 1024, 4.0e12, 990e12, 450e9, 450e9, 6e-6),
        _gh200_144g(),
        # AMD Instinct MI300X datasheet: 192 GB HBM3, 5.3 TB/s, dense bf16 1,307 TFLOP/s, seven
        # Infinity Fabric links of 64 GB/s each way, PCIe 5 x16.
        _spec("mi300x", 196592 / 1024, 5.3e12, 1307.4e12, 50e9, 448e9, 10e-6),
        _t4_16g(),
    )
}


def load_device(name: str) -> DeviceSpec:
    """A preset by name (case-insensitive; a trailing `-sxm` is dropped); ConfigError if unknown."""
    spec = DEVICES.get(name.lower().removesuffix("-sxm"))
    if spec is None:
        known = f"known: {', '.join(DEVICES)}, or a TOML file of its figures"
        raise ConfigError(f"unknown device {name!r}; {known}{did_you_mean(name, DEVICES)}")
    return spec
