"""The network as a value: what the prototxt says, with the weights bound to it."""

from calib8.graph.build import build_net
from calib8.graph.net import Array, Layer, Net, Shape
from calib8.graph.phase import Phase

__all__ = ["Array", "Layer", "Net", "Phase", "Shape", "build_net"]
