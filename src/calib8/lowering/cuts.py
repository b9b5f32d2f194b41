"""Where a network is cut into graphs: which layers are needed, and which of them go into one graph."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from calib8.lowering.model import Model
from calib8.lowering.shapes import Pair
from calib8.lowering.steps import float_bytes

_NARROW, _TOO_WIDE = 8, 2  # a graph ends where an eighth of what it may give crosses, or where it gives twice as much


def needed_layers(model: Model, outputs: Collection[str]) -> list[Pair]:
    """Return the layers that the outputs depend on, in order, without the sources."""
    wanted = set(outputs)
    needed: list[Pair] = []
    for layer, op in reversed(model.pairs):
        if wanted.intersection(layer.tops) and op.kind != "source":
            needed.append((layer, op))
            wanted.update(layer.bottoms)
    return needed[::-1]


def stretches(
    model: Model, pairs: Sequence[Pair], outputs: Collection[str] = (), max_output_bytes: int | None = None
) -> Iterator[list[Pair]]:
    """Cut the layers: around each that runs in Python, and behind wanted outputs, where they have become too large.

    Where little crosses, that is: what does is written by one graph and read by the next. Of networks that are wide all
    along, not before they are twice too large.
    """
    stretch: list[Pair] = []
    size = 0
    for layer, op in pairs:
        if op.kind == "host":
            if stretch:
                yield stretch
            yield [(layer, op)]
            stretch, size = [], 0
            continue
        stretch.append((layer, op))
        wanted = [t for t in layer.tops if t in outputs]
        size += sum(float_bytes(model.shapes[t]) for t in wanted)
        if wanted and max_output_bytes is not None and size >= max_output_bytes:
            crossing = sum(float_bytes(model.shapes[top]) for top in layer.tops)
            if crossing <= max_output_bytes // _NARROW or size >= _TOO_WIDE * max_output_bytes:
                yield stretch
                stretch, size = [], 0
    if stretch:
        yield stretch
