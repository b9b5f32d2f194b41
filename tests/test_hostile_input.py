"""Broken and hostile files: one clear line each, no other exception, no long wait, no large allocation.

The bounds: 5 s of the processor for a network (a busy machine is no failure), and `_MOST_BYTES` of memory for building
and lowering one, whatever sizes its prototxt claims. Lowering computes constants of at most 2^24 elements
(layer_kit/constants.py).
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layer_cases import CASES, LayerCase

from calib8.cli.main import main
from calib8.errors import Calib8Error
from calib8.lowering import build_model, lower_float
from calib8.lowering.examine import examine_model
from calib8.proto import caffe_pb2
from calib8.proto.caffemodel import read_caffemodel, write_caffemodel
from calib8.proto.scalars import fields_of
from calib8.proto.text import parse_prototxt

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "examples" / "digits"

_SECONDS = 5.0
_MOST_BYTES = 320 * 2**20
_MESSAGES = fields_of(caffe_pb2.LayerParameter.DESCRIPTOR)
_WEIGHTS = 2**22  # elements; larger ones only a file of that size could bring
INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 1, 8, 8] } } }\n'


def build_and_lower(text: str) -> None:
    """All that is done with a prototxt before anything runs; weights are views of one number."""
    prototxt = parse_prototxt(text)
    found = examine_model(prototxt)
    model = found.model()
    shapes = {layer.name: op.blob_shapes([model.shapes[b] for b in layer.bottoms]) for layer, op in model.pairs}
    if sum(int(np.prod(s)) for blobs in shapes.values() for s in blobs) > _WEIGHTS:
        return
    half = np.float32(0.5)
    model = build_model(prototxt, {name: [np.broadcast_to(half, s) for s in blobs] for name, blobs in shapes.items()})
    lower_float(model, [t for layer in model.net.layers for t in layer.tops if t not in model.inputs])


def refused_or_not(text: str) -> None:
    """No exception but Calib8Error, every problem one line, within the bounds."""
    tracemalloc.start()
    start = time.process_time()
    try:
        build_and_lower(text)
    except Calib8Error as why:
        assert all(p and "\n" not in p and "Traceback" not in p for p in why.problems)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.process_time() - start < _SECONDS
    assert peak < _MOST_BYTES


def with_field(case: LayerCase, message: str, field: str, value: str) -> str:
    """The case's network with one field set to something else."""
    *inputs, layer = case.prototxt().split("\n")
    layer = re.sub(rf"\b{field}\s*:\s*(\[[^\]]*\]|\S+)", "", layer)
    if f"{message} {{" in layer:
        layer = layer.replace(f"{message} {{", f"{message} {{ {field}: {value} ", 1)
    else:
        layer = layer.removesuffix("}") + f"{message} {{ {field}: {value} }} }}"
    return "\n".join([*inputs, layer])


def messages_of(case: LayerCase) -> set[str]:
    """Parameter messages that the case sets, or that bear its type's name."""
    own = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", case.type).lower() + "_param"
    return {*re.findall(r"(\w+_param) \{", case.param), own} & set(_MESSAGES)


FIRST_CASES = list({case.type: case for case in reversed(CASES)}.values())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", FIRST_CASES, ids=lambda c: c.type)
def test_no_number_in_a_prototxt_makes_a_layer_large_or_slow(case):
    for message in sorted(messages_of(case)):
        for field in fields_of(_MESSAGES[message].message).values():
            large = ("1000000000", "0", "-1", "65536", "nan", "1e30")
            for value in large if field.message is None and not field.values else ():
                refused_or_not(with_field(case, message, field.name, value))


@pytest.mark.parametrize("case", FIRST_CASES, ids=lambda c: c.type)
def test_no_shape_of_an_input_makes_a_layer_large_or_slow(case):
    for which, shape in enumerate(case.shapes):
        for axis, size in itertools.product(range(len(shape)), (10**9, 0, 40_000)):
            changed = [*shape[:axis], size, *shape[axis + 1 :]]
            old, new = (f'top: "x{which}" input_param {{ shape {{ dim: {list(s)} }}' for s in (shape, changed))
            refused_or_not(case.prototxt().replace(old, new))


@pytest.mark.parametrize("kind", ["DummyData", "Parameter", "Input"])
def test_shapes_that_a_layer_gives_itself(kind):
    names = {"DummyData": "dummy_data_param", "Parameter": "parameter_param", "Input": "input_param"}
    for dims in ("[1000000000]", "[1000000000, 1000000000]", "[0]", "[-1]", "[9223372036854775807]", "[]", "[1]" * 2):
        refused_or_not(f'layer {{ name: "l" type: "{kind}" top: "y" {names[kind]} {{ shape {{ dim: {dims} }} }} }}')


def relu(name: str, bottom: str, top: str) -> str:
    return f'layer {{ name: "{name}" type: "ReLU" bottom: "{bottom}" top: "{top}" }}\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (INPUT + relu("a", "q", "p") + relu("b", "p", "q"), "which is written later, by layer 'b'"),
        (INPUT + relu("a", "a", "a"), "which only it itself writes"),
        (INPUT + relu("a", "x", "y") + relu("a", "x", "z"), "has the name of the one in line 2"),
        (INPUT + relu("a", "nowhere", "y"), "which no layer writes"),
        (INPUT + relu("a", "x", "y") + relu("b", "x", "y"), "writes top 'y', as layer 'a' does already"),
        (INPUT + relu("", "x", "y"), "has no name"),
        (INPUT + relu("a", "x", "y").replace("ReLU", ""), "has no type"),
        (INPUT + relu("a", "x", "y").replace("ReLU", "\\000\\n\\033[2J"), "not supported"),
        (INPUT.replace("8, 8", "8, 1000000000"), "at most 2147483647 elements"),
        ("layer { name: 'x' ", "the file ends"),
        ("hello world", "needs a ':'"),
        ("", "not a network definition"),
        ("layer {" * 2000, "nested deeper than 100"),
        ("\0\1\2", "a binary file"),
        ('layer { name: "${NAME}" type: @TYPE@ }', "placeholder"),
    ],
)
def test_one_clear_line_for_each_problem(tmp_path, capsys, text, words):
    path = tmp_path / "deploy.prototxt"
    path.write_text(text)
    assert main(["check", str(path)]) == 1
    out, err = capsys.readouterr()
    problems = out.partition("problems:\n")[2].splitlines()[:-2]
    assert err == "" and len(problems) == 1
    assert problems[0].startswith(f"  - {path}:") and words in problems[0]
    assert all(c.isprintable() or c == "\n" for c in out)


def test_odd_names_are_names():
    odd = ["a/b", "ü", "日本", "a b", '\\"', "..", "{}", "%s", "a" * 5000, "-", "\\n", "\\377", "@", "x@x", "\\0"]
    text = INPUT + "".join(relu(name, before, name) for before, name in itertools.pairwise(["x", *odd]))
    model = build_model(parse_prototxt(text))
    assert len(model.net.layers) == len(odd) + 1
    lower_float(model, model.net.outputs)


def test_a_long_chain_is_no_recursion():
    text = INPUT + "".join(relu(f"l{i}", "x" if i == 0 else f"y{i - 1}", f"y{i}") for i in range(3000))
    start = time.process_time()
    build_and_lower(text)
    assert time.process_time() - start < _SECONDS


@pytest.mark.parametrize("cut", [0, 1, 7, 100, 1000, -1])
def test_a_truncated_caffemodel(tmp_path, capsys, cut):
    data = (DIGITS / "custom.caffemodel").read_bytes()
    path = tmp_path / "w.caffemodel"
    path.write_bytes(data[:cut])
    assert main(["check", str(DIGITS / "deploy.prototxt"), str(path)]) == 1
    problems = capsys.readouterr().out.partition("problems:\n")[2].splitlines()[:-2]
    assert len(problems) == 1 and str(path) in problems[0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "begins no protobuf field"),
        (b"GIF89a" + bytes(100), "damaged"),
        (b"\x7fELF" + bytes(100), "damaged"),
        (bytes(1000), "begins no protobuf field"),
        (b"\xff" * 1000, "ten bytes"),
        (b"PK\x03\x04", "zip"),
        (b"<html>", "web page"),
        (INPUT.encode(), "a text without blobs"),
    ],
)
def test_other_files_under_the_name_of_a_caffemodel(tmp_path, capsys, data, words):
    path = tmp_path / "w.caffemodel"
    path.write_bytes(data)
    assert main(["check", str(DIGITS / "deploy.prototxt"), str(path)]) == 1
    problems = capsys.readouterr().out.partition("problems:\n")[2].splitlines()[:-2]
    assert len(problems) == 1 and str(path) in problems[0] and words in problems[0]


def data_net(folder: Path, source: str) -> Path:
    path = folder / "deploy.prototxt"
    path.write_text(
        f'layer {{ name: "data" type: "Data" top: "data" data_param {{ source: "{source}" batch_size: 1 }} }}'
    )
    return path


@pytest.mark.parametrize("what", ["missing", "text file", "empty folder", "text as data.mdb", "zeros", "truncated"])
def test_an_lmdb_that_is_none(tmp_path, capsys, what):
    source = tmp_path / "lmdb"
    good = (DIGITS / "calibration_lmdb" / "data.mdb").read_bytes()
    contents = {"text as data.mdb": b"hello\n" * 2000, "zeros": bytes(2**16), "truncated": good[: len(good) // 2]}
    if what == "text file":
        source.write_text("no database\n")
    elif what != "missing":
        source.mkdir()
        if what in contents:
            (source / "data.mdb").write_bytes(contents[what])
    assert main(["check", str(data_net(tmp_path, str(source)))]) == 1
    out = capsys.readouterr().out
    (problem,) = out.partition("problems:\n")[2].splitlines()[:-2]
    assert "layer 'data'" in problem and str(source) in problem and "--shape" in problem


_DIGITS_TEXT = (DIGITS / "deploy.prototxt").read_text()
_TEXTS = [*(case.prototxt() for case in CASES), _DIGITS_TEXT.partition("# 1x8x8")[2]]
_NUMBERS = ["0", "1", "2", "3", "7", "-1", "-2", "0.5", "1e30", "nan", "inf", "1000000000", "2147483648", "4294967295"]
_WORDS = [
    "x0",
    "y0",
    "l",
    "true",
    "false",
    "MAX",
    "AVE",
    "SUM",
    "PROD",
    "TEST",
    "TRAIN",
    "}",
    "{",
    "[",
    "]",
    ",",
    ":",
    '"',
]
_TOKEN = re.compile(r'"[^"]*"|[\w.+-]+|\S')


@st.composite
def damaged_networks(draw) -> str:
    """One or two layers' networks with words dropped, doubled, swapped, and numbers changed."""
    tokens = _TOKEN.findall("\n".join(draw(st.lists(st.sampled_from(_TEXTS), min_size=1, max_size=2))))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(tokens) - 1))
        kind = draw(st.sampled_from(["number", "number", "number", "word", "drop", "double", "swap"]))
        if kind == "number":
            numbers = [i for i, t in enumerate(tokens) if re.fullmatch(r"-?[\d.]+(e-?\d+)?", t)]
            if numbers:
                tokens[numbers[place % len(numbers)]] = draw(st.sampled_from(_NUMBERS))
        elif kind == "word":
            tokens[place] = draw(st.sampled_from(_WORDS))
        elif kind == "swap":
            other = draw(st.integers(0, len(tokens) - 1))
            tokens[place], tokens[other] = tokens[other], tokens[place]
        else:
            tokens[place : place + 1] = [tokens[place]] * (2 if kind == "double" else 0)
        if not tokens:
            return ""
    return " ".join(tokens)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(damaged_networks())
def test_damaged_networks_are_built_or_refused(text):
    refused_or_not(text)


def small_caffemodel(path: Path) -> bytes:
    rng = np.random.default_rng(0)
    layers = [
        (
            caffe_pb2.LayerParameter(name=n, type="Convolution"),
            [rng.standard_normal(s).astype(np.float32) for s in shapes],
        )
        for n, shapes in (("a", [(2, 1, 3, 3), (2,)]), ("b", [(1, 2), ()]))
    ]
    write_caffemodel(path, "n", layers)
    return path.read_bytes()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_the_process_while_reading_damaged_files(tmp_path):
    """Measured from outside: the largest resident size of a process that reads hundreds of damaged files."""
    small_caffemodel(tmp_path / "good.caffemodel")
    code = """
import random, sys
from pathlib import Path
from calib8.errors import Calib8Error
from calib8.export.table_reader import parse_binary_table, parse_text_table
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import parse_prototxt
folder, rng = sys.argv[1], random.Random(5)

def peak():
    # ru_maxrss would begin with the peak of the process that started this one.
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

with open(folder + "/good.caffemodel", "rb") as file:
    good = file.read()
before = peak()
for turn in range(600):
    data = bytearray(good)
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    path = folder + "/bad.caffemodel"
    with open(path, "wb") as file:
        file.write(data)
    for read in (lambda: read_caffemodel(path), lambda: parse_binary_table(bytes(data), "t"),
                 lambda: parse_text_table(data.decode("latin-1"), "t"), lambda: parse_prototxt(data.decode("latin-1"))):
        try:
            read()
        except Calib8Error as why:
            assert all(p for p in why.problems)
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) < 64 * 1024  # KiB


def test_a_caffemodel_of_another_network_is_named_layer_by_layer(tmp_path, capsys):
    small_caffemodel(tmp_path / "w.caffemodel")
    assert main(["check", str(DIGITS / "deploy.prototxt"), str(tmp_path / "w.caffemodel")]) == 1
    problems = capsys.readouterr().out.partition("problems:\n")[2].splitlines()[:-2]
    weighted = [layer for layer in read_caffemodel(DIGITS / "custom.caffemodel").layers if layer.blobs]
    assert len(problems) == len(weighted)
    assert all("is not in the caffemodel" in p for p in problems)
