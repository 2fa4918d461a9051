"""What `tune` has recorded decides which kernels a call has; results here are made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from executor.kernels import decode_attention, linear, linear_fused, prefill_attention, widen
from executor.kernels.tiles import Tile
from executor.steps import items
from experiments.gpu_check import __main__ as gpu_check
from experiments.gpu_check.checks import Context, Part, Result, Results, run_part
from experiments.gpu_check.kernels import dense
from experiments.gpu_check.tune import adopt, attention, int8, steps, wide
from experiments.gpu_check.tune.recorded import tuned
from experiments.gpu_check.variants import label
from superinfer.errors import ConfigError

HERE, ELSEWHERE = "NVIDIA H200", "NVIDIA H100"
SHAPES = int8.INT8[32]
FEW, MANY = linear.SHARED_TILES
Checks = dict[str, Result]


@pytest.fixture(autouse=True)
def _tables_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """All off, and afterwards as they are in the sources."""
    monkeypatch.setitem(linear_fused.FUSED, 90, False)
    monkeypatch.setitem(decode_attention.ASKED, 90, False)
    monkeypatch.setitem(widen.WIDEN_FROM, 90, None)
    monkeypatch.setitem(linear.NARROW, 90, ())
    monkeypatch.setitem(linear.TILES, 90, linear.TILES[90])
    monkeypatch.setitem(prefill_attention.TILES, 90, dict(prefill_attention.TILES[90]))
    monkeypatch.setitem(items.WAVES, 90, False)
    monkeypatch.setitem(decode_attention.TILES, 90, decode_attention.TILES[90] | {"copied": 0})


def well(*rows: dict[str, Any]) -> Result:
    return {"ok": True, "rows": list(rows), "device": HERE}


def wrong(*rows: dict[str, Any]) -> Result:
    return {"ok": False, "error": "wrong by 0.5", "rows": list(rows), "device": HERE}


def step_rows(name: str, now: dict[int, float], new: dict[int, float]) -> list[dict[str, Any]]:
    """Whole steps as they are recorded."""
    both = (("now", now), (name, new))
    return [{"B": b, "products": which, "us": us} for which, t in both for b, us in t.items()]


def followed(name: str, checks: Checks) -> Result:
    found = adopt.followed(adopt.RULES[name], checks)
    assert found["ok"] and isinstance(found["why"], str)
    return found


# -- fused ----------------------------------------------------------------------------------------

NOW = {1: 4270.0, 16: 4900.0, 32: 5610.0}


def fused(factors: tuple[float, ...], kind: Callable[..., Result] = well) -> Checks:
    new = {count: us * f for (count, us), f in zip(NOW.items(), factors, strict=True)}
    return {"fused": kind(*step_rows("fused", NOW, new))}


@pytest.mark.parametrize(
    ("factors", "wins"),
    [
        ((0.98, 0.98, 0.98), True),
        ((0.98, 0.98, 1.004), True),  # one is slower by a little
        ((0.95, 0.95, 1.006), False),  # by more
        ((0.995, 0.992, 0.991), False),
    ],
)
def test_fused_steps_have_to_be_faster_and_none_slower(
    factors: tuple[float, ...], wins: bool
) -> None:
    found = followed("fused", fused(factors))
    assert linear_fused.FUSED[90] is wins
    assert found["adopted"] == ("linear_fused.FUSED[90] = True" if wins else "nothing")
    assert [row["case"] for row in found["rows"]] == ["B=1", "B=16", "B=32"]


@pytest.mark.parametrize(
    ("factors", "wins"),
    [((0.994, 0.997, 0.998), True), ((0.998, 0.998, 0.998), False), ((0.98, 1, 1.006), False)],
)
def test_asking_has_to_save_three_thousandths(factors: tuple[float, ...], wins: bool) -> None:
    new = {count: us * f for (count, us), f in zip(NOW.items(), factors, strict=True)}
    found = followed("asked", {"asked": well(*step_rows("asked", NOW, new))})
    assert decode_attention.ASKED[90] is wins
    assert found["adopted"] == ("decode_attention.ASKED[90] = True" if wins else "nothing")


def test_fused_steps_that_are_wrong_fail_or_are_missing_change_nothing() -> None:
    cut = step_rows("fused", {1: 100.0}, {1: 50.0})
    torn = [
        *step_rows("fused", NOW, NOW)[:5],
        {"B": 32, "products": "fused", "error": "out of memory"},
    ]
    odd = [{"B": 1, "products": "now"}]
    for checks in (
        *(fused((0.5, 0.5, 0.5), wrong), {}, {"fused": well(*cut)}, {"fused": well(*torn)}),
        *({"fused": {"ok": True, "skipped": "no such products"}}, {"fused": well(*odd)}),
    ):
        assert followed("fused", checks)["adopted"] == "nothing"
        assert linear_fused.FUSED[90] is False


# -- shared tiles ---------------------------------------------------------------------------------


def shared(tile: Tile, factor: float, **more: Any) -> Result:
    product = {"m": tile.rows, "n": 4096, "k": 4096, "tile": str(tile), "us": 9.0} | more
    new = {tile.rows: 9000.0 * factor}
    return well(product, *step_rows("shared", {tile.rows: 9000.0}, new))


@pytest.mark.parametrize(
    ("few", "many", "tiles"),
    [
        (0.98, 0.98, (FEW, MANY)),
        (0.98, 0.995, (FEW,)),
        (1.02, 0.98, (MANY,)),
        (0.995, 0.995, ()),
    ],
)
def test_each_shared_tile_wins_by_itself(few: float, many: float, tiles: tuple[Tile, ...]) -> None:
    assert wide.TILES[64][0] == FEW and wide.TILES[128][0] == MANY
    checks = {"shared-64": shared(FEW, few), "shared-128": shared(MANY, many)}
    for name in ("shared-64", "shared-128"):
        followed(name, checks)
    assert linear.NARROW[90] == tiles


def test_shared_tiles_that_fail_somewhere_are_left() -> None:
    """Another tile's failure is none of theirs."""
    other = {"m": 128, "n": 4096, "k": 4096, "tile": "another", "error": "out of resources"}
    failed = shared(MANY, 0.9, error="out of resources")
    assert followed("shared-128", {"shared-128": failed})["adopted"] == "nothing"
    assert followed("shared-128", {"shared-128": shared(MANY, 0.9) | {"ok": False}})["why"]
    assert followed("shared-128", {})["why"] == "shared-128: not measured"
    assert dict(linear.NARROW)[90] == ()
    found = shared(MANY, 0.9)
    found["rows"].append(other)
    followed("shared-128", {"shared-128": found})
    assert linear.NARROW[90] == (MANY,)


# -- widened weights ------------------------------------------------------------------------------


def widened(rows: int, large: float, small: float = 1.0, **more: Any) -> Result:
    """`large`, `small`: the new time of matrices of the 70B and the 8B, of that of now."""
    found = []
    for n, k in int8.SIZES:
        factor = large if (n, k) in int8.SIZES_70B else small
        row, us = {"m": rows, "n": n, "k": k}, n * k * rows / 1e9
        found += [row | {"tile": "now", "us": us}, row | {"tile": "widened, 32 MiB", "us": us / 9}]
        found.append(row | {"tile": "widened, 128 MiB", "us": us * factor} | more)
    return well(*found)


@pytest.mark.parametrize(
    ("changes", "least"),
    [
        ({512: 0.9, 1024: 0.8, 2048: 0.7, 8192: 0.7}, 512),
        ({512: 0.98, 1024: 0.8, 2048: 0.7, 8192: 0.7}, 1024),
        ({512: 0.9, 1024: 0.98, 2048: 0.7}, 2048),  # not from 512: what lies between does not gain
        ({2048: 0.7, 8192: 0.98}, None),
        ({2048: 0.7}, 2048),
    ],
)
def test_weights_are_widened_from_where_all_gain(
    changes: dict[int, float], least: int | None
) -> None:
    found = followed("widened", {f"widen-{m}": widened(m, f) for m, f in changes.items()})
    assert widen.WIDEN_FROM[90] == least
    assert found["adopted"] == (f"widen.WIDEN_FROM[90] = {least}" if least else "nothing")
    assert len(found["rows"]) == len(int8.SIZES_70B) * len(changes)


def test_widening_is_for_the_70b() -> None:
    followed("widened", {"widen-2048": widened(2048, 1.0, small=0.1)})
    assert widen.WIDEN_FROM[90] is None
    followed("widened", {"widen-2048": widened(2048, 0.9, small=2.0)})
    assert widen.WIDEN_FROM[90] == 2048


def test_widened_products_that_are_wrong_anywhere_are_left() -> None:
    good = {"widen-2048": widened(2048, 0.5)}
    for other in (wrong(), widened(512, 0.5, error="out of memory")):
        assert followed("widened", good | {"widen-512": other})["adopted"] == "nothing"
    assert followed("widened", {})["why"] == "not measured for any number of rows"
    assert widen.WIDEN_FROM[90] is None
    followed("widened", good | {"widen-512": {"ok": False, "error": "stopped: no time left"}})
    assert widen.WIDEN_FROM[90] == 2048


# -- the int8 tile of 32 rows ---------------------------------------------------------------------


def int8_rows(shape: tuple[int, ...], shared: float, alone: float, **more: Any) -> Result:
    """Times of now are 100 both ways."""
    times = ((8, shared), (0, alone))
    rows = [
        {"m": 32, "n": n, "k": k, "tile": str(shape), "share to": share, "us": 100 * us} | more
        for n, k in int8.SIZES
        for share, us in times
    ]
    return well(*rows)


def tried(*found: Result) -> Checks:
    return {f"int8-32-{i}": check for i, check in enumerate(found)}


def test_the_best_int8_tile_takes_the_place_of_the_present_one() -> None:
    before = linear.TILES[90]
    assert Tile(*SHAPES[0]) in before
    present = int8_rows(SHAPES[0], 1.0, 1.1)
    found = followed(
        "int8-32", tried(present, int8_rows(SHAPES[1], 0.9, 0.95), int8_rows(SHAPES[2], 0.8, 1.0))
    )
    assert linear.TILES[90] == (before[0], Tile(*SHAPES[2]), *before[2:])
    assert found["change"] == pytest.approx(-0.2)


@pytest.mark.parametrize(
    "found",
    [
        (int8_rows(SHAPES[0], 1.0, 1.1), int8_rows(SHAPES[1], 0.99, 1.0)),
        (
            int8_rows(SHAPES[0], 1.0, 1.1),
            int8_rows(SHAPES[1], 1.0, 0.5),
        ),  # not as tiles are shared now
        (int8_rows(SHAPES[0], 1.0, 1.1), int8_rows(SHAPES[1], 0.5, 0.5, error="out of resources")),
        (int8_rows(SHAPES[0], 1.0, 1.1), int8_rows(SHAPES[1], 0.5, 0.5) | {"ok": False}),
        (int8_rows(SHAPES[1], 0.5, 0.5),),  # nothing to hold it against
        (),
    ],
)
def test_the_present_int8_tile_stays(found: tuple[Result, ...]) -> None:
    before = linear.TILES[90]
    assert followed("int8-32", tried(*found))["adopted"] == "nothing"
    assert linear.TILES[90] == before


# -- prefill attention ----------------------------------------------------------------------------


def prefill(times: dict[int, tuple[float, ...]]) -> Checks:
    """By place among the variants of `tune`; microseconds of chunks."""
    chunks = ((2048, 0), (8192, 0), (512, 8192))
    checks = {}
    for place, us in times.items():
        label = attention.prefill_name(*attention.PREFILL[place])
        rows = [
            {"tile": label, "chunk": tokens, "context": before, "us": t}
            for (tokens, before), t in zip(chunks, us, strict=True)
        ]
        checks[f"prefill-{place}"] = well(*rows)
    return checks


PRESENT_128, AHEAD_128, LAG_128, PRESENT_64, LAG_64 = 0, 1, 3, 5, 7


def test_what_lags_behind_is_held_against_tiles_of_as_many_rows() -> None:
    """By the geometric mean: long chunks do not outweigh short ones."""
    checks = prefill({PRESENT_128: (100, 1000, 100), LAG_128: (90, 1005, 99)})
    checks |= prefill({PRESENT_64: (120, 1200, 120), LAG_64: (130, 1100, 121)})
    assert followed("prefill-128", checks)["change"] == pytest.approx(
        (0.9 * 1.005 * 0.99) ** (1 / 3) - 1
    )
    assert followed("prefill-64", checks)["adopted"] == "nothing"
    tables = prefill_attention.TILES[90]
    assert tables[128] == prefill_attention.LAGGING[128] and not tables[64]["lag"]
    checks |= prefill({LAG_64: (118, 1180, 118)})
    followed("prefill-64", checks)
    assert tables[64] == prefill_attention.LAGGING[64]


def test_of_several_forms_of_prefill_the_one_that_saves_most_is_taken() -> None:
    checks = prefill({PRESENT_128: (100, 1000, 100), LAG_128: (90, 900, 90)})
    checks |= prefill({AHEAD_128: (80, 800, 80)})
    before = prefill_attention.TILES[90][128]
    assert followed("prefill-128", checks)["change"] == pytest.approx(-0.2)
    assert prefill_attention.TILES[90][128] == before | prefill_attention.AHEAD


def test_prefill_that_is_wrong_or_not_there_stays() -> None:
    both = prefill({PRESENT_128: (100, 1000, 100), LAG_128: (50, 500, 50)})
    failed = prefill({LAG_128: (50, 500, 50)})
    failed[f"prefill-{LAG_128}"]["rows"][1]["error"] = "out of resources"
    for checks in (
        both | {f"prefill-{LAG_128}": both[f"prefill-{LAG_128}"] | {"ok": False}},
        both | failed,
        prefill({LAG_128: (50, 500, 50)}),
        {},
    ):
        assert followed("prefill-128", checks)["adopted"] == "nothing"
        assert not prefill_attention.TILES[90][128]["lag"]


# -- decode attention -----------------------------------------------------------------------------


def decodes(place: int, cut: str = "now", **us: tuple[float, float]) -> Checks:
    """One variant of `tune` by its place, and microseconds of two cases by precision."""
    rows = [
        {"kv": int(kv[1:]), "tile": label(attention.DECODE[place]), "us": t, "cut": cut}
        | dict(zip(("B", "ctx"), case, strict=True))
        for kv, both in us.items()
        for case, t in zip(attention.DECODES, both, strict=False)
    ]
    return {f"decode-{place}{cut}": well(*rows)}


PRESENT, ASYNC, DEEPER = 0, 1, 2
OFF = decode_attention.TILES[90] | {"copied": 0}


def test_numbers_of_tokens_are_copied_where_that_is_faster() -> None:
    """The best form of all that make no precision slower, each case alike."""
    checks = decodes(PRESENT, k16=(100, 1000), k8=(80, 800), k4=(60, 600))
    checks |= decodes(ASYNC, k16=(100, 1000), k8=(79, 800), k4=(50, 480))
    checks |= decodes(DEEPER, k16=(100, 1000), k8=(90, 900), k4=(20, 200))
    found = followed("copied", checks)
    assert found["change"] == pytest.approx((79 / 80 * 5 / 6 * 0.8) ** (1 / 6) - 1)
    assert decode_attention.TILES[90] == OFF | attention.DECODE[ASYNC]
    followed("copied", checks | decodes(DEEPER, k16=(100, 1000), k8=(80, 800), k4=(20, 200)))
    assert decode_attention.TILES[90] == OFF | attention.DECODE[DEEPER]


def test_decodes_that_gain_nothing_or_are_not_all_there_stay() -> None:
    now = decodes(PRESENT, k16=(100, 1000), k8=(80, 800), k4=(60, 600))
    for checks in (
        now | decodes(ASYNC, k16=(100, 1000), k8=(80, 800), k4=(59, 599)),
        now | decodes(ASYNC, k16=(102, 1020), k8=(80, 800), k4=(30, 300)),
        now | decodes(ASYNC, k16=(100, 1000), k8=(80, 800)),
        now | {"decode-1": wrong()},
        decodes(ASYNC, k16=(100, 1000), k8=(80, 800), k4=(30, 300)),
        {},
    ):
        assert followed("copied", checks)["adopted"] == "nothing"
        assert decode_attention.TILES[90] == OFF


def test_rows_are_cut_into_waves_if_the_form_that_is_taken_gains() -> None:
    now, best = {"k16": (100, 1000), "k4": (60, 600)}, {"k16": (100, 1000), "k4": (50, 500)}
    checks = decodes(PRESENT, **now) | decodes(PRESENT, "waves", **best)
    checks |= decodes(ASYNC, **best) | decodes(ASYNC, "waves", **best)
    followed("waves", checks)
    assert items.WAVES[90]
    items.WAVES[90] = False
    followed("copied", checks)
    assert followed("waves", checks)["adopted"] == "nothing"  # by this form it brings no more
    slower = decodes(ASYNC, "waves", k16=(102, 1020), k4=(30, 300))
    assert followed("waves", checks | slower)["adopted"] == "nothing" and not items.WAVES[90]


# -- a call ---------------------------------------------------------------------------------------


def device(context: Context) -> Result:
    """Stands for the device's own name."""
    return {"device": HERE, "chip": 90}


def see(context: Context) -> Result:
    """What a forked check has."""
    return {"fused": linear_fused.FUSED[90], "widen": widen.WIDEN_FROM[90]}


def call(folder: Path, tune: Checks | None, *more: str) -> tuple[int, dict[str, Any]]:
    """One call with a part that tells what it sees; its exit code and what it has put down."""
    out = folder / "out"
    out.mkdir(exist_ok=True)
    if tune is not None:
        written = json.dumps({"tune": {"checks": tune}})
        (out / "results.json").write_text(written, encoding="utf-8")
    options = ["--device", "cpu", "--parts", "graphs", "--again", "--out", str(out)]
    code = gpu_check.main([*options, "--work", str(folder / "work"), *more])
    return code, json.loads((out / "results.json").read_text(encoding="utf-8"))


@pytest.fixture
def _calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/nonexistent")
    monkeypatch.setattr(adopt, "device", device)
    monkeypatch.setattr(gpu_check, "part", lambda name, fast: Part({"see": see}, 60.0))


@pytest.mark.usefixtures("_calls")
def test_checks_of_a_call_have_what_was_adopted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the results say what that is; without the option nothing changes, and nothing is said."""
    checks = fused((0.9, 0.9, 0.9)) | {"widen-2048": widened(2048, 0.9)}
    code, data = call(tmp_path, checks)
    assert code == 0 and "adopted" not in data
    assert data["graphs"]["checks"]["see"]["fused"] is False
    code, data = call(tmp_path, None, "--adopt")
    seen, adopted = data["graphs"]["checks"]["see"], data["adopted"]["checks"]
    assert code == 0 and seen["fused"] is True and seen["widen"] == 2048
    assert set(adopted) == {"device", *adopt.RULES}
    assert adopted["fused"]["adopted"] == "linear_fused.FUSED[90] = True"
    assert len(adopted["fused"]["rows"]) == len(steps.ROWS)
    assert adopted["int8-32"]["adopted"] == "nothing"
    said = capsys.readouterr().out
    assert said.count("  adopted.fused: ok adopted=linear_fused.FUSED[90] = True") == 1
    assert "== adopted" in said


@pytest.mark.usefixtures("_calls")
@pytest.mark.parametrize("of", [None, ELSEWHERE, ""])
def test_results_of_no_or_another_device_adopt_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], of: str | None
) -> None:
    """One line, and the call goes on."""
    checks = fused((0.9, 0.9, 0.9))
    checks["fused"] |= {"device": of}
    if not of:
        del checks["fused"]["device"]  # as a CPU leaves it
    code, data = call(tmp_path, None if of is None else checks, "--adopt")
    assert code == 0 and data["graphs"]["checks"]["see"]["fused"] is False
    assert set(data["adopted"]["checks"]) == {"device"}
    said = capsys.readouterr().out.splitlines()
    assert said.count(f"--adopt: nothing that tune has measured fits this device ({HERE})") == 1


@pytest.mark.usefixtures("_calls")
def test_an_older_gpu_has_no_such_variants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopt, "device", lambda context: {"device": HERE, "chip": 80})
    _, data = call(tmp_path, fused((0.9, 0.9, 0.9)), "--adopt")
    assert data["graphs"]["checks"]["see"]["fused"] is False


@pytest.mark.usefixtures("_calls")
def test_a_call_goes_on_if_nothing_can_be_adopted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError("no such library")

    monkeypatch.setattr(adopt, "adopt", fails)
    code, data = call(tmp_path, None, "--adopt")
    assert code == 0 and "no such library" in data["adopted"]["checks"]["part"]["error"]
    assert data["graphs"]["checks"]["see"]["ok"]


def test_a_check_that_ended_without_a_device_is_known(tmp_path: Path) -> None:
    """It had none left to name; one that is well without a device was no GPU's."""
    results = Results(tmp_path / "results.json")
    dead = {"ok": False, "error": "the process ended with 9"}
    checks = {"fused": well(), "widen-512": dead, "widen-2048": {"ok": True, "rows": []}}
    results.data["tune"] = {"checks": checks}
    assert set(tuned(results, HERE)) == {"fused", "widen-512"}
    assert tuned(results, ELSEWHERE) == {} == tuned(results, None)


def test_what_looks_for_variants_does_not_go_with_them(tmp_path: Path) -> None:
    for more in ([], ["--call", "a"], ["--parts", "tune"]):
        with pytest.raises(ConfigError, match="--adopt"):
            gpu_check.main(["--out", str(tmp_path / "out"), "--adopt", *more])
    assert not (tmp_path / "out").exists()


def test_a_cpu_has_no_name(tmp_path: Path) -> None:
    """The harness names what has used a GPU, which this has not."""
    context, results = Context("cpu", 20.0, {}, tmp_path), Results(tmp_path / "results.json")
    run_part("some", Part({"device": adopt.device}, 20.0), context, results)
    assert "device" not in results.checks("some")["device"]


def test_products_that_may_be_adopted_are_checked_before_they_are_timed() -> None:
    """Part `kernels` has rows for each of them."""
    for tile in linear.SHARED_TILES:
        assert any(tile.rows // 2 < rows <= tile.rows for rows in dense.LINEAR_ROWS)
    assert max(dense.INT8_ROWS) >= min(int8.WIDEN_ROWS)
    assert any(16 < rows <= 32 for rows in dense.INT8_ROWS)
