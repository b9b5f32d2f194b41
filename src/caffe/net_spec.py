"""See calib8.pycaffe.net_spec."""

from calib8.pycaffe.net_spec import Function, NetSpec, Top, layers, params, to_proto

__all__ = ["Function", "NetSpec", "Top", "layers", "params", "to_proto"]
