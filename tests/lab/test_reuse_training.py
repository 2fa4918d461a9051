"""Training of the reuse model: its examples without torch, the fit with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sim.cli.cache import train_reuse
from superinfer.errors import ConfigError
from superinfer.lab import reuse_training
from superinfer.lab.reuse_training import EDGES_S, HIDDEN, examples, train
from superinfer.memory.reuse.features import FEATURES
from superinfer.memory.reuse.model import CLIP, ReuseModel
from superinfer.memory.reuse.trails import GAPS
from superinfer.request import Request

EDGES = (10.0, 30.0, 100.0)


def prompt(at_s: float, *ids: int) -> Request:
    return Request("", at_s, 512 * len(ids), 1, hash_ids=ids)


def test_examples_by_hand() -> None:
    found = examples([prompt(0, 1, 2, 3), prompt(20, 1, 2), prompt(45, 9)], EDGES)
    # At 0 s: 1 and 2 are used again after 20 s, 3 is not in the 45 s that are seen. At 20 s: 1 and
    # 2 are not in 25 s. At 45 s nothing is seen any more.
    assert found.blocks.tolist() == [2, 1, 2, 1]
    assert found.survived.tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert found.used.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert found.features.shape == (4, len(FEATURES)) and found.gaps.shape == (4, GAPS)
    assert found.features[0].tolist() == found.features[1].tolist()


def test_a_trace_without_ids_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected requests with hash_ids"):
        examples([Request("", 0.0, 5, 1)], EDGES)


def conversations(count: int) -> list[Request]:
    """Prompts of two blocks come again after 50 s, prompts of one block never do."""
    asked = []
    for i in range(count):
        asked += [prompt(4.0 * i, 10 * i, 10 * i + 1), prompt(4.0 * i + 1, 10 * i + 5)]
        asked += [prompt(4.0 * i + 50, 10 * i, 10 * i + 1)]
    return sorted(asked, key=lambda request: request.arrival_s)


def test_the_fit_tells_what_comes_again() -> None:
    torch = pytest.importorskip("torch", reason="needs torch (the train extra)")
    arrays = train([conversations(1200)], "made up")
    model = ReuseModel(arrays)
    assert model.parameters < 50_000 and model.source == "made up"
    assert arrays["w_hidden"].shape == (len(FEATURES) + 32, HIDDEN)
    data = examples(conversations(100), EDGES_S)
    hazards = model.hazards(data.features, data.gaps)
    ever = 1 - np.prod(1 - hazards, axis=1)
    comes = data.used.any(axis=1)
    never = (data.blocks == 1) & ~comes
    assert ever[comes].mean() > 0.8 and ever[never].mean() < 0.2
    # The same network in both forms, but for dropout.
    weights = {k: torch.from_numpy(v) for k, v in arrays.items() if k[:2] in ("w_", "b_", "p_")}
    known = np.clip((data.features - arrays["mean"]) / arrays["scale"], -CLIP, CLIP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reuse_training, "DROPOUT", 0.0)
        logits = reuse_training._logits(
            torch, weights, torch.from_numpy(known), torch.from_numpy(data.gaps)
        )
    assert hazards == pytest.approx(torch.sigmoid(logits).numpy(), abs=1e-5)


def test_equal_seeds_give_equal_weights() -> None:
    pytest.importorskip("torch", reason="needs torch (the train extra)")
    first, second, other = (train([conversations(40)], "x", seed) for seed in (1, 1, 2))
    assert np.array_equal(first["w_deep"], second["w_deep"])
    assert not np.array_equal(first["w_deep"], other["w_deep"])


def test_the_command_tells_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    used = "superinfer.lab.reuse_training.train"
    monkeypatch.setattr(used, lambda parts, *_: {"used": np.array(len(parts[0]))})
    record = '{{"timestamp":{at},"input_length":512,"output_length":1,"hash_ids":[{at}]}}\n'
    trace, out = tmp_path / "t.jsonl", tmp_path / "m.npz"
    trace.write_text("".join(record.format(at=at) for at in range(8)))
    for as_json in (False, True):
        train_reuse([str(trace)], out, until=0.5, seed=3, as_json=as_json)
        text, said = capsys.readouterr()
        assert f"trained on 4 requests; weights in {out}\n" == said
        assert bool(text) is as_json
    assert json.loads(text) == {"path": str(out), "traces": ["t"], "requests": 4, "seed": 3}
    assert np.load(out)["used"] == 4
