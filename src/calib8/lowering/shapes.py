"""The one inference of shapes: from those of a network's inputs to those of all its values."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from calib8.errors import PrototxtError, UnsupportedError, UserLayerError
from calib8.graph import Layer, Shape
from calib8.layers import Op, RefusedError
from calib8.lowering.problems import Problem, some, titled

MAX_ELEMENTS = 2**31 - 1
"""Largest number of elements of one blob (BVLC/caffe src/caffe/blob.cpp, Blob::Reshape)."""

Pair = tuple[Layer, Op]
MaybePair = tuple[Layer, Op | None]
Shapes = Mapping[str, Shape]
_NOTHING: Shapes = MappingProxyType({})


@dataclass(frozen=True)
class Inferred:
    """Shapes as far as they are known.

    Attributes:
        shapes: by value, in the order of the layers; what comes from outside the layers stands first.
        failures: why a layer's tops have none, by the layer's place in what was inferred. Layers behind it have none
            either, and are not named.
    """

    shapes: dict[str, Shape]
    failures: Mapping[int, RefusedError | UserLayerError]

    def all_or_error(self, source: str, pairs: Sequence[MaybePair]) -> dict[str, Shape]:
        """Return the shapes, if every layer has some.

        Raises:
            UnsupportedError, UserLayerError: the first layer that has none.
        """
        for index, why in self.failures.items():
            if isinstance(why, UserLayerError):
                raise why
            raise UnsupportedError(f"{source}: {titled(pairs[index][0])}: {why}")
        return self.shapes


def infer_shapes(
    pairs: Sequence[MaybePair],
    given: Shapes = _NOTHING,
    before: Shapes = _NOTHING,
    *,
    inputs: InputShapes | None = None,
    smallest: int = 1,
) -> Inferred:
    """Infer the shapes of all values that layers write.

    Args:
        pairs: layers in order; one whose parameters were refused has no Op, and its tops have no shape.
        given: by value, shapes that hold whatever a layer says: of what comes from outside these layers, and of what
            a layer in Python gave.
        before: by value, from an earlier inference: layers whose bottoms have the same shapes are not asked again.
        inputs: what is said of the tops of Input and data layers; None for what these layers say.
        smallest: size that an axis has at least. While a network runs, a layer in Python may find nothing: 0 rows.
    """
    written = {top for layer, _ in pairs for top in layer.tops}
    shapes = {value: shape for value, shape in given.items() if value not in written}
    failures: dict[int, RefusedError | UserLayerError] = {}
    for index, (layer, op) in enumerate(pairs):
        if op is None or any(b not in shapes for b in layer.bottoms):
            continue
        bottoms = [shapes[b] for b in layer.bottoms]
        try:
            if before and _is_known(layer, bottoms, before):
                tops = [before[top] for top in layer.tops]
            else:
                asked = inputs.tops(layer, op) if inputs and op.kind == "source" else op.top_shapes(bottoms)
                tops = [_checked(blob, shape, smallest) for blob, shape in zip(layer.top_blobs, asked, strict=True)]
        except (RefusedError, UserLayerError) as why:
            failures[index] = why
            continue
        shapes.update({top: given.get(top, shape) for top, shape in zip(layer.tops, tops, strict=True)})
    return Inferred(shapes, failures)


def _is_known(layer: Layer, bottoms: Sequence[Shape], before: Shapes) -> bool:
    return all(top in before for top in layer.tops) and bottoms == [before.get(b) for b in layer.bottoms]


def _checked(blob: str, shape: Shape, smallest: int) -> Shape:
    if any(d < smallest for d in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise RefusedError(
            f"top {blob!r} would have the shape {' x '.join(map(str, shape))}; "
            f"sizes must be at least {smallest}, and a blob has at most {MAX_ELEMENTS} elements"
        )
    return tuple(int(d) for d in shape)


@dataclass(frozen=True)
class InputShapes:
    """What is said of the shapes of a network's inputs.

    A data layer whose data nobody has opened gives images and, often, labels: one number for each image, as far as no
    layer reads them. So a shape for the images is enough.

    Attributes:
        given: by blob.
        read: the values that layers make something of.
        now: by value, where nothing is given; without them, what the input's layer says.
    """

    given: Shapes
    read: Collection[str]
    now: Shapes = field(default_factory=dict)

    def tops(self, layer: Layer, op: Op) -> list[Shape]:
        """Return the shapes of the tops of an Input or a data layer.

        Raises:
            RefusedError: nothing says them.
        """
        given = [self.given.get(blob) for blob in layer.top_blobs]
        if all(shape is None for shape in given):
            return self._tops_without_data(layer, op)
        batch = next((shape[:1] for shape in given if shape), ())
        # A data layer's other tops are labels, one number for each sample; that only counts where nobody reads them.
        known = [
            tuple(shape) if shape is not None else batch if top not in self.read else None
            for shape, top in zip(given, layer.tops, strict=True)
        ]
        if all(shape is not None for shape in known):
            return [shape for shape in known if shape is not None]
        return [own if k is None else k for k, own in zip(known, self._own(layer, op), strict=True)]

    def _tops_without_data(self, layer: Layer, op: Op) -> list[Shape]:
        """Of a data layer whose data nobody has opened; it may be one of labels that no layer reads."""
        try:
            return self._own(layer, op)
        except RefusedError:
            batch = next((tuple(shape[:1]) for shape in self.given.values()), ())
            if not batch or any(top in self.read for top in layer.tops):
                raise
            return [batch] * len(layer.tops)

    def _own(self, layer: Layer, op: Op) -> list[Shape]:
        return [self.now[top] for top in layer.tops] if self.now else op.top_shapes([])


def values_that_are_read(layers: Iterable[Layer]) -> frozenset[str]:
    """Return the values that layers make something of; Silence does not."""
    return frozenset(b for layer in layers if layer.tops for b in layer.bottoms)


def unknown_inputs(source: str, pairs: Sequence[MaybePair], given: Iterable[str]) -> list[Problem]:
    """Say what is wrong with blobs that are given shapes and of which some are no inputs: one problem, or none."""
    inputs = [blob for layer, op in pairs if op is not None and op.kind == "source" for blob in layer.top_blobs]
    unknown = [name for name in given if name not in inputs]
    if not unknown:
        return []
    text = f"{source}: no input {some(unknown)} to give a shape; inputs are {some(inputs) or 'none'}"
    return [Problem(PrototxtError, text)]
