"""What is wrong with a network, collected over all its layers before any of it is raised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calib8.errors import CaffemodelError, Calib8Error, PrototxtError, UnsupportedError, UserLayerError
from calib8.graph import Layer
from calib8.graph.build import located
from calib8.layers import RefusedError


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a network: the class of its error, and a sentence that says where and what."""

    kind: type[Calib8Error]
    text: str


Failure = RefusedError | UserLayerError | CaffemodelError
"""Why one layer cannot be used: its parameters or shapes, the user's own class, its weights."""

# The class of an error is the first of these that a problem has: what comes first has to be put right first.
_MESSAGES: dict[type[Calib8Error], str] = {
    PrototxtError: "the network cannot be built",
    UnsupportedError: "the network cannot be computed",
    UserLayerError: "Python layers cannot be used",
    CaffemodelError: "the weights do not fit the network",
}


def problem_of(source: str, layer: Layer, why: Failure) -> Problem:
    """Say of a layer's failure where the layer stands."""
    where = located(source, layer.place.line)
    if isinstance(why, UserLayerError):
        return Problem(type(why), f"{where}: {why}")  # names the layer itself
    if isinstance(why, CaffemodelError):
        return Problem(CaffemodelError, f"{where}: {titled(layer)} {why}")
    return Problem(UnsupportedError, f"{where}: {titled(layer)}: {why}")


def titled(layer: Layer) -> str:
    """Name a layer as messages do."""
    return f"layer {layer.name!r} ({layer.type})"


def raise_problems(source: str, problems: Sequence[Problem]) -> None:
    """Raise all problems as one error, if there are any.

    Raises:
        PrototxtError, UnsupportedError, UserLayerError, CaffemodelError: the first of these that is among them.
    """
    for kind, what in _MESSAGES.items():
        if any(issubclass(p.kind, kind) for p in problems):
            raise kind(f"{source}: {what}", [p.text for p in problems])


def some(names: Sequence[str], limit: int = 8) -> str:
    """Join the first names of a list, and say how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more
