"""The reuse model in numpy: one attention layer over the latest gaps, then two hidden layers.

The hazard of a bin is the probability that a stretch of blocks is used in it, given that it was not
used before. `superinfer.lab.reuse_training` trains the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from superinfer.errors import ConfigError
from superinfer.memory.reuse.features import FEATURES
from superinfer.memory.reuse.trails import GAPS

Floats = NDArray[np.float32]

HEADS: Final = 4
WIDTH: Final = 32
CLIP: Final = 10.0
"""Standardised features lie between minus and plus this."""
ABSENT: Final = np.float32(-1e9)
"""Added to the score of a gap that is not there."""
MOST_WEIGHT: Final = float(np.finfo(np.float32).max)
FORMAT: Final = 2
DEFAULT_WEIGHTS: Final = Path(__file__).parents[1] / "weights" / "reuse.npz"


class ReuseModel:
    """Trained weights, ready to be asked."""

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        self.edges_s: list[float] = [float(edge) for edge in arrays["edges_s"]]
        """Ends of the bins, in seconds since the latest use."""
        self.source = str(arrays["source"])
        """What it was trained on."""
        self.parameters = sum(
            array.size for name, array in arrays.items() if name.startswith(("w_", "b_", "p_"))
        )
        w = {
            name: array.astype(np.float32)
            for name, array in arrays.items()
            if array.dtype.kind == "f"
        }
        self._mean, self._scale = w["mean"], w["scale"]
        self._embed_w, self._embed_b, self._w = w["w_embed"], w["p_place"] + w["b_embed"], w
        kv_w = np.concatenate([w["w_key"], w["w_value"]], axis=1)
        self._kv_w, self._kv_b = kv_w, np.concatenate([w["b_key"], w["b_value"]])
        self._null_kv = w["p_null"] @ kv_w + self._kv_b
        # One product for what is asked of the gaps and what is known of the stretch itself.
        query = w["w_query"] / np.float32(np.sqrt(WIDTH // HEADS))
        hidden = w["w_hidden"]
        self._first_w = np.concatenate([query, hidden[: len(FEATURES)]], axis=1)
        query_b = w["b_query"] / np.float32(np.sqrt(WIDTH // HEADS))
        self._first_b = np.concatenate([query_b, w["b_hidden"]])
        self._context_w = hidden[len(FEATURES) :]

    def hazards(self, features: Floats, gaps: Floats) -> Floats:
        """Rows by bins, of rows by `FEATURES` and rows by `GAPS`."""
        w = self._w
        known = features - self._mean
        known /= self._scale
        np.minimum(np.maximum(known, -CLIP, out=known), CLIP, out=known)
        first = known @ self._first_w + self._first_b
        context = self._contexts(first[:, :WIDTH], gaps)
        hidden = first[:, WIDTH:] + context @ self._context_w
        hidden = np.maximum(hidden, 0.0, out=hidden) @ w["w_deep"] + w["b_deep"]
        logits = np.maximum(hidden, 0.0, out=hidden) @ w["w_out"] + w["b_out"]
        hazards: Floats = 1.0 / (1.0 + np.exp(-logits))
        return hazards

    def _contexts(self, query: Floats, gaps: Floats) -> Floats:
        """What the queries draw from the gaps. Half of the rows are new and have none: they draw
        nothing but the vector that is always there.
        """
        used = np.flatnonzero(gaps[:, 0])
        if len(used) == len(gaps):
            return self._attend(query, gaps)
        found: Floats = np.empty((len(gaps), WIDTH), np.float32)
        found[:] = self._null_kv[WIDTH:]
        if len(used):
            found[used] = self._attend(query[used], gaps[used])
        return found

    def _attend(self, query: Floats, gaps: Floats) -> Floats:
        """The same where there are gaps: attention over them and that vector."""
        size, rows = WIDTH // HEADS, len(gaps)
        events = gaps[:, :, None] * self._embed_w + self._embed_b
        np.maximum(events, 0.0, out=events)
        kv = np.empty((rows, GAPS + 1, 2 * WIDTH), np.float32)
        kv[:, 0] = self._null_kv
        kv[:, 1:] = events @ self._kv_w + self._kv_b
        parts = kv.reshape(rows, GAPS + 1, 2, HEADS, size).transpose(2, 0, 3, 1, 4)
        heads = query.reshape(rows, HEADS, size, 1)
        scores = (parts[0] @ heads)[..., 0]
        scores[:, :, 1:] += ((gaps <= 0.0) * ABSENT)[:, None]
        scores -= scores.max(axis=2, keepdims=True)
        share = np.exp(scores)
        share /= share.sum(axis=2, keepdims=True)
        context: Floats = (share[:, :, None] @ parts[1]).reshape(rows, WIDTH)
        return context


def _shapes(arrays: dict[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a model with so many hidden units and bins."""
    features = len(FEATURES)
    hidden, deep, bins = (arrays[name].size for name in ("b_hidden", "b_deep", "edges_s"))
    return {
        "edges_s": (bins,),
        **dict.fromkeys(("mean", "scale"), (features,)),
        "w_embed": (1, WIDTH),
        "w_query": (features, WIDTH),
        **dict.fromkeys(("w_key", "w_value"), (WIDTH, WIDTH)),
        **dict.fromkeys(("b_embed", "b_query", "b_key", "b_value", "p_null"), (WIDTH,)),
        "p_place": (GAPS, WIDTH),
        "w_hidden": (features + WIDTH, hidden),
        "b_hidden": (hidden,),
        "w_deep": (hidden, deep),
        "b_deep": (deep,),
        "w_out": (deep, bins),
        "b_out": (bins,),
    }


def _check_arrays(file: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Raise ConfigError for an array of another shape, or with what is no number."""
    for name, shape in _shapes(arrays).items():
        array = arrays[name]
        if array.shape != shape:
            raise ConfigError(f"{file}: expected {name} of shape {shape}, got {array.shape}")
        if array.dtype.kind != "f" or not (np.abs(array) <= MOST_WEIGHT).all():
            raise ConfigError(f"{file}: expected finite numbers of 32 bits in {name}")
    edges_s = arrays["edges_s"]
    if not edges_s.size or edges_s[0] <= 0.0 or (np.diff(edges_s) <= 0.0).any():
        raise ConfigError(f"{file}: expected increasing edges_s above 0")
    if (arrays["scale"] <= 0.0).any():
        raise ConfigError(f"{file}: expected a scale above 0")


def load_model(path: str | Path | None = None) -> ReuseModel:
    """The model of a file that `train-reuse` wrote; None gives the one that ships."""
    file = DEFAULT_WEIGHTS if path is None else Path(path)
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as found:
            arrays = dict(found)
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot read: {error.strerror or error}") from None
    except (ValueError, EOFError, TypeError, BadZipFile):  # NumPy's words are of its own formats
        expected = "expected weights as superinfer-sim train-reuse writes them"
        raise ConfigError(f"{file}: {expected}") from None
    if arrays.get("format", np.array(0)).tolist() != FORMAT:
        raise ConfigError(f"{file}: expected a reuse model of format {FORMAT}")
    try:
        _check_arrays(file, arrays)
        return ReuseModel(arrays)
    except KeyError as error:
        raise ConfigError(f"{file}: expected a reuse model with the array {error}") from None
