"""The measured points, and how each was measured: server, client, load.

Two campaigns are in `validation/silicon` of the public data. Neither states everything; what is
inferred says from what.
"""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass, replace
from pathlib import Path

from superinfer.errors import InputError
from superinfer.request import Request
from traces.workload import Workload

POINTS = Path("validation") / "silicon" / "silicon_subset.csv"
NODE_GPUS = 8
ROUNDS = 10
"""Requests per client. InferenceMAX sends ten times the concurrency; assumed for the other."""
CLIENT_MS = 5.0
"""Longest time from the end of an answer to the arrival of the client's next request; assumed. Any
small spread does: what matters is that those who end together do not arrive together."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measured point, and what served it."""

    name: str
    model: str
    device: str
    tp: int
    weight_dtype: str
    kv_dtype: str
    prompt_tokens: int
    answer_tokens: int
    concurrency: int
    """Clients of one replica."""
    ttft_ms: float
    tpot_ms: float
    max_num_batched_tokens: int
    max_num_seqs: int
    lag: int
    """1: the engine schedules the next step while the current one runs."""
    shortest: float
    """Lengths are drawn evenly between this share of the nominal ones and all of it."""

    @property
    def profile_key(self) -> tuple[str, str, int, str, str]:
        """What its profile depends on."""
        return self.device, self.model, self.tp, self.weight_dtype, self.kv_dtype

    def workload(self, seed: int = 0) -> Workload:
        """One session per client; each turn comes a moment after the end of the one before."""
        draw = random.Random(seed)
        requests, answers = list[Request](), list[int]()
        for turn in range(ROUNDS):
            for client in range(self.concurrency):
                prompt = self._length(draw, self.prompt_tokens)
                answers.append(self._length(draw, self.answer_tokens))
                pause_s = draw.uniform(0.0, CLIENT_MS / 1e3)
                requests.append(
                    Request(
                        request_id=f"{client}-{turn}",
                        arrival_s=0.0 if turn else pause_s,
                        prompt_tokens=prompt,
                        max_tokens=answers[-1],
                        session_id=str(client),
                        delay_s=pause_s if turn else None,
                    )
                )
        return _in_order(requests, answers)

    def _length(self, draw: random.Random, nominal: int) -> int:
        return draw.randint(int(self.shortest * nominal), nominal)


def _in_order(requests: list[Request], answers: list[int]) -> Workload:
    """By arrival; later turns, which have none of their own, after all first ones."""
    last_s = max(request.arrival_s for request in requests)
    for request in requests:
        if request.delay_s is not None:
            request.arrival_s = last_s
    order = sorted(range(len(requests)), key=lambda number: requests[number].arrival_s)
    kept = [requests[number] for number in order]
    for index, request in enumerate(kept):
        request.index = index
    return Workload(kept, [answers[number] for number in order])


def read_points(data: Path) -> list[Point]:
    """Every point of the file under the data folder; InputError for a file that is none."""
    path = data / POINTS
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", file=str(path)) from None
    if not rows:
        raise InputError("expected rows, found none", file=str(path))
    return [_point(row, path, line) for line, row in enumerate(rows, 2)]


def _point(row: dict[str, str], path: Path, line: int) -> Point:
    try:
        if row["model_path"].endswith("Llama-3.1-70B"):
            return inference_max(row)
        point = qwen(row)
        return deployed(point) if row["precision"] == "fp8" else point
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"expected a measured point: {error}", file=str(path), line=line) from None


def inference_max(row: dict[str, str]) -> Point:
    """Llama-3.1-70B on H200, by the recipe of InferenceMAX (its README of autumn 2025).

    `--max-num-batched-tokens 8192 --max-num-seqs CONC --async-scheduling`, no prefix cache; lengths
    between 80 % of the nominal ones and all of them. The checkpoint is
    `nvidia/Llama-3.1-70B-Instruct-FP8`. That its cache is FP8 too is inferred: with 64 requests of
    8,192 tokens on one GPU, the measured times by Little's law have 45 of them running, and 16-bit
    caches of 22 would fit.
    """
    return replace(
        _plain(row),
        model="llama-3.1-70b",
        device="h200",
        weight_dtype="fp8",
        kv_dtype="fp8",
        max_num_batched_tokens=8192,
        max_num_seqs=int(row["batch_size"]),
        lag=1,
        shortest=0.8,
    )


def qwen(row: dict[str, str]) -> Point:
    """Qwen3-32B on H100 with vLLM 0.12.0, which did not schedule ahead unless asked to.

    The budget is what aiconfigurator's generator gives vLLM: concurrency + prompt + 1,500 tokens.
    With the release's own 8,192 eight prompts of 1,024 tokens would go through one step, and TTFT
    would be twice what was measured. Lengths are fixed.
    """
    point = _plain(row)
    budget = point.concurrency + point.prompt_tokens + 1500
    return replace(point, max_num_batched_tokens=budget)


def deployed(point: Point) -> Point:
    """The same as a deployment of Dynamo with FP8 weights, on all GPUs of a node.

    Inferred: at TP 1 a token takes less time than reading the caches of the whole batch does, so
    the load is that of all `8 / tp` replicas. The FP8 is taken to be one scale per tensor: the
    measured GEMM with blocks of scales wait for their launches.
    """
    return replace(
        point, weight_dtype="fp8", concurrency=max(1, point.concurrency * point.tp // NODE_GPUS)
    )


def _plain(row: dict[str, str]) -> Point:
    """What the file says, for Qwen3-32B on H100 in 16 bits with the release's own limits."""
    return Point(
        name=_name(row),
        model="qwen3-32b",
        device="h100",
        tp=int(row["tp_size"]),
        weight_dtype="",
        kv_dtype="",
        prompt_tokens=int(row["isl"]),
        answer_tokens=int(row["osl"]),
        concurrency=int(row["batch_size"]),
        ttft_ms=float(row["silicon_ttft_ms"]),
        tpot_ms=float(row["silicon_tpot_ms"]),
        max_num_batched_tokens=8192,
        max_num_seqs=1024,
        lag=0,
        shortest=1.0,
    )


def _name(row: dict[str, str]) -> str:
    """Short, and telling: `qwen3-32b tp2 1024/128 x8`."""
    model = row["model_path"].rsplit("/", 1)[-1].lower()
    fp8 = " fp8" if row["precision"] == "fp8" else ""
    sizes = f"{row['isl']}/{row['osl']} x{row['batch_size']}"
    return f"{model}{fp8} tp{row['tp_size']} {sizes}"
