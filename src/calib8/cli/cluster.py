"""Work in other processes: what they open, and who they are."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from calib8.cli.images import shapes_of
from calib8.workflow import Arrays, CalibrateOptions, Images, Network, NetworkFiles, Workers, connected


def import_dask() -> None:
    """Import Dask, which keeps the stderr that it finds for its log, and writes to it when the program ends.

    By then a command's own stderr is gone; so it is given the process's. Where there is no Dask, its user says so.
    """
    with contextlib.redirect_stderr(sys.__stderr__), contextlib.suppress(ImportError):
        importlib.import_module("distributed")


def network_files(options: argparse.Namespace, network: Network, samples: Images | Arrays | None) -> NetworkFiles:
    """Say what workers open, by paths that do not depend on a working directory."""
    definition = getattr(options, "proto", None) or options.files.definition
    weights = getattr(options, "model", None) or options.files.weights
    if isinstance(samples, Images):
        mean = samples.preprocess.mean
        if isinstance(mean, str | os.PathLike):
            samples = replace(samples, preprocess=replace(samples.preprocess, mean=Path(mean).resolve()))
        samples = replace(samples, images=Path(samples.images).resolve())
    elif samples is not None:
        samples = replace(samples, path=Path(samples.path).resolve())
    own = None if weights is None else weights.resolve()
    return NetworkFiles(definition.resolve(), own, samples, shapes_of(options), network.left_out)


@contextlib.contextmanager
def workers_of(
    options: argparse.Namespace, network: Network, samples: Images | Arrays | None
) -> Iterator[Workers | None]:
    """The workers that the options name; None for this process."""
    if options.cluster is None:
        yield None
        return
    import_dask()
    wanted = CalibrateOptions(threads=options.threads)
    with connected(options.cluster, network, network_files(options, network, samples), wanted) as workers:
        yield workers
