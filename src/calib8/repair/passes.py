"""What a pass is.

A pass never runs the network by itself. It names the values that it wants to observe, each with a counter of its own;
`collect` runs the samples through the network in FP32 and feeds the counters; then the pass makes a new plan. Passes
are independent of one another and of what calls them, so they can be put in any order, left out, and tested alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from calib8.lowering import Model
from calib8.measure.collect import Batches, CollectOptions, Progress, collect
from calib8.measure.counters import Counter, InTurn
from calib8.quantize import QuantPlan

CounterT = TypeVar("CounterT", bound=Counter)


class PlanPass(Protocol[CounterT]):
    """A function from a plan to a plan, and what it has to know of the samples.

    Attributes:
        name: what the plan says of integers that this pass has given (`QuantPlan.given`), and what options call it.
    """

    name: str

    def counters(self, model: Model, plan: QuantPlan) -> Mapping[str, CounterT]:
        """Say what to observe: an empty counter for each value of the FP32 network.

        The order in which samples come is not defined, and what a counter makes of them must not depend on it.
        """

    def apply(self, model: Model, plan: QuantPlan, observed: Mapping[str, CounterT]) -> QuantPlan:
        """Make the new plan.

        Args:
            observed: the counters, with all samples in them.
        """


def run_pass(
    one: PlanPass[CounterT],
    model: Model,
    plan: QuantPlan,
    batches: Batches,
    options: CollectOptions | None = None,
    progress: Progress = lambda done: None,
) -> QuantPlan:
    """Observe what a pass asks for, and apply it. Without anything to observe, no sample is run.

    Raises:
        Calib8Error: what the data or a layer in Python raises.
        QuantizationError: the contract cannot express what the pass makes.
    """
    return one.apply(model, plan, observe([one], model, plan, batches, options, progress)[0])


def observe(
    passes: Sequence[PlanPass[CounterT]],
    model: Model,
    plan: QuantPlan,
    batches: Batches,
    options: CollectOptions | None = None,
    progress: Progress = lambda done: None,
) -> list[dict[str, CounterT]]:
    """Observe what each of several passes asks for, all of it in one run over the samples.

    Only passes whose counters are the same before and behind those that stand before them can be observed together.

    Raises:
        Calib8Error: what the data or a layer in Python raises.
    """
    counters = [dict(one.counters(model, plan)) for one in passes]
    of_value: dict[str, list[CounterT]] = {}
    for of_pass in counters:
        for value, counter in of_pass.items():
            of_value.setdefault(value, []).append(counter)
    together: dict[str, Counter] = {v: InTurn(some) if len(some) > 1 else some[0] for v, some in of_value.items()}
    if together:
        collect(model, batches, together, options or CollectOptions(), progress)
    return counters
