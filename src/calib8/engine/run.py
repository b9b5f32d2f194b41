"""A network once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from calib8.engine.executor import Executor
from calib8.engine.options import EngineOptions
from calib8.errors import OptionError
from calib8.lowering.floating import lower_float
from calib8.lowering.model import Model


def run_float(
    model: Model,
    inputs: Mapping[str, NDArray[np.float32]],
    observe: Sequence[str] | None = None,
    options: EngineOptions = EngineOptions(),
) -> dict[str, NDArray[np.float32]]:
    """One forward pass in FP32.

    Args:
        inputs: the network's inputs by blob name, in their shapes.
        observe: values or blobs to return; None returns the network's outputs.

    Returns:
        A copy of every observed value, in Caffe's shape.

    Raises:
        OptionError: an observed name is no value of the network.
    """
    names = tuple(model.net.outputs if observe is None else observe)
    unknown = [name for name in names if name not in model.shapes]
    if unknown:
        raise OptionError(f"{model.net.source}: there is no blob {unknown[0]!r}")
    found: dict[str, NDArray[np.float32]] = {}
    executor = Executor(lower_float(model, names), names, options)
    executor.run(
        {model.value_of_input.get(blob, blob): array for blob, array in inputs.items()},
        lambda name, array: found.__setitem__(name, array.copy()),
    )
    return found
