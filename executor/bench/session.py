"""All measurements of one model on one device, in the order in which they matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from executor.bench.attention import (
    PEERS,
    Heads,
    Peer,
    decode_bytes,
    prefill_flops,
    sdpa_prefill,
    time_decode,
    time_prefill,
)
from executor.bench.engines import Load, engines
from executor.bench.floors import Ceilings
from executor.bench.paged_peers import PAGED_DECODES, PAGED_PREFILLS
from executor.bench.steps import (
    DecodePoint,
    Measured,
    arena_room,
    decode_points,
    greedy,
    measure_decode,
    measure_prefill,
)
from executor.bench.swap import link_rows, slowdown
from executor.calibration.cases import RandomArena, decode_step
from executor.calibration.ceilings import copy_bandwidth, gemm_rate, hardware
from executor.calibration.timing import Deadline, Timing, captured
from executor.device import asked_bytes, executor_versions
from executor.kernels.ops import ops_for
from executor.models import Model, load_model
from executor.steps.items import ItemBudget
from superinfer.costs.shapes import ModelShape, load_shape

Row = dict[str, Any]

DOES_NOT_FIT = "does not fit"
POINTS = decode_points((1024, 8192), (1, 32, 128))
LARGE_POINTS = decode_points((1024,), (1, 32)) + decode_points((8192,), (32,))
TINY_POINTS = decode_points((65,), (1, 3))
PREFILLS = (2048, 8192)


@dataclass(frozen=True, slots=True)
class Points:
    """What to measure."""

    decodes: tuple[DecodePoint, ...] = POINTS
    prefills: tuple[int, ...] = PREFILLS


@dataclass(slots=True)
class Session:
    """A model of random weights and the ceilings of its device."""

    model: Model
    shape: ModelShape
    ceilings: Ceilings
    source: str
    int8: bool = False

    @classmethod
    def open(
        cls, source: str, device: torch.device, dtype: torch.dtype, int8: bool = False
    ) -> Session:
        """Create the weights on the device and measure the ceilings."""
        rates = Ceilings(copy_bandwidth(device, 0.3), gemm_rate(device, 0.3))
        if device.type == "cuda":
            torch.cuda.empty_cache()  # of what was copied: large weights need it in one piece
        model = load_model(source, device=device, dtype=dtype, random_weights=True, int8=int8)
        return cls(model, load_shape(source), rates, source, int8)

    def header(self) -> Row:
        """Model, device and ceilings."""
        return {
            "model": self.shape.name,
            "device": hardware(self.model.device)["name"],
            "copy_bytes_per_s": self.ceilings.bytes_per_s,
            "gemm_flops": self.ceilings.flops,
            "int8_weights": self.int8,
            "versions": executor_versions("transformers"),
        }

    @property
    def weight_bytes(self) -> float:
        """Of one weight."""
        return 1.0 if self.int8 else float(self.model.layout.dtype.itemsize)

    def decodes(self, points: tuple[DecodePoint, ...], deadline: Deadline) -> Iterator[Row]:
        """Whole decode steps; a point that does not fit says so."""
        for bits in (16, 8, 4):
            mine = [point for point in points if point.bits == bits]
            source = self._arena(mine, bits)
            for point in mine:
                if deadline.over:
                    return
                wanted = point.blocks(self.model.layout)
                if wanted > len(source.offsets[bits]):
                    yield {"point": point.name, "skipped": DOES_NOT_FIT}
                    continue
                yield fitting(point.name, self._decode, point, source)
            del source  # before there is the next one: both may not fit

    def prefills(self, sizes: tuple[int, ...], deadline: Deadline) -> Iterator[Row]:
        """Whole prompts in one step."""
        blocks = max(sizes) // self.model.layout.block_tokens + 2
        source = RandomArena(self.model.layout, {16: blocks}, self.model.device)
        for tokens in sizes:
            if deadline.over:
                return
            yield fitting(f"prefill {tokens}", self._prefill, tokens, source)

    def attention(self, points: tuple[DecodePoint, ...], deadline: Deadline) -> Iterator[Row]:
        """Decode attention alone, as a share of the copy bandwidth."""
        layout, device = self.model.layout, self.model.device
        heads, ops = Heads(self.shape.heads, layout), ops_for(device)
        budget = ItemBudget.of(layout, device)
        for bits in (16, 8, 4):
            mine = [point for point in points if point.bits == bits]
            source = self._arena(mine, bits)
            for point in mine:
                if deadline.over:
                    return
                contexts = [point.context] * point.batch
                timing = time_decode(ops, heads, source, contexts, bits, budget)
                yield {
                    "point": f"attention {point.name.removeprefix('decode ')}",
                    "spread": timing.spread,
                    **_read(self.ceilings, decode_bytes(heads, contexts, bits), timing),
                }
            del source

    def prompts(self, sizes: tuple[int, ...], deadline: Deadline) -> Iterator[Row]:
        """Attention of whole prompts alone, as a share of the rate of a large product."""
        heads, device = Heads(self.shape.heads, self.model.layout), self.model.device
        blocks = max(sizes, default=1) // self.model.layout.block_tokens + 2
        source = RandomArena(self.model.layout, {16: blocks}, device)
        for tokens in sizes:
            if deadline.over:
                return
            timing = time_prefill(ops_for(device), heads, source, (tokens, 0))
            yield {"point": f"attention prefill {tokens}", **self._computed(heads, tokens, timing)}

    def peers(self, points: Points, deadline: Deadline) -> Iterator[Row]:
        """Others' attention, on the 16-bit decodes and on the prompts."""
        heads = Heads(self.shape.heads, self.model.layout)
        for name, peer in (*PEERS.items(), *PAGED_DECODES.items()):
            for point in points.decodes:
                if point.bits != 16 or deadline.over:
                    continue
                row: Row = {"point": f"{name} {point.name.removeprefix('decode ')}"}
                timing = self._peer(peer, heads, point.batch, point.context)
                if isinstance(timing, str):
                    yield row | {"skipped": timing}
                    continue
                contexts = [point.context] * point.batch
                yield row | _read(self.ceilings, decode_bytes(heads, contexts, 16), timing)
        for name, peer in (("torch SDPA", sdpa_prefill), *PAGED_PREFILLS.items()):
            for tokens in points.prefills:
                if deadline.over:
                    return
                timing = self._peer(peer, heads, 1, tokens)
                yield {"point": f"{name} prefill {tokens}", **self._computed(heads, tokens, timing)}

    def _decode(self, point: DecodePoint, source: RandomArena) -> Measured:
        return measure_decode(
            self.model, self.shape, point, source, self.ceilings, self.weight_bytes
        )

    def _prefill(self, tokens: int, source: RandomArena) -> Measured:
        return measure_prefill(self.model, self.shape, tokens, source, self.ceilings)

    def _peer(self, peer: Peer, heads: Heads, batch: int, length: int) -> Timing | str:
        """What a peer takes, or why it does not run."""
        try:
            return peer(heads, batch, length, self.model.device, 0.1)
        except ImportError as error:
            return (str(error).splitlines() or ["not importable"])[0][:120]
        except Exception as error:  # another version of a peer may raise anything
            said = (str(error).splitlines() or [""])[0]
            return f"{type(error).__name__}: {said}"[:120]

    def _computed(self, heads: Heads, tokens: int, timing: Timing | str) -> Row:
        if isinstance(timing, str):
            return {"skipped": timing}
        rate = prefill_flops(heads, (tokens, 0)) / timing.seconds
        share = rate / self.ceilings.flops
        return {"seconds": timing.seconds, "flops_per_s": rate, "share_of_gemm": share}

    def load(self) -> Load:
        """Requests for whole engines, on weights of their own."""
        kind = str(self.model.layout.dtype).removeprefix("torch.")
        return Load(self.source, self.model.device.type, kind, int8=self.int8)

    def swaps(self) -> Iterator[Row]:
        """Copies of blocks alone, and beside a decode step of 32 sequences of 1k."""
        layout, device = self.model.layout, self.model.device
        yield from link_rows(device, {str(bits): n for bits, n in layout.block_bytes.items()})
        if device.type != "cuda":
            return
        source = RandomArena(layout, {16: 1100}, device)
        budget = ItemBudget.of(layout, device)
        step = decode_step(source, [1024] * 32, self.model.vocab, budget)
        replay = captured([greedy(self.model, step, source.arena)])
        yield {"point": "decode beside swaps", **slowdown(device, replay, layout.block_bytes[16])}

    def _arena(self, points: list[DecodePoint], bits: int) -> RandomArena:
        """Room for the largest of the points that fits."""
        layout, device = self.model.layout, self.model.device
        tails = max((point.batch for point in points), default=1) + 1
        size = layout.block_bytes[bits]
        room = (arena_room(device) - tails * (layout.block_bytes[16] + size)) // size
        wanted = [n for point in points if (n := point.blocks(layout)) <= room]
        blocks = {16: tails, bits: max(wanted, default=0) + tails}
        return RandomArena(layout, blocks, device)


def fitting(point: str, measure: Callable[..., Measured], *given: Any) -> Row:
    """What was measured, or that the device has too little memory for it; others go on."""
    try:
        return measure(*given).row()
    except torch.OutOfMemoryError as error:
        asked = asked_bytes(error)
    torch.cuda.empty_cache()
    return {"point": point, "skipped": f"{DOES_NOT_FIT}: no {asked} left"}


def _read(ceilings: Ceilings, nbytes: float, timing: Timing) -> Row:
    rate = nbytes / timing.seconds
    share = rate / ceilings.bytes_per_s
    return {"seconds": timing.seconds, "bytes_per_s": rate, "share_of_copy": share}


def _attention(session: Session, points: Points, deadline: Deadline) -> Iterator[Row]:
    yield from session.attention(points.decodes, deadline)
    yield from session.prompts(points.prefills, deadline)


PARTS: dict[str, Callable[[Session, Points, Deadline], Iterator[Row]]] = {
    "decode": lambda session, points, end: session.decodes(points.decodes, end),
    "prefill": lambda session, points, end: session.prefills(points.prefills, end),
    "attention": _attention,
    "peers": lambda session, points, end: session.peers(points, end),
    "swap": lambda session, points, end: session.swaps(),
    "engines": lambda session, points, end: engines(session.load()),
}
