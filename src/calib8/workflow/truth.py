"""What is true of samples: classes from a label file or the data, boxes, maps of classes, pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np

from calib8.analyze.answers import Detection
from calib8.analyze.quality import VOID
from calib8.data.datum import decode_image
from calib8.data.image_list import MAX_IMAGE_BYTES
from calib8.data.preprocess import Placement
from calib8.errors import DataError
from calib8.graph import Array
from calib8.reading import is_file, read_file

_MOST_BYTES = 1 << 20
_MOST_JSON_BYTES = 1 << 30
_MOST_PROBLEMS = 10
_LEAST_PART = 0.5


def read_boxes(
    path: str | os.PathLike[str], names: Sequence[str], classes: Sequence[str] = (), own: Sequence[str] = ()
) -> list[list[Detection]]:
    """Read the boxes of images: COCO's JSON, or a folder with a `.txt` of YOLO or an `.xml` of VOC for each image.

    Args:
        names: of the images' files.
        classes: names of the network's classes, by its labels; () where numbers are the same in both.
        own: names of the classes of YOLO's text files, by their numbers; () for `classes`.

    Returns:
        Boxes with the network's labels, as parts of width and height. Those of classes that the network does not have
        are left out, so are crowds and difficult ones.

    Raises:
        DataError: all images without a file, files that cannot be read.
    """
    if not names:
        raise DataError(f"{path}: boxes belong to images by name, and the samples come from no image files")
    place = Path(path)
    if is_file(place):
        return _coco(place, names, {name: label for label, name in enumerate(classes)})
    found, problems = [], []
    for name in names:
        files = [place / f"{Path(name).stem}{ending}" for ending in (".txt", ".xml")]
        file = next((f for f in files if is_file(f)), None)
        if file is None:
            problems.append(f"no {files[0].name} and no {files[1].name} for {name!r}")
        elif file.suffix == ".txt":
            found.append(_yolo(file, classes, own or classes))
        else:
            found.append(_voc(file, classes))
    if problems:
        raise DataError(f"{path}: {len(problems)} of {len(names)} images have no boxes", problems[:_MOST_PROBLEMS])
    return found


def _yolo(path: Path, classes: Sequence[str], own: Sequence[str]) -> list[Detection]:
    """`class x y w h` a line: centre and size."""
    label_of = {name: label for label, name in enumerate(classes)}
    boxes = []
    for number, line in enumerate(read_file(path, _MOST_BYTES, DataError).decode("utf-8", "replace").splitlines(), 1):
        words = line.split()
        try:
            if words:
                label, (x, y, w, h) = int(words[0]), map(float, words[1:5])
                known = label_of.get(own[label]) if own else label
                if known is not None:
                    boxes.append(Detection(known, 1.0, (x - w / 2, y - h / 2, x + w / 2, y + h / 2)))
        except (ValueError, IndexError):
            raise DataError(f"{path}:{number}: {line!r} is no box; expected `class x y w h`") from None
    return boxes


def _voc(path: Path, classes: Sequence[str]) -> list[Detection]:
    data = read_file(path, _MOST_BYTES, DataError)
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise DataError(f"{path}: has a document type, which annotations have no need of")
    if not classes:
        raise DataError(f"{path}: boxes have names of classes; say which the network's are (`classes`)")
    label_of = {name: label for label, name in enumerate(classes)}
    try:
        root = ElementTree.fromstring(data)
        width, height = (float(root.findtext(f"size/{side}", "")) for side in ("width", "height"))
        boxes = []
        for one in root.iter("object"):
            label = label_of.get((one.findtext("name") or "").strip())
            x0, y0, x1, y1 = (float(one.findtext(f"bndbox/{c}", "")) for c in ("xmin", "ymin", "xmax", "ymax"))
            if label is not None and one.findtext("difficult", "0").strip() != "1":
                boxes.append(Detection(label, 1.0, (x0 / width, y0 / height, x1 / width, y1 / height)))
    except (ElementTree.ParseError, ValueError, ZeroDivisionError) as why:
        raise DataError(f"{path}: cannot be read as an annotation of VOC: {why}") from None
    return boxes


def _coco(path: Path, names: Sequence[str], label_of: Mapping[str, int]) -> list[list[Detection]]:
    try:
        content = json.loads(read_file(path, _MOST_JSON_BYTES, DataError))
        images = {Path(one["file_name"]).name: one for one in content["images"]}
        called = {one["id"]: one["name"] for one in content["categories"]}
        missing = [name for name in names if name not in images]
        by_id: dict[Any, list[Detection]] = {one["id"]: [] for one in images.values()}
        sizes = {one["id"]: (one["width"], one["height"]) for one in images.values()}
        for one in content["annotations"]:
            label = label_of.get(called[one["category_id"]]) if label_of else one["category_id"]
            if label is not None and not one.get("iscrowd") and one["image_id"] in by_id:
                (x, y, w, h), (width, height) = one["bbox"], sizes[one["image_id"]]
                box = (x / width, y / height, (x + w) / width, (y + h) / height)
                by_id[one["image_id"]].append(Detection(int(label), 1.0, box))
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError, RecursionError) as why:
        raise DataError(f"{path}: cannot be read as COCO's annotations: {type(why).__name__} {why}") from None
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(names)} images are not in it", [repr(m) for m in missing[:_MOST_PROBLEMS]]
        )
    return [by_id[images[name]["id"]] for name in names]


def placed_boxes(boxes: Sequence[list[Detection]], placements: Sequence[Placement] | None) -> list[list[Detection]]:
    """Move boxes to where the images lie in their samples.

    A box that the sample's edge cuts keeps what is left of it; one of which less than half is left counts for nothing.

    Args:
        placements: None for images that fill their samples.
    """
    if placements is None:
        return list(boxes)
    return [
        [replace(one, box=inner) for one in own if (inner := _within(place.box(one.box))) is not None]
        for own, place in zip(boxes, placements, strict=True)
    ]


def _within(box: tuple[float, float, float, float]) -> tuple[float, float, float, float] | None:
    x0, y0, x1, y1 = (min(max(end, 0.0), 1.0) for end in box)
    whole = (box[2] - box[0]) * (box[3] - box[1])
    return (x0, y0, x1, y1) if (x1 - x0) * (y1 - y0) >= _LEAST_PART * whole else None


def placed_maps(maps: Sequence[Array], placements: Sequence[Placement] | None) -> list[Array]:
    """Move maps of classes to where the images lie in their samples; what is filled up counts for nothing.

    Args:
        placements: None for images that fill their samples.
    """
    if placements is None:
        return list(maps)
    return [place.map(one, VOID) for one, place in zip(maps, placements, strict=True)]


def read_maps(folder: str | os.PathLike[str], names: Sequence[str]) -> list[Array]:
    """Read a map of classes (H, W) for each image, a PNG of its name whose pixels are classes; 255 counts for nothing.

    Raises:
        DataError: all images without a file, files that are no pictures of one channel.
    """
    maps = []
    for path in _files(folder, names, (".png",)):
        # Palettes are colours for people: OpenCV would give those, so the numbers are read as they stand.
        image = _pixels(path)
        if image.ndim != 2:
            raise DataError(f"{path}: no map of classes; expected a PNG of one channel whose pixels are classes")
        maps.append(image)
    return maps


def read_pictures(folder: str | os.PathLike[str], names: Sequence[str]) -> list[Array]:
    """Read the wanted picture (1, C, H, W), BGR or gray, for each image.

    Raises:
        DataError: all images without a file, files that are no pictures.
    """
    pictures = []
    for path in _files(folder, names, (".png", ".bmp", ".jpg", ".jpeg")):
        image = _pixels(path)
        planes = image[:, :, None] if image.ndim == 2 else image[:, :, :3]
        pictures.append(np.ascontiguousarray(planes.transpose(2, 0, 1)[None]).astype(np.float32))
    return pictures


def _pixels(path: Path) -> Array:
    """The pixels of an image file as they stand in it."""
    try:
        return decode_image(read_file(path, MAX_IMAGE_BYTES, DataError), cv2.IMREAD_UNCHANGED)
    except DataError as why:
        text = str(why)
        raise DataError(text if str(path) in text else f"{path}: {text}") from None


def _files(folder: str | os.PathLike[str], names: Sequence[str], endings: Sequence[str]) -> list[Path]:
    if not names:
        raise DataError(f"{folder}: files belong to images by name, and the samples come from no image files")
    place = Path(folder)
    chosen = [next((f for e in endings if is_file(f := place / f"{Path(n).stem}{e}")), None) for n in names]
    missing = [name for name, file in zip(names, chosen, strict=True) if file is None]
    if missing:
        raise DataError(f"{folder}: {len(missing)} of {len(names)} images have no file there", missing[:_MOST_PROBLEMS])
    return [file for file in chosen if file is not None]
