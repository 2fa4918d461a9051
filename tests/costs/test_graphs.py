"""Steps that are replayed from graphs cost what the graph computes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superinfer.costs import CalibratedCost, Chunk, HostCost, Profile, load_profile, load_shape
from superinfer.costs.graphs import Graphs, MixedGraph
from superinfer.costs.profile_file import parse_profile, profile_json, write_profile
from superinfer.errors import InputError
from superinfer.lab.profiles.report import heading_lines

RECORDED = Path(__file__).parents[2] / "experiments/results/h200-early"
MIXED = tuple(
    MixedGraph(rows, decodes) for rows in (32, 128, 512, 1024) for decodes in (0, min(rows, 64))
)
GRAPHS = Graphs((1, 2, 4, 8, 16, 32, 64, 96, 128), MIXED, 4)
SHAPE = load_shape("llama-3.1-8b")


def measured() -> Profile:
    """An H200's, as it was recorded: without graphs."""
    return load_profile(RECORDED / "profile-llama-3.1-8b.json")


PLAIN = CalibratedCost(measured(), SHAPE)
PADDED = CalibratedCost(replace(measured(), graphs=GRAPHS), SHAPE)


def attended(decodes: int, held: int, context: int) -> float:
    """Decode attention of 32 layers, by the tables: with sequences beside that have no keys."""
    own, all_of_them = PLAIN._decode_curve(decodes), PLAIN._decode_curve(held)
    return own.at(context) + all_of_them.at(0) - own.at(0)


@pytest.mark.parametrize(("decodes", "held"), [(1, 1), (3, 4), (65, 96), (128, 128), (129, 129)])
def test_decodes_cost_as_the_next_captured_size(decodes: int, held: int) -> None:
    """All but their keys, which nobody else has."""
    for context in (decodes, 5000, 400_000):
        alone = PLAIN._fixed_s(held) + PLAIN._rows_s(held)
        wanted = alone + attended(decodes, held, context)
        assert PADDED.step_s((), decodes, context) == pytest.approx(wanted)


def test_context_grows_by_the_decodes_that_there_are() -> None:
    padded, plain = (cost.slice_line((), 65, 65 * 1000) for cost in (PADDED, PLAIN))
    assert padded.first_s > plain.first_s
    assert (padded.growth_s, padded.steps) == (plain.growth_s, plain.steps)


@pytest.mark.parametrize(
    ("tokens", "decodes", "chunks", "found"),
    [
        (20, 0, 1, (32, 0)),
        (33, 1, 1, (128, 64)),
        (32, 32, 4, (32, 32)),
        (200, 65, 1, None),
        (20, 0, 5, None),
        (1025, 0, 1, None),
    ],
)
def test_a_step_with_chunks_takes_the_smallest_graph(
    tokens: int, decodes: int, chunks: int, found: tuple[int, int] | None
) -> None:
    assert GRAPHS.holding(tokens, decodes, chunks) == found


def test_chunks_are_padded_in_rows_and_outputs_but_not_in_their_attention() -> None:
    chunks = [Chunk(40, 0), Chunk(30, 500)]
    rows, outputs = PLAIN._fixed_s(128), PLAIN._rows_s(64 + 4)
    wanted = rows + outputs + attended(5, 64, 9000) + PLAIN._prefill_s(chunks)
    assert PADDED.step_s(chunks, 5, 9000) == pytest.approx(wanted)
    alone = PLAIN._fixed_s(128) + PLAIN._rows_s(4) + PLAIN._prefill_s(chunks)
    assert PADDED.step_s(chunks, 0, 0) == pytest.approx(alone)
    large = [Chunk(2000, 0)]
    assert PADDED.step_s(large, 5, 9000) == PLAIN.step_s(large, 5, 9000)


def test_decodes_beside_chunks_are_padded_by_their_own_table() -> None:
    plain = measured()
    decode = plain.kernels["attention_decode_16"]
    twice = replace(
        decode, seconds=tuple(tuple(2 * s for s in row) for row in decode.seconds or ())
    )
    plain = replace(plain, kernels={**plain.kernels, "attention_mixed_16": twice})
    padded = CalibratedCost(replace(plain, graphs=GRAPHS), SHAPE)
    own, held = (padded._beside_curve(decodes) for decodes in (5, 64))
    assert own is not None and held is not None
    chunks = [Chunk(40, 0), Chunk(30, 500)]
    wanted = PLAIN._fixed_s(128) + PLAIN._rows_s(64 + 4) + PLAIN._prefill_s(chunks)
    wanted += own.at(9000) + held.at(0) - own.at(0)
    assert padded.step_s(chunks, 5, 9000) == pytest.approx(wanted)


def test_only_what_has_no_graph_waits_for_its_launches() -> None:
    slow = CalibratedCost(
        replace(measured(), graphs=GRAPHS), SHAPE, HostCost(0.0, 0.0, "measured", launch_s=9.0)
    )
    assert slow.step_s([Chunk(100, 0)], 2, 500) == PADDED.step_s([Chunk(100, 0)], 2, 500)
    assert slow.step_s([Chunk(2000, 0)], 2, 500) == 9.0


@given(st.integers(0, 1100), st.integers(0, 50_000), st.integers(0, 140), st.integers(1, 3000))
def test_a_slice_takes_what_its_steps_take(
    tokens: int, before: int, decodes: int, mean: int
) -> None:
    """Along a slice the size of the graph stays what it is, so lines stay exact."""
    if not tokens and not decodes:
        return
    done, context = 0, decodes * mean

    def chunks(step: int) -> list[Chunk]:
        return [Chunk(tokens, before + step * tokens)] if tokens else []

    while done < 40:
        line = PADDED.slice_line(chunks(done), decodes, context + done * decodes)
        for step in range(int(min(line.steps, 40 - done))):
            at = done + step
            alone_s = PADDED.step_s(chunks(at), decodes, context + at * decodes)
            assert line.first_s + step * line.growth_s == pytest.approx(alone_s, rel=1e-11)
        done += int(min(line.steps, 40 - done))


@given(st.integers(1, 200), st.integers(1, 4000))
def test_padding_never_makes_a_step_cheaper(decodes: int, mean: int) -> None:
    here = PADDED.step_s((), decodes, decodes * mean)
    assert here >= PLAIN.step_s((), decodes, decodes * mean) - 1e-12
    assert PADDED.step_s((), decodes + 1, (decodes + 1) * mean) >= here - 1e-12


# -- the file -------------------------------------------------------------------------------------


def test_a_profile_tells_of_its_graphs() -> None:
    profile = replace(measured(), graphs=GRAPHS)
    words = (
        "graphs: decodes of up to 128 sequences in 9 sizes; "
        "steps with up to 4 chunks of up to 1,024 rows in 8"
    )
    assert words in list(heading_lines(profile))
    assert not any(line.startswith("graphs") for line in heading_lines(measured()))
    assert Graphs((1, 2), (), 0).words == "decodes of up to 2 sequences in 2 sizes"


def test_a_profile_keeps_its_graphs(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    write_profile(replace(measured(), graphs=GRAPHS), path)
    graphs = load_profile(path).graphs
    assert graphs is not None
    assert (graphs.decodes, graphs.mixed, graphs.chunks) == (GRAPHS.decodes, MIXED, 4)
    assert "graphs" not in profile_json(measured())


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("decodes", [4, 2], "graphs.decodes: expected increasing"),
        ("decodes", None, "graphs.decodes: expected a list of numbers"),
        ("mixed", [[32]], "graphs.mixed: expected pairs"),
        ("mixed", [[32, 1.5]], "graphs.mixed: expected pairs"),
        ("mixed", [[64, 0], [32, 0]], "graphs.mixed: expected increasing pairs"),
        ("mixed", [[32, 64]], "graphs.mixed: expected increasing pairs"),
        ("chunks", "4", "graphs.chunks: expected a whole number >= 0"),
    ],
)
def test_odd_graphs_are_named(field: str, value: Any, said: str) -> None:
    data = profile_json(replace(measured(), graphs=GRAPHS))
    data["graphs"] = data["graphs"] | {field: value}
    with pytest.raises(InputError, match=said):
        parse_profile(json.loads(json.dumps(data)), "p.json")
