"""Messages of the library in the words of a command."""

from __future__ import annotations

import argparse

import pytest

from calib8.cli.flags import flags_of, with_flags
from calib8.cli.main import build_parser, main
from calib8.cli.parser import CommandFlags


@pytest.fixture
def flags():
    parser = argparse.ArgumentParser()
    parser.add_argument("path", metavar="PATH")
    parser.add_argument("-n", "--iteration", type=int, metavar="N")
    parser.add_argument("--images", metavar="LIST")
    parser.add_argument("--data_list", dest="images", metavar="OTHER")
    parser.add_argument("--ignore-zeros", action="store_true")
    parser.add_argument("--method")
    return flags_of(parser)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("`iteration` is 0", "--iteration is 0"),
        ("give images (`images=..`)", "give images (--images LIST)"),
        ("try `ignore_zeros=True`, or `method=mse`", "try --ignore-zeros, or --method mse"),
        ("`method=..` is missing", "--method METHOD is missing"),
        ("`unknown` and `path` stay, and `two words`", "`unknown` and `path` stay, and `two words`"),
        ("iteration and 'images' are no parameters here", "iteration and 'images' are no parameters here"),
    ],
)
def test_parameters_become_options(flags, text, expected):
    assert with_flags(text, flags) == expected


def test_every_command_knows_its_own_flags():
    options = build_parser().parse_args(["calibrate", "net", "folder"])
    assert with_flags("`memory_opt=True`", options.flags) == "--memory_opt"
    options = build_parser().parse_args(["lmdb", "create", "a", "b"])
    assert with_flags("`force=True`", options.flags) == "--force"


def test_advice_to_use_another_command_has_its_flags():
    flags = CommandFlags()
    flags.own = build_parser().parse_args(["check", "net"]).flags
    assert with_flags("`shapes=..`, `images=..`", flags) == "--shape BLOB=N,C,H,W, --images LIST"


def test_an_error_of_the_library_names_the_option(tmp_path, capsys):
    (tmp_path / "deploy.prototxt").write_text('layer { name: "x" type: "Input" top: "x" }\n')
    (tmp_path / "a.png").write_bytes(b"")
    text = """
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 4, 4] } } }
    layer { name: "y" type: "Input" top: "y" input_param { shape { dim: [1, 3, 4, 4] } } }
    """
    (tmp_path / "deploy.prototxt").write_text(text)
    assert main(["calibrate", "net", str(tmp_path), "--images", str(tmp_path / "a.png")]) == 1
    assert "Say --input BLOB; inputs of the network: 'x', 'y'" in capsys.readouterr().err
