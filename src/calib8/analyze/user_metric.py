"""A metric of the user's: `module:function` over the outputs in FP32 and INT8, and labels where there are some.

def metric(fp32, int8, labels):   # labels only where they are given
    '''fp32, int8: dict of blob name -> array, samples along axis 0. More is better.'''
    return (int8["prob"].argmax(1) == labels).mean()
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from calib8.analyze.judges import Outputs, Quality
from calib8.errors import OptionError
from calib8.lowering import Model
from calib8.python_layers.failures import run_failure
from calib8.python_layers.isolation import World
from calib8.reading import is_file, read_file

_MAX_CODE_BYTES = 16 * 2**20


def user_metric(name: str, model: Model) -> tuple[Quality, str]:
    """Find the function that `module:function` names; returns it as a quality, and a digest of its file.

    Modules are found in the working directory and on PYTHONPATH.

    Raises:
        OptionError: no such module or function, or one that cannot be imported; later, whatever the function raises.
    """
    module, _, function = name.partition(":")
    world = World([Path.cwd()])
    called = _import(module, function, name, world)
    plain, code = function_metric(called, model)

    def quality(fp32: Outputs, int8: Outputs, labels: Any) -> float:
        with world.entered():
            try:
                return plain(fp32, int8, labels)
            except KeyboardInterrupt:
                raise
            except BaseException as why:  # noqa: BLE001 - the user's code may raise anything, SystemExit as well
                raise OptionError(f"metric {name}: {run_failure(why, world.owns)}") from None

    return quality, code


def function_metric(function: Callable[..., float], model: Model) -> tuple[Quality, str]:
    """Make a quality of a function that takes outputs by blob; returns it with a digest of the function's file.

    What the function raises is its caller's.
    """
    blobs = model.net.blob_of

    def quality(fp32: Outputs, int8: Outputs, labels: Any) -> float:
        arguments = [{blobs[v]: a for v, a in outputs.items()} for outputs in (fp32, int8)]
        return float(function(*arguments) if labels is None else function(*arguments, labels))

    return quality, _digest(function)


def _digest(function: Callable[..., Any]) -> str:
    file = getattr(getattr(function, "__code__", None), "co_filename", "")
    data = read_file(file, _MAX_CODE_BYTES, OptionError, "metric") if file and is_file(file) else b""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _import(module: str, function: str, name: str, world: World) -> Callable[..., Any]:
    if not module or not function.isidentifier():
        raise OptionError(f"metric {name!r} has no built-in meaning; a function of yours is named module:function")
    with world.entered():
        try:
            found = getattr(world.import_module(module), function, None)
        except ModuleNotFoundError as why:
            if why.name != module.split(".", maxsplit=1)[0] and why.name != module:
                raise OptionError(f"metric {name}: {run_failure(why, world.owns)}") from None
            raise OptionError(
                f"metric {name}: no module {module!r} in the working directory {Path.cwd()} or on PYTHONPATH"
            ) from None
        except KeyboardInterrupt:
            raise
        except BaseException as why:  # noqa: BLE001 - as above
            raise OptionError(f"metric {name}: {run_failure(why, world.owns)}") from None
    if not callable(found):
        raise OptionError(f"metric {name}: module {module!r} has no function {function!r}")
    function_found: Callable[..., Any] = found
    return function_found
