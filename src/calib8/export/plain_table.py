"""The plain table: one line `name threshold rshift` per layer, the threshold of its first top in 12 digits.

The original writes 0 as the shift of a Pooling, and for a leaky ReLU the shift of its negative side; so do we. Its
lines stand in no order, ours in that of the layers; reading takes any order.
"""

from __future__ import annotations

from calib8.errors import TableError
from calib8.lowering import Model
from calib8.quantize import QuantPlan


def plain_table(model: Model, plan: QuantPlan) -> bytes:
    """Write the table's bytes. Layers without a top have no line.

    Raises:
        TableError: a layer's name has a line break in it.
    """
    lines = []
    for layer in model.net.layers:
        if not layer.tops:
            continue
        if "\n" in layer.name or "\r" in layer.name:
            raise TableError(f"layer {layer.name!r} has a line break in its name; the plain table cannot hold that")
        form = plan.forms[layer.name]
        shift = form.table_shift if form is not None else 0
        lines.append(f"{layer.name} {plan.thresholds[layer.tops[0]]:.12g} {shift}\n")
    return "".join(lines).encode()


def plain_shifts(text: str) -> dict[str, int]:
    """Read the right shifts by layer name, of a table that `read_plain_table` has read."""
    fields = (line.rsplit(" ", 2) for line in text.splitlines() if line.strip())
    return {name: int(shift) for name, _, shift in fields}


def read_plain_table(text: str, model: Model, source: str) -> dict[str, float]:
    """Read the thresholds of all values of the network. Further tops of a layer take that of its first.

    Raises:
        TableError: lines of another form, names that do not fit, layers without a line; all of them.
    """
    lines: dict[str, float] = {}
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            name, threshold, shift = line.rsplit(" ", 2)
            int(shift)
            lines[name] = float(threshold)
        except ValueError:
            problems.append(f"line {number} is {line[:80]!r}; expected `name threshold rshift`")
    with_tops = [layer for layer in model.net.layers if layer.tops]
    names = {layer.name for layer in with_tops} | set(model.net.left_out)
    problems += [f"the network has no layer {name!r}" for name in lines if name not in names]
    problems += [f"no line for layer {x.name!r} ({x.type})" for x in with_tops if x.name not in lines]
    if problems:
        raise TableError(f"{source} is not the calibration table of {model.net.source}", problems)
    return {top: lines[layer.name] for layer in with_tops for top in layer.tops}
