"""A profile of Llama-3.1-8B in bf16, as `superinfer-exec calibrate` writes it."""

from __future__ import annotations

from pathlib import Path

from executor.calibration.calibrate import calibrate as measure
from executor.calibration.files import part_of, store
from executor.calibration.grids import Grids, spaced
from executor.calibration.report import profile_lines
from executor.calibration.subject import Wish
from executor.session import ModelOptions
from executor.steps.graphs import MIXED_ROWS
from experiments.gpu_check.checks import Check, Context, Result
from experiments.gpu_check.small import tiny_config
from superinfer import COMPILED

MODEL = "llama-3.1-8b"
LONGEST = 32768
FAST = Grids(
    # A step with chunks that a graph replays has one of its sizes.
    tokens=tuple(sorted({*spaced(8192, 8192), *MIXED_ROWS})),
    rows=(1, 4, 8, 16, 32, 64, 128),
    sequences=(1, 2, 4, 8, 16, 32, 64, 128),
    contexts=(32, 256, 512, 1024, 2048, 4096, 8192, 32768),
    chunks=(1, 64, 256, 512, 1024, 1536, 2048, 3072, 4096, 8192),
    # Attention of a chunk takes longer in a straight line with what is before it.
    before=(0, 4096, 32768),
    blocks=(1, 4, 32, 128),
    most_context=1 << 19,
)
TINY = Grids((1, 8, 64), (1, 8), (1, 4), (32, 128), (1, 32, 64), (0, 64), (1, 4), 1 << 10)


def profile_path(context: Context) -> Path:
    """Where the profile is, or is to be."""
    given: Path | None = context.options.get("profile")
    return given or context.work / "profiles" / "llama-3.1-8b.json"


def calibrate(
    context: Context, model: str = MODEL, int8: bool = False, share: float = 0.75
) -> Result:
    """Calibrate in that share of the time; the rest is for loading and for what is begun last."""
    fast, tiny = context.options["fast"], context.tiny
    wish = Wish(
        tiny_config(context) if tiny else model,
        context.device,
        ModelOptions(random_weights=True, int8=int8),
        minutes=0.2 if tiny else share * context.left_s / 60,
        max_model_len=128 if tiny else LONGEST,
        max_sequences=4 if tiny else 128,
        kv_blocks=64 if tiny else 0,
        grids=TINY if tiny else FAST if fast else None,
    )
    path = context.work / "profiles" / f"{model}.json"
    part = part_of(path)
    made = measure(wish, lambda _: None, lambda profile: store(profile, part))
    profile = made.profile
    store(profile, path)
    part.unlink(missing_ok=True)
    return {
        "host_step_us": profile.host.step_s * 1e6,
        "host_per_sequence_us": profile.host.per_sequence_s * 1e6,
        "host_between_us": profile.host.between_s * 1e6,
        "kv_blocks": profile.memory["kv_blocks"],
        "step_error": profile.fit["step"].get("heldout_mape"),
        "compiled_core": COMPILED,
        **opened(made.opening_s),
        "table": [*profile_lines(profile), opening_line(made.opening_s)],
        "fit": profile.fit,
        "steps": made.steps.rows(),
    }


def opened(opening_s: dict[str, float]) -> Result:
    """How long the session took to open, and what of that each stage."""
    return {"opened_s": sum(opening_s.values()), "opening_s": opening_s}


def opening_line(opening_s: dict[str, float]) -> str:
    """The same in words."""
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in opening_s.items())
    return f"   seconds to open a session: {stages}"


CHECKS: dict[str, Check] = {"calibrate": calibrate}
