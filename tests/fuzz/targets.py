"""One target a reader: bytes go in, and nothing but a Calib8Error may come out.

A target is a function of bytes and of a folder that it may write into. Used by the tests (the corpus, and some hundred
mutations of it), by `make fuzz` (libFuzzer over calib8's own code, where atheris has a wheel), and by hand:
`python tests/fuzz/run.py TARGET FILE`.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from calib8.analyze.journal import Journal
from calib8.cli.main import build_parser, main
from calib8.data.arrays import ArraysSource
from calib8.data.datum import decode_image, read_datum
from calib8.data.general_data_param import read_param
from calib8.data.image_list import read_image_list
from calib8.data.image_params import read_image_params
from calib8.data.lmdb_env import LmdbRecords
from calib8.data.mean import read_mean
from calib8.data.sources import open_source
from calib8.data.transform import Transform
from calib8.errors import Calib8Error
from calib8.export import read_plan, table_name
from calib8.export.record import parse_record
from calib8.lowering import build_model, lower_float
from calib8.lowering.examine import examine_model
from calib8.onnx_in import read_onnx
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import parse_prototxt, read_prototxt

Target = Callable[[bytes, Path], None]
TARGETS: dict[str, Target] = {}
_MOST_ELEMENTS = 2**20
_NET = parse_prototxt(
    'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 2, 4, 4] } } }\n'
    'layer { name: "conv" type: "Convolution" bottom: "x" top: "c"\n'
    "        convolution_param { num_output: 3 kernel_size: 1 } }\n"
    'layer { name: "relu" type: "ReLU" bottom: "c" top: "c" relu_param { negative_slope: 0.1 } }\n'
    'layer { name: "cat" type: "Concat" bottom: "c" bottom: "x" top: "y" }\n'
)
_MODEL = build_model(_NET, {"conv": [np.full((3, 2, 1, 1), 0.5, np.float32), np.zeros(3, np.float32)]})


def target(function: Target) -> Target:
    """Register a target; its name is what follows the first underscore."""
    TARGETS[function.__name__.partition("_")[2]] = function
    return function


def refuses(call: Callable[[], object]) -> None:
    """A reader may refuse, in lines that a terminal can show."""
    try:
        call()
    except Calib8Error as why:
        lines = str(why).split("\n")
        assert all(line.isprintable() and len(line) < 5000 for line in lines), lines
        assert why.problems and all(why.problems)


def written(data: bytes, folder: Path, name: str) -> Path:
    """A file with these bytes, written over the last one."""
    path = folder / name
    path.write_bytes(data)
    return path


@target
def fuzz_prototxt(data: bytes, folder: Path) -> None:
    """Text to a network, its shapes, and a graph."""
    path = written(data, folder, "net.prototxt")

    def read() -> None:
        found = examine_model(read_prototxt(path))
        model = found.model()
        if sum(int(np.prod(shape, dtype=object)) for shape in model.shapes.values()) < _MOST_ELEMENTS:
            tops = [t for layer in model.net.layers for t in layer.tops if t not in model.inputs]
            shapes = [
                op.blob_shapes([model.shapes[b] for b in x.bottoms])
                for x, op in zip(model.net.layers, model.ops, strict=True)
            ]
            if not any(shapes):
                lower_float(model, tops)

    refuses(read)


@target
def fuzz_onnx(data: bytes, folder: Path) -> None:
    """An ONNX model to layers, and to a graph of ours."""

    def read() -> None:
        found = read_onnx(written(data, folder, "net.onnx"))
        model = build_model(found.prototxt, found.weights)
        if sum(int(np.prod(shape, dtype=object)) for shape in model.shapes.values()) < _MOST_ELEMENTS:
            lower_float(model, [t for layer in model.net.layers for t in layer.tops if t not in model.inputs])

    refuses(read)


@target
def fuzz_caffemodel(data: bytes, folder: Path) -> None:
    """Binary of all ages, text, and HDF5 by its first bytes."""
    refuses(lambda: read_caffemodel(written(data, folder, "w.caffemodel")))


@target
def fuzz_hdf5(data: bytes, folder: Path) -> None:
    """Weights and samples in HDF5."""
    path = written(data, folder, "a.h5")
    refuses(lambda: read_caffemodel(path))
    (folder / "list.txt").write_text("a.h5\n")
    layer = 'layer { name: "d" type: "HDF5Data" top: "data" hdf5_data_param { source: "list.txt" batch_size: 2 } }'
    param = parse_prototxt(layer).net.layer[0]
    refuses(lambda: next(open_source(param, folder).batches()))


@target
def fuzz_table(data: bytes, folder: Path) -> None:
    """Calibration tables in their three forms, told apart by their bytes."""
    path = written(data, folder, "table")
    refuses(lambda: read_plan(_MODEL, path))
    refuses(lambda: table_name(path))


@target
def fuzz_int8_model(data: bytes, folder: Path) -> None:
    """The integer weights of a calibration, with a table that fits."""
    rows = "conv 1 7\nrelu 1 7\ncat 1 7\nx 1 0\n"
    table, weights = written(rows.encode(), folder, "t"), written(data, folder, "m_int8.caffemodel")
    refuses(lambda: read_plan(_MODEL, table, weights))


@target
def fuzz_record(data: bytes, folder: Path) -> None:
    """bmnet_NAME.calib8.json."""
    refuses(lambda: parse_record(data, "record"))


@target
def fuzz_journal(data: bytes, folder: Path) -> None:
    """The record of a search, which goes on with it."""
    path = written(data, folder, "journal")

    def read() -> None:
        with Journal(path, "d") as journal:
            journal.recall([{"kind": "Trial", "group": "g", "threshold": 1.0}])

    refuses(read)


@target
def fuzz_lmdb(data: bytes, folder: Path) -> None:
    """A database, and its records as samples."""
    path = written(data, folder, "data.mdb")
    refuses(lambda: list(LmdbRecords(path, "lmdb")))
    layer = 'layer { name: "d" type: "Data" top: "data" data_param { source: "data.mdb" batch_size: 3 backend: LMDB } }'
    refuses(lambda: list(open_source(parse_prototxt(layer).net.layer[0], folder).batches()))


@target
def fuzz_datum(data: bytes, folder: Path) -> None:
    """A record of a database."""
    for annotated in (False, True):
        refuses(lambda annotated=annotated: read_datum(data, Transform(), annotated))  # type: ignore[misc]


@target
def fuzz_image(data: bytes, folder: Path) -> None:
    """An image file, decoded in all ways."""
    for flags in (cv2.IMREAD_COLOR, cv2.IMREAD_GRAYSCALE, cv2.IMREAD_UNCHANGED):
        refuses(lambda flags=flags: decode_image(data, flags))  # type: ignore[misc]


@target
def fuzz_mean(data: bytes, folder: Path) -> None:
    """A mean image, in both forms."""
    for name in ("mean.npy", "mean.binaryproto"):
        path = written(data, folder, name)
        refuses(lambda path=path: read_mean(path, "mean"))  # type: ignore[misc]


@target
def fuzz_arrays(data: bytes, folder: Path) -> None:
    """Samples in an `.npz`."""
    path = written(data, folder, "a.npz")
    refuses(lambda: list(ArraysSource(path, {"x": (2, 3)}, ["x"]).batches()))


@target
def fuzz_list(data: bytes, folder: Path) -> None:
    """A list of images."""
    (folder / "a.png").write_bytes(cv2.imencode(".png", np.zeros((2, 2, 3), np.uint8))[1].tobytes())
    path = written(data, folder, "list.txt")
    refuses(lambda: read_image_list(path, "list", [folder]))


@target
def fuzz_param(data: bytes, folder: Path) -> None:
    """YAML, JSON and Python literals of options."""
    text = data.decode("utf-8", "surrogateescape")
    refuses(lambda: read_param(text, "layer"))
    refuses(lambda: read_image_params(text))


@target
def fuzz_command_line(data: bytes, folder: Path) -> None:
    """Arguments, of which only those are run that read nothing but an empty folder."""
    words = data.decode("utf-8", "surrogateescape").split("\0")[:12]
    before = Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
            try:
                parsed = build_parser().parse_args(words)
                if getattr(parsed, "threads", None) is None and "doctor" not in words[:1]:
                    assert main(words) in (0, 1)
            except SystemExit as why:  # usage, which a command may find wrong after its words were parsed
                assert why.code in (0, 2)
            assert "Traceback" not in err.getvalue() and "a defect of calib8" not in err.getvalue()
    finally:
        os.chdir(before)
