"""Real prototxts and weight files of many forks and years."""

from __future__ import annotations

import time

import numpy as np
import pytest

from calib8.errors import PrototxtError
from calib8.proto import caffe_pb2
from calib8.proto.caffemodel import read_caffemodel, write_caffemodel
from calib8.proto.text import read_prototxt

pytestmark = pytest.mark.shared


def test_every_real_prototxt_is_read_or_refused(shared, capsys):
    files = sorted((shared / "prototxts").glob("*.prototxt"))
    assert len(files) >= 100
    read, refused, unknown, slowest = 0, [], set(), 0.0
    for path in files:
        start = time.process_time()
        try:
            prototxt = read_prototxt(path)
        except PrototxtError as why:
            assert all(p.startswith(f"{path}:") for p in why.problems)
            refused.append(str(why))
        else:
            read += 1
            unknown.update(x.split(": ")[1] for x in prototxt.unknown_fields)
            assert prototxt.net.layer and len(prototxt.places) == len(prototxt.net.layer)
            assert not prototxt.net.layers and not prototxt.net.input
        slowest = max(slowest, time.process_time() - start)
    with capsys.disabled():
        print(f"\n{read} of {len(files)} prototxts read, {len(refused)} refused, slowest {slowest:.2f} s")
        print(f"unknown fields: {', '.join(sorted(unknown))}")
    assert slowest < 5
    assert read >= 0.9 * len(files)


def _weight_files(shared):
    files = sorted([*shared.glob("models/*/*.caffemodel"), *shared.glob("golden/*/*.caffemodel")])
    assert len(files) >= 10
    return files


def test_every_real_caffemodel_holds_what_protobuf_reads(shared):
    for path in _weight_files(shared):
        theirs = caffe_pb2.NetParameter.FromString(path.read_bytes())
        ours = read_caffemodel(path)
        layers = [*theirs.layers, *theirs.layer]
        assert [x.name for x in ours.layers] == [x.name for x in layers], path
        for mine, layer in zip(ours.layers, layers, strict=True):
            for blob, message in zip(mine.blobs, layer.blobs, strict=True):
                assert np.array_equal(blob.ravel(), np.array(message.data, np.float32)), (path, layer.name)


def test_every_real_network_has_layers_for_its_weights(shared):
    for path in shared.glob("models/*/deploy.prototxt"):
        names = {x.name for x in read_prototxt(path).net.layer}
        weights = {x.name for x in read_caffemodel(path.with_name("custom.caffemodel")).layers if x.blobs}
        assert len(weights & names) >= 0.9 * len(weights), path


def test_a_real_network_written_and_read_again(shared, tmp_path):
    folder = shared / "models" / "squeezenet_v1.1"
    layers = {x.name: x for x in read_prototxt(folder / "deploy.prototxt").net.layer}
    model = read_caffemodel(folder / "custom.caffemodel")
    write_caffemodel(
        tmp_path / "out", model.name, [(layers[x.name], x.blobs) for x in model.layers if x.name in layers]
    )
    back = {x.name: x for x in read_caffemodel(tmp_path / "out").layers}
    assert len(back) == len(layers)
    for layer in model.layers:
        assert all(np.array_equal(a, b) for a, b in zip(layer.blobs, back[layer.name].blobs, strict=True))
