"""What counts as a good result, as the options say it."""

from __future__ import annotations

import argparse

from calib8.workflow import Metric


def metrics_of(options: argparse.Namespace, *names: str) -> tuple[Metric, ...]:
    """Return the metrics of these names, each with what it reads of the options.

    Raises:
        OptionError: options that none of them reads.
    """
    plain = [Metric(name) for name in names]
    unread_labels = options.labels if not any(metric.reads_labels for metric in plain) else None
    unread_anchors = options.anchors if not any(metric.reads_anchors for metric in plain) else ()
    Metric(names[0], labels=unread_labels, anchors=unread_anchors)  # refuses them
    return tuple(
        Metric(
            metric.name, labels=options.labels if metric.reads_labels else None,
            anchors=options.anchors if metric.reads_anchors else (),
        )
        for metric in plain
    )  # fmt: skip
