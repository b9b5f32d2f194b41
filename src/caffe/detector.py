"""See calib8.pycaffe.detector."""

from calib8.pycaffe.detector import Detector

__all__ = ["Detector"]
