"""Where a network is: a folder with a prototxt and a caffemodel, or one ONNX model."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from calib8.cli.arguments.common_options import OptionHolder
from calib8.errors import OptionError
from calib8.reading import is_folder, require_folder

ONNX_SUFFIX = ".onnx"
NAME = "name of the network, in the files and in the table"
PATH = "folder with deploy.prototxt and custom.caffemodel, or an ONNX model"


@dataclass(frozen=True)
class Files:
    """The files of a network.

    Attributes:
        given: PATH, as it was given.
        definition: the prototxt, or the ONNX model.
        weights: the caffemodel; None for an ONNX model, which holds its weights.
    """

    given: Path
    definition: Path
    weights: Path | None

    @property
    def is_onnx(self) -> bool:
        """Whether it is an ONNX model."""
        return self.weights is None

    def require(self) -> None:
        """Raise OptionError where the folder is none; a file that is missing is an error of who reads it."""
        if not self.is_onnx:
            require_folder(self.given, OptionError, "it holds deploy.prototxt and custom.caffemodel")


def add_network_arguments(parser: OptionHolder, name_help: str = NAME, path_help: str = PATH) -> None:
    """Add NAME and PATH: both, or one ONNX model alone, which has the name of its file."""
    parser.add_argument(
        "name", metavar="NAME", type=name_or_model, help=f"{name_help}; or an ONNX model, named after its file"
    )
    parser.add_argument("path", metavar="PATH", nargs="?", type=Path, help=path_help)


def name_or_model(text: str) -> str:
    """Take a network's name, or the path of an ONNX model in the place of both NAME and PATH."""
    return text if is_model(Path(text)) else network_name(text)


def network_name(text: str) -> str:
    """Take a network's name as an argument: it becomes part of the files' names."""
    if not text or "/" in text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be part of a file's name")
    return text


def files_of(path: Path) -> Files:
    """Say which files are meant by PATH."""
    if is_model(path):
        return Files(path, path, None)
    return Files(path, path / "deploy.prototxt", path / "custom.caffemodel")


def place(options: argparse.Namespace) -> None:
    """Put `files` beside NAME and PATH, where a command has them; `path` is then the folder where its files go.

    One ONNX model alone gives both. Prints the usage and ends where PATH is missing.
    """
    if getattr(options, "name", None) is None or not hasattr(options, "path"):
        return
    if options.path is None:
        if not is_model(Path(options.name)):
            options.usage_error("the following arguments are required: PATH (or an ONNX model in the place of both)")
        options.path = Path(options.name)
        options.name = network_name(options.path.stem)
    options.files = files_of(options.path)
    if options.files.is_onnx:
        options.path = options.path.parent


def is_model(path: Path) -> bool:
    """Tell whether a path is that of an ONNX model."""
    return path.name.lower().endswith(ONNX_SUFFIX) and not is_folder(path)
