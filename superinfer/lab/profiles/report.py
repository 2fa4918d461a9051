"""Profiles described: one row each, everything about one, and the errors of a new one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superinfer.costs import build_cost, list_profiles, load_profile
from superinfer.costs.base import Chunk
from superinfer.costs.profile import Kernel, Profile, decode_kernel
from superinfer.costs.profile_file import profile_json
from superinfer.errors import ConfigError
from superinfer.settings import did_you_mean

if TYPE_CHECKING:
    from rich.table import Table

DECODE_BATCHES = (1, 32, 128)
DECODE_CONTEXT = 1024
PREFILL_TOKENS = (512, 2048, 4096)
_FIT_LABELS = {
    "shape_mape": "unmeasured shape",
    "other_source_mape": "other source",
    "scaling_mape": "scaling",
    "context_form_mape": "context term",
    "unequal_mape": "unequal contexts",
}
"""Errors beyond the held-out one; docs/profiles.md says how each is found."""
_DERIVED = ("shape_mape", "scaling_mape", "context_form_mape")
"""Those of what was not measured as it is used; two sources that differ are another matter."""


def target(kernel: str) -> float:
    """The held-out error that a shipped profile has to reach, as a share."""
    return 0.10 if kernel.startswith("attention") else 0.05


def find_profile(name_or_path: str) -> Profile:
    """A shipped profile by name, or any by path; ConfigError or InputError name what is wrong."""
    shipped = {name.path.stem: name.path for name in list_profiles()}
    path = shipped.get(name_or_path.lower().removesuffix(".json"), Path(name_or_path))
    if not path.is_file():
        raise ConfigError(
            f"no profile {name_or_path!r}: neither a file nor a shipped profile"
            f"{did_you_mean(name_or_path, shipped)}; shipped: {', '.join(shipped)}"
        )
    return load_profile(path)


def summary(profile: Profile) -> dict[str, Any]:
    """What `profiles list` shows of one: errors as shares, ranges as [first, last]."""
    errors, others = held_out(profile), other_errors(profile)
    worst, other = _worst(errors), _worst(others)
    return {
        "name": Path(profile.path).stem,
        "device": profile.device,
        "model": profile.model,
        "tp": profile.tp,
        "dtype": profile.dtype,
        "worst_mape": errors.get(worst),
        "worst_kernel": worst or None,
        "mean_mape": sum(errors.values()) / len(errors) if errors else None,
        "other_mape": others.get(other),
        "other_kernel": other or None,
        **_ranges(profile),
        "sources": short_sources(profile),
    }


def held_out(profile: Profile) -> dict[str, float]:
    """Mean held-out error of each kernel that states one, as a share."""
    entries = {name: entry.get("heldout_mape") for name, entry in profile.fit.items()}
    return {name: error for name, error in entries.items() if error is not None}


def other_errors(profile: Profile) -> dict[str, float]:
    """The largest further error of the fit itself that each kernel states, as a share."""
    found = {name: [entry.get(key) for key in _DERIVED] for name, entry in profile.fit.items()}
    known = {
        name: [error for error in errors if error is not None] for name, errors in found.items()
    }
    return {name: max(errors) for name, errors in known.items() if errors}


def _worst(errors: Mapping[str, float]) -> str:
    return max(errors, key=lambda name: errors[name], default="")


def short_sources(profile: Profile) -> list[str]:
    """The repositories that the sources name (`owner/name@commit`), and the versions measured."""
    text = " ".join(profile.sources)
    names = dict.fromkeys(re.findall(r"[\w.-]+/([\w.-]+)@", text))
    return [*names, *(f"{name} {version}" for name, version in profile.versions.items())]


def step_times(profile: Profile) -> dict[str, dict[str, float]]:
    """Milliseconds of whole steps on the device, without the host; empty for an unknown model.

    Decode of so many sequences at a context of 1,024 tokens, prefill of one prompt.
    """
    try:
        cost = build_cost(profile.model, profile.device, profile.tp, profile.path)
    except ConfigError:
        return {}
    decodes = {str(n): cost.step_s((), n, DECODE_CONTEXT * n) for n in DECODE_BATCHES}
    prefills = {str(n): cost.step_s((Chunk(n, 0),), 0, 0) for n in PREFILL_TOKENS}
    found = {"decode_ms": decodes, "prefill_ms": prefills}
    return {kind: {n: 1e3 * s for n, s in times.items()} for kind, times in found.items()}


def full_json(profile: Profile) -> dict[str, Any]:
    """Everything in the file, its path and its step times."""
    return {"path": profile.path, **profile_json(profile), "step_times": step_times(profile)}


def error_lines(profile: Profile) -> Iterator[str]:
    """One plain line per kernel with all errors that the profile states."""
    for name, entry in profile.fit.items():
        yield f"  {name:20s} " + "  ".join(f"{key} {value:g}" for key, value in entry.items())


# -- tables and lines -----------------------------------------------------------------------------


def list_table(rows: list[dict[str, Any]]) -> Table:
    """The profiles side by side: worst and mean held-out error, worst other error, range ends."""
    columns = ("Device", "Model", "TP", "dtype", "Worst", "Mean", "Other", "Tokens", "Context")
    table = _table(*columns, folding=("Sources",))
    for row in rows:
        table.add_row(
            *(row["device"], row["model"], str(row["tp"]), row["dtype"]),
            *(_percent(row[f"{kind}_mape"]) for kind in ("worst", "mean", "other")),
            *(_end(row["tokens"]), _end(row["context_tokens"])),
            ", ".join(row["sources"]),
        )
    return table


def error_table(profile: Profile) -> Table:
    """Held-out error of each kernel against its target, with the other errors stated."""
    table = _table("Kernel", "Held out", "Target", "", "Points", folding=("Other errors",))
    for name, entry in profile.fit.items():
        error = entry.get("heldout_mape")
        over = "over" if error is not None and error > target(name) else ""
        table.add_row(
            *(name, _percent(error), _percent(target(name), 0), over),
            *(f"{entry.get('points', '-')}", _other_errors(entry)),
        )
    return table


def kernel_table(profile: Profile) -> Table:
    """Every kernel: table or model, held-out error, points, ranges of its axes, other errors."""
    columns = ("Kernel", "Form", "Held out", "Points")
    table = _table(*columns, folding=("Measured over", "Other errors"))
    for name, kernel in profile.kernels.items():
        entry = profile.fit.get(name, {})
        table.add_row(
            *(name, _form(kernel), _percent(entry.get("heldout_mape"))),
            f"{entry.get('points', '-')}",
            *(_axes_text(kernel, profile.range.get(name, {})), _other_errors(entry)),
        )
    return table


def heading_lines(profile: Profile) -> Iterator[str]:
    """What belongs to no kernel: device and model, links, host, memory, versions, step times."""
    yield f"{profile.model} on {profile.device}, tp {profile.tp}, {profile.dtype} ({profile.path})"
    for name, link in profile.links.items():
        speed, setup = link.bytes_per_s / 1e9, 1e6 * link.setup_s
        yield f"link {name}: {speed:.4g} GB/s, {setup:.4g} us per copy"
    host = profile.host
    yield (
        f"host: {1e3 * host.step_s:.4g} ms per step, {1e6 * host.per_sequence_s:.4g} us per "
        f"sequence ({host.origin})"
    )
    if profile.graphs is not None:
        yield f"graphs: {profile.graphs.words}"
    known = {key: value for key, value in profile.memory.items() if value is not None}
    yield "memory: " + (", ".join(f"{key} {value:,.0f}" for key, value in known.items()) or "-")
    versions = (f"{name} {version}" for name, version in profile.versions.items())
    yield "versions: " + (", ".join(versions) or "-")
    times = step_times(profile)
    if times:
        yield f"decode of n sequences at {DECODE_CONTEXT} tokens: " + _times_text(
            times["decode_ms"]
        )
        yield "prefill of n tokens: " + _times_text(times["prefill_ms"])


def source_lines(profile: Profile) -> Iterator[str]:
    """Coefficients of the smooth models, then each source."""
    for name, kernel in profile.kernels.items():
        if kernel.model is not None:
            terms = (f"{term} {value:.4g}" for term, value in kernel.coefficients.items())
            yield f"{name}: {kernel.model}, {', '.join(terms)}"
    for name, stand_in in profile.assumed.items():
        yield f"assumed {name}: {stand_in}"
    for source in profile.sources:
        yield f"source: {source}"


def _times_text(times: Mapping[str, float]) -> str:
    return ", ".join(f"n {n} {ms:.4g} ms" for n, ms in times.items())


def _ranges(profile: Profile) -> dict[str, list[float] | None]:
    bounds = profile.range
    decode = decode_kernel(profile.kv_dtype)
    return {
        "tokens": _ends(profile.kernels.get("gemm_qkv"), "tokens"),
        "context_tokens": _ends(profile.kernels.get(decode), "context_tokens"),
        "total_context_tokens": bounds.get(decode, {}).get("total_context_tokens"),
        "prefill_keys": bounds.get("attention_prefill", {}).get("keys"),
    }


def _ends(kernel: Kernel | None, axis: str) -> list[float] | None:
    points = () if kernel is None else kernel.axes.get(axis, ())
    return [points[0], points[-1]] if points else None


def _axes_text(kernel: Kernel, bounds: Mapping[str, Any]) -> str:
    spans = {axis: [points[0], points[-1]] for axis, points in kernel.axes.items()}
    texts = [f"{axis} {_span(ends)}" for axis, ends in spans.items() if axis not in bounds]
    texts += [f"{name} {_span(ends)}" for name, ends in bounds.items()]
    return ", ".join(texts) or "-"


def _form(kernel: Kernel) -> str:
    if kernel.model is not None:
        return kernel.model
    return "table " + " x ".join(str(len(points)) for points in kernel.axes.values())


def _other_errors(entry: Mapping[str, Any]) -> str:
    named = ((label, entry.get(key)) for key, label in _FIT_LABELS.items())
    return ", ".join(f"{label} {_percent(value)}" for label, value in named if value is not None)


def _table(*columns: str, folding: tuple[str, ...]) -> Table:
    """Columns that stay whole, then those that fold where the terminal is narrow."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in columns:
        table.add_column(name, no_wrap=True)
    for name in folding:
        table.add_column(name, overflow="fold")
    return table


def _percent(share: float | None, digits: int = 1) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def _span(ends: list[float] | None) -> str:
    return "-" if not ends else f"{ends[0]:,.0f}-{ends[1]:,.0f}"


def _end(ends: list[float] | None) -> str:
    return "-" if not ends else f"{ends[1]:,.0f}"
