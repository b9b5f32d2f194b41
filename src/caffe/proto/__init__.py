"""The messages of Caffe and of the calibration table."""

from caffe.proto import caffe_pb2

__all__ = ["caffe_pb2"]
