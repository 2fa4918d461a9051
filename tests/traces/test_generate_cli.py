"""`traces generate` and `traces mix` as a user meets them, and settings laid over a file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import Ended, superinfer_sim
from specs import document, write_spec

from superinfer.settings import parse_settings
from traces.convert import native_bytes
from traces.generate import bundled_specs, generate, load_spec
from traces.readers import read_trace

ROOT = Path(__file__).resolve().parents[2]
CLIENT: dict[str, Any] = {
    "rate_per_s": 1.0,
    "prompt": {"family": "lognormal", "mean": 10, "sigma": 1},
    "answer": 10,
}


def run(*arguments: str) -> Ended:
    return superinfer_sim("traces", *arguments)


def test_generate_writes_what_the_library_makes(tmp_path: Path) -> None:
    target = tmp_path / "chat.jsonl"
    result = run("generate", "chat", "--seed", "5", "-o", str(target))
    made = generate(load_spec("chat"), 5)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"wrote {len(made.requests)} requests to {target}\n"
    assert target.read_bytes() == native_bytes(made)
    assert read_trace(target) == made


def test_generate_writes_gzip_and_standard_output(tmp_path: Path) -> None:
    target = tmp_path / "video.jsonl.gz"
    assert run("generate", "video", "-o", str(target)).exit_code == 0
    assert read_trace(target) == generate(load_spec("video"), 0)
    lines = run("generate", "video", "-o", "-").stdout.splitlines()
    assert len(lines) == len(read_trace(target).requests)
    assert json.loads(lines[0])["class"] == "video"


@pytest.mark.parametrize("spec", bundled_specs())
def test_another_process_gives_the_same_bytes(spec: str) -> None:
    code = f"""if True:
        import hashlib, sys
        from traces.convert import native_bytes
        from traces.generate import generate, load_spec
        print(hashlib.sha256(native_bytes(generate(load_spec({spec!r}), 11))).hexdigest())"""
    command = [sys.executable, "-c", code]
    hashes = {
        subprocess.run(
            command, cwd=ROOT, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(hashes) == 1


def test_settings_are_laid_over_the_file(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    settings = ["--set", "duration_s=20", "--set", "clients.chat.class=agent"]
    assert run("generate", "chat", "-o", str(target), *settings).exit_code == 0
    made = read_trace(target)
    assert made.requests[-1].arrival_s < 20
    assert {request.slo_class.name for request in made.requests} == {"agent"}


def test_a_setting_replaces_what_it_excludes() -> None:
    given = parse_settings(["clients.video.requests=7", "clients.video.tenants={a=1,b=2}"])
    client = load_spec("video", given).clients["video"]
    assert (client.requests, client.rate_per_s) == (7, None)
    changed = parse_settings(['clients.chat.prompt={family="gamma",mean=3}'])
    assert (
        load_spec("chat", changed).clients["chat"].prompt
        == load_spec("chat", {"clients": {"chat": {"prompt": {"family": "gamma", "mean": 3}}}})
        .clients["chat"]
        .prompt
    )
    one_key = parse_settings(["clients.chat.prompt.mean=300"])
    prompt = load_spec("chat", one_key).clients["chat"].prompt
    assert (prompt.mean, prompt.sigma) == (300, 1.0)  # type: ignore[union-attr]


def test_settings_may_add_a_whole_client() -> None:
    spec = load_spec("chat", {"clients": {"more": CLIENT}})
    assert list(spec.clients) == ["chat", "more"]


def test_the_load_does_not_change_the_texts() -> None:
    """Lengths come from streams of their own, so that a load sweep keeps them."""
    slow = generate(load_spec("video"), 0)
    fast = generate(load_spec("video", {"rate_scale": 2.0}), 0)
    assert fast.output_tokens[: len(slow.output_tokens)] == slow.output_tokens
    pairs = zip(slow.requests, fast.requests, strict=False)
    assert all(abs(a.arrival_s - 2 * b.arrival_s) < 0.005 for a, b in pairs)


def test_classes_of_a_file(tmp_path: Path) -> None:
    classes = tmp_path / "classes.toml"
    classes.write_text("[classes.mine]\nttft_ms = 5\n")
    spec = write_spec(tmp_path, document(chat={**CLIENT, "class": "mine"}))
    target = tmp_path / "out.jsonl"
    arguments = ["generate", str(spec), "-o", str(target)]
    assert run(*arguments).exit_code == 2
    assert run(*arguments, "--classes", str(classes)).exit_code == 0
    assert json.loads(target.read_text().splitlines()[0])["class"] == "mine"


def test_the_name_is_the_file_s_unless_it_is_given(tmp_path: Path) -> None:
    tables = document(chat=CLIENT)
    assert load_spec(write_spec(tmp_path, tables, "mine.toml")).name == "mine"
    assert load_spec(write_spec(tmp_path, {**tables, "name": "x"})).name == "x"


def test_a_bundled_name_wins_over_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("chat").write_text("nonsense")
    assert load_spec("chat").name == "chat"


def test_servegen_clients_are_tenants(tmp_path: Path) -> None:
    (tmp_path / "chunk-3-trace.csv").write_text("0,2.0,1.0,Gamma,1.0,0.5\n")
    pdf = json.dumps({"0": {"input_tokens": "{100: 1.0}", "output_tokens": "{20: 1.0}"}})
    (tmp_path / "chunk-3-dataset.json").write_text(pdf)
    client = {"servegen": ".", "class": "chat", "priority": 1, "max_tokens": 15}
    path = write_spec(tmp_path, document(300, real=client))
    made = generate(load_spec(path), 0)
    assert 480 < len(made.requests) < 720
    assert {(r.prompt_tokens, r.priority, r.max_tokens) for r in made.requests} == {(100, 1, 15)}
    assert set(made.output_tokens) == {15}
    assert {request.tenant for request in made.requests} == {"chunk-3"}
    named = load_spec(path, {"clients": {"real": {"tenants": {"a": 1, "b": 1}}}})
    assert {request.tenant for request in generate(named, 0).requests} == {"a", "b"}
    halved = generate(load_spec(path, {"rate_scale": 0.5}), 0)
    assert 220 < len(halved.requests) < 380
    late = write_spec(tmp_path, document(10, real={"servegen": ".", "start_s": 1e6}), "late.toml")
    result = run("generate", str(late), "-o", str(tmp_path / "x"))
    assert result.stderr.startswith(f"error: {late}: clients.real.start_s: expected")


def test_mix_merges_traces(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{name}.jsonl") for name in ("chat", "video")]
    for path in paths:
        assert run("generate", Path(path).stem, "-o", path).exit_code == 0
    target = str(tmp_path / "both.jsonl")
    result = run("mix", paths[0], f"{paths[1]}:batch", "-o", target)
    assert result.exit_code == 0, result.stderr
    made = read_trace(target)
    parts = [read_trace(path) for path in paths]
    assert len(made.requests) == sum(len(part.requests) for part in parts)
    assert {request.slo_class.name for request in made.requests} == {"chat", "batch"}
    assert {request.namespace for request in made.requests} == {"chat", "video"}


def test_mix_refuses_an_unknown_class(tmp_path: Path) -> None:
    path = str(tmp_path / "video.jsonl")
    assert run("generate", "video", "-o", path).exit_code == 0
    result = run("mix", f"{path}:nobody", "-o", str(tmp_path / "out.jsonl"))
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert f"{path}:nobody" in result.stderr


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "workloads.md").read_text(encoding="utf-8")
    path = tmp_path / "example.toml"
    path.write_text(text.partition("```toml\n")[2].partition("```")[0], encoding="utf-8")
    made = generate(load_spec(path), 0)
    assert {request.tenant for request in made.requests} == {"acme", "birch"}
    assert {request.hash_block_tokens for request in made.requests} == {64}


def test_help_names_every_option() -> None:
    text = run("generate", "--help").stdout
    for option in ("--output", "--seed", "--set", "--classes"):
        assert option in text
