"""Histograms on disk: exact counter states, and of which network, preparation and samples they are.

A file is, with numbers little-endian:

    8 bytes     "calib8h", and the format's number as a byte: 1
    8 bytes     length of the header
    header      JSON in UTF-8, keys sorted, no blanks; lists of counts stand in it by type and number
    samples     a digest of 8 bytes for each sample, sorted
    counts      of every state in the header's order, in the narrowest of u1, u2, u4 and u8 that holds them
    32 bytes    SHA-256 of all before

The bytes are a function of what was counted: not of the time, the machine, the number of threads, or of the parts that
were merged. Sizes follow from the header and are checked before anything is allocated.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter as Multiset
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.errors import DataError, OptionError
from calib8.measure.histogram import BlobHistogram, check_bins, fine_bins, histogram_of
from calib8.measure.states import MAX_EXPONENT, CounterState
from calib8.reading import read_file

MAX_FILE_BYTES = 8 * 2**30
_MAGIC = b"calib8h"
_VERSION = 1
_LENGTH_BYTES = 8
_DIGEST_BYTES = 32
_TYPES = ("|u1", "<u2", "<u4", "<u8")
_LARGEST_COUNT = 2**63 - 1
_TALLIES = ("zeros", "nans", "infs", "samples", "beyond")
Digests = NDArray[np.uint64]
States = Mapping[str, CounterState]


@dataclass(frozen=True)
class Group:
    """Values that share a threshold, by what is measured of them.

    Attributes:
        name: the value that the group goes by: the blob's name, or `blob@layer` for what that layer has written where a
            later one overwrites it.
        rectified: the value that is quantised; what most methods measure.
        written: the value as its layer writes it; what the original measures.
    """

    name: str
    rectified: str
    written: str


@dataclass(frozen=True)
class Identity:
    """What histograms must have in common to be merged.

    Attributes:
        network: SHA-256 of layers, parameters and weights; not of where the data lie.
        preparation: how pixels become samples, in words.
        inputs: shapes of inputs without the axis that counts images, by blob.
        groups: of values with one threshold, in the order of their layers.
        bins: of the histograms.
        concat_quantize: whether every bottom of a Concat has a threshold of its own.
    """

    network: str
    preparation: str
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    groups: tuple[Group, ...]
    bins: int
    concat_quantize: bool

    def differences(self, other: Identity) -> list[str]:
        """Name what differs, a sentence each."""
        return [
            f"{_WORDS[f.name]} differs" + (f": {a!r} and {b!r}" if f.name in _SHORT else "")
            for f in fields(self)
            if (a := getattr(self, f.name)) != (b := getattr(other, f.name))
        ]


_WORDS = {
    "network": "the network (its layers or weights)", "preparation": "the preparation of the samples",
    "inputs": "the shape of the inputs", "groups": "which values are measured", "bins": "`bins`",
    "concat_quantize": "`concat_quantize`",
}  # fmt: skip
_SHORT = frozenset(["preparation", "bins", "concat_quantize"])


@dataclass(frozen=True, eq=False)
class HistogramSet:
    """Counter states of a network's values over some samples.

    Attributes:
        identity: of what.
        samples: 64-bit digests of the samples as they enter the network, sorted.
        fine: states of fine bins, by value: of all that any method measures.
        exact: states of the formula's own bins, by value, which need a second pass; `kl` needs those of values as they
            are written. Empty where they were not counted, or over maxima that differ.
        unfinished: where an interrupted run was: how many samples of the first and of the second pass are in it; None
            for a whole set.
    """

    identity: Identity
    samples: Digests
    fine: States
    exact: States
    unfinished: tuple[int, int] | None = None

    @property
    def maxima(self) -> dict[str, float]:
        """The largest |x| of every value."""
        return {value: state.maximum for value, state in self.fine.items()}

    def lacking(self, exact_values: Sequence[str]) -> list[str]:
        """Return those of the values that have no exact counts over their own maximum."""
        return [v for v in exact_values if v not in self.exact or self.exact[v].maximum != self.fine[v].maximum]

    def histograms(self, values: Sequence[str], *, exact: bool) -> dict[str, BlobHistogram]:
        """Bring some values to the formula's bins.

        Raises:
            OptionError: exact counts are wanted, and are not there; what to do.
        """
        lacking = self.lacking(values) if exact else []
        if lacking:
            why = "over the maximum of other samples" if all(v in self.exact for v in lacking) else "missing"
            raise OptionError(
                f"exact counts of {len(lacking)} values ({lacking[0]!r} ..) are {why}; kl and `two_pass` need them, "
                "and they need a second pass over the data: count every part again over the maxima of all "
                "(`maxima=..`), and merge the parts again; other methods do without"
            )
        states = self.exact if exact else self.fine
        return {value: histogram_of(states[value]) for value in values}

    def merge(self, other: HistogramSet) -> HistogramSet:
        """Add two sets: the set that one run over the samples of both would have given.

        Exact counts over different maxima cannot be added; then there are none in the result.

        Raises:
            DataError: the sets are of different networks, or were measured in another way.
        """
        problems = self.identity.differences(other.identity)
        problems += (
            ["one of them is of a run that has not come to its end"] if self.unfinished or other.unfinished else []
        )
        if problems:
            raise DataError("these histograms cannot be merged", problems)
        samples = np.concatenate((self.samples, other.samples))
        samples.sort()
        fine = {value: state.merge(other.fine[value]) for value, state in self.fine.items()}
        exact = {}
        if _exact_maxima(self) == _exact_maxima(other):
            exact = {value: state.merge(other.exact[value]) for value, state in self.exact.items()}
        return replace(self, samples=samples, fine=fine, exact=exact)

    def shares_samples_with(self, other: HistogramSet) -> int:
        """Count the samples that are in both."""
        return (Multiset(self.samples.tolist()) & Multiset(other.samples.tolist())).total()

    def to_bytes(self) -> bytes:
        """Write the bytes of the file."""
        states = [_packed(value, state) for part in (self.fine, self.exact) for value, state in part.items()]
        header = json.dumps(
            {
                "identity": asdict(self.identity), "samples": int(self.samples.size), "unfinished": self.unfinished,
                "states": [described for described, _ in states],
            },
            sort_keys=True, separators=(",", ":"),
        ).encode()  # fmt: skip
        start = _MAGIC + bytes([_VERSION]) + len(header).to_bytes(_LENGTH_BYTES, "little")
        parts = [start, header, self.samples.astype("<u8").tobytes(), *(counts for _, counts in states)]
        content = b"".join(parts)
        return content + hashlib.sha256(content).digest()


def _exact_maxima(histograms: HistogramSet) -> dict[str, float]:
    return {value: state.maximum for value, state in histograms.exact.items()}


def _packed(value: str, state: CounterState) -> tuple[dict[str, Any], bytes]:
    most = int(state.counts.max())
    kind = next(t for t in _TYPES if most <= np.iinfo(t).max)
    described = {
        "value": value, "exact": state.exact, "maximum": state.maximum.hex(), "type": kind, "bins": state.counts.size,
        **{name: getattr(state, name) for name in _TALLIES},
    }  # fmt: skip
    return described, state.counts.astype(kind).tobytes()


def read_histograms(path: str | os.PathLike[str]) -> HistogramSet:
    """Read a file of histograms.

    Raises:
        DataError: it cannot be read, is damaged, is no such file, or one of a later calib8.
    """
    return parse_histograms(read_file(path, MAX_FILE_BYTES, DataError), os.fspath(path))


def parse_histograms(data: bytes, source: str) -> HistogramSet:
    """Parse the bytes of a file of histograms; see `read_histograms`."""
    header, body = _split(data, source)
    try:
        described = [_State(x) for x in header["states"]]
        identity, count, unfinished = _identity(header["identity"]), _number(header["samples"]), header["unfinished"]
        unfinished = None if unfinished is None else (_number(unfinished[0]), _number(unfinished[1]))
        size = 8 * count + sum(x.size for x in described)
        if size != len(body):
            raise ValueError(f"its header tells of {size} bytes of counts, and it has {len(body)}")
        samples = np.frombuffer(body, "<u8", count).astype(np.uint64)
        fine, exact = _states(described, body, 8 * count, identity.bins)
        _check(identity, fine, exact)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, OptionError) as why:
        raise DataError(f"{source}: these are no histograms that calib8 has written: {why}") from None
    return HistogramSet(identity, samples, fine, exact, unfinished)


def _split(data: bytes, source: str) -> tuple[dict[str, Any], memoryview]:
    """Header and counts, of bytes that are what was once written."""
    start = len(_MAGIC) + 1 + _LENGTH_BYTES
    if not data.startswith(_MAGIC):
        raise DataError(f"{source}: no file of histograms; `calib8 calibrate` writes them (`histograms=..`)")
    if len(data) > len(_MAGIC) and data[len(_MAGIC)] != _VERSION:
        raise DataError(
            f"{source}: histograms of format {data[len(_MAGIC)]}; this calib8 reads format {_VERSION}; "
            "take the calib8 that has written them, or a later one"
        )
    end = len(data) - _DIGEST_BYTES
    view = memoryview(data)
    if end < start or hashlib.sha256(view[:end]).digest() != data[end:]:
        raise DataError(
            f"{source}: damaged: it does not have the bytes any more that were written; copy or make it anew"
        )
    length = int.from_bytes(data[start - _LENGTH_BYTES : start], "little")
    try:
        header = json.loads(bytes(view[start : start + length]))
    except (ValueError, RecursionError):
        header = None
    if start + length > end or not isinstance(header, dict):
        raise DataError(f"{source}: these are no histograms that calib8 has written: its header cannot be read")
    return header, view[start + length : end]


class _State:
    """What a header says of a state; nothing of it is believed yet but types and ranges."""

    def __init__(self, described: Any) -> None:
        self.value, self.exact = str(described["value"]), described["exact"] is True
        self.maximum = float.fromhex(described["maximum"])
        self.type, self.bins = described["type"], _number(described["bins"])
        self.tallies = {name: _number(described[name]) for name in _TALLIES}
        if self.type not in _TYPES or not 0 <= self.maximum < math.ldexp(1, MAX_EXPONENT):
            raise ValueError(f"{self.value!r} has counts of a type or a maximum that cannot be")
        self.size = self.bins * np.dtype(self.type).itemsize

    def counted(self, body: memoryview, offset: int, bins: int) -> CounterState:
        if self.bins != (bins if self.exact else fine_bins(bins)):
            raise ValueError(f"{self.value!r} has {self.bins} bins")
        counts = np.frombuffer(body, self.type, self.bins, offset)
        if self.tallies["zeros"] > int(counts[0]):
            raise ValueError(f"{self.value!r} has more zeros than there are values in its first bin")
        if int(counts.max()) > _LARGEST_COUNT or sum(counts.tolist()) != self.tallies["samples"]:
            raise ValueError(f"counts of {self.value!r} do not add up to its {self.tallies['samples']} values")
        return CounterState(self.exact, bins, self.maximum, counts.astype(np.int64), **self.tallies)


def _states(
    described: Sequence[_State], body: memoryview, offset: int, bins: int
) -> tuple[dict[str, CounterState], dict[str, CounterState]]:
    fine: dict[str, CounterState] = {}
    exact: dict[str, CounterState] = {}
    for one in described:
        (exact if one.exact else fine)[one.value] = one.counted(body, offset, bins)
        offset += one.size
    return fine, exact


def _check(identity: Identity, fine: States, exact: States) -> None:
    wanted = set(measured_values(identity.groups))
    if set(fine) != wanted or not set(exact) <= wanted:
        raise ValueError("it does not have the states of the values that it tells of")


def measured_values(groups: Sequence[Group]) -> tuple[str, ...]:
    """Return all values that a method may measure, each once."""
    return tuple(dict.fromkeys(_of_groups(groups)))


def _of_groups(groups: Sequence[Group]) -> Iterator[str]:
    for group in groups:
        yield group.written
        yield group.rectified


def _identity(found: Any) -> Identity:
    return Identity(
        network=str(found["network"]),
        preparation=str(found["preparation"]),
        inputs=tuple((str(blob), tuple(_number(n) for n in shape)) for blob, shape in found["inputs"]),
        groups=tuple(Group(str(g["name"]), str(g["rectified"]), str(g["written"])) for g in found["groups"]),
        bins=check_bins(_number(found["bins"])),
        concat_quantize=found["concat_quantize"] is True,
    )


def _number(found: Any) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= _LARGEST_COUNT:
        raise ValueError(f"{found!r} is no number of something")
    return found
