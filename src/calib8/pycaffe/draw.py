"""caffe.draw: a network as a graph of layers and blobs, in the DOT language.

The text needs nothing; pictures need pydot and Graphviz. Source: BVLC/caffe, python/caffe/draw.py.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from calib8.atomic import write_atomically
from calib8.errors import OptionError
from calib8.graph.phase import Phase, layer_takes_part
from calib8.proto import caffe_pb2

_TEXT_FORMATS = ("dot", "gv", "raw")
_BLOB_STYLE = {"shape": "octagon", "fillcolor": "#E0E0E0", "style": "filled"}
_IN_PLACE_COLOR = "#90EE90"
_COLORS = {"Convolution": "#FF5050", "Deconvolution": "#FF5050", "Pooling": "#FF9900", "InnerProduct": "#CC33FF"}
_OTHER_COLOR = "#6495ED"
_WITH_RATES = ("Convolution", "Deconvolution", "InnerProduct")


def dot_text(
    caffe_net: caffe_pb2.NetParameter, rankdir: str, label_edges: bool = True, phase: int | None = None,
    display_lrm: bool = False,
) -> str:  # fmt: skip
    """Describe the graph in the DOT language.

    Args:
        caffe_net: the network.
        rankdir: the direction in which it grows: "LR", "TB" or "BT".
        label_edges: write the number of outputs of layers with weights, and batch sizes, beside the edges.
        phase: show only the layers of this phase; None shows all.
        display_lrm: write the learning rates' multipliers into the layers.

    Raises:
        OptionError: another direction.
    """
    if rankdir not in ("LR", "RL", "TB", "BT"):
        raise OptionError(f"rankdir is {rankdir!r}; expected LR, RL, TB or BT")
    nodes: dict[str, dict[str, str]] = {}
    edges: list[tuple[str, str, str]] = []
    for layer in caffe_net.layer:
        if phase is not None and not layer_takes_part(layer, Phase(phase)):
            continue
        node = f"{layer.name}_{layer.type}"
        nodes[node] = {"label": _layer_label(layer, rankdir, display_lrm), "shape": "box", "style": "filled"}
        nodes[node]["fillcolor"] = _color(layer)
        for blob in (*layer.bottom, *layer.top):
            nodes.setdefault(f"{blob}_blob", {"label": blob, **_BLOB_STYLE})
        edges += [(f"{bottom}_blob", node, "") for bottom in layer.bottom]
        edges += [(node, f"{top}_blob", _edge_label(layer) if label_edges else "") for top in layer.top]
    lines = [f"{_quoted(name)} [{_attributes(style)}];" for name, style in nodes.items()]
    lines += [f"{_quoted(a)} -> {_quoted(b)} [{_attributes({'label': label})}];" for a, b, label in edges]
    return "\n".join([f"digraph {_quoted(caffe_net.name or 'Net')} {{", f"rankdir={rankdir};", *lines, "}", ""])


def get_pydot_graph(
    caffe_net: caffe_pb2.NetParameter, rankdir: str, label_edges: bool = True, phase: int | None = None,
    display_lrm: bool = False,
) -> Any:  # fmt: skip
    """Make the graph as pydot has it; see `dot_text`.

    Raises:
        OptionError: pydot is not installed.
    """
    try:
        pydot = importlib.import_module("pydot")
    except ImportError:
        raise OptionError(
            "drawing a network needs pydot (pip install calib8[draw]) and Graphviz; its DOT text needs neither: "
            "draw_net with ext='dot'"
        ) from None
    return pydot.graph_from_dot_data(dot_text(caffe_net, rankdir, label_edges, phase, display_lrm))[0]


def draw_net(
    caffe_net: caffe_pb2.NetParameter, rankdir: str, ext: str = "png", phase: int | None = None,
    display_lrm: bool = False,
) -> bytes:  # fmt: skip
    """Draw the network as a picture, or as DOT text for `ext` "dot", "gv" or "raw"; see `dot_text`.

    Raises:
        OptionError: pydot or Graphviz is missing, or Graphviz does not have this format.
    """
    if ext in _TEXT_FORMATS:
        return dot_text(caffe_net, rankdir, phase=phase, display_lrm=display_lrm).encode()
    graph = get_pydot_graph(caffe_net, rankdir, phase=phase, display_lrm=display_lrm)
    try:
        picture: bytes = graph.create(format=ext)
    except (OSError, AssertionError) as why:  # pydot asserts that Graphviz has succeeded
        raise OptionError(f"Graphviz cannot draw the network as {ext!r}: {why}") from None
    return picture


def draw_net_to_file(
    caffe_net: caffe_pb2.NetParameter, filename: str | os.PathLike[str], rankdir: str = "LR",
    phase: int | None = None, display_lrm: bool = False,
) -> None:  # fmt: skip
    """Draw a network into a file; the end of its name gives the format. See `draw_net`."""
    ext = os.fspath(filename).rpartition(".")[2]
    picture = draw_net(caffe_net, rankdir, ext, phase, display_lrm)
    with write_atomically(filename) as file:
        file.write(picture)


def get_pooling_types_dict() -> dict[int, str]:
    """Give the names of Pooling's methods by their numbers."""
    methods = caffe_pb2.PoolingParameter.PoolMethod
    return dict(zip(methods.values(), methods.keys(), strict=True))


def get_edge_label(layer: caffe_pb2.LayerParameter) -> str:
    """Say what stands beside the edges to a layer's tops, `""` for nothing."""
    return _edge_label(layer) or '""'


def get_layer_lr_mult(layer: caffe_pb2.LayerParameter) -> tuple[float, float]:
    """Give the learning rates' multipliers of weights and bias.

    Raises:
        ValueError: a layer of another type than Convolution, Deconvolution and InnerProduct.
    """
    if layer.type not in _WITH_RATES:
        raise ValueError(f"{layer.type} layers do not have a learning rate multiplier")
    rates = [spec.lr_mult for spec in layer.param[:2]]
    weights, bias = rates + [1.0] * (2 - len(rates))
    return weights, bias


def get_layer_label(layer: caffe_pb2.LayerParameter, rankdir: str, display_lrm: bool = False) -> str:
    """Write a layer's label as DOT has it, in quotes; see `dot_text`."""
    return _quoted(_layer_label(layer, rankdir, display_lrm))


def choose_color_by_layertype(layertype: str) -> str:
    """Choose the colour of layers of a type."""
    return _COLORS.get(layertype, _OTHER_COLOR)


def _color(layer: caffe_pb2.LayerParameter) -> str:
    in_place = len(layer.bottom) == len(layer.top) == 1 and layer.bottom[0] == layer.top[0]
    return _IN_PLACE_COLOR if in_place else _COLORS.get(layer.type, _OTHER_COLOR)


def _layer_label(layer: caffe_pb2.LayerParameter, rankdir: str, display_lrm: bool) -> str:
    parts = [layer.name, f"({layer.type})"]
    if layer.type == "Pooling":
        pooling = layer.pooling_param
        parts[1] = f"(Pooling {caffe_pb2.PoolingParameter.PoolMethod.Name(pooling.pool)})"
        parts += [f"kernel size: {pooling.kernel_size}", f"stride: {pooling.stride}", f"pad: {pooling.pad}"]
    elif layer.type in ("Convolution", "Deconvolution"):
        window = layer.convolution_param
        parts.append(f"kernel size: {window.kernel_size[0] if window.kernel_size else 1}")
        parts.append(f"stride: {window.stride[0] if window.stride else 1}")
        parts.append(f"pad: {window.pad[0] if window.pad else 0}")
    if display_lrm and layer.type in _WITH_RATES:
        weights, bias = get_layer_lr_mult(layer)
        parts.append(f"lr mult: {weights:.1f}, {bias:.1f}")
    return (" " if rankdir in ("TB", "BT") else "\n").join(parts)


def _edge_label(layer: caffe_pb2.LayerParameter) -> str:
    if layer.type == "Data":
        return f"Batch {layer.data_param.batch_size}"
    if layer.type in ("Convolution", "Deconvolution"):
        return str(layer.convolution_param.num_output)
    return str(layer.inner_product_param.num_output) if layer.type == "InnerProduct" else ""


def _attributes(attributes: dict[str, str]) -> str:
    return ", ".join(f"{key}={_quoted(value)}" for key, value in attributes.items())


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
