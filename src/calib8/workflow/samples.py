"""Samples in memory, one a run, with labels where there are some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.data import ImagesSource, SampleSource, origin_of, refuse_bad_samples, takes
from calib8.errors import DataError
from calib8.lowering import Model
from calib8.reading import read_file
from calib8.workflow.network import Network

Array = NDArray[Any]
_MOST_PROBLEMS = 10
MAX_LABEL_BYTES = 64 << 20


@dataclass(frozen=True)
class Samples:
    """The inputs of so many runs, and a label for each image if the data have them.

    Attributes:
        inputs: by value, one mapping a run.
        labels: (images,) or None.
        names: of the images' files; () where they come from no files.
    """

    inputs: Sequence[Mapping[str, Array]]
    labels: Array | None
    names: tuple[str, ...]

    @property
    def images(self) -> int:
        """How many images there are in all runs."""
        return sum(len(next(iter(one.values()))) for one in self.inputs)


def read_samples(model: Model, source: SampleSource, count: int) -> Samples:
    """Read the first images of a source.

    Raises:
        DataError: there are fewer, they lack an input, have another shape, or do not fill the last run.
    """
    (samples,) = sample_chunks(model, source, count, count)
    return samples


def sample_chunks(model: Model, source: SampleSource, count: int, images: int) -> Iterator[Samples]:
    """Read the first images of a source, about so many at a time, so that memory does not grow with their number.

    Raises:
        DataError: as `read_samples`.
    """
    if source.size is not None and count > source.size:
        raise DataError(f"`samples` asks for {count} images, and the data have {source.size}")
    takes(source, count)  # refuses a wrong number
    refuse_bad_samples(source, count)
    _refuse_parts_of_runs(model, count)
    names, batches, done = names_of(source), [], 0
    for batch in takes(source, count):
        batches.append(batch)
        waiting = sum(len(next(iter(b.values()))) for b in batches)
        if waiting >= images or done + waiting == count:
            joined = _joined(batches, model.net.source)
            yield Samples(
                list(_runs(model, joined, waiting)), _own_labels(joined, waiting), names[done : done + waiting]
            )
            batches, done = [], done + waiting


def _refuse_parts_of_runs(model: Model, count: int) -> None:
    if count % images_per_run(model):
        raise DataError(
            f"{model.net.source}: images go through this network {images_per_run(model)} together, and {count} are "
            "asked for; ask for a multiple of that"
        )


def names_of(source: SampleSource) -> tuple[str, ...]:
    """Name the files of a source's images; () where they come from no files."""
    own = origin_of(source)
    return own.names if isinstance(own, ImagesSource) else ()


def images_per_run(model: Model) -> int:
    """Say how many images go through a network together."""
    return max((model.shapes[value][0] for value in model.inputs if model.shapes[value]), default=1)


def runs_of(network: Network, count: int) -> Iterator[dict[str, Array]]:
    """Read the inputs of one run of `network.of_one_sample` after another, over the first `count` images.

    Raises:
        DataError, UserLayerError: the samples cannot be used, or do not fit the network.
    """
    model = network.of_one_sample
    for batch in takes(network.samples, count):
        yield from _runs(model, batch, len(next(iter(batch.values()))))


def _runs(model: Model, arrays: Mapping[str, Array], count: int) -> Iterator[dict[str, Array]]:
    """The inputs of each run, of arrays that hold so many images; a part of a run at the end is left out.

    Raises:
        DataError: an array is missing, or has another shape than the input.
    """
    per_run = images_per_run(model)
    inputs = model.inputs_of(arrays)
    for at in range(0, count - per_run + 1, per_run):
        # What does not count images belongs to all of them.
        run = {v: a[at : at + per_run] if a.ndim and len(a) == count else a for v, a in inputs.items()}
        for value, array in run.items():
            if array.shape != model.shapes[value]:
                raise DataError(
                    f"input {value!r}: samples have the shape {array.shape}, expected {model.shapes[value]}"
                )
        yield run


def _joined(batches: Sequence[Mapping[str, Array]], network: str) -> dict[str, Array]:
    for blob, first in batches[0].items():
        other = next((b[blob].shape[1:] for b in batches if b[blob].shape[1:] != first.shape[1:]), None)
        if other is not None:
            raise DataError(
                f"{network}: samples of different shapes, {first.shape[1:]} and {other}, in blob {blob!r}; the network "
                "is run on samples of one shape"
            )
    images = [len(next(iter(batch.values()))) for batch in batches]
    counts = {blob for blob in batches[0] if all(len(b[blob]) == n for b, n in zip(batches, images, strict=True))}
    return {b: np.concatenate([batch[b] for batch in batches]) if b in counts else a for b, a in batches[0].items()}


def _own_labels(arrays: Mapping[str, Array], count: int) -> Array | None:
    """A second top with a number for each image."""
    labels = [array for array in list(arrays.values())[1:] if array.size == count]
    return labels[0].reshape(count) if labels else None


def labels_are_in_order(path: Path) -> bool:
    """Whether a file of labels has a number in each line, and no names.

    Raises:
        DataError: it cannot be read.
    """
    words = read_file(path, MAX_LABEL_BYTES, DataError).decode("utf-8", "replace").split("\n", 1)[0].split()
    return len(words) == 1


def read_labels(path: Path, names: Sequence[str], count: int) -> Array:
    """Read the labels of a file: a number in each line, for the images in their order, or `name number` by name.

    Args:
        names: of the images' files; () where they come from no files.
        count: how many images there are.

    Raises:
        DataError: the file cannot be read, has other lines, or lacks images.
    """
    try:
        lines = read_file(path, MAX_LABEL_BYTES, DataError).decode("utf-8").splitlines()
    except UnicodeDecodeError as why:
        raise DataError(f"{path}: cannot be read as labels: {why}") from None
    rows = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    if rows and len(rows[0][1]) == 1:
        numbers = [_number(path, number, words[0]) for number, words in rows]
        if len(numbers) < count:
            raise DataError(f"{path}: has {len(numbers)} labels for {count} images")
        return np.array(numbers[:count])
    by_name = {Path(words[0]).name: _number(path, number, [*words, ""][1]) for number, words in rows}
    missing = [name for name in names if name not in by_name]
    if missing or not names:
        text = f"{path}: labels by name, and {len(missing)} of {count} images have none" if missing else (
            f"{path}: labels by name, and the samples come from no image files; give one number a line"
        )  # fmt: skip
        raise DataError(text, [f"no label for {name!r}" for name in missing[:_MOST_PROBLEMS]])
    return np.array([by_name[name] for name in names])


def _number(path: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise DataError(
            f"{path}:{line}: {text[:80]!r} is no label; expected a number, or a name and a number"
        ) from None
    return int(value) if value.is_integer() else value
