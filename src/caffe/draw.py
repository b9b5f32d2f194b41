"""See calib8.pycaffe.draw."""

from calib8.pycaffe.draw import draw_net, draw_net_to_file, get_pydot_graph

__all__ = ["draw_net", "draw_net_to_file", "get_pydot_graph"]
