"""ONNX Runtime behind one face: steps in, values out, and who looks at which value when.

- `options`: threads and device
- `session`: one ONNX graph in ONNX Runtime
- `executor`: `Executor`, the steps of a network run in order; buffers kept, or freed behind their last reader
- `run`: `run_float`, a network once, for tests and small uses
"""

from calib8.engine.executor import Executor
from calib8.engine.options import EngineOptions
from calib8.engine.run import run_float

__all__ = ["EngineOptions", "Executor", "run_float"]
