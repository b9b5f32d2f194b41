"""What the documentation shows is true: every command and every Python example of every page runs, in order.

A page runs in a scratch folder that looks like the checkout (`examples/`, `calibration_tool/`), with a folder `photos/`
of small images and a folder `mynet/` with a network for colour images that has a plain Input layer. What cannot run
carries a marker with the reason, `<!-- not run: needs Docker -->`, above its block.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from markdown_pages import COMMAND_LANGUAGES, ROOT, SHOWN_LANGUAGES, Block, blocks_of, commands_of, pages, shows

from calib8.proto.caffemodel_writer import write_caffemodel
from calib8.proto.text import parse_prototxt

_PAGES = [page for page in pages() if blocks_of(page)]
_BLOCKS = [block for page in _PAGES for block in blocks_of(page)]
_RUN_PAGE = Path(__file__).with_name("run_page.py")
_SAYS_THAT_IT_FAILS = ("calib8: error:", ": cannot be used")


_MYNET = """
name: "mynet"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 3, 32, 32] } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 8 kernel_size: 3 stride: 2 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { pool: AVE global_pooling: true } }
layer { name: "fc1" type: "InnerProduct" bottom: "pool1" top: "fc1" inner_product_param { num_output: 10 } }
layer { name: "prob" type: "Softmax" bottom: "fc1" top: "prob" }
"""


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A folder with what the pages speak of."""
    for name in ("examples", "calibration_tool"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("bmnet_*", "__pycache__"))
    rng = np.random.default_rng(0)
    _make_photos(tmp_path / "photos", rng)
    _make_network(tmp_path / "mynet", rng)
    return tmp_path


def _make_photos(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir()
    for number in range(12):
        coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number:02}.jpg"), cv2.resize(coarse, (80, 60), interpolation=cv2.INTER_CUBIC))


def _make_network(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir()
    (folder / "deploy.prototxt").write_text(_MYNET)
    net = parse_prototxt(_MYNET).net
    shapes = {"conv1": [(8, 3, 3, 3), (8,)], "fc1": [(10, 8), (10,)]}
    layers = [(x, [rng.standard_normal(s).astype(np.float32) for s in shapes.get(x.name, [])]) for x in net.layer]
    write_caffemodel(folder / "custom.caffemodel", net.name, layers)


def _place(value: object) -> str | None:
    return (
        value.place if isinstance(value, Block) else str(value.relative_to(ROOT)) if isinstance(value, Path) else None
    )


@pytest.mark.parametrize("block", _BLOCKS, ids=_place)
def test_block_says_what_it_is(block):
    if block.reason is not None:
        assert block.reason, f"{block.place}: the marker says no reason"
        return
    known = {*COMMAND_LANGUAGES, *SHOWN_LANGUAGES, "python", "prototxt"}
    assert block.title or block.language in known, f"{block.place}: a block of {block.language!r} is not checked"
    if block.language in SHOWN_LANGUAGES and not block.title:
        assert not block.looks_like_commands, f"{block.place}: commands belong into a console block, which is run"
    if block.language in COMMAND_LANGUAGES and not block.title:
        assert commands_of(block), f"{block.place}: no command"


@pytest.mark.parametrize("block", [b for b in _BLOCKS if b.reason is not None], ids=_place)
def test_block_that_is_not_run(block):
    pytest.skip(f"{block.place} is not run: {block.reason}")


def _steps(page: Path) -> Iterator[tuple[list[str], Block, str | None]]:
    """What the runner does, with the block that it comes from and the output that is shown."""
    for block in blocks_of(page):
        if block.reason is not None:
            continue
        if block.title:
            yield ["file", block.title, block.text], block, None
        elif block.language in COMMAND_LANGUAGES:
            for command in commands_of(block):
                yield ["command", command.text], block, command.shown
        elif block.language in ("python", "prototxt"):
            yield [block.language, block.text, block.place], block, None


@pytest.mark.parametrize("page", [p for p in _PAGES if list(_steps(p))], ids=_place)
def test_page_runs(page, scratch):
    steps = list(_steps(page))
    done = subprocess.run(
        [sys.executable, str(_RUN_PAGE)], input=json.dumps([step for step, _, _ in steps]), cwd=scratch,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    results = [json.loads(line) for line in done.stdout.splitlines()]
    problems = [
        _problem(step, block, shown, **result) for (step, block, shown), result in zip(steps, results, strict=False)
    ]
    assert not [p for p in problems if p], "\n\n".join(p for p in problems if p)
    assert len(results) == len(steps), done.stderr


def _problem(step: list[str], block: Block, shown: str | None, code: int, output: str) -> str:
    """What is wrong with a step's result; empty for nothing."""
    fails = shown is not None and any(text in shown for text in _SAYS_THAT_IT_FAILS)
    if (code != 0) != fails:
        return f"{block.place}: exit code {code}\n{step[1]}\n{output}"
    if shown is not None and not shows(shown, output):
        return f"{block.place}: prints something else than what is shown\n{step[1]}\n{output}"
    return ""


def test_runner_tells_a_failure_from_a_success(tmp_path):
    page = ROOT / "README.md"
    block = Block(page, 1, "console", "", "$ calib8 check nowhere.prototxt\n", None)
    (command,) = commands_of(block)
    done = subprocess.run(
        [sys.executable, str(_RUN_PAGE)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True,
        input=json.dumps([["command", command.text], ["command", "echo one; false"], ["python", "x = 1 / 0", "here"]]),
    )  # fmt: skip
    bad, shell, python = [json.loads(line) for line in done.stdout.splitlines()]
    assert "no file" in bad["output"] or "nowhere.prototxt" in bad["output"]
    assert _problem(["command", command.text], block, None, **bad)
    assert shell == {"code": 1, "output": "one\n"}
    assert "ZeroDivisionError" in python["output"]
    assert shows("one", shell["output"])
    assert not shows("two", shell["output"])
    assert shows("a ... c", "a b\nb c\n")
    assert not shows("a ... c", "a b d")
