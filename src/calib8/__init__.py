"""calib8: INT8 calibration for Caffe networks, without Caffe."""
