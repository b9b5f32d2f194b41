"""Where elements of tops lie in each other, against the centres of windows; and the Crop that aligns two tops."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import caffe
from caffe import layers as L  # noqa: N812 - its name in every script
from caffe import params as P  # noqa: N812
from caffe.coord_map import coord_map_from_to, crop
from calib8.errors import OptionError

windows = st.lists(
    st.tuples(
        st.sampled_from(["Convolution", "Pooling", "Deconvolution", "ReLU"]),
        st.integers(1, 5),
        st.integers(1, 4),
        st.integers(0, 2),
        st.integers(1, 2),
    ),
    max_size=5,
)


def centre(kind, place, kernel, stride, pad, dilation):
    """Where in its bottom the middle of a layer's window lies, of which `place` of the top is made."""
    reach = Fraction(dilation * (kernel - 1), 2)
    if kind == "ReLU":
        return place
    return (place + pad - reach) / stride if kind == "Deconvolution" else place * stride - pad + reach


def add(kind, bottom, kernel, stride, pad, dilation):
    if kind == "ReLU":
        return L.ReLU(bottom)
    window = {"kernel_size": kernel, "stride": stride, "pad": pad}
    if kind == "Pooling":
        return L.Pooling(bottom, pool=P.Pooling.AVE, **window)
    return getattr(L, kind)(bottom, convolution_param={"num_output": 2, "dilation": dilation, **window})


@given(windows)
def test_a_chain_of_windows(chain):
    data = top = L.Input(shape={"dim": [1, 2, 64, 64]})
    for kind, kernel, stride, pad, dilation in chain:
        top = add(kind, top, kernel, stride, pad, dilation)
    first, second = Fraction(0), Fraction(1)
    for kind, kernel, stride, pad, dilation in reversed(chain):
        numbers = kernel, stride, pad, dilation if kind != "Pooling" else 1
        first, second = (centre(kind, place, *numbers) for place in (first, second))
    _, scale, shift = coord_map_from_to(top, data)
    np.testing.assert_allclose(scale, float(second - first), rtol=1e-12)
    np.testing.assert_allclose(shift, float(first), rtol=1e-12, atol=1e-12)
    _, back, _ = coord_map_from_to(data, top)
    np.testing.assert_allclose(back * scale, 1)


def test_numbers_for_each_axis():
    data = L.Input(shape={"dim": [1, 2, 64, 64]})
    top = L.Convolution(data, num_output=1, kernel_size=[3, 5], stride=[1, 2], pad=[0, 4])
    axis, scale, shift = coord_map_from_to(top, data)
    assert (axis, scale.tolist(), shift.tolist()) == (1, [1, 2], [1, -2])


def fully_convolutional(pad, cut=0):
    n = caffe.NetSpec()
    n.data = L.Input(shape={"dim": [1, 1, 20, 20]})
    n.conv = L.Convolution(n.data, num_output=2, kernel_size=3, pad=pad)
    n.pool = L.Pooling(n.conv, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    n.up = L.Deconvolution(n.pool, convolution_param={"num_output": 1, "kernel_size": 4, "stride": 2, "pad": cut})
    return n


def test_a_crop_aligns_a_fully_convolutional_network(make_net):
    n = fully_convolutional(pad=6)
    n.score = crop(n.up, n.data)
    param = n.to_proto().layer[-1].crop_param
    assert (param.axis, list(param.offset)) == (2, [6])
    net = make_net(str(n.to_proto()))
    assert net.blobs["score"].shape == (1, 1, 20, 20)
    _, scale, shift = coord_map_from_to(n.score, n.data)
    assert (scale.tolist(), shift.tolist()) == ([1], [0])


def test_what_no_crop_aligns():
    n = fully_convolutional(pad=0, cut=1)
    with pytest.raises(AssertionError, match=r"offsets \[-1.0\] are negative"):
        crop(n.up, n.data)
    with pytest.raises(OptionError, match=r"scales are \[2.0\]"):
        crop(n.pool, n.data)
    with pytest.raises(OptionError, match="no whole numbers"):
        crop(L.Convolution(n.data, num_output=1, kernel_size=2, pad=1), n.data)


def test_tops_without_a_map():
    n = fully_convolutional(pad=0)
    other = L.Input(shape={"dim": [1, 1, 20, 20]})
    for top in (other, L.InnerProduct(n.up, num_output=3), L.Crop(other, n.data)):
        with pytest.raises(RuntimeError, match="no common ancestor"):
            coord_map_from_to(top, n.data)
    with pytest.raises(OptionError, match="kernel_h, kernel_w"):
        coord_map_from_to(L.Convolution(n.data, num_output=1, kernel_h=3, kernel_w=1), n.data)
    with pytest.raises(OptionError, match="different axes, 2 and 1"):
        coord_map_from_to(L.Convolution(n.conv, num_output=1, kernel_size=1, axis=2), n.data)
