"""Runs a network of tpu-mlir: python run_in_toolchain.py MLIR INPUTS.npy OUTPUTS.npz NAME.. in the toolchain's Python.

INPUTS has the samples, (samples, 1, C, H, W). OUTPUTS gets an array for each name in their order, (samples, ...), real
values also where the network has codes.
"""

import sys

import numpy as np
import pymlir


def main() -> None:
    mlir, inputs, outputs, *names = sys.argv[1:]
    pymlir.set_mem_mode("value_mem")
    module = pymlir.module()
    module.load(mlir)
    (blob,) = module.input_names
    rows = []
    for sample in np.load(inputs, mmap_mode="r"):
        module.set_tensor(blob, np.ascontiguousarray(sample), sample.shape)
        module.invoke(True)  # codes become real values
        tensors = module.get_all_tensor()
        rows.append([np.array(tensors[name]) for name in names])
    np.savez(outputs, *(np.stack(column) for column in zip(*rows, strict=True)))


if __name__ == "__main__":
    main()
