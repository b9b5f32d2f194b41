"""A network's files: a prototxt and a caffemodel, or one ONNX model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from calib8.errors import OptionError
from calib8.graph import Shape
from calib8.lowering.examine import Weights
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import Prototxt, is_onnx, read_prototxt
from calib8.workflow.images import Images

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Definition:
    """What the files of a network say.

    Attributes:
        prototxt: its layers.
        weights: those of an ONNX model; None for a caffemodel that is not read yet.
        caffemodel: the path of the weights; None for an ONNX model, which holds them.
    """

    prototxt: Prototxt
    weights: Weights | None
    caffemodel: Path | None

    def read_weights(self) -> Weights:
        """Read the weights, if that is not done.

        Raises:
            CaffemodelError: they cannot be read.
        """
        if self.weights is not None:
            return self.weights
        if self.caffemodel is None:
            raise AssertionError("a definition has weights, or the path of a caffemodel")
        return read_caffemodel(self.caffemodel)


def read_definition(
    network: Path,
    caffemodel: Path | None,
    samples: object = None,
    shapes: Mapping[str, Shape] | None = None,
) -> Definition:
    """Read what a network is: of a Caffe network the prototxt alone, of an ONNX model everything.

    Args:
        samples: images, whose size an ONNX model takes that leaves the size of its input open.
        shapes: of the inputs of an ONNX model, by name.

    Raises:
        ModelError: the file cannot be read, or an ONNX model has what no layer computes; all of it.
        OptionError: an ONNX model together with a caffemodel, or a prototxt without one.
    """
    if not is_onnx(network):
        if caffemodel is None:
            raise OptionError(f"{os.fspath(network)}: a Caffe network has its weights in a caffemodel; name it, too")
        return Definition(read_prototxt(network), None, caffemodel)
    from calib8.onnx_in import read_onnx  # noqa: PLC0415 - with the whole of onnx, which Caffe's networks do not need

    require_no_caffemodel(network, caffemodel)
    size = samples.preprocess.size if isinstance(samples, Images) else None
    found = read_onnx(network, shapes, size)
    return Definition(found.prototxt, found.weights, None)


def require_no_caffemodel(network: Path, caffemodel: Path | None) -> None:
    """Raise OptionError where weights are named beside an ONNX model, which has its own."""
    if caffemodel is not None:
        raise OptionError(
            f"{os.fspath(caffemodel)}: an ONNX model holds its weights, so there is no caffemodel to give with "
            f"{os.fspath(network)}"
        )
