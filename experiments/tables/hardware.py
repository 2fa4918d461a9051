"""What an H200 does, of `docs/hardware.md`: kernels, steps and copies."""

from __future__ import annotations

import re
from collections.abc import Callable

from experiments.tables.parts import Lines, Show, blocks, table
from experiments.tables.recording import PAGE, Checks, Recording, h200

__all__ = ["PAGE", "TABLES"]

BITS = ("16", "8", "4")


def machine(found: Recording) -> Lines:
    """What it ran on."""
    env, rates = found.check("env", "machine"), found.rates
    versions = env["versions"]
    name, driver, memory = (part.strip() for part in env["smi"].split(",")[:3])
    yield (
        f"{name} ({memory}, driver {driver}), Python {versions['python']}, torch "
        f"{versions['torch']} (CUDA {versions['cuda']}), triton {versions['triton']}."
    )
    yield (
        f"A large copy moves {rates['copy_bytes_per_s'] / 1e12:.2f} TB/s, bytes read and written; "
        f"a read {rates['read_bytes_per_s'] / 1e12:.2f} TB/s; a large bf16 product runs at "
        f"{rates['gemm_flops'] / 1e12:.0f} TFLOP/s; {rates['kv_blocks']:,} blocks of "
        f"{rates['block_tokens']} tokens fit beside Llama-3.1-8B."
    )


def correctness(found: Recording) -> Lines:
    """The worst relative error of every kernel and model, and graphs against eager steps; a check
    that did not come to its end has none, and says so.
    """
    kinds: dict[str, list[Checks]] = {}
    for part in ("kernels", "graphs"):
        for name, result in found.data[part]["checks"].items():
            kinds.setdefault(_kind(name), []).append(result)
    rows = (
        [
            kind,
            str(sum(result.get("cases", 0) for result in results)),
            _worst(results),
            next((f"{result['limit']:g}" for result in results if "limit" in result), ""),
        ]
        for kind, results in kinds.items()
    )
    return table(["check", "cases", "worst", "allowed"], rows)


def _worst(results: list[Checks]) -> str:
    if any("worst" not in result for result in results):
        return "did not end"
    return f"{max(float(result['worst']) for result in results):.2g}"


def _kind(check: str) -> str:
    for prefix, words in (
        ("requantise", "requantised values, in steps of the code"),
        ("prefill", "prefill attention"),
        ("decode", "decode attention"),
        ("replay", "graphs against the same steps run eagerly, largest difference"),
        ("drawn", "tokens that are others than the host draws, share"),
        ("launched", "launches that wait for the device"),
        ("far_arena", "arenas past 4 GiB against near ones"),
        ("models", "a small model in bf16 against float32"),
    ):
        if check.startswith(prefix):
            return words
    return f"`{check}`"


def decode(found: Recording) -> Lines:
    """Decode steps of Llama-3.1-8B."""
    return _decodes(found.rows("floors", "decode"))


def large(found: Recording) -> Lines:
    """Steps of Llama-3.1-70B."""
    yield blocks(_decodes(found.rows("70b", "decode")), _prefills(found.rows("70b", "prefill")))


def prefill(found: Recording) -> Lines:
    """Whole prompts of Llama-3.1-8B."""
    return _prefills(found.rows("floors", "prefill"))


def _decodes(points: list[Checks]) -> Lines:
    cells: dict[str, dict[str, str]] = {}
    for row in points:
        batch, context, bits = re.findall(r"=(\d+)", row["point"])
        cells.setdefault(f"{batch} x {int(context):,}", {})[bits] = _step(row)
    rows = ([name, *(by_bits[bits] for bits in BITS)] for name, by_bits in cells.items())
    return table(["sequences x context", *(f"{bits}-bit KV" for bits in BITS)], rows)


def _step(row: Checks) -> str:
    if "skipped" in row:
        return str(row["skipped"])
    return f"{row['seconds'] * 1e3:.2f} ({row['share_of_floor']:.0%})"


def _prefills(points: list[Checks]) -> Lines:
    rows = (
        [
            f"{int(point['point'].removeprefix('prefill ')):,}",
            _step(point),
            f"{point['tokens_per_s']:,.0f}",
        ]
        for point in points
    )
    return table(["prompt tokens", "ms (share of the floor)", "tokens/s"], rows)


def attention(found: Recording) -> Lines:
    """Decode attention alone by precision, as a share of a copy."""
    cells: dict[str, list[str]] = {}
    for row in found.rows("floors", "attention"):
        if not (sizes := re.findall(r"=(\d+)", row["point"])):
            continue
        name = f"{sizes[0]} x {int(sizes[1]):,}"
        shown = f"{row['seconds'] * 1e6:.1f} ({row['share_of_copy']:.0%})"
        cells.setdefault(name, []).append(shown)
    head = ["sequences x context", *(f"{bits}-bit KV" for bits in BITS)]
    return table(head, ([name, *by_bits] for name, by_bits in cells.items()))


def peers(found: Recording) -> Lines:
    """Decode attention of 16 bits beside others' on the same inputs."""
    rows = [*found.rows("peers", "decode"), *found.rows("peers", "decode_peers")]
    return _beside_others(rows, "peer", "decodes", _sequences)


def prompts(found: Recording) -> Lines:
    """Prefill attention beside others', chunks at the beginning of a prompt."""
    ours = [row | {"kernel": "ours"} for row in found.rows("peers", "prefill")]
    rows = [*ours, *found.rows("peers", "prefill_peers")]
    rows = [row for row in rows if not row.get("context")]
    return _beside_others(rows, "kernel", "a prompt of", lambda row: f"{row['chunk']:,}")


def _sequences(row: Checks) -> str:
    return f"{row['B']} x {row['ctx']:,}"


def _beside_others(
    rows: list[Checks], who: str, what: str, place: Callable[[Checks], str]
) -> Lines:
    timed = [row for row in rows if "us" in row]
    names, cells = list(dict.fromkeys(row[who] for row in timed)), dict[str, dict[str, str]]()
    for row in timed:
        cells.setdefault(place(row), {})[row[who]] = f"{row['us']:,.1f}"
    shown = ([name, *(us.get(one, "") for one in names)] for name, us in cells.items())
    return table([f"{what}, µs", *names], shown)


def showcase(found: Recording) -> Lines:
    """What memory of fewer bits holds, how fast it is and what it costs in quality."""
    quality = {
        row["kv"]: row for row in found.rows("showcase", "quality") if row["model"] == "plain"
    }
    rows = []
    for row in found.rows("showcase", "tokens"):
        cells = ["does not fit", "", "", ""]
        if "seconds" in row:
            lost = quality[row["kv"]]
            cells = [f"{row['seconds'] * 1e3:.1f}", f"{row['tokens_per_s']:,.0f}"]
            cells += [f"{lost['perplexity_change']:+.3%}", f"{lost['same_top1']:.1%}"]
        rows.append([row["kv"], f"{row['kv_gb']:.1f}", *cells])
    head = ["KV of 128 sequences x 8,192", "GB", "ms", "tokens/s", "perplexity", "same top 1"]
    return table(head, rows)


def swaps(found: Recording) -> Lines:
    """Copies of blocks, and a step beside them."""
    measured, rows = found.rows("floors", "swap"), []
    for bits in BITS:
        mine = [row for row in measured if row.get("block") == bits]
        rates = {row["direction"]: row["bytes_per_s"] / 1e9 for row in mine}
        size = mine[0]["bytes"] / 2**20
        shown = (f"{rates[way]:.1f}" for way in ("h2d", "d2h", "both"))
        rows.append([f"{bits} bits, {size:.2f} MiB", *shown])
    (step,) = (row for row in measured if "slowdown" in row)
    yield blocks(
        table(["blocks", "to the device (GB/s)", "to the host", "each way at once"], rows),
        f"A decode step of 32 sequences takes {step['alone_s'] * 1e3:.2f} ms alone and "
        f"{step['with_swap_s'] * 1e3:.2f} ms beside copies both ways ({step['slowdown']:+.1%}).",
    )


TABLES: dict[str, Show] = {
    f"h200 {table.__name__}": h200(table)
    for table in (
        machine,
        correctness,
        decode,
        prefill,
        large,
        attention,
        peers,
        prompts,
        showcase,
        swaps,
    )
}
