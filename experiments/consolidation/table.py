"""The result as a page of markdown."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.consolidation.plot import PICTURE
from experiments.consolidation.settings import (
    ARTICLE,
    BATCH_USE,
    CHAT_USE,
    KEPT,
    OTHER_ROUTERS,
    ROUTER,
    TTFT_MS,
)
from experiments.studykit.record import provenance
from experiments.tables.parts import Numbers, bullets, page_of, spread, table
from superinfer.lab.report.values import NONE

_CONDITIONS = (
    "Llama-3.1-8B, a replica on each A100-80G, all with scheduler `rotating`. Chat comes at random "
    "in sessions (prompts of about 600 tokens, answers of 200), batch requests have 3,000 and 500. "
    "No prefix caching. *Use* is requests/s over what one replica serves when requests of that "
    f"kind always wait. The chat cluster is used to {100 * CHAT_USE:g} %, the batch cluster to "
    f"{100 * BATCH_USE:g} %; in the shared cluster the same chat arrives, and batch work always "
    "waits. A shared cluster is large enough if the mean over the seeds of chat's P99 TTFT is "
    f"below {TTFT_MS:g} ms and batch output tokens/s are at least {100 * KEPT:g} % of the batch "
    f"cluster's. Router `{ROUTER}` unless said otherwise. In brackets: 95 % intervals over the "
    "seeds."
)


def page(summary: Numbers) -> str:
    """The whole page."""
    size = summary["size"]
    return page_of(
        "# One cluster instead of two",
        provenance(summary["made_by"], f"step times of {summary['made_by']['profile']}"),
        bullets(findings(summary)),
        f"{_CONDITIONS}\n{size['seeds']} seeds, measured from {size['window_s'][0]:g} to "
        f"{size['window_s'][1]:g} s.",
        f"![Chat and batch over the size of the shared cluster, simulated]({PICTURE})",
        cluster_table(summary),
    )


def findings(summary: Numbers) -> Iterator[str]:
    """What the numbers say, and what the article says."""
    gpus, answer = summary["size"]["gpus"], summary["answer"]
    claimed = (
        f"The article claims {ARTICLE['separate_gpus']} -> {ARTICLE['shared_gpus']} GPUs "
        f"({100 * (ARTICLE['shared_gpus'] / ARTICLE['separate_gpus'] - 1):.0f} %) and "
        f"{100 * ARTICLE['batch_change']:+.0f} % batch throughput."
    )
    if answer is None:
        yield f"**No shared cluster of up to {gpus} GPUs keeps both.** {claimed}"
    else:
        change = f"{100 * (answer / gpus - 1):.0f} %"
        yield f"**{gpus} -> {answer} GPUs ({change})**: {_words(summary, answer)} {claimed}"
    share = summary["claimed"]
    if share != answer:
        yield f"At the article's share, {share} of {gpus} GPUs: {_words(summary, share)}"
    shown = answer or share
    row = _row(summary, shown)
    chat = summary["separate"]["chat"]
    yield (
        f"**Chat pays for it** on {shown} GPUs: P99 TTFT {_means(chat, row, 'p99_ttft_ms', 0)} ms, "
        f"in time {_means(chat, row, 'attainment', 1, 100)} %."
    )
    for router, other in summary["routers"].items():
        yield (
            f"The router matters: by `{router}` the same {other['gpus']} GPUs give chat a P99 TTFT "
            f"of {spread(other['p99_ttft_ms'], 0)} ms."
        )
    work = CHAT_USE / 2 + BATCH_USE / 2
    yield (
        f"Both clusters do the work of {work * gpus:.1f} saturated GPUs: no shared cluster can do "
        "the same with fewer unless a mixed batch does more than two pure ones."
    )


# -- inside ---------------------------------------------------------------------------------------


def _row(summary: Numbers, gpus: int) -> Numbers:
    found: Numbers = next(each for each in summary["shared"] if each["gpus"] == gpus)
    return found


def _means(before: Numbers, after: Numbers, key: str, digits: int, scale: float = 1.0) -> str:
    """Both means, such as `328 -> 579`."""
    return " -> ".join(f"{scale * each[key]['mean']:,.{digits}f}" for each in (before, after))


def _words(summary: Numbers, gpus: int) -> str:
    """What a shared cluster of so many GPUs gives."""
    row = _row(summary, gpus)
    return (
        f"chat P99 TTFT {spread(row['p99_ttft_ms'], 0)} ms, batch throughput "
        f"{spread(row['batch_change'], 1, 100)} %."
    )


def cluster_table(summary: Numbers) -> Iterator[str]:
    """Every cluster that was run."""
    chat, batch = summary["separate"]["chat"], summary["separate"]["batch"]
    half = summary["size"]["gpus"] // 2
    head = ["cluster", "GPUs", "chat P99 TTFT (ms)", "chat in time (%)"]
    head += ["batch tokens/s", "batch change (%)"]
    rows = [
        ["chat alone", str(half), *_chat(chat), NONE, NONE],
        ["batch alone", str(half), NONE, NONE, spread(batch["tokens_per_s"]), "0"],
    ]
    for row in sorted(summary["shared"], key=lambda each: each["gpus"]):
        rows.append(["shared", str(row["gpus"]), *_both(row)])
    for router in OTHER_ROUTERS:
        if row := summary["routers"].get(router):
            rows.append([f"shared, `{router}`", str(row["gpus"]), *_both(row)])
    return table(head, rows)


def _chat(row: Numbers) -> list[str]:
    return [spread(row["p99_ttft_ms"]), spread(row["attainment"], 1, 100)]


def _both(row: Numbers) -> list[str]:
    change = spread(row["batch_change"], 1, 100)
    return [*_chat(row), spread(row["tokens_per_s"]), change]
