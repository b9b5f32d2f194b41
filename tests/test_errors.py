"""The exception tree: one clear message, all problems in it."""

from __future__ import annotations

import pytest

from calib8 import errors
from calib8.errors import Calib8Error, ModelError, UserLayerError

CLASSES = [x for x in vars(errors).values() if isinstance(x, type) and issubclass(x, Exception)]
PARENTS = {
    "PrototxtError": ModelError, "CaffemodelError": ModelError, "OnnxError": ModelError, "UnsupportedError": ModelError,
    "NotRunError": UserLayerError,
}  # fmt: skip


@pytest.mark.parametrize("error", CLASSES)
class TestEveryError:
    def test_its_place_in_the_tree(self, error):
        if error is not Calib8Error:
            assert error.__bases__ == (PARENTS.get(error.__name__, Calib8Error),)
        assert error.__name__ in errors.__doc__ and error.__doc__

    def test_a_message_is_its_one_problem(self, error):
        found = error("conv1: no weights")
        assert str(found) == "conv1: no weights" and found.problems == ("conv1: no weights",)

    def test_problems_are_listed_below_the_message(self, error):
        found = error("2 layers cannot be read", ["conv1: no weights", "conv2: no bias"])
        assert str(found).splitlines() == ["2 layers cannot be read", "  - conv1: no weights", "  - conv2: no bias"]
        assert found.problems == ("conv1: no weights", "conv2: no bias")


@pytest.mark.parametrize(
    ("count", "lines", "last"), [(20, 20, "19"), (21, 21, "20"), (22, 21, "and 2 more"), (9000, 21, "and 8980 more")]
)
def test_of_many_problems_the_first_are_listed(count, lines, last):
    found = Calib8Error("much is wrong", [str(i) for i in range(count)])
    assert len(found.problems) == count
    listed = str(found).splitlines()
    assert len(listed) == lines + 1 and listed[-1] == f"  - {last}"


def test_there_are_errors_to_try():
    assert Calib8Error in CLASSES and len(CLASSES) > len(PARENTS) + 1
