"""Caffe's files: prototxt text, binary caffemodels of every age, HDF5 weights, and the calibration table's messages.

- `caffe.proto`, `calibration.proto`: the schemas; `*_pb2.py`, `*_pb2.pyi` are generated from them (`make proto`)
- `text`: `read_prototxt`, a network definition in its newest form
- `textformat`: the text form of any message, read by name, with line numbers
- `upgrade`: V0 and V1 networks and old input fields to the newest form
- `caffemodel`: `read_caffemodel`, `write_caffemodel`, weights without a copy
- `wire`: the few rules of the binary form that these two need
- `hdf5`: `.caffemodel.h5`
- `onnx_messages`: ONNX's messages, and how they are made
"""
