"""A network as rows and lanes: every layer a row, every value a lane from its writer down to its last reader.

It is how histories of versions are drawn: as narrow as the network is, readable at 234 layers, on a phone too.
"""

from __future__ import annotations

from dataclasses import dataclass

from calib8.graph import Net


@dataclass(frozen=True)
class Edge:
    """A value on its way from the layer that writes it to one that reads it.

    Attributes:
        start, stop: rows of both.
        lane: where it runs down.
        source, target: lanes of the two layers.
    """

    start: int
    stop: int
    lane: int
    source: int
    target: int


@dataclass(frozen=True)
class Lanes:
    """A drawing of a network.

    Attributes:
        lane_of: by row, the lane of its layer.
        edges: all ways of values.
        width: how many lanes there are.
    """

    lane_of: tuple[int, ...]
    edges: tuple[Edge, ...]
    width: int


def lanes_of(net: Net) -> Lanes:
    """Give every layer a lane; a layer stays in that of its first bottom where nobody else needs it any more."""
    last = {v: max((net.index_of[x.name] for x in readers), default=-1) for v, readers in net.consumers.items()}
    taken: dict[int, int] = {}  # by lane, the last row that needs it
    lane_of_value: dict[str, int] = {}
    lane_of: list[int] = []
    edges: list[Edge] = []
    for row, layer in enumerate(net.layers):
        own = [b for b in layer.bottoms if last[b] == row]
        lane = lane_of_value[own[0]] if own else _free(taken, row)
        lane_of.append(lane)
        for bottom in dict.fromkeys(layer.bottoms):
            start = net.index_of[net.producer[bottom].name]
            edges.append(Edge(start, row, lane_of_value[bottom], lane_of[start], lane))
        taken = {n: until for n, until in taken.items() if until > row}
        for number, top in enumerate(layer.tops):
            lane_of_value[top] = lane if number == 0 and lane not in taken else _free({**taken, lane: row + 1}, row)
            if last[top] > row:
                taken[lane_of_value[top]] = last[top]
    return Lanes(tuple(lane_of), tuple(edges), max((e.lane for e in edges), default=0) + 1)


def _free(taken: dict[int, int], row: int) -> int:
    """The first lane that nothing needs at this row."""
    used = {lane for lane, until in taken.items() if until >= row}
    return next(lane for lane in range(len(used) + 1) if lane not in used)
