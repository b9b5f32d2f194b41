"""What the pages say beside their examples: links, options, files and fields exist, and none is missing."""

from __future__ import annotations

import argparse
import importlib.util
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from markdown_pages import ROOT, pages

import caffe
import calib8
from calib8.cli.main import build_parser, main
from calib8.proto import calibration_pb2

_OPTION = re.compile(r"(?<![\w-])--?[a-zA-Z][\w-]*")
_OF_OTHER_TOOLS = ("CONTRIBUTING.md", "beside-caffe.md", "docker.md", "export.md", "samples.md")
_OWN_OPTIONS = [p for p in pages() if p.parent.name != "decisions" and p.name not in _OF_OTHER_TOOLS]
"""Pages that speak of no other tool's options."""


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """docs/site_hooks.py, which mkdocs loads."""
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", _text(page), flags=re.DOTALL | re.MULTILINE)


def _place(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", pages(), ids=_place)
def test_links_lead_somewhere(page):
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page))]
    local = [target for target in targets if target and "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", _OWN_OPTIONS, ids=_place)
def test_options_exist(page):
    known = {o for parser in _parsers(build_parser()) for a in parser._actions for o in a.option_strings}
    named = {
        o for code in re.findall(r"`([^`\n]+)`", _prose(page)) for o in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)
    }
    assert named <= known


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _parsers(command)


def test_command_reference_has_every_option_that_help_prints(hooks, capsys):
    page = hooks.on_page_markdown(
        _text(ROOT / "docs" / "commands.md"), argparse.Namespace(file=argparse.Namespace(src_uri="commands.md"))
    )
    commands = re.findall(r"^## (calib8.*)$", page, re.MULTILINE)
    assert {"calib8", "calib8 check", "calib8 calibrate"} <= set(commands)
    sections = dict(zip(commands, re.split(r"^## calib8.*$", page, flags=re.MULTILINE)[1:], strict=True))
    for command, section in sections.items():
        with pytest.raises(SystemExit):
            main([*command.split()[1:], "--help"])
        options = set(_OPTION.findall(capsys.readouterr().out))
        assert options >= {"-h", "--help"}
        assert options <= set(_OPTION.findall(section))


def test_python_reference_names_what_there_is():
    targets = re.findall(r"^::: ([\w.]+)$", _text(ROOT / "docs" / "api.md"), re.MULTILINE)
    assert [target for target in targets if pkgutil.resolve_name(target) is None] == []
    assert {f"calib8.{name}" for name in calib8.__all__} <= set(targets)
    inference = {
        f"caffe.{name}"
        for name, value in vars(caffe).items()
        if callable(value) and not name.startswith("_") and "to_proto" not in name
        if "olver" not in name and name != "NCCL"  # what is only for training
        if getattr(value, "__annotations__", {}).get("return") != "NoReturn"  # what is only for training
    }
    assert "caffe.Net" in inference and inference <= set(targets)


def test_links_out_of_the_site_become_text(hooks):
    assert hooks.unlinked("see [code](../src/x.py) and [page](quickstart.md)", "index.md") == (
        "see code and [page](quickstart.md)"
    )
    assert hooks.unlinked("[page](../index.md) [code](../../src)", "decisions/0001.md") == "[page](../index.md) code"


def test_map_of_the_code_names_everything():
    folder = ROOT / "src" / "calib8"
    names = {f"{p.name}/" for p in folder.iterdir() if p.is_dir() and any(p.glob("*.py"))}
    names |= {p.name for p in folder.glob("*.py") if p.name != "__init__.py"}
    named = set(re.findall(r"`src/calib8/([\w.]+/?)`", _text(ROOT / "README.md")))
    assert named == names


def test_every_field_of_the_calibration_table_is_described():
    page = _text(ROOT / "docs" / "file-formats.md")
    for message in calibration_pb2.DESCRIPTOR.message_types_by_name.values():
        assert f"`{message.name}`" in page
        for field in message.fields:
            in_a_row = rf"^\| `{field.name}` \| {field.number} \|"
            in_a_list = rf"^\|[^|]*`{message.name}`[^|]*\|[^|]*`{field.name}` {field.number}\b"
            assert re.search(f"{in_a_row}|{in_a_list}", page, re.MULTILINE), f"{message.name}.{field.name}"


def test_every_make_target_is_in_the_readme():
    phony = re.search(r"^\.PHONY: (.*)$", _text(ROOT / "Makefile"), re.MULTILINE)
    readme = _text(ROOT / "README.md")
    assert [t for t in phony[1].split() if t not in ("setup", "clean") and f"make {t}" not in readme] == []


def test_docker_build_gets_what_the_dockerfiles_copy():
    allowed = {line[1:] for line in _text(ROOT / ".dockerignore").splitlines() if line.startswith("!")}
    for name in ("Dockerfile_CPU", "Dockerfile_GPU"):
        copies = re.findall(r"^COPY (?!--)(.*) \S+$", _text(ROOT / "docker" / name), re.MULTILINE)
        assert {source for sources in copies for source in sources.split()} <= allowed


def test_every_decision_has_a_number_of_its_own_and_is_listed():
    folder = ROOT / "docs" / "decisions"
    names = sorted(p.name for p in folder.glob("0*.md"))
    assert len({name[:4] for name in names}) == len(names)
    listed = re.findall(r"^\| \[(\d{4})\]\((\S+)\)", _text(folder / "README.md"), re.MULTILINE)
    assert [name for _, name in listed] == names and all(name.startswith(number) for number, name in listed)
    assert all(_text(folder / name).startswith(f"# {name[:4]}: ") for name in names)
