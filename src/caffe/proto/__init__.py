"""The messages of caffe.proto."""

from calib8.proto import caffe_pb2

__all__ = ["caffe_pb2"]
