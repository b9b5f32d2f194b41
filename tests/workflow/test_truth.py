"""Boxes, maps and pictures of images, by name; files that cannot be used are errors that name them."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from calib8.analyze.answers import Detection
from calib8.data.preprocess import Placement
from calib8.errors import DataError
from calib8.workflow.truth import placed_boxes, placed_maps, read_boxes, read_maps, read_pictures

NAMES = ("a.jpg", "b.jpg")
XML = """<annotation><size><width>200</width><height>100</height></size>
<object><name>cat</name><bndbox><xmin>20</xmin><ymin>10</ymin><xmax>120</xmax><ymax>60</ymax></bndbox></object>
<object><name>cow</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>1</xmax><ymax>1</ymax></bndbox></object>
<object><name>cat</name><difficult>1</difficult>
<bndbox><xmin>0</xmin><ymin>0</ymin><xmax>1</xmax><ymax>1</ymax></bndbox></object></annotation>"""


def said(found):
    return [[(one.label, pytest.approx(one.box)) for one in image] for image in found]


def test_the_same_boxes_in_three_formats(tmp_path):
    box = (0.1, 0.1, 0.6, 0.6)
    for name in ("yolo", "voc"):
        (tmp_path / name).mkdir()
    (tmp_path / "yolo" / "a.txt").write_text("1 0.35 0.35 0.5 0.5\n3 0.1 0.1 0.1 0.1\n\n")
    (tmp_path / "yolo" / "b.txt").write_text("")
    (tmp_path / "voc" / "a.xml").write_text(XML)
    (tmp_path / "voc" / "b.xml").write_text(XML.split("<object>", maxsplit=1)[0] + "</annotation>")
    coco = {
        "images": [{"id": i, "file_name": f"val/{n}", "width": 200, "height": 100} for i, n in enumerate(NAMES)],
        "categories": [{"id": 17, "name": "cat"}, {"id": 21, "name": "cow"}],
        "annotations": [
            {"image_id": 0, "category_id": 17, "bbox": [20, 10, 100, 50], "iscrowd": 0},
            {"image_id": 0, "category_id": 17, "bbox": [0, 0, 9, 9], "iscrowd": 1},
            {"image_id": 0, "category_id": 21, "bbox": [0, 0, 9, 9]},
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    classes, own = ("dog", "bird", "cat"), ("dog", "cat", "bird", "cow")
    expected = [[(2, box)], []]
    assert said(read_boxes(tmp_path / "yolo", NAMES, classes, own)) == expected
    assert said(read_boxes(tmp_path / "voc", NAMES, classes)) == expected
    assert said(read_boxes(tmp_path / "coco.json", NAMES, classes)) == expected


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "cat 1 2 3 4", "a.txt:1"),
        ("a.txt", "1 2 3", "a.txt:1"),
        ("a.xml", "<annotation>", "a.xml"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a/>', "document type"),
        ("a.xml", XML.replace("200", "0"), "a.xml"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        read_boxes(tmp_path, ("a.jpg",), ("cat",))


@pytest.mark.parametrize("text", ["", "[]", '{"images": []}', '{"images": [], "categories": [], "annotations": []}'])
def test_json_that_is_none_of_coco(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(DataError, match=r"c\.json"):
        read_boxes(tmp_path / "c.json", NAMES)


def test_all_missing_files_are_named(tmp_path):
    for read in (read_boxes, read_maps, read_pictures):
        with pytest.raises(DataError) as error:
            read(tmp_path, NAMES)
        assert "2 of 2" in str(error.value) and len(error.value.problems) == 2
        with pytest.raises(DataError, match="no image files"):
            read(tmp_path, ())


def test_maps_and_pictures(tmp_path):
    image = np.arange(24, dtype=np.uint8).reshape(4, 6)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    (found,) = read_maps(tmp_path, ("a.jpg",))
    np.testing.assert_array_equal(found, image)
    (picture,) = read_pictures(tmp_path, ("a.jpg",))
    np.testing.assert_array_equal(picture, image[None, None])
    cv2.imwrite(str(tmp_path / "b.png"), np.dstack([image] * 3))
    with pytest.raises(DataError, match=r"b\.png: no map"):
        read_maps(tmp_path, ("b.jpg",))


def test_what_a_crop_leaves_of_boxes():
    crop = Placement((100, 200), (0, -50), (100, 100))  # the middle half of the columns
    boxes = [
        Detection(1, 1.0, box) for box in ((0.2, 0, 0.4, 1), (0.1, 0, 0.3, 1), (0.3, 0.2, 0.5, 0.4), (0, 0, 0.2, 1))
    ]
    (kept,) = placed_boxes([boxes], [crop])
    assert [one.box for one in kept] == [pytest.approx(b) for b in ((0, 0, 0.3, 1), (0.1, 0.2, 0.5, 0.4))]
    assert placed_boxes([boxes], None) == [boxes]


def test_what_is_filled_up_counts_for_nothing():
    letterbox = Placement((50, 100), (25, 0), (100, 100))
    (placed,) = placed_maps([np.ones((10, 20), np.uint8)], [letterbox])
    assert (placed[25:75] == 1).all() and (placed[:25] == 255).all() and (placed[75:] == 255).all()
    one = np.ones((2, 2), np.uint8)
    assert placed_maps([one], None)[0] is one
