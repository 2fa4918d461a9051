"""What fewer bits cost: the walk through blocks, outlier channels, recall, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from executor_runs import call

from executor.kv.layout import KVLayout
from executor.models import load_model
from executor.quality.evaluation import (
    EXACT,
    FORMS,
    NAIVE,
    Baseline,
    Form,
    Walk,
    _requantise_per_token,
    windows_of,
)
from executor.quality.figures import figures, write_figures
from executor.quality.measure import Settings, measure
from executor.quality.probes import PASSAGE, recall, recall_text, with_outliers
from experiments.tiny.folder import write_folder
from experiments.tiny.llama import Shape, initial_weights
from sim.run import run_simulation
from sim.workload import load_workload
from superinfer.costs import list_profiles, load_profile, write_profile
from superinfer.errors import ConfigError
from superinfer.lab.config import load_config
from superinfer.metrics.summary import summarise

BLOCK = 32
SAMPLE = Path(__file__).parents[3] / "traces/samples/mixed.jsonl"
SMALL = Shape(hidden=32, layers=2, heads=4, kv_heads=2, head_dim=64, intermediate=48, context=1024)
TEXT = "\n\n".join("And he said unto them, Go up again. " * 9 for _ in range(9))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with weights so large that attention is far from even."""
    path: Path = tmp_path_factory.mktemp("model") / "small"
    write_folder(path, SMALL, TEXT)
    random = initial_weights(SMALL, 3, torch.device("cpu"))
    weights = {name: (w * (1 if w.dim() == 1 else 12)).detach() for name, w in random.items()}
    safetensors.save_file(weights, path / "model.safetensors")
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_model(folder, device="cpu", dtype=torch.float32)


def tokens(rows: int, count: int) -> Any:
    return torch.from_numpy(np.random.default_rng(5).integers(0, 256, (rows, count)))


def logits(walk: Walk) -> Any:
    return torch.cat([part for _, part in walk.logits()], dim=1)


# -- the walk -------------------------------------------------------------------------------------


def test_blocks_get_the_bits_of_their_form(model: Any) -> None:
    walk = Walk(model, Form("", (8, 4, 16), after=1), tokens(2, 6 * BLOCK))
    logits(walk)
    assert [table.bits.tolist() for table in walk.tables] == 2 * [[8, 4, 16, 8, 4, 16]]


def test_the_newest_blocks_wait(model: Any) -> None:
    walk = Walk(model, Form("", (4,), after=2), tokens(1, 5 * BLOCK))
    logits(walk)
    assert walk.tables[0].bits.tolist() == [4, 4, 4, 16, 16]


def test_no_two_blocks_share_a_place(model: Any) -> None:
    walk = Walk(model, EXACT, tokens(3, 2 * BLOCK))
    spans = sorted(
        (int(offset), int(offset) + model.layout.block_bytes[bits])
        for bits, offsets in walk.rooms.items()
        for offset in offsets.flatten()
    )
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert spans[-1][1] <= len(walk.arena)


LATER = [pytest.param(form, marks=pytest.mark.slow) for form in (EXACT, FORMS[0], FORMS[6])]


@pytest.mark.parametrize("form", [FORMS[1], NAIVE, *LATER])
def test_decodes_and_chunks_see_the_same(model: Any, form: Form) -> None:
    rows = tokens(2, 3 * BLOCK)
    chunks, decodes = (logits(Walk(model, form, rows, by_decode)) for by_decode in (False, True))
    cost = float((chunks - logits(Walk(model, EXACT, rows))).abs().mean())
    # Not the same to the last bit: a code may round the other way, on some processors more often.
    assert float((chunks - decodes).abs().mean()) < 1e-5 + cost / 50


def test_the_same_form_differs_in_nothing(model: Any) -> None:
    found = Baseline(model, tokens(2, 3 * BLOCK + 1)).difference(EXACT)
    assert found.perplexity_change == 0 and found.kl == 0 and found.same_top1 == 1
    assert found.tokens == 2 * 2 * BLOCK


def test_differences_are_those_of_the_predictions(model: Any) -> None:
    rows, form = tokens(2, 3 * BLOCK + 1), Form("", (4,))
    exact, rough = (logits(Walk(model, f, rows[:, :-1])).double() for f in (EXACT, form))
    behind = slice(BLOCK, None)
    p, q = exact.log_softmax(-1)[:, behind], rough.log_softmax(-1)[:, behind]
    nats = [-x.gather(-1, rows[:, BLOCK + 1 :, None]).mean() for x in (p, q)]
    found = Baseline(model, rows).difference(form)
    assert found.perplexity_change == pytest.approx(float((nats[1] - nats[0]).exp()) - 1, abs=1e-5)
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3)
    assert found.same_top1 == float((p.argmax(-1) == q.argmax(-1)).double().mean())
    assert found.kl > 0


def test_naive_rounding_by_hand() -> None:
    layout = KVLayout(1, 1, 16, 2, torch.float32)
    rows = torch.zeros(4, 16)  # Two tokens of K, two of V.
    rows[0] = torch.arange(16) * 0.5  # 16 levels apart by 0.5: nothing is lost.
    rows[1, 3], rows[1, 4] = 30.0, 0.9  # Levels 2 apart: 0.9 is nearest to 0.
    arena = rows.clone().flatten().view(torch.uint8)
    _requantise_per_token(arena, layout, torch.tensor([0]))
    found = arena.view(torch.float32).view(4, 16)
    assert found[0].tolist() == rows[0].tolist()
    assert found[1].tolist() == [0, 0, 0, 30, *[0] * 12]
    assert found[2:].tolist() == rows[2:].tolist()


def test_windows_span_the_text() -> None:
    assert windows_of(range(100), 3, 10)[:, 0].tolist() == [0, 44, 89]
    assert windows_of(range(100), 3, 10)[:, -1].tolist() == [10, 54, 99]


# -- outlier channels -----------------------------------------------------------------------------


def test_outliers_leave_the_function(model: Any, folder: Path, tmp_path: Path) -> None:
    changed = load_model(with_outliers(folder, tmp_path), device="cpu", dtype=torch.float32)
    rows = tokens(2, 2 * BLOCK)
    before, after = (logits(Walk(m, EXACT, rows)) for m in (model, changed))
    assert float((before - after).abs().max()) < 1e-3 * float(before.abs().max())


def test_outliers_are_pairs_of_channels(folder: Path, tmp_path: Path) -> None:
    with_outliers(folder, tmp_path)
    before, after = (
        safetensors.load_file(path / "model.safetensors") for path in (folder, tmp_path)
    )
    name = "model.layers.1.self_attn.{}_proj.weight"
    k, q = (
        (after[name.format(part)] / before[name.format(part)])[:, 0].view(-1, 64) for part in "kq"
    )
    for head in range(2):
        large = (k[head] > 11).nonzero().flatten()
        assert len(large) == 4 and set(large.tolist()) == {(i + 32) % 64 for i in large.tolist()}
        assert torch.allclose(q[2 * head] * k[head], torch.ones(64))
        assert torch.allclose(q[2 * head + 1] * k[head], torch.ones(64))


def test_a_model_without_such_projections_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"num_attention_heads": 4}')
    safetensors.save_file({"wte.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="no q_proj and k_proj"):
        with_outliers(tmp_path, tmp_path / "out")


# -- recall ---------------------------------------------------------------------------------------


def test_recall_text_repeats_from_the_front() -> None:
    text = recall_text(list(range(256)) * 9, 3, 256, BLOCK)
    assert text.passages.shape == (3, 256 + PASSAGE + 1)
    assert text.passages[:, :PASSAGE].tolist() == text.passages[:, 256 : 256 + PASSAGE].tolist()
    for rows in (text.pairs, text.strangers):
        assert (rows.shape[1] - 1) % BLOCK == 0
    for shown, strange in zip(text.pairs.tolist(), text.strangers.tolist(), strict=True):
        asked = bytes(shown[text.value.start - 30 :]).partition(b"The king of ")[2]
        key, value = asked.decode().removesuffix(".\n").split(" was ")
        front = bytes(shown[:120]).decode("latin-1")
        assert f"The king of {key} was {value}.\n" in front
        assert bytes(shown[text.value]).decode() == value
        assert bytes(strange[text.value]).decode() == value
        assert value not in bytes(strange[:200]).decode("latin-1")


def test_a_random_model_recalls_nothing(model: Any) -> None:
    text = recall_text(list(b"abc def. " * 200), 3, 128, BLOCK)
    found = recall(model, EXACT, text)
    assert found.distance_tokens == 128
    assert found.passage_first_bits > 4 and found.pair_bytes_right < 0.4


class Inducer:
    """A model that recalls perfectly: what followed the longest ending that it has read before, six
    bytes at the least, comes again; else any byte is as likely.
    """

    vocab = 256
    max_model_len = 4096
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.layout = KVLayout(1, 1, 16, BLOCK, torch.float32)
        self.read: dict[int, list[int]] = {}

    def forward(self, step: Any, arena: Any) -> Any:
        """Logits [windows * BLOCK, 256]; blocks come in order, window by window."""
        rows = step.token_ids.view(-1, BLOCK).tolist()
        logits = torch.zeros(len(rows), BLOCK, self.vocab)
        for row, tokens in enumerate(rows):
            text = self.read.setdefault(row, [])
            for place, token in enumerate(tokens):
                text.append(token)
                if (following := self._following(bytes(text))) is not None:
                    logits[row, place, following] = 20.0
        return logits.view(-1, self.vocab)

    @staticmethod
    def _following(text: bytes) -> int | None:
        for count in range(min(20, len(text) - 1), 5, -1):
            found = text.rfind(text[-count:], 0, len(text) - 1)
            if found >= 0:
                return text[found + count]
        return None


def test_a_model_that_recalls_is_seen_to() -> None:
    """Passages cost it nothing where they come again: so what the probe does not see to recall does
    not.
    """
    random = np.random.default_rng(8)
    filler = list(random.integers(97, 123, 3000).tolist())
    found = recall(Inducer(), EXACT, recall_text(filler, 3, 256, BLOCK))  # type: ignore[arg-type]
    assert found.passage_first_bits > 7.9
    assert found.passage_again_bits < 0.1


def test_values_are_asked_for_where_only_recall_knows_them() -> None:
    random = np.random.default_rng(8)
    filler = list(random.integers(97, 123, 3000).tolist())
    text = recall_text(filler, 3, 256, BLOCK)
    for told, rate in ((text.pairs, 1.0), (text.strangers, 0.0)):
        logits = torch.cat([part for _, part in Walk(Inducer(), EXACT, told[:, :-1]).logits()], 1)  # type: ignore[arg-type]
        asked = slice(text.value.start - 1, text.value.stop - 1)
        right = (logits.argmax(-1)[:, asked] == told[:, text.value]).float().mean()
        assert float(right) == pytest.approx(rate, abs=0.1)


# -- the command ----------------------------------------------------------------------------------


def arguments(folder: Path, *more: str) -> list[str]:
    text = folder / "heldout.txt"
    sizes = ("--windows", "2", "--length", "64", "--distance", "128", "--device", "cpu")
    return ["quality", "--model", str(folder), "--text", str(text), *sizes, *more]


def test_json_and_profiles(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    tmp_path: Path,
) -> None:
    profile = tmp_path / "profile.json"
    shipped = json.loads(list_profiles()[0].path.read_text())
    profile.write_text(json.dumps(shipped | {"later": 1}))  # which is not written back
    asked = arguments(folder, "--json", "-o", str(profile))
    code, text, errors = call(monkeypatch, capsys, *asked)
    assert code == 0, errors
    assert errors == (
        f"warning: {profile}: ignored as unknown: later\n"
        f"warning: {profile}: a profile of {list_profiles()[0].model}; these figures are of small\n"
    )
    report = json.loads(text)
    assert (
        set(report["plain"]["forms"])
        == set(report["outliers"]["forms"])
        == {form.name for form in FORMS}
    )
    written = load_profile(profile)
    assert written.quality == figures(report)
    assert written.quality["4"]["kl"] == report["plain"]["forms"]["4 bits"]["kl"] > 0
    assert written.sources[-1] == "quality: superinfer-exec quality on small"


def test_figures_reach_the_summary_of_a_simulated_run(tmp_path: Path) -> None:
    """By way of the profile: what tokens lost, weighted by the bits that they were kept in."""
    known = {
        "8": {"kl": 0.001, "perplexity_change": 0.01},
        "4": {"kl": 0.1, "perplexity_change": 1.0},
    }
    profile = tmp_path / "profile.json"
    write_profile(replace(load_profile(list_profiles()[2].path), quality=known), profile)
    measured = load_profile(profile)
    settings = ["run.kv_blocks=700", "run.rate_scale=8", "run.limit=60", "run.host_memory_gib=4"]
    settings += [f"classes.{name}.min_kv_bits=4" for name in ("batch", "chat", "code", "agent")]
    config = load_config(
        None,
        settings,
        scheduler="rotating",
        memory="slo_aware",
        trace=str(SAMPLE),
        model=measured.model,
        device=measured.device,
        costs=str(profile),
    )
    summary = summarise(run_simulation(config, load_workload(config)).record)
    assert 4 <= summary["kv_bits_mean"] < 16
    assert 0 < summary["kv_kl"] <= 0.1
    assert summary["kv_perplexity_change"] == pytest.approx(10 * summary["kv_kl"])


def test_the_table(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    tmp_path: Path,
) -> None:
    new = tmp_path / "new" / "quality.json"
    code, text, errors = call(monkeypatch, capsys, *arguments(folder, "-o", str(new)))
    assert code == 0, errors
    assert all(form.name in text for form in FORMS)
    assert set(json.loads(new.read_text())["quality"]) == {"8", "4"}


def test_figures_take_the_place_of_older_ones(tmp_path: Path) -> None:
    form = {"kl": 0.1, "perplexity_change": 0.2, "same_top1": 0.3, "tokens": 9}
    path, report = tmp_path / "quality.json", {"plain": {"forms": {}}, "model": "small"}
    for kl in (0.1, 0.4):
        report["plain"]["forms"] = {f"{bits} bits": form | {"kl": kl} for bits in (8, 4)}
        write_figures(report, path)
        assert json.loads(path.read_text())["quality"]["4"]["kl"] == kl


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (("--length", "65"), "--length 65: expected whole blocks of 32 tokens"),
        (("--distance", "4096"), "--distance 4096: the text has"),
        (("--text", "nowhere.txt"), "nowhere.txt: cannot read: No such file"),
        (("--device", "abacus"), "--device: expected cpu, cuda or one of"),
        (("--model", "nowhere"), "unknown model 'nowhere': no such file"),
        (("--model", "llama-3.1-8b"), "expected a folder with weights, found a preset"),
        (("--windows", "100000"), "--windows 100000: the text has"),
        (("-o", "/dev/null/profile.json"), "/dev/null/profile.json: cannot write here"),
        (("-o", "."), ".: expected a file, got a folder"),
        (("-o", __file__), "test_quality.py: expected JSON"),
    ],
)
def test_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    change: tuple[str, ...],
    error: str,
) -> None:
    code, text, errors = call(monkeypatch, capsys, *arguments(folder, *change))
    assert code == 2 and not text
    assert errors.startswith("error: ") and error in errors and errors.count("\n") == 1


def test_windows_that_no_memory_holds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    monkeypatch.setattr("executor.quality.measure.memory_bytes", lambda device: 1 << 10)
    code, _, errors = call(monkeypatch, capsys, *arguments(folder))
    assert code == 2 and "and the device has 0.0" in errors


def test_a_path_is_looked_at_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    monkeypatch.setattr("executor.quality.measure.measure", lambda settings: 1 / 0)
    bad = arguments(folder, "-o", "/dev/null/profile.json")
    assert call(monkeypatch, capsys, *bad)[0] == 2


# -- the shipped model ----------------------------------------------------------------------------


def bears_few_bits_unless_they_are_naive(report: dict[str, Any]) -> None:
    # 8 bits have one scale for all channels of a token, so outliers cost them a little.
    for kind in ("plain", "outliers"):
        forms = report[kind]["forms"]
        found = forms["8 bits"]
        assert abs(found["perplexity_change"]) < 0.001 + found["perplexity_error"]
        assert abs(forms["4 bits"]["perplexity_change"]) < 0.005
        assert forms["8 bits"]["kl"] < forms["4 bits"]["kl"] < 0.01
    plain, changed = (report[kind]["forms"] for kind in ("plain", "outliers"))
    naive = changed[NAIVE.name]
    assert naive["perplexity_change"] > 0.02
    assert naive["kl"] > 10 * changed["4 bits"]["kl"]
    assert changed["4 bits"]["kl"] < 1.5 * plain["4 bits"]["kl"]


@pytest.mark.slow
def test_the_shipped_model_bears_few_bits() -> None:
    bears_few_bits_unless_they_are_naive(measure(Settings(windows=8, distance=512)))


@pytest.mark.gpu
@pytest.mark.parametrize("by_decode", [False, True])
def test_the_shipped_model_bears_few_bits_on_a_gpu(by_decode: bool) -> None:
    settings = Settings(device="cuda", by_decode=by_decode)
    bears_few_bits_unless_they_are_naive(measure(settings))
