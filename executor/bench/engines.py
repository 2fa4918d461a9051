"""Whole engines on the same requests: ours, and transformers' continuous batching.

Both have random weights of one shape, the same prompts and answer lengths, all requests at once and
greedy tokens; loading and warming up are not counted. The peer runs torch's SDPA over its pages,
without CUDA graphs, and is told not to look for flash-attn, which it may try to download.
"""

from __future__ import annotations

import gc
import inspect
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from executor.calibration.cases import RandomArena, chunk_rows, decode_rows
from executor.calibration.steps import run_driver
from executor.calibration.timing import Deadline
from executor.models.config import read_config
from executor.session import DTYPES, ModelOptions, Session, open_session, source_of
from executor.steps.runner import Batch
from executor.warm_up import most_tokens
from superinfer.costs.shapes import ModelShape
from superinfer.lab.config import load_config
from superinfer.request import Request
from traces.workload import Workload

Row = dict[str, Any]
VOCAB_ROOM = 10
"""Token ids below this may mean something to a peer."""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of one length, all at once."""

    model: str
    device: str
    dtype: str
    requests: int = 64
    prompt_tokens: int = 512
    output_tokens: int = 128
    sequences: int = 64
    """In a step at the most."""
    int8: bool = False
    """Weights in 8 bits, which ours alone can have."""

    @property
    def blocks(self) -> int:
        """Of 32 tokens, for all sequences and a few more."""
        return self.sequences * self.context // 32 + 16

    @property
    def context(self) -> int:
        """Longest sequence, in whole blocks."""
        return -(-(self.prompt_tokens + self.output_tokens + 1) // 64) * 64

    def row(self, engine: str, seconds: float) -> Row:
        """One engine's result."""
        return {
            "point": f"{engine} {self.requests}x({self.prompt_tokens}+{self.output_tokens})",
            "seconds": seconds,
            "output_tokens_per_s": self.requests * self.output_tokens / seconds,
        }


def engines(load: Load) -> Iterator[Row]:
    """Ours, then the peers that can be imported."""
    yield load.row("ours", ours(load))
    gc.collect()  # engine and driver name each other; the peer needs their memory
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if load.int8:
        yield {"point": "transformers", "skipped": "has no weights of 8 bits"}
        return
    try:
        yield load.row("transformers", transformers_batching(load))
    except Exception as error:  # another version of a peer may raise anything
        said = (str(error).splitlines() or [""])[0]
        yield {"point": "transformers", "skipped": f"{type(error).__name__}: {said}"[:200]}


def ours(load: Load) -> float:
    """Seconds of our driver, plain continuous batching with lag 1."""
    config = load_config(
        None,
        [f"scheduler.max_num_seqs={load.sequences}", "run.host_memory_gib=0"],
        scheduler="vllm",
        memory="lru",
        model=load.model,
        device=load.device,
        block_tokens=32,
        max_model_len=load.context,
        kv_blocks=load.blocks,
        lag=1,
        trace="bench",
    )
    session = open_session(config, ModelOptions(load.dtype, load.int8, random_weights=True))
    warm_up(session, load)
    workload = Workload(
        [
            Request(str(i), 0.0, load.prompt_tokens, load.output_tokens, index=i)
            for i in range(load.requests)
        ],
        [load.output_tokens] * load.requests,
    )
    begin_s = time.perf_counter()
    run_driver(session, workload, Deadline(600))
    return time.perf_counter() - begin_s


def warm_up(session: Session, load: Load) -> None:
    """Compile what steps of prompts alone, of decodes alone and of both launch."""
    runner, layout, vocab = session.runner, session.model.layout, session.model.vocab
    source = RandomArena.over(layout, runner.arena, session.engine.config.total_blocks)
    budget = most_tokens(session.engine.scheduler)
    prompts = [(load.prompt_tokens, 0)] * max(1, min(load.requests, budget // load.prompt_tokens))
    contexts = [load.prompt_tokens] * load.sequences
    for decodes, chunks in (([], prompts), (contexts, []), (contexts, prompts[:1])):
        batch = Batch.of(decode_rows(source, decodes, vocab), chunk_rows(source, chunks, vocab))
        runner.launch(batch).wait()


def transformers_batching(load: Load) -> float:
    """Seconds of `generate_batch`, after a small one that warms up."""
    model = _peer(load)
    shape = read_config(source_of(load.model))[0].shape
    generator = torch.Generator().manual_seed(0)
    size = (load.requests, load.prompt_tokens)
    prompts = torch.randint(VOCAB_ROOM, shape.vocab, size, generator=generator).tolist()
    _generate(model, prompts[:2], load, 4)
    begin_s = time.perf_counter()
    found = _generate(model, prompts, load, load.output_tokens)
    seconds = time.perf_counter() - begin_s
    short = [len(out.generated_tokens) for out in found.values()]
    if len(short) != load.requests or min(short) < load.output_tokens:
        raise RuntimeError(f"{len(short)} answers, the shortest of {min(short, default=0)} tokens")
    return seconds


def _peer(load: Load) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape: ModelShape = read_config(source_of(load.model))[0].shape
    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocab,
        max_position_embeddings=load.context,
    )
    where = "cuda" if load.device != "cpu" else "cpu"
    with torch.device(where):
        model = LlamaForCausalLM._from_config(
            config, dtype=DTYPES[load.dtype], attn_implementation="sdpa"
        )
    return model.eval()


def _generate(model: Any, prompts: list[list[int]], load: Load, tokens: int) -> Any:
    """`generate_batch` with what this version of it takes."""
    from transformers import GenerationConfig

    generation = GenerationConfig(
        max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    sizes = {
        "num_blocks": load.blocks,
        "max_batch_tokens": max(512, load.sequences),
        "use_cuda_graph": False,
        "auto_switch_to_flash": False,
    }
    options: dict[str, Any] = {"inputs": prompts, "generation_config": generation}
    takes = inspect.signature(model.generate_batch).parameters
    if "continuous_batching_config" in takes:
        from transformers import ContinuousBatchingConfig

        known = inspect.signature(ContinuousBatchingConfig).parameters
        page = "page_size" if "page_size" in known else "block_size"
        chosen = {key: value for key, value in sizes.items() if key in known}
        options["continuous_batching_config"] = ContinuousBatchingConfig(**chosen, **{page: 32})
    else:
        for key, value in {**sizes, "block_size": 32}.items():
            setattr(generation, key, value)
    if "warmup" in takes:
        options["warmup"] = False
    return model.generate_batch(**options)
