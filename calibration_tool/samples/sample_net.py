"""What the samples share: arguments, images, and a network that runs in FP32 or in INT8."""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from google.protobuf import text_format

import caffe
from caffe.proto import caffe_pb2

DATA_LAYERS = ("AnnotatedData", "Data", "HDF5Data", "ImageData", "Input", "MemoryData", "Python", "WindowData")
"""Layers without bottoms that give a network its samples."""
CHANNELS = {"bgr": 3, "rgb": 3, "gray": 1}


class SampleError(RuntimeError):
    """What the user can put right. caffe's own errors are RuntimeErrors, too."""


def sample_parser(description: str, scale: float = 1.0) -> argparse.ArgumentParser:
    """A parser with the arguments that all samples have; `scale` is a default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "model_path", metavar="model-path", type=Path, help="folder with deploy.prototxt and custom.caffemodel"
    )
    parser.add_argument("image", type=Path, help="image file")
    parser.add_argument(
        "--int8",
        metavar="[FOLDER/]NAME",
        help="run in INT8, with the files bmnet_NAME_* of a calibration in FOLDER (default: model-path)",
    )
    parser.add_argument(
        "--int8_layer", metavar="NAMES", default="", help="with --int8: only these layers, with commas between them"
    )
    parser.add_argument("--scale", type=factor, default=scale, help=f"factor after the mean (default: {scale:.6g})")
    return parser


def add_mean(parser: argparse.ArgumentParser) -> None:
    """The option of samples that subtract a mean."""
    parser.add_argument(
        "--mean", type=numbers, default=[0.0], metavar="V[,V,V]", help="subtracted from pixels, in the order of --color"
    )


def add_size_and_color(parser: argparse.ArgumentParser, *colors: str) -> None:
    """The options of samples that bring any image to the form of the input; the first of `colors` is the default."""
    parser.add_argument(
        "--color", choices=colors, default=colors[0], help=f"order of the channels (default: {colors[0]})"
    )
    parser.add_argument(
        "--size", type=height_and_width, metavar="HxW", help="size of the input; needed if it comes from a data layer"
    )


def run_sample(parser: argparse.ArgumentParser, sample: Callable[[argparse.Namespace], None]) -> int:
    """Exit code: 0, 1 (a message says why), 2 (usage)."""
    args = parser.parse_args()
    try:
        sample(args)
    except OSError as why:
        message = f"{why.filename}: {why.strerror}"
    except RuntimeError as why:
        message = str(why)
    else:
        return 0
    print(f"{parser.prog}: error: {message}", file=sys.stderr)
    return 1


def open_net(args: argparse.Namespace, size: tuple[int, int] | None = None) -> caffe.Net:
    """The network of a model's folder for one image, in FP32 or, with --int8, in INT8.

    Args:
        size: height and width of the input; None takes those of the prototxt.
    """
    deploy = args.model_path / "deploy.prototxt"
    network = read_network(deploy)
    replace_data_layer(network, CHANNELS[args.color], size, deploy)
    with tempfile.TemporaryDirectory() as scratch:
        proto_path = Path(scratch) / "inference.prototxt"
        proto_path.write_text(text_format.MessageToString(network))
        try:
            net = caffe.Net(str(proto_path), str(args.model_path / "custom.caffemodel"), caffe.TEST)
            if args.int8:
                cali_model, cali_proto = calibration_files(args)
                net.int8_init(str(proto_path), str(cali_model), str(cali_proto), args.int8_layer)
        except RuntimeError as why:
            raise SampleError(str(why).replace(str(proto_path), str(deploy))) from None
    return net


def read_network(path: Path) -> caffe_pb2.NetParameter:
    """Read a prototxt."""
    network = caffe_pb2.NetParameter()
    try:
        text_format.Merge(path.read_text(encoding="utf-8"), network)
    except (text_format.ParseError, UnicodeDecodeError) as why:
        raise SampleError(f"{path}: {why}") from None
    if network.layers:
        raise SampleError(f"{path}: has `layers` as Caffe had them before 2014; write `layer`, with types as strings")
    return network


def replace_data_layer(
    network: caffe_pb2.NetParameter, channels: int, size: tuple[int, int] | None, path: Path
) -> None:
    """Put an Input layer where the network gets its samples, so that this script can feed it.

    With enable_quantize it takes real values in INT8, too, and makes x * 128 / threshold of them itself.
    """
    sources = [layer for layer in network.layer if not layer.bottom and layer.type in DATA_LAYERS]
    names = [*network.input, *(layer.top[0] for layer in sources if layer.top)]
    if not names:
        raise SampleError(f"{path}: has no data layer and no input")
    shape = declared_shape(network, sources)
    if size:
        shape = [1, channels, *size]
    if len(shape) != 4:
        raise SampleError(f"{path}: does not say how large its input {names[0]!r} is; give --size HxW")
    if shape[1] != channels:
        raise SampleError(f"{path}: input {names[0]!r} has {shape[1]} channels, --color gives {channels}")
    for layer in sources:
        network.layer.remove(layer)
    for field in ("input", "input_shape", "input_dim"):
        network.ClearField(field)
    data = caffe_pb2.LayerParameter(name=names[0], type="Input", top=[names[0]])
    data.input_param.shape.add(dim=[1, *shape[1:]])
    data.input_param.enable_quantize = True
    network.layer.insert(0, data)


def declared_shape(network: caffe_pb2.NetParameter, sources: list[caffe_pb2.LayerParameter]) -> list[int]:
    """The first input's shape as the prototxt says it; [] for a data layer, which only says it when it runs."""
    shapes = [list(shape.dim) for shape in network.input_shape] or [list(network.input_dim[:4])]
    if not network.input and sources[0].type == "Input":
        shapes = [list(shape.dim) for shape in sources[0].input_param.shape]
    return shapes[0] if shapes else []


def calibration_files(args: argparse.Namespace) -> tuple[Path, Path]:
    """The INT8 model and the table that `calibration.py NAME model-path` has written."""
    asked = Path(args.int8)
    folder = args.model_path if asked.parent == Path() else asked.parent
    files = folder / f"bmnet_{asked.name}_int8.caffemodel", folder / f"bmnet_{asked.name}_calibration_table.pb2"
    for file in files:
        if not file.is_file():
            raise SampleError(f"{file}: there is no such file; calibrate the network first")
    return files


def read_image(path: Path, color: str = "bgr") -> np.ndarray:
    """Pixels (H, W, 3) in the order B, G, R, or (H, W) for "gray", uint8."""
    flags = cv2.IMREAD_GRAYSCALE if color == "gray" else cv2.IMREAD_COLOR
    content = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(content, flags) if content.size else None
    if image is None:
        raise SampleError(f"{path}: is no image that OpenCV reads")
    return image


def write_image(path: Path, image: np.ndarray) -> None:
    """Write pixels as `read_image` gives them; the file's ending says the format."""
    if not cv2.haveImageWriter(str(path)):
        raise SampleError(f"{path}: OpenCV writes no such files; take .png or .jpg")
    if not cv2.imwrite(str(path), image):
        raise SampleError(f"{path}: cannot be written")


def to_input(image: np.ndarray, args: argparse.Namespace) -> np.ndarray:
    """(1, C, H, W), float32: (pixels - mean) * scale with the channels in the order of --color."""
    pixels = image.astype(np.float32)
    if args.color == "gray":
        pixels = pixels[:, :, np.newaxis]
    elif args.color == "rgb":
        pixels = pixels[:, :, ::-1]
    if len(args.mean) not in (1, pixels.shape[2]):
        raise SampleError(f"--mean has {len(args.mean)} values for {pixels.shape[2]} channels")
    return ((pixels - np.float32(args.mean)) * np.float32(args.scale)).transpose(2, 0, 1)[np.newaxis]


def read_labels(path: Path | None) -> list[str]:
    """Names of classes, one a line; none without a file."""
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path else []


def label_of(index: int, labels: list[str]) -> str:
    """The name of a class, or its number."""
    return labels[index] if index < len(labels) else str(index)


def numbers(text: str) -> list[float]:
    """`104,117,123` as numbers; for argparse."""
    found = [float(part) for part in text.split(",")]
    if not all(map(math.isfinite, found)):
        raise ValueError(text)
    return found


def factor(text: str) -> float:
    """A number that one can divide by; for argparse."""
    (found,) = numbers(text)
    if not found:
        raise ValueError(text)
    return found


def height_and_width(text: str) -> tuple[int, int]:
    """`300x400` as (300, 400); for argparse."""
    height, width = (int(part) for part in text.split("x"))
    if min(height, width) < 1:
        raise ValueError(text)
    return height, width
