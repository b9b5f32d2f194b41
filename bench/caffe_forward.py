"""One forward pass of a real Caffe, layer by layer; started by compare_with_caffe.py with the real Caffe's Python.

python caffe_forward.py PROTOTXT CAFFEMODEL INPUTS.npz OUTPUTS.npz

Knows nothing of calib8. INPUTS.npz has an array for each input blob. OUTPUTS.npz gets, for every top of every layer as
it is right after the layer, an array "<index of the layer>/<index of the top>", and "names", the layers' names and
tops, and "seconds", the time of each layer.
"""

import json
import sys
import time

import numpy as np

import caffe


def main(prototxt, caffemodel, inputs, outputs):
    caffe.set_mode_cpu()
    net = caffe.Net(prototxt, caffemodel, caffe.TEST)
    given = np.load(inputs)
    for blob in given.files:
        net.blobs[blob].reshape(*given[blob].shape)
    net.reshape()
    for blob in given.files:
        net.blobs[blob].data[...] = given[blob]
    names = list(net._layer_names)
    found, described, seconds = {}, [], []
    for index, name in enumerate(names):
        start = time.perf_counter()
        net._forward(index, index)
        seconds.append(time.perf_counter() - start)
        tops = list(net.top_names[name])
        described.append([name, tops])
        for place, top in enumerate(tops):
            found[f"{index}/{place}"] = net.blobs[top].data.copy()
    np.savez(outputs, names=json.dumps(described), seconds=np.array(seconds), **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
