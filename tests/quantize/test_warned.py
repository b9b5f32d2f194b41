"""What is said of many layers."""

from __future__ import annotations

from calib8.quantize import together


def test_what_is_said_of_many_layers_is_one_line():
    which = ["channel 3", *["channels 1, 2 and 5 more"] * 19]
    dead = [f"layer 'bn{i}': the variance of {channels} is low; dead" for i, channels in enumerate(which)]
    bias = [f"layer 'c{i}': the bias of channels 1, 2 does not fit" for i in range(3)]
    assert together([*dead, *bias]) == [
        *bias, "20 layers ('bn0', 'bn1', 'bn2', ..): the variance of some channels is low; dead",
    ]  # fmt: skip
    assert together(dead[:3]) == dead[:3]
    assert together([]) == []
