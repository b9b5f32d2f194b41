"""A network in FP32 and, by one plan or several, in INT8, run on one sample after another."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from calib8.analyze.judges import compared_values
from calib8.engine import EngineOptions, Executor
from calib8.engine.memory import settle
from calib8.graph import Array
from calib8.lowering import Model, Step, lower_float
from calib8.lowering.integer import lower_int8
from calib8.quantize import QuantPlan, setup_of

Outputs = dict[str, Array]


class SideBySide:
    """FP32 first, then INT8 by every plan.

    Args:
        plans: the INT8 networks, in the order of their outputs.
        wanted: values beside those that are compared; None for the network's outputs.
        int8_layers: only these run in INT8; None for all that can.
        threads: None for all cores that this process may use. The number changes no result.

    Attributes:
        compared: the values whose numbers are compared.
    """

    def __init__(
        self,
        model: Model,
        plans: Sequence[QuantPlan],
        wanted: Sequence[str] | None = None,
        int8_layers: Collection[str] | None = None,
        threads: int | None = None,
    ) -> None:
        self.compared = compared_values(model)
        further = [v for v in model.net.outputs if v not in model.inputs] if wanted is None else wanted
        values = tuple(dict.fromkeys((*self.compared, *further)))
        engine = EngineOptions(threads=threads, repack_weights=True)  # the same last bits in FP32 and in INT8

        def opened(steps: Sequence[Step]) -> Executor:
            executor = Executor(steps, values, engine)
            settle(steps)
            return executor

        self._executors = [opened(lower_float(model, values))]
        for plan in plans:
            setup = replace(setup_of(plan, int8_layers), integer_kernels=engine.integer_kernels)
            self._executors.append(opened(lower_int8(model, setup, values)))

    def run(self, inputs: Mapping[str, Array]) -> list[Outputs]:
        """Compute the outputs of every network, and what is compared in their place."""
        return [_outputs(executor, inputs) for executor in self._executors]


def _outputs(executor: Executor, inputs: Mapping[str, Array]) -> Outputs:
    outputs: Outputs = {}
    executor.run(inputs, lambda reading, array: outputs.__setitem__(str(reading), array.copy()))
    return outputs
