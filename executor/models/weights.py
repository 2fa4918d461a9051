"""Where weights come from: a folder of safetensors, or a generator on the device.

Both fill tensors that the model has laid out on the device, so a fused or quantised matrix is never
there twice, and from files a rank reads its own part alone.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from superinfer.errors import ConfigError, InputError
from superinfer.lab.json_files import read_json

_FLOATS = {"F64", "F32", "F16", "BF16"}
_TOP_CODE = 127
_CODE_STD = math.sqrt(((2 * _TOP_CODE + 1) ** 2 - 1) / 12)
"""Standard deviation of codes drawn evenly from -127 to 127."""
_ROWS_AT_ONCE = 8192
"""Rows quantised in one go, which bounds the float32 copy of a large head."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor by its name on disk, and the part of it that is wanted."""

    name: str
    shape: tuple[int, ...]
    """On disk."""
    part: tuple[slice, ...] = ()
    """What is taken along each dimension on disk; () for everything."""
    transposed: bool = False
    """True if the disk has [in, out]."""
    mean: float = 0.0
    std: float | None = None
    """Of random weights; None: one over the square root of the inputs."""

    @property
    def wanted(self) -> tuple[int, ...]:
        """Shape of what is delivered."""
        whole = self.part or tuple(slice(None) for _ in self.shape)
        pairs = zip(whole, self.shape, strict=True)
        sizes = tuple(len(range(*part.indices(length))) for part, length in pairs)
        return sizes[::-1] if self.transposed else sizes


class Weights(Protocol):
    """A source of weights."""

    def has(self, name: str) -> bool:
        """Whether a file has the tensor; random ones are in none."""
        ...

    def fill(self, out: Tensor, piece: Piece) -> None:
        """Write the piece into `out`, which has its shape."""
        ...

    def fill_int8(self, codes: Tensor, scales: Tensor, piece: Piece) -> None:
        """Write the piece as int8 `codes` [..., out, in] and `scales` [..., out]: code * scale
        each.
        """
        ...


def quantise_rows(weight: Tensor, codes: Tensor, scales: Tensor) -> None:
    """Symmetric int8 per output channel: the largest value of a row becomes 127."""
    for first in range(0, weight.shape[-2], _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        values = weight[..., rows, :].float()
        scale = (values.abs().amax(dim=-1) / _TOP_CODE).clamp(min=1e-12).to(scales.dtype)
        scales[..., rows] = scale
        whole = (values / scale.float()[..., None]).round_().clamp_(-_TOP_CODE, _TOP_CODE)
        codes[..., rows, :] = whole


class RandomWeights:
    """Weights drawn on the device; the same for a seed and a name, whatever the split.

    Values are normal, int8 codes even; both have the spread that keeps activations near one.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self._generator = torch.Generator(device)
        self._seed = seed

    def has(self, name: str) -> bool:
        """Never: the names of random tensors are up to who asks."""
        return False

    def fill(self, out: Tensor, piece: Piece) -> None:
        """Write random values into `out`."""
        std = _spread(piece)
        if std == 0:
            out.fill_(piece.mean)
            return
        whole = self._whole(out, piece).normal_(piece.mean, std, generator=self._seeded(piece))
        _deliver(whole, out, piece)

    def fill_int8(self, codes: Tensor, scales: Tensor, piece: Piece) -> None:
        """Write random codes, and one scale for all."""
        whole = self._whole(codes, piece)
        whole.random_(-_TOP_CODE, _TOP_CODE + 1, generator=self._seeded(piece))
        _deliver(whole, codes, piece)
        scales.fill_(_spread(piece) / _CODE_STD)

    def _seeded(self, piece: Piece) -> torch.Generator:
        # The CPU's generator looks at the low 32 bits of a seed alone.
        return self._generator.manual_seed(zlib.crc32(f"{self._seed} {piece.name}".encode()))

    @staticmethod
    def _whole(out: Tensor, piece: Piece) -> Tensor:
        """Memory for the whole tensor: `out` itself where nothing is cut away."""
        if out.shape == piece.shape and not piece.transposed:
            return out
        return torch.empty(piece.shape, dtype=out.dtype, device=out.device)


def _spread(piece: Piece) -> float:
    if piece.std is not None:
        return piece.std
    inputs = piece.shape[-2] if piece.transposed else piece.shape[-1]
    return 1.0 / math.sqrt(inputs)


def _deliver(whole: Tensor, out: Tensor, piece: Piece) -> None:
    if whole is out:
        return
    cut = whole[piece.part] if piece.part else whole
    out.copy_(cut.mT if piece.transposed else cut)


class FileWeights:
    """The safetensors of a Hugging Face folder, in one file or in shards with an index.

    Raises ConfigError for a folder without weights, InputError for shards or tensors that are
    missing, unreadable, of another shape or not floating point.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Any] = {}
        self._places = dict(_places(folder, self._open))

    def require_all_layers(self, counts: Mapping[str, int]) -> None:
        """Raise InputError for tensors of layers beyond those of the model; `counts` has the number
        of layers by what comes before the layer's number in a name.
        """
        for stack, count in counts.items():
            layer = re.compile(rf"(?:^|\.){re.escape(stack)}\.(\d+)\.")
            for name, file in self._places.items():
                found = layer.search(name)
                if found and int(found[1]) >= count:
                    raise InputError(
                        f"expected layers up to {count - 1}, because config.json says {count}",
                        file=str(self._folder / file),
                        field=name,
                    )

    def has(self, name: str) -> bool:
        """Whether the folder has the tensor."""
        return self._known(name) is not None

    def fill(self, out: Tensor, piece: Piece) -> None:
        """Read the piece into `out`."""
        out.copy_(self._read(piece))

    def fill_int8(self, codes: Tensor, scales: Tensor, piece: Piece) -> None:
        """Read the piece and quantise it on the device of `codes`."""
        quantise_rows(self._read(piece).to(codes.device), codes, scales)

    def _read(self, piece: Piece) -> Tensor:
        name = self._known(piece.name)
        if name is None:
            raise InputError("missing tensor", file=str(self._folder), field=piece.name)
        file = self._places[name]
        view = self._view(file, name)
        self._check(view, piece, file)
        read: Tensor = view[piece.part or (slice(None),)]
        return read.mT if piece.transposed else read

    def _view(self, file: str, name: str) -> Any:
        from safetensors import SafetensorError

        try:
            return self._open(file).get_slice(name)
        except SafetensorError:  # the index names a tensor that its shard has not
            path = str(self._folder / file)
            raise InputError("missing tensor", file=path, field=name) from None

    def _check(self, view: Any, piece: Piece, file: str) -> None:
        path, name = str(self._folder / file), piece.name
        shape, dtype = tuple(view.get_shape()), str(view.get_dtype())
        if dtype not in _FLOATS:
            raise InputError(f"expected F32, F16 or BF16, found {dtype}", file=path, field=name)
        if shape != piece.shape:
            wanted = f"expected shape {list(piece.shape)}, found {list(shape)}"
            raise InputError(wanted, file=path, field=name)

    def _known(self, name: str) -> str | None:
        """The name as this folder spells it: files of a bare model leave out the first word."""
        bare = name.partition(".")[2]
        return next((spelling for spelling in (name, bare) if spelling in self._places), None)

    def _open(self, file: str) -> Any:
        if file not in self._files:
            self._files[file] = _open(self._folder / file)
        return self._files[file]


def _places(folder: Path, opened: Any) -> Iterator[tuple[str, str]]:
    """Each tensor's name and the file that has it."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        yield from _index(index)
        return
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"{folder} has no *.safetensors (--random-weights draws some)")
    for file in files:
        for name in opened(file).keys():  # noqa: SIM118 (not a dict)
            yield name, file


def _index(path: Path) -> list[tuple[str, str]]:
    def listed(found: Any) -> list[tuple[str, str]]:
        return [(str(name), str(file)) for name, file in found["weight_map"].items()]

    pairs = read_json(path, listed, "an object with weight_map")
    for file in sorted({file for _, file in pairs}):
        if not (path.parent / file).is_file():
            raise InputError("missing shard, named in " + path.name, file=str(path.parent / file))
    return pairs


def _open(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(str(path), framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"unreadable safetensors: {reason}", file=str(path)) from None
