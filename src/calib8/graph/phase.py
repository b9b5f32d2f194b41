"""Caffe's phases, and which layers of a prototxt take part in one.

Source: BVLC/caffe, src/caffe/net.cpp, Net::Net, Net::FilterNet and Net::StateMeetsRule.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum

from calib8.proto import caffe_pb2


class Phase(IntEnum):
    """What a network is for, with the numbers that Caffe has for it (BVLC/caffe, src/caffe/proto/caffe.proto)."""

    TRAIN = 0
    TEST = 1


def layers_taking_part(
    net: caffe_pb2.NetParameter, phase: Phase, level: int = 0, stages: Collection[str] = ()
) -> dict[int, caffe_pb2.LayerParameter]:
    """Select the LayerParameters of a NetParameter that belong to the net in this state, by their index in the file.

    The stages of the file's own `state` count, too. Its phase and its level do not: Caffe overwrites both.
    """
    every = {*net.state.stage, *stages}
    return {index: param for index, param in enumerate(net.layer) if layer_takes_part(param, phase, level, every)}


def layer_takes_part(
    param: caffe_pb2.LayerParameter, phase: Phase, level: int = 0, stages: Collection[str] = ()
) -> bool:
    """Tell whether a LayerParameter belongs to the net in this state.

    With `include` rules, one of them must be met; with `exclude` rules, none of them. Without rules it is in.
    A layer with rules of both kinds is Caffe's error, which `graph.build` refuses before.
    """
    if param.include:
        return any(_meets(rule, phase, level, stages) for rule in param.include)
    return not any(_meets(rule, phase, level, stages) for rule in param.exclude)


def _meets(rule: caffe_pb2.NetStateRule, phase: Phase, level: int, stages: Collection[str]) -> bool:
    if rule.HasField("phase") and rule.phase != int(phase):
        return False
    if rule.HasField("min_level") and level < rule.min_level:
        return False
    if rule.HasField("max_level") and level > rule.max_level:
        return False
    return all(s in stages for s in rule.stage) and not any(s in stages for s in rule.not_stage)
