"""What pycaffe keeps for the whole process: the device and the random numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from calib8.engine import use_gpu
from calib8.errors import OptionError


@dataclass
class _State:
    gpu_mode: bool = False
    gpu: int = 0
    yolo: bool = False
    numbers: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))


_state = _State()


def set_mode_cpu() -> None:
    """Compute on the CPU, as at the start."""
    _state.gpu_mode = False
    use_gpu(None)


def set_mode_gpu() -> None:
    """Compute on the GPU of `set_device`, here and in a `Calibration`: DeviceError where it cannot be used."""
    _state.gpu_mode = True
    use_gpu(_state.gpu)


def set_device(device_id: int) -> None:
    """Choose the number of the GPU that `set_mode_gpu` means."""
    if device_id < 0:
        raise OptionError(f"set_device({device_id}): GPUs are numbered from 0")
    _state.gpu = int(device_id)
    if _state.gpu_mode:
        use_gpu(_state.gpu)


def yolo() -> None:
    """Pool as Darknet in all nets that are made from now on; see calib8.pycaffe.darknet for what that changes."""
    _state.yolo = True


def is_yolo() -> bool:
    """Tell whether `yolo` was called."""
    return _state.yolo


def set_random_seed(seed: int) -> None:
    """Begin the numbers of fillers (weights without a caffemodel, DummyData) anew; they begin with seed 0."""
    _state.numbers = np.random.default_rng(seed)


def random_numbers() -> np.random.Generator:
    """Give the generator that all fillers share."""
    return _state.numbers
