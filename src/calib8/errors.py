"""Everything that calib8 raises on purpose.

    Calib8Error                 one clear message; the commands print it in one line and exit with 1
    ├── ModelError              the prototxt or the caffemodel: `problems` lists all that is wrong with it
    │   ├── PrototxtError       the text cannot be read, or a field has no meaning
    │   ├── CaffemodelError     the binary cannot be read, or does not fit the prototxt
    │   ├── OnnxError           an ONNX model cannot be read, or means nothing
    │   └── UnsupportedError    layers or fields that calib8 does not compute
    ├── DataError               a calibration or test sample, an LMDB, an image list, a Python data layer
    ├── UserLayerError          a Python layer of the user's raised, or cannot be found
    │   └── NotRunError         it was not to be run
    ├── QuantizationError       the integer contract cannot express a layer (`problems` lists all such layers)
    ├── TableError              a calibration table or an int8 model that does not fit the network
    ├── OptionError             an option's value
    └── DeviceError             a GPU that was asked for and cannot be used

Anything else that escapes is a defect of calib8.

A message that speaks of a parameter names it between backticks: `samples`, or `samples=..` where it asks for one. The
commands put their options in the place of these names.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.terminal import printable_lines, shortened

_MOST_TEXT = 2000
"""Characters of a problem."""
_MOST_LISTED = 20
"""Problems that a message lists."""


class Calib8Error(RuntimeError):
    """Base of all errors on purpose. `problems` holds one sentence per thing that is wrong, never empty.

    The message lists the first 20 of many, and says how many more there are.

    A RuntimeError, since that is what scripts written for pycaffe catch.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        message = _clear(message)
        shown = [_clear(problem) for problem in problems]
        self.problems: tuple[str, ...] = tuple(shown) or (message,)
        super().__init__("\n  - ".join([message, *some(shown, _MOST_LISTED)]))


def some(texts: Sequence[str], most: int) -> list[str]:
    """Take the first texts, and a last one that says how many were left out, if that makes the list shorter."""
    left_out = len(texts) - most
    return [*texts] if left_out < 2 else [*texts[:most], f"and {left_out} more"]


def _clear(text: str) -> str:
    """Names in files may hold anything: no control characters, and not more of them than can be read."""
    return shortened(printable_lines(text), _MOST_TEXT)


class ModelError(Calib8Error):
    """The network's definition or its weights are not usable."""


class PrototxtError(ModelError):
    """A prototxt that cannot be read, or that means nothing."""


class CaffemodelError(ModelError):
    """A weight file that cannot be read, or that does not fit its prototxt."""


class OnnxError(ModelError):
    """An ONNX model that cannot be read, or that means nothing."""


class UnsupportedError(ModelError):
    """Layer types or fields that calib8 does not compute."""


class DataError(Calib8Error):
    """Calibration or test data that cannot be used."""


class UserLayerError(Calib8Error):
    """A Python layer that the prototxt names cannot be found, or failed."""


class NotRunError(UserLayerError):
    """A Python layer of the user's that was not to be run, so that nothing is known of it."""


class QuantizationError(Calib8Error):
    """Thresholds and weights that the integer contract cannot express."""


class TableError(Calib8Error):
    """A calibration table or an int8 model that does not belong to the network."""


class OptionError(Calib8Error):
    """An option with a value that it cannot have."""


class DeviceError(Calib8Error):
    """A device that was asked for and cannot be used."""
