"""From the parsed prototxt to a Net: phases, in-place blobs renamed, losses left out, weights bound by layer name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from calib8.errors import PrototxtError
from calib8.graph.net import Layer, Net
from calib8.graph.phase import Phase, layers_taking_part
from calib8.proto import caffe_pb2
from calib8.proto.text import Prototxt
from calib8.proto.textformat import Place


def build_net(
    prototxt: Prototxt,
    *,
    phase: Phase = Phase.TEST,
    level: int = 0,
    stages: Collection[str] = (),
    only_measures: Callable[[str], bool] = lambda layer_type: False,
) -> Net:
    """Build the network that Caffe would build in this state, without weights.

    Raises:
        PrototxtError: with all structural problems: duplicate names, bottoms that nothing produces, tops produced
            twice, cycles, no layers left.
    """
    net, problems = draft_net(prototxt, phase=phase, level=level, stages=stages, only_measures=only_measures)
    if problems:
        raise PrototxtError(f"{prototxt.source}: the network cannot be built", problems)
    return net


def draft_net(
    prototxt: Prototxt,
    *,
    phase: Phase = Phase.TEST,
    level: int = 0,
    stages: Collection[str] = (),
    only_measures: Callable[[str], bool] = lambda layer_type: False,
) -> tuple[Net, list[str]]:
    """Build what `build_net` gives, and list all structural problems; with problems the net is only good to look at.

    Args:
        only_measures: whether layers of a type have no part in inference and are left out.
    """
    everything = [_Placed(x, p, prototxt.source) for x, p in zip(prototxt.net.layer, prototxt.places, strict=True)]
    taking_part = layers_taking_part(prototxt.net, phase, level, stages)
    present = [everything[index] for index in taking_part]
    kept, notes = _without_losses(present, only_measures)
    problems = (
        _name_problems(kept) + _rule_problems(everything) + _order_problems(kept, _absent_writers(everything, present))
    )
    if not kept:
        state = f"phase {phase.name} ({len(everything)} layers in the file)"
        problems.append(f"{prototxt.source}: no layer takes part in {state}")
    layers, values = _rename_in_place(kept)
    names = {layer.name for layer in layers}
    unknown = tuple(f"{x}: unknown field, not read" for x in prototxt.unknown_fields)
    net = Net(
        name=prototxt.net.name,
        source=prototxt.source,
        layers=layers,
        notes=(*prototxt.notes, *unknown, *notes),
        values_of_blob=values,
        left_out=tuple(x.param.name for x in present if x.param.name not in names),
        absent=tuple(x.param.name for index, x in enumerate(everything) if index not in taking_part),
        writers_in_file=_writers(everything),
        is_old=prototxt.is_old,
    )
    return net, problems


def _is_python_loss(param: caffe_pb2.LayerParameter) -> bool:
    return param.type == "Python" and any(param.loss_weight)


@dataclass(frozen=True)
class _Placed:
    """A LayerParameter and where it stands."""

    param: caffe_pb2.LayerParameter
    place: Place
    source: str

    def problem(self, text: str) -> str:
        return f"{located(self.source, self.place.line)}: {text}"

    @property
    def text(self) -> str:
        return f"layer {self.param.name!r} ({self.param.type})"


def located(source: str, line: int) -> str:
    """Name a place "file:line", or "file" for what stands in no line."""
    return f"{source}:{line}" if line else source


def _without_losses(layers: Iterable[_Placed], only_measures: Callable[[str], bool]) -> tuple[list[_Placed], list[str]]:
    """Leave out measuring layers, and then what only they read as a label is harmless: it stays a data top."""
    kept: list[_Placed] = []
    notes: list[str] = []
    dropped: set[str] = set()
    for x in layers:
        reads_dropped = [b for b in x.param.bottom if b in dropped]
        measuring = only_measures(x.param.type)
        if measuring or _is_python_loss(x.param) or reads_dropped:
            why = f"reads {reads_dropped[0]!r}, which was left out" if reads_dropped else "only measures"
            notes.append(f"{x.text} is left out: it {why}")
            dropped.update(t for t in x.param.top if t not in x.param.bottom)
        else:
            kept.append(x)
    return kept, notes


def _name_problems(layers: Sequence[_Placed]) -> list[str]:
    problems = [x.problem(f"a layer of type {x.param.type!r} has no name") for x in layers if not x.param.name]
    problems += [x.problem(f"layer {x.param.name!r} has no type") for x in layers if not x.param.type]
    first: dict[str, _Placed] = {}
    for x in layers:
        before = first.setdefault(x.param.name, x)
        if before is not x and x.param.name:
            where = f"the one in line {before.place.line}" if before.place.line else "another one"
            problems.append(x.problem(f"{x.text} has the name of {where}; give each layer its own"))
    return problems


def _rule_problems(layers: Iterable[_Placed]) -> list[str]:
    return [
        x.problem(f"{x.text} has both include and exclude rules; Caffe allows one kind")
        for x in layers
        if x.param.include and x.param.exclude
    ]


def _absent_writers(everything: Iterable[_Placed], present: Collection[_Placed]) -> dict[str, _Placed]:
    """Find the layer that would write a blob, if it took part in this phase."""
    taking_part = {id(x) for x in present}
    return {t: x for x in everything if id(x) not in taking_part for t in x.param.top}


def _order_problems(layers: Sequence[_Placed], absent: Mapping[str, _Placed]) -> list[str]:
    """List bottoms that no earlier layer writes, and blobs that are written again other than in place."""
    problems: list[str] = []
    written: dict[str, str] = {}
    later = {t: x for x in layers for t in x.param.top}
    for x in layers:
        bottoms, tops = list(x.param.bottom), list(x.param.top)
        for b in bottoms:
            if b not in written:
                problems.append(
                    x.problem(f"{x.text} reads bottom {b!r}, which {_missing(x, later.get(b), absent.get(b))}")
                )
        problems += [x.problem(f"{x.text} has top {t!r} twice") for t, n in Counter(tops).items() if n > 1]
        for t in dict.fromkeys(tops):
            if t in written and t not in bottoms:
                problems.append(
                    x.problem(f"{x.text} writes top {t!r}, as layer {written[t]!r} does already; it is not in place")
                )
            written[t] = x.param.name
    return problems


def _missing(reader: _Placed, writer: _Placed | None, absent: _Placed | None) -> str:
    if writer is None and absent is not None:
        return f"only layer {absent.param.name!r} writes, and that has no part in this phase"
    if writer is None:
        return "no layer writes"
    return "only it itself writes" if writer is reader else f"is written later, by layer {writer.param.name!r}"


def _writers(layers: Iterable[_Placed]) -> dict[str, tuple[str, ...]]:
    """List the types of the layers that write each blob."""
    types_by_blob: dict[str, tuple[str, ...]] = {}
    for x in layers:
        for top in x.param.top:
            types_by_blob[top] = (*types_by_blob.get(top, ()), x.param.type)
    return types_by_blob


def _rename_in_place(everything: Sequence[_Placed]) -> tuple[tuple[Layer, ...], dict[str, tuple[str, ...]]]:
    # Only the last value of a blob keeps its name, so that outputs are called as in Caffe; those before it, which
    # layers in place overwrite there, are called blob@layer.
    last_writer = {t: i for i, x in enumerate(everything) for t in x.param.top}
    taken = set(last_writer)
    current: dict[str, str] = {}
    values: dict[str, list[str]] = {}
    layers: list[Layer] = []
    for i, x in enumerate(everything):
        p = x.param
        bottoms = tuple(current.get(b, b) for b in p.bottom)  # before the tops: a layer in place reads the old value
        for t in p.top:
            value = t if last_writer[t] == i else _fresh(f"{t}@{p.name}", taken)
            current[t] = value
            values.setdefault(t, []).append(value)
        tops = tuple(current[t] for t in p.top)
        layers.append(Layer(p.name, p.type, bottoms, tops, tuple(p.bottom), tuple(p.top), p, place=x.place))
    return tuple(layers), {blob: tuple(v) for blob, v in values.items()}


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "'"
    taken.add(name)
    return name
