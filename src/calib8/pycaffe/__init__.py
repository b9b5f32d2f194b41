"""What `import caffe` offers: pycaffe for inference.

- `net`: `Net`, the mutable face of a network; `blob`: its blobs and weights
- `numbered`: blobs and layers by their numbers
- `definition`: the prototxt as a model; `feeds`: what fills data layers; `weights`, `fillers`: what fills weights
- `passes`, `stretch`: forward passes over some layers, with blobs computed when they are read
- `int8`: the integers of `net.int8_init`; `darknet`: what `yolo` changes
- `process`: a log and a clock; `state`: device, random numbers and `yolo` of the process
- `io`, `resize`, `transformer`: images, messages and arrays; `classifier`, `detector`: Nets with preprocessing
- `net_spec`: networks written in Python; `coord_map`: where their tops lie in each other; `draw`: pictures of networks
- `training`: what is not there
"""

from calib8.graph import Phase
from calib8.pycaffe.classifier import Classifier
from calib8.pycaffe.definition import layer_type_list
from calib8.pycaffe.detector import Detector
from calib8.pycaffe.net import Net
from calib8.pycaffe.net_spec import NetSpec, layers, params, to_proto
from calib8.pycaffe.process import Timer, init_log, log
from calib8.pycaffe.state import set_device, set_mode_cpu, set_mode_gpu, set_random_seed, yolo
from calib8.pycaffe.training import (
    NCCL,
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    get_solver,
    has_nccl,
    set_multiprocess,
    set_solver_count,
    set_solver_rank,
    solver_count,
    solver_rank,
)
from calib8.python_layers import Layer

TRAIN, TEST = map(int, Phase)

__all__ = [
    "NCCL",
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Classifier",
    "Detector",
    "Layer",
    "NesterovSolver",
    "Net",
    "NetSpec",
    "RMSPropSolver",
    "SGDSolver",
    "Timer",
    "get_solver",
    "has_nccl",
    "init_log",
    "layer_type_list",
    "layers",
    "log",
    "params",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_multiprocess",
    "set_random_seed",
    "set_solver_count",
    "set_solver_rank",
    "solver_count",
    "solver_rank",
    "to_proto",
    "yolo",
]
