"""What counts as a good result, and what judges: a metric, its labels, the samples that a network is run on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from calib8.analyze.answers import values_of_classes
from calib8.analyze.experiment import ExperimentOptions
from calib8.analyze.judges import Judge, QualityDrop, SquaredDifference, finds_of, top1
from calib8.analyze.user_metric import function_metric, user_metric
from calib8.analyze.yolo import Anchors, yolo_difference
from calib8.boundary import closed_class
from calib8.choices import DEFAULT_BUDGET, USUAL_SAMPLES
from calib8.errors import OptionError, QuantizationError
from calib8.lowering import Model
from calib8.quantize import QuantPlan
from calib8.workflow.network import Network
from calib8.workflow.samples import Array, Samples, images_per_run, read_labels, read_samples

_MEGABYTE = 1 << 20
_READ_NO_LABELS = ("difference", "yolo")


@closed_class
@dataclass(frozen=True)
class Metric:
    """What counts, as a loss: 0 for outputs that are those of FP32, less is better.

    Attributes:
        name: "difference" is the mean squared difference of each output, summed over outputs, averaged over samples;
            "yolo" the same of boxes and scores, after decoding YOLO outputs; "top1" by how much top-1 accuracy falls,
            or, without labels, how often the best class is another than in FP32; "module:function" by how much a
            function of yours falls, found in the working directory or on PYTHONPATH.
        function: a function of yours in the place of a name: `function(fp32, int8)` or, with labels,
            `function(fp32, int8, labels)`. fp32 and int8 hold an array for each output blob, all samples along axis 0;
            more is better.
        labels: for "top1" and functions: a file with a number a line in the order of the samples, or `file-name
            number`; None for those of the network's data layer, if it gives any.
        anchors: for "yolo": width and height in pixels, from the finest map to the coarsest; () for those of YOLOv3.

    Raises:
        OptionError: labels or anchors that the metric does not read.
    """

    name: str = "difference"
    function: Callable[..., float] | None = None
    labels: str | os.PathLike[str] | None = None
    anchors: Anchors = ()

    def __post_init__(self) -> None:
        """Raises OptionError."""
        if self.labels is not None and not self.reads_labels:
            raise OptionError(
                f"`labels` are not read by `metric` {self.name}; they are for top1 and for functions of yours"
            )
        if self.anchors and not self.reads_anchors:
            raise OptionError(f"`anchors` are not read by `metric` {self.name}; they are for yolo")

    @property
    def is_difference(self) -> bool:
        """Whether it is the squared difference of the outputs."""
        return self.function is None and self.name == "difference"

    @property
    def reads_labels(self) -> bool:
        """Whether labels mean anything to it."""
        return self.function is not None or self.name not in _READ_NO_LABELS

    @property
    def reads_anchors(self) -> bool:
        """Whether anchors mean anything to it."""
        return self.function is None and self.name == "yolo"


@closed_class
@dataclass(frozen=True)
class JudgeOptions:
    """How a network is judged.

    Attributes:
        samples: how many images it is run on, the first ones; None for `usual_samples`, or all where there are fewer.
        metric: what counts.
        threads: None for all cores that this process may use. The number changes no result.
        budget: most memory for values that are kept between runs, in MB of 2^20 bytes; less of it is slower.

    Raises:
        OptionError: values that are not possible; all of them.
    """

    usual_samples: ClassVar[int] = USUAL_SAMPLES["sensitivity"]
    samples: int | None = None
    metric: Metric = Metric()
    threads: int | None = None
    budget: int = DEFAULT_BUDGET

    def __post_init__(self) -> None:
        """Raises OptionError."""
        problems = self.problems()
        if len(problems) == 1:
            raise OptionError(problems[0])
        if problems:
            raise OptionError("options that cannot be used", problems)

    def problems(self) -> list[str]:
        """Say what is wrong, a sentence each."""
        problems = []
        if self.samples is not None and self.samples < 1:
            problems.append(f"`samples` is {self.samples}; it must be at least 1")
        if self.budget < 0:
            problems.append(f"`budget` is {self.budget}; it must be 0 or more")
        return problems

    def count_for(self, network: Network) -> int:
        """Say how many images: as asked for, or as usual, as far as there are so many that fill whole runs."""
        if self.samples is not None:
            return self.samples
        per_run, size = images_per_run(network.of_one_sample), network.samples.size
        count = self.usual_samples if size is None else min(self.usual_samples, size)
        return max(count // per_run, 1) * per_run

    @property
    def experiment(self) -> ExperimentOptions:
        """The part that an experiment takes."""
        return ExperimentOptions(self.threads, self.budget * _MEGABYTE)


def samples_to_judge(network: Network, plan: QuantPlan, count: int) -> Samples:
    """Read the samples for a network of which something runs in INT8.

    Raises:
        QuantizationError: nothing of it does.
        DataError: there are fewer samples, or they do not fit the network.
    """
    check_int8(network, plan)
    return read_samples(network.of_one_sample, network.samples, count)


def check_int8(network: Network, plan: QuantPlan) -> None:
    """Refuse a network of which nothing runs in INT8.

    Raises:
        QuantizationError: nothing does.
    """
    if all(own is None for own in plan.forms.values()):
        raise QuantizationError(
            f"{network.model.net.source}: no layer of this network runs in INT8, so there is nothing to judge or to "
            "tune"
        )


def judge_of(metric: Metric, model: Model, samples: Samples, values: Sequence[str]) -> Judge:
    """Make the judge of a metric over samples that are in memory; see `make_judge`.

    Raises:
        OptionError: no such metric.
        DataError: labels that cannot be used.
    """
    given = given_labels(metric, samples.names, samples.images)
    return make_judge(metric, model, values, by_run(samples.labels if given is None else given, len(samples.inputs)))


def make_judge(metric: Metric, model: Model, values: Sequence[str], labels: Array | None) -> Judge:
    """Make the judge of a metric.

    Args:
        values: that stand for the network's outputs, for the built-in metrics.
        labels: by run, along axis 0; None for none.

    Raises:
        OptionError: no such metric.
    """
    if metric.is_difference:
        return SquaredDifference(values)
    if metric.reads_anchors:
        return yolo_difference(model, values, metric.anchors)
    if metric.function is None and metric.name == "top1":
        # Boxes beside classes have no best class; who judges outputs without classes by top-1 says that they are some.
        of_classes = values_of_classes(model)
        classes = [v for v in values if v in of_classes]
        return QualityDrop("top1", top1, classes or values, labels)
    if metric.function is None:
        name, (quality, code) = metric.name, user_metric(metric.name, model)
    else:
        name, (quality, code) = metric.function.__qualname__, function_metric(metric.function, model)
    return QualityDrop(name, quality, model.net.outputs, labels, code, finds_of(model))


def given_labels(metric: Metric, names: Sequence[str], images: int) -> Array | None:
    """Read the labels that the metric names, one for each image; None where it names none.

    Raises:
        DataError: labels that cannot be used.
    """
    return None if metric.labels is None else read_labels(Path(metric.labels), names, images)


def by_run(labels: Array | None, runs: int) -> Array | None:
    """Put the labels of images that go through the network together side by side."""
    return labels if labels is None or len(labels) == runs else labels.reshape(runs, -1)
