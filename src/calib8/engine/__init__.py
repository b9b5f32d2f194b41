"""ONNX Runtime behind one face: steps in, values out, and who looks at which value when.

- `options`: threads and device
- `session`: one ONNX graph in ONNX Runtime
- `gpu`, `even_pads`: the same on a GPU, and why it cannot be used; what cuDNN cannot do, as other nodes
- `executor`: `Executor`, the steps of a network run in order; buffers kept, or freed behind their last reader
- `layout`: where outputs of steps lie in memory that they share
- `memory`: the arena of all sessions, and what goes back to the system
- `cache`: `ExecutorCache`, those that wait for their next use, as many as fit into memory
- `crew`: `Crew`, threads for images that go through a network one each
- `run`: `run_float` and `run_int8`, a network once
"""

from calib8.engine.cache import ExecutorCache
from calib8.engine.crew import Crew
from calib8.engine.executor import Executor
from calib8.engine.options import EngineOptions, use_gpu
from calib8.engine.run import run_float, run_int8, run_layer

__all__ = ["Crew", "EngineOptions", "Executor", "ExecutorCache", "run_float", "run_int8", "run_layer", "use_gpu"]
