"""A look at all samples before the work begins: one bad image of a thousand should not end hours of it.

Heads suffice to find what is missing, empty, of another kind or too large; decoding finds the rest, and takes the time
that it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar, runtime_checkable

from calib8.data.faces import SampleSource
from calib8.errors import DataError

MAX_PROBLEMS = 20
"""Most samples that one message names."""
_TRIED = 1000
_Found = TypeVar("_Found")


@runtime_checkable
class Examinable(Protocol):
    """A source whose samples can be looked at one by one."""

    def problems(self, *, decode: bool) -> Iterator[str]:
        """For every sample in order what is wrong with it, "" for nothing.

        Raises:
            DataError: the source as a whole cannot be read on.
        """
        ...

    def without(self, bad: Collection[int]) -> SampleSource:
        """The same source without some samples, by their numbers."""
        ...


@dataclass(frozen=True)
class Look:
    """What a look at samples has found.

    Attributes:
        bad: what is wrong, by the sample's number.
        seen: how many were looked at.
    """

    bad: dict[int, str]
    seen: int

    @property
    def lines(self) -> list[str]:
        """A sentence for each, as many as one message names, and how many more there are."""
        more = [f"and {len(self.bad) - MAX_PROBLEMS} more"] if len(self.bad) > MAX_PROBLEMS else []
        return [*islice(self.bad.values(), MAX_PROBLEMS), *more]


def look_at(source: SampleSource, good: int | None = None, *, decode: bool = False) -> Look:
    """Look at samples until so many are good, or at all of them; at none where a source gives them in its own way.

    Raises:
        DataError: the source as a whole cannot be read on.
    """
    bad: dict[int, str] = {}
    seen = 0
    for problem in source.problems(decode=decode) if isinstance(source, Examinable) else ():
        if problem:
            bad[seen] = problem
        seen += 1
        if seen - len(bad) == good:
            break
    return Look(bad, seen)


def refuse_bad_samples(source: SampleSource, count: int) -> None:
    """Raise DataError, with all of them, if any of the first samples is bad by its head."""
    if not isinstance(source, Examinable):
        return
    problems = list(islice(source.problems(decode=False), count))
    look = Look({i: text for i, text in enumerate(problems) if text}, len(problems))
    if look.bad:
        raise DataError(
            f"{len(look.bad)} of {look.seen} samples cannot be used; `skip_bad` goes on without them", look.lines
        )


def problem_of(make: Callable[[], object]) -> str:
    """What a DataError says, "" where there is none."""
    try:
        make()
    except DataError as why:
        return str(why)
    return ""


def first_usable(makers: Iterable[Callable[[], _Found]]) -> _Found:
    """The first sample that can be read: it settles the shapes, and the others are looked at later.

    Raises:
        DataError: none of the first thousand can be read; what is said of the first one.
    """
    first: DataError | None = None
    for make in islice(makers, _TRIED):
        try:
            return make()
        except DataError as why:
            first = first or why
    raise first or DataError("there are no samples")
