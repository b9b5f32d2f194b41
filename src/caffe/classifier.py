"""See calib8.pycaffe.classifier."""

from calib8.pycaffe.classifier import Classifier

__all__ = ["Classifier"]
