"""See calib8.pycaffe.coord_map."""

from calib8.pycaffe.coord_map import coord_map_from_to, crop

__all__ = ["coord_map_from_to", "crop"]
