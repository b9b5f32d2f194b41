"""Which layers run in INT8: the guide's `int8_layer` string, checked against the network and its plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from calib8.errors import OptionError
from calib8.layers.input import Input
from calib8.lowering import Model
from calib8.lowering.integer import IntegerSetup
from calib8.quantize.plan import QuantPlan


def parse_layer_list(text: str) -> tuple[str, ...]:
    """Read names between commas, without the spaces around them; empty ones are left out.

    Raises:
        OptionError: no text.
    """
    if not isinstance(text, str):
        raise OptionError(f"int8_layer is {text!r}; expected a text with the names of layers, and commas between them")
    return tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))


def integer_setup(model: Model, plan: QuantPlan, int8_layer: str = "", *, accumulator_bits: int = 16) -> IntegerSetup:
    """Say what of the network runs in integers.

    Layers that are named and have no integer rule run in FP32 (`fp32_layers` says which); those of another phase do
    nothing, as the guide's loop names every layer of the file. An input that an INT8 layer reads comes quantised
    (x * 128 / threshold), unless its Input layer sets `enable_quantize`.

    Args:
        int8_layer: names of layers, comma-separated; "" for all that can.
        accumulator_bits: 16, in which an Eltwise SUM saturates on the chip, or 32.

    Raises:
        OptionError: names that the network does not have, and a BatchNorm without its Scale or the other way around;
            all of them.
    """
    names = parse_layer_list(int8_layer)
    if accumulator_bits not in (16, 32):
        raise OptionError(f"accumulator_bits is {accumulator_bits}; the chip's are 16, and 32 is the alternative")
    _check(model, names)
    setup = setup_of(plan, names or None)
    inputs = _quantized_inputs(model, setup.int8_layers)
    return replace(setup, quantized_inputs=inputs, accumulator_bits=accumulator_bits)


def setup_of(plan: QuantPlan, int8_layers: Iterable[str] | None = None) -> IntegerSetup:
    """Put some of a plan's layers into INT8, as far as they have integers; None for all. Inputs are real numbers."""
    forms = {name: own for name, own in plan.forms.items() if own is not None}
    chosen = frozenset(forms) if int8_layers is None else frozenset(forms).intersection(int8_layers)
    return IntegerSetup(chosen, forms, plan.thresholds, channel_units=plan.channel_units)


def fp32_layers(model: Model, setup: IntegerSetup) -> tuple[str, ...]:
    """List the layers of the network, data layers left out, that run in FP32."""
    return tuple(layer.name for layer, op in model.pairs if op.kind != "source" and layer.name not in setup.int8_layers)


def _check(model: Model, names: Sequence[str]) -> None:
    known = {*model.net.layer_by_name, *model.net.layers_by_caffe_name, *model.net.left_out, *model.net.absent}
    problems = [f"there is no layer {name!r}" for name in names if name not in known]
    chosen = set(names)
    for batch_norm, scale in model.batch_norm_pairs.items() if names else ():
        if (batch_norm in chosen) != (scale.name in chosen):
            given, missing = (batch_norm, scale.name) if batch_norm in chosen else (scale.name, batch_norm)
            problems.append(
                f"{given!r} is named and {missing!r} is not: a BatchNorm and its Scale switch to INT8 together; "
                "name both or none"
            )
    if problems:
        raise OptionError(f"{model.net.source}: the list of INT8 layers cannot be used", problems)


def _quantized_inputs(model: Model, chosen: frozenset[str]) -> frozenset[str]:
    quantized = set()
    for value in model.inputs:
        op = model.op_of[model.net.producer[value].name]
        real = isinstance(op, Input) and op.enable_quantize
        if not real and any(reader.name in chosen for reader in model.net.consumers[value]):
            quantized.add(value)
    return frozenset(quantized)
