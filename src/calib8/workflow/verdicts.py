"""`verdict`: how well INT8 follows FP32, from a few samples, at the end of a calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from calib8.analyze.answers import Numbers, answers_of
from calib8.analyze.lost_parts import PartsSeen
from calib8.analyze.metrics import OutputComparison, compare_outputs
from calib8.analyze.verdict import OutputVerdict, Verdict, output_verdict
from calib8.analyze.yolo import Anchors
from calib8.graph import Array
from calib8.quantize import QuantPlan
from calib8.workflow.judging import check_int8
from calib8.workflow.network import Network
from calib8.workflow.samples import images_per_run, runs_of
from calib8.workflow.side_by_side import SideBySide

_SHARE = 20
_FEWEST, _MOST = 2, 16


@dataclass(frozen=True)
class VerdictOptions:
    """On what a verdict rests.

    Attributes:
        calibrated: how many samples, the first ones, the network was calibrated with.
        images: how many samples it is run on; None for a twentieth of those, from 2 to 16.
        threads: None for all cores that this process may use. The number changes no result.
        anchors: of a YOLO network, from the finest map to the coarsest; () for those of YOLOv3.
    """

    calibrated: int = 0
    images: int | None = None
    threads: int | None = None
    anchors: Anchors = ()

    @property
    def count(self) -> int:
        """How many samples are wanted."""
        return min(_MOST, max(_FEWEST, self.calibrated // _SHARE)) if self.images is None else self.images


def verdict(network: Network, plan: QuantPlan, options: VerdictOptions = VerdictOptions()) -> Verdict:
    """Compare INT8 with FP32 on samples that the network was not calibrated with, if there are any.

    Raises:
        QuantizationError: nothing of the network runs in INT8.
        DataError, UserLayerError: the samples cannot be used.
    """
    check_int8(network, plan)
    model, size = network.of_one_sample, network.samples.size
    held_out = size is None or size >= options.calibrated + min(options.count, _FEWEST)
    skipped = options.calibrated if held_out else 0
    wanted = options.count if size is None else min(options.count, size - skipped)
    both = SideBySide(model, [plan], threads=options.threads)
    answers = answers_of(model, options.anchors)
    counts: list[list[tuple[int, int]]] = [[] for _ in answers]
    # Not of what layers in Python give, whose rows may be others in INT8.
    numbers = [v for answer in answers if isinstance(answer, Numbers) for v in answer.values if v in both.compared]
    parts = {v: PartsSeen(model.net.producer[v]) for v in numbers}
    total, images = OutputComparison(), 0
    for inputs in _last_runs(network, skipped, wanted):
        reference, result = both.run(inputs)
        total += compare_outputs(reference, result, both.compared)
        images += 1
        for value, seen in parts.items():
            seen.add(reference[value], result[value])
        for own, answer in zip(counts, answers, strict=True):
            own.append(answer.agreement(reference, result))
    blob_of = model.net.blob_of
    outputs: list[OutputVerdict] = []
    for own, answer in zip(counts, answers, strict=True):
        # Of detections, what goes into the layer that makes them is compared.
        compared = {v: c for v, c in total.by_value.items() if v in answer.values} or dict(total.by_value)
        lost = next((parts[v].lost for v in answer.values if v in parts), None)
        outputs.append(output_verdict(answer, [blob_of[v] for v in answer.values], compared, own, lost))
    return Verdict(tuple(outputs), images, held_out)


def _last_runs(network: Network, skipped: int, wanted: int) -> Iterator[Mapping[str, Array]]:
    """The runs behind those that a calibration has used."""
    per_run = images_per_run(network.of_one_sample)
    start = -(-skipped // per_run)
    runs = max(1, wanted // per_run)
    size = network.samples.size
    count = (start + runs) * per_run
    return islice(runs_of(network, count if size is None else min(count, size)), start, start + runs)
