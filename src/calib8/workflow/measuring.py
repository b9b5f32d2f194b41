"""`measure_quality`: FP32 and INT8, with one table or several, on labelled samples."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from calib8.analyze.answers import Answer, answers_of
from calib8.analyze.metrics import OutputComparison, compare_outputs
from calib8.analyze.quality import Difference, Measure, difference_of, measures_for
from calib8.analyze.yolo import Anchors
from calib8.choices import USUAL_SAMPLES
from calib8.data import ImagesSource, SampleSource, origin_of
from calib8.data.preprocess import Placement
from calib8.errors import DataError, OptionError
from calib8.lowering import Model
from calib8.quantize import QuantPlan
from calib8.workflow.calibrating import CalibrationResult
from calib8.workflow.judging import JudgeOptions, check_int8
from calib8.workflow.network import Network
from calib8.workflow.progress import Progress, ProgressCallback, quiet
from calib8.workflow.samples import Array, names_of, read_labels, sample_chunks
from calib8.workflow.side_by_side import SideBySide
from calib8.workflow.truth import placed_boxes, placed_maps, read_boxes, read_maps, read_pictures

_IN_MEMORY = 32
_MOST_PROBLEMS = 10


@dataclass(frozen=True)
class Truth:
    """What is true of the samples; one of these at most. Without any, classes are those of the data's own labels.

    Attributes:
        labels: a file with a class a line, or `file-name class`.
        boxes: COCO's JSON, or a folder with YOLO's or VOC's boxes; see `truth.read_boxes`.
        maps: a folder with a map of classes for each image, a PNG.
        pictures: a folder with the wanted picture for each image.
        classes: names of the network's classes, by label, for boxes.
        own_classes: names of the classes of YOLO's text files, where they are others.
        peak: the largest value of a wanted picture, in the units of the output.

    Raises:
        OptionError: more than one of them.
    """

    labels: str | os.PathLike[str] | None = None
    boxes: str | os.PathLike[str] | None = None
    maps: str | os.PathLike[str] | None = None
    pictures: str | os.PathLike[str] | None = None
    classes: tuple[str, ...] = ()
    own_classes: tuple[str, ...] = ()
    peak: float = 255.0

    def __post_init__(self) -> None:
        """Raises OptionError."""
        given = [name for name in ("labels", "boxes", "maps", "pictures") if getattr(self, name) is not None]
        if len(given) > 1:
            raise OptionError(f"`{given[0]}` and `{given[1]}` are both given; an output has one kind of truth")


@dataclass(frozen=True)
class QualityOptions(JudgeOptions):
    """How quality is measured: see `JudgeOptions`, whose metric is not read, and:

    Attributes:
        truth: what is true of the samples.
        int8_layers: only these run in INT8; None for all that can.
        anchors: of a YOLO network, from the finest map to the coarsest; () for those of YOLOv3.
    """

    usual_samples: ClassVar[int] = USUAL_SAMPLES["evaluate"]
    truth: Truth = Truth()
    int8_layers: tuple[str, ...] | None = None
    anchors: Anchors = ()


@dataclass(frozen=True)
class TableQuality:
    """One table.

    Attributes:
        name: of the table.
        differences: a measure each, INT8 with this table against FP32.
        outputs: how far its outputs are from those of FP32.
    """

    name: str
    differences: tuple[Difference, ...]
    outputs: OutputComparison


@dataclass(frozen=True)
class QualityReport:
    """All tables on the same samples.

    Attributes:
        tables: in the order in which they were given.
        images: how many samples.
        kind: what the outputs say: "classes", "boxes", "map", "picture".
    """

    tables: tuple[TableQuality, ...]
    images: int
    kind: str


def measure_quality(
    network: Network,
    tables: Mapping[str, CalibrationResult],
    options: QualityOptions = QualityOptions(),
    progress: ProgressCallback = quiet,
) -> QualityReport:
    """Run labelled samples in FP32 and with each table in INT8. Only a few samples are in memory at a time.

    Raises:
        QuantizationError: nothing of the network runs in INT8.
        DataError, UserLayerError: samples or labels cannot be used, or are missing.
        OptionError: layers that do not exist, or outputs of which nobody knows how to measure them.
    """
    for calibration in tables.values():
        check_int8(network, calibration.plan)
    model, source, count = network.of_one_sample, network.samples, options.count_for(network)
    answer = _answer(model, options)
    truths = _truths(options.truth, model, answer, source, count)
    measures = measures_for(answer, options.truth.peak, math.prod(model.shapes[answer.values[0]][1:]))
    plans = [calibration.plan for calibration in tables.values()]
    if options.int8_layers is not None:
        _check_layers(model, plans[0], options.int8_layers)
    networks = SideBySide(model, plans, int8_layers=options.int8_layers, threads=options.threads)
    parts: list[list[list[Any]]] = [[[] for _ in measures] for _ in range(len(tables) + 1)]
    outputs, done = [OutputComparison()] * len(tables), 0
    for samples in sample_chunks(model, source, count, _IN_MEMORY):
        own = _own_labels(samples.labels, truths, done, len(samples.inputs), answer)
        for inputs, truth in zip(samples.inputs, own, strict=True):
            of_networks = networks.run(inputs)
            _add(parts, measures, of_networks, truth)
            fp32, *int8 = of_networks
            outputs = [o + compare_outputs(fp32, y, networks.compared) for o, y in zip(outputs, int8, strict=True)]
            done += 1
            progress(Progress("evaluating", done, count))
    rows = [
        TableQuality(name, tuple(map(difference_of, measures, parts[0], own_parts)), compared)
        for name, own_parts, compared in zip(tables, parts[1:], outputs, strict=True)
    ]
    return QualityReport(tuple(rows), done, answer.kind)


def _add(
    parts: Sequence[Sequence[list[Any]]],
    measures: Sequence[Measure],
    of_networks: Sequence[Mapping[str, Array]],
    truth: Any,
) -> None:
    """What each network's outputs contribute to each measure."""
    for own, outputs in zip(parts, of_networks, strict=True):
        for kept, measure in zip(own, measures, strict=True):
            kept.append(measure.part(outputs, truth))


def _answer(model: Model, options: QualityOptions) -> Answer:
    """The output that there is a truth of."""
    answers = answers_of(model, options.anchors)
    wanted = {"boxes": "boxes", "maps": "map", "pictures": "picture", "labels": "classes"}
    given = next((kind for name, kind in wanted.items() if getattr(options.truth, name) is not None), None)
    fitting = [a for a in answers if (a.kind == given if given else bool(measures_for(a)))]
    if fitting:
        return fitting[0]
    kinds = ", ".join(f"{model.net.blob_of[a.values[0]]!r} ({a.kind})" for a in answers)
    why = "none of them fits the truth that was given" if given else "nobody knows how to measure them"
    raise OptionError(
        f"{model.net.source}: the outputs are {kinds}; {why}: use `metric` with a function of yours. Without labels, "
        "`calib8 sensitivity` says how far INT8 is from FP32"
    )


def _truths(truth: Truth, model: Model, answer: Answer, source: SampleSource, count: int) -> Sequence[Any] | None:
    """Of all samples, where it lies in them; None for the labels of the data."""
    names = names_of(source)[:count]
    readers: dict[str, Callable[[Any], Sequence[Any]]] = {
        "labels": lambda path: list(read_labels(Path(path), names, count)),
        "boxes": lambda path: placed_boxes(
            read_boxes(path, names, truth.classes, truth.own_classes), _placements(source, count)
        ),
        "maps": lambda path: placed_maps(read_maps(path, names), _placements(source, count)),
        "pictures": lambda path: _pictures(path, names, source, model, answer),
    }
    for name, read in readers.items():
        if getattr(truth, name) is not None:
            return read(getattr(truth, name))
    if answer.kind != "classes":
        wanted = {"boxes": "boxes", "map": "maps", "picture": "pictures"}[answer.kind]
        name = model.net.blob_of[answer.values[0]]
        raise DataError(f"output {name!r} ({answer.kind}): its truth no data layer gives; give it (`{wanted}=..`)")
    return None


def _placements(source: SampleSource, count: int) -> list[Placement] | None:
    """Where the images lie in their samples; None where they fill them, as they are."""
    own = origin_of(source)
    if not isinstance(own, ImagesSource) or (own.preprocess.resize == "warp" and own.preprocess.mirror is None):
        return None
    return own.placements(count)


def _pictures(path: Any, names: Sequence[str], source: SampleSource, model: Model, answer: Answer) -> list[Array]:
    """The wanted pictures, which must have the size and the channels of the output."""
    own = origin_of(source)
    if isinstance(own, ImagesSource) and (own.preprocess.resize != "warp" or own.preprocess.mirror is not None):
        raise OptionError(
            "`pictures` are compared with the outputs pixel by pixel: images must fill the sample (`resize=warp`), "
            "and no `mirror`"
        )
    wanted, pictures = model.shapes[answer.values[0]][1:], read_pictures(path, names)
    other = [f"{n}: {_by_x(p.shape[1:])}" for n, p in zip(names, pictures, strict=True) if p.shape[1:] != wanted]
    if other:
        raise DataError(
            f"{path}: {len(other)} of {len(names)} pictures are not {_by_x(wanted)} (channels, height, width), as the "
            f"output {model.net.blob_of[answer.values[0]]!r} is", other[:_MOST_PROBLEMS],
        )  # fmt: skip
    return pictures


def _by_x(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _own_labels(
    labels: Array | None, truths: Sequence[Any] | None, start: int, count: int, answer: Answer
) -> Sequence[Any]:
    """The truth of some samples."""
    if truths is not None:
        return truths[start : start + count]
    if labels is None or len(labels) != count:
        raise DataError("the data give no labels; give them (`labels=..`), a class for each image")
    return list(labels)


def _check_layers(model: Model, plan: QuantPlan, layers: Collection[str]) -> None:
    unknown = [name for name in layers if plan.forms.get(name) is None]
    if unknown:
        what = [f"{n!r} runs in FP32" if n in model.net.layer_by_name else f"no layer {n!r}" for n in unknown]
        raise OptionError(f"{model.net.source}: `int8_layers`: layers that cannot run in INT8", what)
