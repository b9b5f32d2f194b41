"""The work itself, as functions: open a network with its samples, calibrate it, look where INT8 hurts, repair, judge.

Nothing here reads a command line or prints. Options are frozen dataclasses, results are frozen dataclasses that a face
(`calib8.cli`, `calib8.Calibration`) prints or writes; whoever waits is told of progress through a callback.

- `definition`: a network's files; `network`: a network and its samples, read once
- `arrays`: samples of inputs that are no pictures; `inputs`: what they and images take the place of
- `images`: images for a network's input
- `checking`: what is in a network, and what is wrong with it
- `calibrating`: thresholds from samples, integers from thresholds; `repairing`: integers that lose less
- `histograms`: counted once and kept in files; `comparing`: what the methods make of them
- `cluster`: the workers of a Dask scheduler; `cluster_counting`, `cluster_trials`: what they do
- `judging`: what counts as a good result, and the samples that it is judged on (`samples`)
- `diagnosing`: whether the images, and what is done to them, are right
- `measuring`: what INT8 costs on labelled samples (`truth`), with intervals
- `verdicts`: how well INT8 follows FP32, from a few samples and without labels
- `sensitivities`, `tuning`: which layer costs the accuracy, and how to get it back
- `evaluating`: what INT8 is worth against FP32
- `reports`: the files of judging and tuning
- `progress`: what a callback is told

Messages of errors name the parameters of these functions between backticks, as in `samples`; a command puts its
options in their place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calib8.choices import SEARCHES
from calib8.lazy import lazily

if TYPE_CHECKING:
    from calib8.workflow.arrays import Arrays
    from calib8.workflow.calibrating import (
        CalibrateOptions,
        CalibrationResult,
        MeasureOptions,
        calibrate,
        calibrate_again,
        calibrate_given,
        change_thresholds,
        choose_thresholds,
        measure_histograms,
        needed_histograms,
        read_calibration,
        read_thresholds,
    )
    from calib8.workflow.checking import check
    from calib8.workflow.cluster import NetworkFiles, Workers, connected
    from calib8.workflow.cluster_counting import count_on_cluster
    from calib8.workflow.comparing import ComparedBlob, ComparedThreshold, compare_methods, methods_left_out
    from calib8.workflow.diagnosing import DiagnoseOptions, Diagnosis, diagnose, quick_check
    from calib8.workflow.evaluating import EvaluateOptions, Evaluation, evaluate
    from calib8.workflow.histograms import (
        CountOptions,
        Part,
        calibrate_counted,
        calibrate_from,
        count_histograms,
        count_to_file,
        merge_histograms,
        open_calibrated,
        part_of,
        write_histograms,
    )
    from calib8.workflow.images import Images
    from calib8.workflow.judging import JudgeOptions, Metric
    from calib8.workflow.measuring import QualityOptions, QualityReport, TableQuality, Truth, measure_quality
    from calib8.workflow.network import Network, data_layer, open_network
    from calib8.workflow.progress import Progress, ProgressCallback
    from calib8.workflow.reports import (
        draw_sensitivity,
        write_layer_damage,
        write_mixed,
        write_sensitivity,
        write_tuning,
    )
    from calib8.workflow.sensitivities import SensitivityOptions, sensitivity
    from calib8.workflow.tuning import (
        DropOptions,
        LayerDamage,
        MixedResult,
        TuneOptions,
        Tuner,
        TuneResult,
        tune,
    )
    from calib8.workflow.verdicts import VerdictOptions, verdict

__all__ = [
    "SEARCHES",
    "Arrays",
    "CalibrateOptions",
    "CalibrationResult",
    "ComparedBlob",
    "ComparedThreshold",
    "CountOptions",
    "DiagnoseOptions",
    "Diagnosis",
    "DropOptions",
    "EvaluateOptions",
    "Evaluation",
    "Images",
    "JudgeOptions",
    "LayerDamage",
    "MeasureOptions",
    "Metric",
    "MixedResult",
    "Network",
    "NetworkFiles",
    "Part",
    "Progress",
    "ProgressCallback",
    "QualityOptions",
    "QualityReport",
    "SensitivityOptions",
    "TableQuality",
    "Truth",
    "TuneOptions",
    "TuneResult",
    "Tuner",
    "VerdictOptions",
    "Workers",
    "calibrate",
    "calibrate_again",
    "calibrate_counted",
    "calibrate_from",
    "calibrate_given",
    "change_thresholds",
    "check",
    "choose_thresholds",
    "compare_methods",
    "connected",
    "count_histograms",
    "count_on_cluster",
    "count_to_file",
    "data_layer",
    "diagnose",
    "draw_sensitivity",
    "evaluate",
    "measure_histograms",
    "measure_quality",
    "merge_histograms",
    "methods_left_out",
    "needed_histograms",
    "open_calibrated",
    "open_network",
    "part_of",
    "quick_check",
    "read_calibration",
    "read_thresholds",
    "sensitivity",
    "tune",
    "verdict",
    "write_histograms",
    "write_layer_damage",
    "write_mixed",
    "write_sensitivity",
    "write_tuning",
]

__getattr__ = lazily(
    __name__,
    {
        "arrays": "Arrays",
        "calibrating": (
            "CalibrateOptions CalibrationResult MeasureOptions calibrate calibrate_again calibrate_given "
            "change_thresholds choose_thresholds measure_histograms needed_histograms read_calibration "
            "read_thresholds"
        ),
        "checking": "check",
        "cluster": "NetworkFiles Workers connected",
        "cluster_counting": "count_on_cluster",
        "comparing": "ComparedBlob ComparedThreshold compare_methods methods_left_out",
        "diagnosing": "DiagnoseOptions Diagnosis diagnose quick_check",
        "evaluating": "EvaluateOptions Evaluation evaluate",
        "histograms": (
            "CountOptions Part calibrate_counted calibrate_from count_histograms count_to_file merge_histograms "
            "open_calibrated part_of write_histograms"
        ),
        "images": "Images",
        "judging": "JudgeOptions Metric",
        "measuring": "QualityOptions QualityReport TableQuality Truth measure_quality",
        "network": "Network data_layer open_network",
        "progress": "Progress ProgressCallback",
        "reports": "draw_sensitivity write_layer_damage write_mixed write_sensitivity write_tuning",
        "sensitivities": "SensitivityOptions sensitivity",
        "tuning": "DropOptions LayerDamage MixedResult TuneOptions Tuner TuneResult tune",
        "verdicts": "VerdictOptions verdict",
    },
)
