"""The vendor's current toolchain, tpu-mlir, in an environment of its own: its commands, and the networks it quantises.

    tools = Toolchain(environment, folder)            # environment: a file that, sourced, puts it on the PATH
    theirs = TpuMlir(tools, network, names)
    theirs.float_outputs(inputs), theirs.int8_outputs(samples, inputs, "cv183x")

Integers are run by the toolchain's own interpreter, from the .mlir that its compiler makes the chip's program of.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from real_models import Network

Array = np.ndarray
NAME = "net"
TABLE = "table"
RUNNER = Path(__file__).with_name("run_in_toolchain.py")


class ToolchainError(Exception):
    """A command of the toolchain has failed; says which one, and where its words are."""


class Toolchain:
    """Runs the vendor's commands in a folder; what they print goes to a log there."""

    def __init__(self, environment: Path, folder: Path) -> None:
        self._environment, self.folder = environment.resolve(), folder
        self.log = folder / "toolchain.log"

    def run(self, *command: object) -> None:
        with self.log.open("ab") as log:
            done = subprocess.run(self._shell(*command), cwd=self.folder, stdout=log, stderr=log, check=False)
        if done.returncode:
            raise ToolchainError(f"{command[0]} failed: {self._last_words()}")

    @property
    def version(self) -> str:
        """As its commands say it, without the date."""
        done = subprocess.run(self._shell("model_deploy.py", "--version"), capture_output=True, check=False)
        found = re.search(rb"v(\d+(?:\.\d+)+)", done.stdout)
        if found is None:
            raise ToolchainError(f"{self._environment}: does not put model_deploy.py on the PATH")
        return found[1].decode()

    def _shell(self, *command: object) -> list[str]:
        return ["bash", "-c", f"source {shlex.quote(str(self._environment))} && {shlex.join(map(str, command))}"]

    def _last_words(self) -> str:
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "rror" in line]
        return (errors or lines or ["without a word"])[-1][:200]


class TpuMlir:
    """A network in the toolchain, read from its Caffe files.

    Args:
        names: the values to give.
    """

    def __init__(self, tools: Toolchain, network: Network, names: Sequence[str]) -> None:
        self._tools, self._network, self._names = tools, network, tuple(names)
        for name in ("deploy.prototxt", "custom.caffemodel"):
            shutil.copy(network.folder / name, tools.folder)
        shape = ",".join(map(str, network.shape))
        tools.run(
            "model_transform.py", "--model_name", NAME, "--model_def", "deploy.prototxt",
            "--model_data", "custom.caffemodel", "--input_shapes", f"[[{shape}]]", "--output_names", ",".join(names),
            "--mlir", f"{NAME}.mlir",
        )  # fmt: skip

    def float_outputs(self, inputs: Sequence[Array]) -> Callable[[Array], Mapping[str, Array]]:
        """What FP32 makes of the inputs, for `Evaluation.by`: call after call in their order."""
        return self._outputs(f"{NAME}.mlir", inputs)

    def int8_outputs(
        self, samples: Sequence[Array], inputs: Sequence[Array], chip: str
    ) -> Callable[[Array], Mapping[str, Array]]:
        """The same in INT8: calibrated with `kl`, the default of run_calibration.py, on samples (1, C, H, W)."""
        data = self._tools.folder / "calibration"
        shutil.rmtree(data, ignore_errors=True)  # of another set of samples
        data.mkdir()
        for number, sample in enumerate(samples):
            np.savez(data / f"{number:05}.npz", **{self._network.blob: sample})
        self._tools.run(
            "run_calibration.py", f"{NAME}.mlir", "--dataset", data.name, "--input_num", len(samples),
            "--cali_method", "use_kl", "--chip", chip, "-o", TABLE,
        )  # fmt: skip
        self._tools.run(
            "model_deploy.py", "--mlir", f"{NAME}.mlir", "--chip", chip, "--quantize", "INT8",
            "--calibration_table", TABLE, "--skip_validation", "--not_gen_bmodel", "--model", f"{NAME}.cvimodel",
        )  # fmt: skip
        return self._outputs(f"{NAME}_{chip}_int8_sym_tpu.mlir", inputs)

    def _outputs(self, mlir: str, inputs: Sequence[Array]) -> Callable[[Array], Mapping[str, Array]]:
        folder = self._tools.folder
        np.save(folder / "inputs.npy", np.stack(list(inputs)))
        self._tools.run("python", RUNNER, mlir, "inputs.npy", "outputs.npz", *self._names)
        with np.load(folder / "outputs.npz") as file:
            columns = [file[f"arr_{index}"] for index in range(len(self._names))]
        rows = iter([dict(zip(self._names, row, strict=True)) for row in zip(*columns, strict=True)])
        return lambda _: next(rows)
