"""samples/detection on real networks and photographs, in FP32 and INT8."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import pytest
from sample_boxes import overlap, pairs, read_boxes

from calib8.cli.main import main as calib8

_YOLO_SAMPLES = Path(__file__).resolve().parents[2] / "calibration_tool" / "samples" / "detection" / "yolov3"
_VOC_OF_COCO = {
    0: "person", 1: "bicycle", 2: "car", 3: "motorbike", 4: "aeroplane", 5: "bus", 6: "train", 8: "boat", 14: "bird",
    15: "cat", 16: "dog", 17: "horse", 18: "sheep", 19: "cow", 39: "bottle", 56: "chair", 57: "sofa",
    58: "pottedplant", 60: "diningtable", 62: "tvmonitor",
}  # fmt: skip
_ANCHORS = "26,48,67,84,72,175,189,126,137,236,265,259"
_LARGE = 0.1
"""Part of the image: smaller objects are beyond this network."""
_WITH_FACES = ("000000000036.jpg", "000000000241.jpg", "000000000328.jpg")

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def photographs(shared: Path) -> list[Path]:
    return sorted((shared / "images" / "coco64").glob("*.jpg"))


@pytest.fixture(scope="module")
def yolo(shared: Path, photographs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network with a yolo_data_layer in place of its input, calibrated."""
    folder = tmp_path_factory.mktemp("custom")
    original = shared / "models" / "mobilenetv2_yolov3_nano_voc"
    shutil.copy(original / "custom.caffemodel", folder)
    shutil.copy(_YOLO_SAMPLES / "yolo_data_layer.py", folder)
    (folder / "list.txt").write_text("\n".join(map(str, photographs)))
    param = "{'data_list': 'list.txt', 'h': 320, 'w': 320, 'scale': 0.00390625, 'padding': False}"
    text = (original / "deploy.prototxt").read_text()
    layer = (
        'layer { name: "data" type: "Python" top: "data" python_param { module: "yolo_data_layer" '
        f'layer: "YoloDataLayer" param_str: "{param}" }} }}\n'
    )
    (folder / "deploy.prototxt").write_text(layer + text[text.index("layer {") :])
    assert calib8(["calibrate", "yolov3", str(folder), "-n", "16", "--method", "mse"]) == 0
    return folder


def _annotated(path: Path) -> list[tuple[str, list[float], float]]:
    """Class, corners in pixels and part of the image of every object of a VOC class."""
    height, width = cv2.imread(str(path)).shape[:2]
    rows = [line.split() for line in path.with_suffix(".txt").read_text().splitlines()]
    found = []
    for label, *numbers in rows:
        cx, cy, w, h = map(float, numbers)
        if int(label) in _VOC_OF_COCO:
            corners = [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
            found.append((_VOC_OF_COCO[int(label)], corners, w * h))
    return found


@pytest.mark.parametrize("int8", [[], ["--int8", "yolov3"]], ids=["FP32", "INT8"])
def test_yolo_finds_what_people_marked(run_sample, yolo, photographs, int8):
    options = ["--size", "320x320", "--resize", "warp", "--scale", "0.00390625", "--anchors", _ANCHORS]
    options += ["--labels", _YOLO_SAMPLES / "voc_names.txt", "--confidence", "0.5"]
    large = hits = boxes = right = 0
    with_large = [path for path in photographs if any(part >= _LARGE for _, _, part in _annotated(path))]
    for path in with_large[:8]:
        code, out, err = run_sample("detection/yolov3/yolov3.py", yolo, path, *options, *int8)
        assert (code, err) == (0, "")
        found, known = read_boxes(out), _annotated(path)
        targets = [(label, corners) for label, corners, part in known if part >= _LARGE]
        large, hits = large + len(targets), hits + pairs(found, targets, least=0.5)
        boxes, right = boxes + len(found), right + pairs(found, [k[:2] for k in known], least=0.5)
    assert large >= 10
    assert hits >= 0.6 * large
    assert right >= 0.7 * boxes


def test_ssd_finds_faces_on_people_in_both_modes(run_sample, shared, tmp_path, photographs):
    model, script = shared / "models" / "res10_ssd_face", "detection/ssd/ssd.py"
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(str(path) for path in photographs[:8]))
    arguments = ["--images", str(listing), "--mean", "104,177,123", "-n", "8", "--method", "mse"]
    assert calib8(["calibrate", "ssd", str(model), "--output", str(tmp_path), *arguments]) == 0
    for name in _WITH_FACES:
        path = shared / "images" / "coco64" / name
        fp32, int8 = (
            read_boxes(run_sample(script, model, path, "--mean", "104,177,123", *more).out)
            for more in ([], ["--int8", f"{tmp_path}/ssd"])
        )
        people = [corners for label, corners, _ in _annotated(path) if label == "person"]
        assert fp32
        assert all(any(_is_head(face.corners, person) for person in people) for face in fp32 + int8)
        assert pairs(int8, [(face.label, face.corners) for face in fp32], least=0.7) == len(fp32) == len(int8)


def _is_head(face: tuple[float, ...], person: list[float]) -> bool:
    """Whether the middle of a face is inside a person, in the upper half."""
    x, y = (face[0] + face[2]) / 2, (face[1] + face[3]) / 2
    return person[0] <= x <= person[2] and person[1] <= y <= (person[1] + person[3]) / 2 and overlap(face, person) < 0.5
