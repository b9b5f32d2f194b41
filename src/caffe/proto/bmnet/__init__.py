"""The messages of the calibration table."""

from caffe.proto.bmnet import common_calibration_pb2

__all__ = ["common_calibration_pb2"]
