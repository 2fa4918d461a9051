"""`profiles list`, `show` and `build` as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import Ended, superinfer_sim
from measurement_folder import write_folder, write_model

from superinfer.costs import build_cost, list_profiles, load_profile, load_shape
from superinfer.costs.profile_file import profile_json


def run(*arguments: object) -> Ended:
    return superinfer_sim("profiles", *arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("measured"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "config.json")


# -- list -----------------------------------------------------------------------------------------


def test_list_prints_every_shipped_profile_as_json_alone() -> None:
    result = run("list", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert set(rows) == {name.path.stem for name in list_profiles()}
    row = rows["a100-80g_llama-3.1-8b_tp1"]
    assert (row["device"], row["model"], row["tp"]) == ("a100-80g", "llama-3.1-8b", 1)
    assert (row["worst_kernel"], row["worst_mape"]) == ("attention_prefill", 0.0819)
    assert (row["other_kernel"], row["other_mape"]) == ("attention_prefill", 0.1133)
    assert 0.0 < row["mean_mape"] < row["worst_mape"]
    assert (row["tokens"], row["context_tokens"]) == ([1, 32768], [2, 32768])
    assert (row["total_context_tokens"], row["prefill_keys"]) == ([1, 262144], [1, 16384])
    assert row["sources"] == ["vidur", "aiconfigurator", "vllm 0.14.0"]


def test_list_prints_a_table() -> None:
    lines = run("list").stdout.splitlines()
    row = next(line for line in lines if line.split()[:3] == ["h200", "llama-3.1-8b", "1"])
    assert "bf16" in row and "32,768" in row and "65,536" in row
    assert sum(line.split()[:1] == ["h100"] for line in lines) == 3
    assert "held out" in lines[-3]


def test_a_piped_table_is_neither_cut_nor_folded() -> None:
    rows = [line.split("  ")[0].strip() for line in run("list").stdout.splitlines()]
    assert len([device for device in rows if device in ("a100-80g", "h100", "h200")]) == 9
    lines = run("show", "a100-80g_llama-3.1-70b_tp8").stdout.splitlines()
    (decode,) = (line for line in lines if line.strip().startswith("attention_decode_16"))
    assert "context_tokens 2-131,072, total_context_tokens 1-1,048,576" in decode
    end = next(i for i, line in enumerate(lines) if line.strip().startswith("sample "))
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("gemm_qkv"))
    kernels = load_profile("superinfer/costs/profiles/a100-80g_llama-3.1-70b_tp8.json").kernels
    assert end - start + 1 == len(kernels)


# -- show -----------------------------------------------------------------------------------------


def test_show_tells_a_human_all() -> None:
    result = run("show", "H200_Llama-3.1-70B_tp4")
    assert (result.exit_code, result.stderr) == (0, "")
    for words in (
        "llama-3.1-70b on h200, tp 4, bf16",
        "link h2d: 50 GB/s, 10 us per copy",
        "host: 4 ms per step, 20 us per sequence (assumed)",
        "versions: vllm 0.24.0",
        "decode of n sequences at 1024 tokens: n 1 12.24 ms",
        "prefill of n tokens: n 512 34.67 ms",
        "attention_prefill: causal_linear, floor_s 1.266e-05",
        "source: GEMM: ai-dynamo/aiconfigurator@095f58a5",
        "source: Host and links: assumed",
    ):
        assert words in result.stdout
    table = [line.split() for line in result.stdout.splitlines()]
    kernels = load_profile("superinfer/costs/profiles/h200_llama-3.1-70b_tp4.json").kernels
    assert set(kernels) <= {row[0] for row in table if row}


def test_show_prints_the_whole_file_as_json() -> None:
    name = next(name for name in list_profiles() if name.device == "h100" and name.tp == 8)
    by_name, by_path = run("show", name.path.stem, "--json"), run("show", name.path, "--json")
    assert by_name.stdout == by_path.stdout
    shown = json.loads(by_name.stdout)
    times = shown.pop("step_times")
    assert shown.pop("path") == str(name.path)
    assert shown == json.loads(json.dumps(profile_json(load_profile(name.path))))
    cost = build_cost(name.model, name.device, name.tp)
    assert times["decode_ms"]["32"] == 1e3 * cost.step_s((), 32, 32 * 1024)


def test_show_takes_a_profile_of_an_unknown_model(tmp_path: Path) -> None:
    data = json.loads(list_profiles()[0].path.read_text()) | {"model": "mine", "fit": {}}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data | {"sources": [], "memory": {}, "versions": {}}))
    result = run("show", path)
    assert result.exit_code == 0
    assert "mine on a100-80g" in result.stdout and "decode of" not in result.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fit": {"norm": 3}}, "fit.norm: expected an object, found 3"),
        (
            {"fit": {"norm": {"points": "many"}}},
            "fit.norm.points: expected a number >= 0 or null, found 'many'",
        ),
        (
            {"range": {"norm": {"tokens": 5}}},
            "range.norm.tokens: expected a list of numbers, found 5",
        ),
        (
            {"range": {"norm": {"tokens": [1, 2, 3]}}},
            "range.norm.tokens: expected [first, last], found [1, 2, 3]",
        ),
        ({"tp": 0}, "tp: expected a whole number >= 1, found 0"),
        ({"kv_dtype": "fp8_block"}, "kv_dtype: expected fp8, found 'fp8_block'"),
        ({"assumed": {"norm": 3}}, "assumed.norm: expected a string, found 3"),
    ],
)
def test_show_names_the_bad_field(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(json.loads(list_profiles()[0].path.read_text()) | change))
    result = run("show", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"error: {path}: {words}\n"


def test_show_warns_of_unknown_keys_without_steering_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(json.loads(list_profiles()[0].path.read_text()) | {"\x1b[31m": 1}))
    result = run("show", path)
    assert result.exit_code == 0
    assert result.stderr == f"warning: {path}: ignored as unknown: \\x1b[31m\n"


def test_show_suggests_the_name_that_was_meant() -> None:
    result = run("show", "h100_llama3.1-8b_tp1")
    assert result.exit_code == 2
    assert "(did you mean 'h100_llama-3.1-8b_tp1'?); shipped: a100-80g_llama" in result.stderr
    assert result.stderr.count("\n") == 1


# -- build ----------------------------------------------------------------------------------------


def test_build_writes_a_profile_that_a_run_can_use(
    folder: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "mine.json"
    result = run("build", folder, "--model", model, "-o", out)
    assert (result.exit_code, result.stderr) == (0, f"wrote {out}\n")
    first = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert "5 %" in first["gemm_qkv"] and "10 %" in first["attention_decode_16"]
    shape = load_shape(model)
    cost = build_cost(shape, "a100-80g", 1, str(out))
    # Two layers with attention and a head: more than the launches, less than a millisecond.
    assert 5e-5 < cost.step_s((), 4, 4 * 64) < 1e-3
    assert list(out.parent.iterdir()) == [out]


def test_build_prints_the_errors_as_json(folder: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    result = run("build", folder, "--model", model, "-o", out, "--json")
    assert json.loads(result.stdout) == load_profile(out).fit


def test_build_marks_an_error_over_its_target(tmp_path: Path, model: Path) -> None:
    import pandas as pd

    root = write_folder(tmp_path / "data")
    path = root / "vidur/a100/Tiny-1B/mlp.csv.gz"
    table = pd.read_csv(path)
    table["time_stats.mlp_act.median"] *= [1.0, 1.4] * 5 + [1.0]
    table.to_csv(path, index=False)
    result = run("build", root, "--model", model, "-o", tmp_path / "mine.json")
    over = [line.split()[0] for line in result.stdout.splitlines() if " over " in line]
    assert over == ["activation"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--device", "h100"), "h100_sxm/gemm/vllm/0.24.0/gemm_perf.parquet: no such file"),
        (("--device", "l40s"), "no measurements of 'l40s' are known; known devices: a100-80g"),
        (("--tp", "3"), "tp=3 does not divide the 8 attention heads"),
        (("--model", "nobody"), "unknown model 'nobody'"),
        (("--model", "t5-base"), "profiles are built for decoder-only models"),
        (("--weights", "fp8_block"), "GEMM with weights of fp8_block were not measured"),
    ],
)
def test_build_refuses_in_one_line(
    folder: Path, model: Path, tmp_path: Path, arguments: tuple[str, str], words: str
) -> None:
    options = {"--model": str(model), "-o": str(tmp_path / "new" / "p.json")} | dict([arguments])
    result = run("build", folder, *(part for pair in options.items() for part in pair))
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_build_refuses_folders_it_does_not_know(model: Path, tmp_path: Path) -> None:
    result = run("build", tmp_path, "--model", model, "-o", tmp_path / "p.json")
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {tmp_path}: expected a folder with aiconfigurator/ and vidur/, or a folder of "
        "LLMServingSim's, RTXPRO6000/<owner>/<model>/bf16/tp<N>/dense.csv\n"
    )


def test_build_refuses_a_folder_as_output(folder: Path, model: Path, tmp_path: Path) -> None:
    result = run("build", folder, "--model", model, "-o", tmp_path)
    assert result.exit_code == 2
    assert "expected a file, got a folder" in result.stderr


def test_build_refuses_what_it_cannot_write_before_the_work(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "p.json"
    result = run("build", tmp_path / "no data", "--model", model, "-o", out)
    assert result.exit_code == 2
    assert result.stderr == f"error: {out}: cannot write here: Not a directory\n"


def test_build_does_not_write_over_the_model(model: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_bytes(before := model.read_bytes())
    for given in (config, tmp_path):
        result = run("build", tmp_path / "no data", "--model", given, "-o", config)
        said = f"error: {config}: expected another file than the one that is read\n"
        assert (result.exit_code, result.stderr, config.read_bytes()) == (2, said, before)


def test_the_commands_load_no_heavy_library() -> None:
    code = "import sys, sim.cli.profiles; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {"pandas", "pyarrow", "matplotlib", "numpy", "rich", "simpy"}
    assert heavy & set(loaded.stdout.split()) == set()
