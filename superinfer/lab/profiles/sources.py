"""What a profile's `sources` say: each kernel's origin, and what was done where a shape lacked."""

from __future__ import annotations

from superinfer.costs import ModelShape
from superinfer.lab.profiles.kernels import GemmTable, gemm_shapes
from superinfer.lab.profiles.measurements import BF16, Measurements
from superinfer.lab.profiles.pointwise import Piece, piece_points, same_layers, streaming_ratio

AICONFIGURATOR = "ai-dynamo/aiconfigurator@095f58a5"
VIDUR = "microsoft/vidur@7d475133 mlp.csv"
VIDUR_LEGACY = "microsoft/vidur@6555c859 attention.csv"
_SPARSE_GEMM = (
    "time is linear in n between (or past) the nearest measured n at the same k, in steps of 64 "
    "rows"
)
_DENSE_GEMM = (
    "token counts within half a per cent are repeats, the scatter is smoothed by a local quadratic"
)

Parts = dict[str, tuple[Piece, ...]]


def describe(data: Measurements, shape: ModelShape, tp: int, parts: Parts) -> list[str]:
    """One line per group of kernels."""
    same = same_layers(data, shape, tp)
    vllm = data.files.vllm
    if same is not None and data.files.vidur_gemm and not shape.weight_dtype:
        count = len(piece_points(data, parts["norm"], "norm").x)
        lines = [
            "Layer GEMM, norm (both norms and one residual add), rope, activation, embedding: "
            f"{VIDUR}, {same.name.rsplit('-', 1)[0]}, bf16, the exact shapes at {count} token "
            "counts",
            f"LM head: {AICONFIGURATOR} gemm_perf, vLLM {vllm}, bfloat16; the shape is not "
            f"measured, so {_SPARSE_GEMM}",
        ]
    else:
        lines = [_gemm_line(data, shape, tp), _pointwise_line(data, parts)]
    if shape.experts:
        lines.append(
            f"Experts with their routing and activation: {AICONFIGURATOR} moe_perf, vLLM {vllm}, "
            "every expert split over all GPUs, the most uneven routing measured; router: a GEMM"
        )
    if shape.qk_norm:
        lines.append("Norm of queries and keys: assumed to take as long as their rotation")
    return [
        *lines,
        f"Attention ({_cache_text(shape)}KV write included) and graph-mode all-reduce: "
        f"{AICONFIGURATOR}, vLLM {vllm}; "
        "decode cells that were not measured continue their row's slope or that of the batch "
        "before it at the same total context; single points of 1.5 times both neighbours are left "
        "out",
        _context_line(data),
        "Sampling: assumed, 25 us and two passes over 32-bit logits per sequence",
        f"Host and links: assumed; {_link_text(data)} each way and 10 us per copy",
    ]


def _cache_text(shape: ModelShape) -> str:
    return f"{shape.kv_dtype} cache, " if shape.kv_dtype else ""


def _gemm_line(data: Measurements, shape: ModelShape, tp: int) -> str:
    table = GemmTable(data, shape.weight_dtype)
    unmeasured = [
        f"{name} (n {gemm.n}, k {gemm.k})"
        for name, gemm in gemm_shapes(shape, tp).items()
        if not table.measured(gemm)
    ]
    kinds = f"{shape.weight_dtype}, LM head bfloat16" if shape.weight_dtype else BF16
    line = f"GEMM: {AICONFIGURATOR} gemm_perf, vLLM {data.files.vllm}, {kinds}"
    if table.dense:
        line += f", {len(table.cube)} token counts; {_DENSE_GEMM}"
    if not unmeasured:
        return line
    rule = (
        "a line through the four nearest measured shapes (the last four past the end)"
        if table.dense
        else _SPARSE_GEMM
    )
    return f"{line}; not measured: {', '.join(unmeasured)}: {rule}, checked by shape_mape"


def _pointwise_line(data: Measurements, parts: Parts) -> str:
    end = min(int(piece_points(data, pieces, kernel).x[-1]) for kernel, pieces in parts.items())
    origin = "; ".join(f"{kernel} {_pieces_text(pieces)}" for kernel, pieces in parts.items())
    line = (
        f"Norm (both norms and one residual add), rope, activation, embedding: {VIDUR}, "
        f"{data.files.vidur.upper()}, bf16: {origin}; in a line past {end} tokens"
    )
    if data.files.replayed:
        line += (
            "; one token takes as long as the shortest GEMM, as in a CUDA graph, and everything is "
            "shorter by the same"
        )
    if not data.files.scaled_from:
        return line
    ratio = streaming_ratio(data.on(data.files.scaled_from), data)
    return (
        f"{line}; not measured on this device: what exceeds the time of one token is scaled by "
        f"{ratio:g}, the ratio of GEMM that stream their weights; the same from A100 to "
        f"{data.files.scaled_from.upper()} errs by scaling_mape"
    )


def _pieces_text(pieces: tuple[Piece, ...]) -> str:
    shares = [f"{piece.model} tp{piece.tp}" for piece in pieces]
    if len(pieces) == 1:
        return shares[0]
    return " + ".join(
        f"{piece.share:.3g} x {text}" for piece, text in zip(pieces, shares, strict=True)
    )


def _context_line(data: Measurements) -> str:
    line = "Attention of a chunk with earlier context: the form fitted on whole prompts, "
    if data.legacy_prefill() is None:
        return line + "its context term not checked on this device"
    return line + f"its context term checked against {VIDUR_LEGACY}"


def _link_text(data: Measurements) -> str:
    from superinfer.costs import load_device

    link = load_device(data.device).h2d
    generation = 5 if link.bytes_per_s > 32e9 else 4
    return f"PCIe {generation} at {link.bytes_per_s / 1e9:g} GB/s"
