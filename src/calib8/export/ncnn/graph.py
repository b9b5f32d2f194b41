"""ncnn's two files: `.param`, a line of text for each layer, and `.bin`, the weights one after another.

A `.param` file has the number 7767517, then the counts of layers and of blobs, then for each layer its type, its name,
the counts of its bottoms and tops, their names, and `key=value` for every parameter that is set; a list of numbers is
`-(23300+key)=count,number,..`. A blob has one reader: a layer Split makes as many copies as there are readers. Blobs
have no axis of images.

In a `.bin` file the weights of convolutions and the like begin with four bytes that say how they are stored: 0 for
float32, 0x000D4B38 for int8, whose bytes are filled up to a multiple of four. All else is float32 without a mark.

Source: Tencent/ncnn, docs/developer-guide/param-and-model-file-structure.md; src/modelbin.cpp.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Param = int | float | Sequence[int] | Sequence[float]
MAGIC = 7767517
FLOAT32_MARK = 0
INT8_MARK = 0x000D4B38
_ARRAY = -23300
_ALIGNMENT = 4


@dataclass(frozen=True)
class NcnnLayer:
    """One line of the `.param` file, and its bytes of the `.bin` file.

    Attributes:
        params: by ncnn's numbers; those of a layer's defaults may be left out.
        data: its weights, as `marked` and `plain` give them.
    """

    type: str
    name: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    params: Mapping[int, Param] = field(default_factory=dict)
    data: tuple[bytes, ...] = ()


def marked(weights: NDArray[Any]) -> bytes:
    """Give the bytes of int8 or float32 weights, with the mark that says which they are."""
    if weights.dtype == np.int8:
        data = weights.tobytes()
        return _word(INT8_MARK) + data + bytes(-len(data) % _ALIGNMENT)
    return _word(FLOAT32_MARK) + plain(weights)


def plain(numbers: NDArray[Any]) -> bytes:
    """Give the bytes of numbers as float32, without a mark."""
    return np.ascontiguousarray(numbers, "<f4").tobytes()


def param_text(layers: Sequence[NcnnLayer]) -> str:
    """Write the `.param` file of layers in which every blob has one reader."""
    blobs = sum(len(layer.tops) for layer in layers)
    return "\n".join([str(MAGIC), f"{len(layers)} {blobs}", *map(_line, layers), ""])


def with_splits(layers: Sequence[NcnnLayer]) -> list[NcnnLayer]:
    """Put a Split behind every blob that has several readers, or that one layer reads several times."""
    readers = Counter(blob for layer in layers for blob in layer.bottoms)
    copies = {blob: [f"{blob}_splitncnn_{i}" for i in range(n)] for blob, n in readers.items() if n > 1}
    left = {blob: iter(names) for blob, names in copies.items()}
    found: list[NcnnLayer] = []
    for layer in layers:
        bottoms = tuple(next(left[blob]) if blob in left else blob for blob in layer.bottoms)
        found.append(replace(layer, bottoms=bottoms))
        found += [NcnnLayer("Split", f"splitncnn_{t}", (t,), tuple(copies[t])) for t in layer.tops if t in copies]
    return found


def _line(layer: NcnnLayer) -> str:
    counts = [str(len(layer.bottoms)), str(len(layer.tops))]
    params = [_param(key, value) for key, value in sorted(layer.params.items())]
    head = f"{layer.type:<24} {layer.name:<24}"
    return " ".join([head, *counts, *layer.bottoms, *layer.tops, *params])


def _param(key: int, value: Param) -> str:
    if isinstance(value, int | float):
        return f"{key}={_number(value)}"
    return ",".join([f"{_ARRAY - key}={len(value)}", *map(_number, value)])


def _number(value: float) -> str:
    """Write whole numbers as such, and others so that ncnn sees that they are real numbers: by the `e`."""
    return str(value) if isinstance(value, int) else f"{np.float32(value):.8e}"


def _word(number: int) -> bytes:
    return number.to_bytes(4, "little")
