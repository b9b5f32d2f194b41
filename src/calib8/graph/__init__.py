"""The network as a value: what the prototxt says, with the weights bound to it."""

from calib8.graph.build import build_net
from calib8.graph.net import Layer, Net, Shape

__all__ = ["Layer", "Net", "Shape", "build_net"]
