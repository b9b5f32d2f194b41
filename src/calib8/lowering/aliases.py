"""Blobs that lie in one memory in Caffe, and layers in place that change all of them.

Some layers hand their bottom's memory on as their top's (BVLC/caffe, src/caffe/layers/reshape_layer.cpp,
flatten_layer.cpp, split_layer.cpp: ShareData). A later layer in place on one of these blobs overwrites the others, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from calib8.graph import Layer
from calib8.layers import Op


def reads_of_overwritten(layers: Sequence[Layer], ops: Sequence[Op | None]) -> Iterator[tuple[Layer, str]]:
    """Find layers that read a blob which Caffe has overwritten under another name by then, with a sentence each.

    What they read there is not what the prototxt says, and depends on the order of the layers.
    """
    memories = _Memories()
    for layer, op in zip(layers, ops, strict=True):
        for value, blob in zip(layer.bottoms, layer.bottom_blobs, strict=True):
            writer = memories.overwriter(value)
            if writer is not None:
                yield layer, _text(blob, writer)
        for top, blob in zip(layer.tops, layer.top_blobs, strict=True):
            if op is not None and op.shares_memory:
                memories.share(top, layer.bottoms[0])
            elif blob in layer.bottom_blobs:
                memories.overwrite(top, layer.bottoms[layer.bottom_blobs.index(blob)], layer)


def _text(blob: str, writer: Layer) -> str:
    return (
        f"reads {blob!r}, which layer {writer.name!r} changes before in Caffe: that works in place on "
        f"{writer.top_blobs[0]!r}, which lies in the same memory there; give {writer.name!r} a top of its own"
    )


class _Memories:
    """Which values lie in one memory, named after the first of them, and which of them it still holds."""

    def __init__(self) -> None:
        self._of: dict[str, str] = {}
        self._held: dict[str, set[str]] = {}
        self._writers: dict[str, Layer] = {}

    def overwriter(self, value: str) -> Layer | None:
        """Find the layer in place that has overwritten a value."""
        memory = self._of.get(value, value)
        return None if value in self._held.get(memory, {value}) else self._writers[memory]

    def share(self, top: str, bottom: str) -> None:
        memory = self._of[top] = self._of.get(bottom, bottom)
        self._held.setdefault(memory, {bottom}).add(top)

    def overwrite(self, top: str, bottom: str, layer: Layer) -> None:
        memory = self._of[top] = self._of.get(bottom, bottom)
        self._held[memory] = {top}
        self._writers[memory] = layer
