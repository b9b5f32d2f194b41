"""The messages of caffe.proto."""

from calib8.proto.caffe_pb2 import *  # noqa: F403
