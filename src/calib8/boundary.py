"""The edge of every public function: nothing but a `Calib8Error` leaves it.

No memory, a file system that fails, text that cannot be decoded, and whatever libraries raise become one line that
names what was worked on and the cause; the exception itself is its `__cause__`. What the caller's own code raises, a
callback or a metric of his, goes through as it is.
"""

from __future__ import annotations

import functools
import os
import sysconfig
import traceback
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import FunctionType, TracebackType
from typing import Any, ParamSpec, TypeVar

from calib8.errors import Calib8Error
from calib8.terminal import printable

_P = ParamSpec("_P")
_T = TypeVar("_T")
_C = TypeVar("_C", bound=type)
_MOST_TEXT = 1000
_OURS = ("calib8", "caffe")
REPORT = "with the traceback and, if you may, the files"
_FACES = "calib8.cli"
"""Of ours, what calls public functions itself, and knows what its own callbacks raise."""
_LIBRARIES = tuple({str(Path(sysconfig.get_path(kind))) + os.sep for kind in ("stdlib", "platstdlib", "purelib")})
_FOLDERS_OF_LIBRARIES = ("site-packages", "dist-packages")


def closed(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let a function raise nothing but Calib8Error, and what its caller's own code raises."""

    @functools.wraps(function)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except Calib8Error:
            raise
        except Exception as why:
            inside = why.__traceback__.tb_next if why.__traceback__ is not None else None
            if inside is None or _is_of_the_caller(inside):  # wrong arguments, or a callback
                raise
            raise Calib8Error(_about(args) + sentence(why)) from why

    vars(guarded)["__closed__"] = True  # for the test that goes over all of them
    return guarded


def closed_class(cls: _C) -> _C:
    """Close a class: how it is made, its public methods, and its properties."""
    for name, member in list(vars(cls).items()):
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(member, FunctionType):
            setattr(cls, name, closed(member))
        elif isinstance(member, property) and member.fget is not None:
            setattr(cls, name, property(closed(member.fget), member.fset, member.fdel, member.__doc__))
        elif isinstance(member, cached_property):
            member.func = closed(member.func)
    return cls


def sentence(why: BaseException) -> str:
    """Say in one line what an exception means; "" for a stream that nobody reads any more."""
    match why:
        case MemoryError():
            return f"there is not enough memory{_detail(why)}"
        case BrokenPipeError():
            return ""
        case OSError():
            name = why.filename if isinstance(why.filename, str | bytes) else "a file"
            return f"{printable(os.fsdecode(name))}: {why.strerror or why}"
        case UnicodeError():
            return f"a text in another encoding than expected{_detail(why)}"
    return f"a defect of calib8: {type(why).__name__}{_detail(why)}{_place(why)}; please report it, {REPORT}"


def _detail(why: BaseException) -> str:
    text = printable(" ".join(_text_of(why).split()))[:_MOST_TEXT]
    return f": {text}" if text else ""


def _text_of(why: BaseException) -> str:
    try:
        return str(why)
    except Exception:  # noqa: BLE001 - not even that is sure
        return ""


def _place(why: BaseException) -> str:
    frames = traceback.extract_tb(why.__traceback__)
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _is_of_the_caller(inside: TracebackType) -> bool:
    """Whether code that is neither ours nor a library's took part: it was called back."""
    frame: TracebackType | None = inside
    while frame is not None:
        name = str(frame.tb_frame.f_globals.get("__name__", ""))
        if name.startswith(_FACES) or name == "__main__":
            return True
        if name.partition(".")[0] not in _OURS and not _is_of_a_library(frame.tb_frame.f_code.co_filename):
            return True
        frame = frame.tb_next
    return False


def _is_of_a_library(file: str) -> bool:
    return file.startswith(("<", *_LIBRARIES)) or any(part in _FOLDERS_OF_LIBRARIES for part in Path(file).parts)


def _about(args: tuple[Any, ...]) -> str:
    """What was worked on, by the first argument: a file, or an object that has a network."""
    for arg in args[:2]:  # the first may be `self`
        try:
            if isinstance(arg, str | os.PathLike):
                return f"{printable(os.fspath(arg))}: "
            model = getattr(arg, "model", arg)
            return f"{printable(str(model.net.source))}: "
        except Exception:  # noqa: BLE001 - it was only for the message
            continue
    return ""
