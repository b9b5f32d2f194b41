"""The pages of an LMDB file, read and checked without mapping it: whatever its bytes are, they kill nothing.

LMDB itself trusts its file. A changed byte sends it behind the map's end (SIGBUS) or into an assertion (SIGABRT), and
the process is gone; 9 of the 5,371 single-byte changes of a small database did that. docs/decisions/0018 tells why this
reader is the answer. Writing stays the library's business.

A file is an array of pages; page 0 and 1 describe it, the newer one counts. From the root of its main table, a tree of
branch pages leads to leaf pages with the records in the order of their keys; a large record lies in overflow pages.

    page       pgno u64, pad u16, flags u16, then (lower u16, upper u16) or the number of overflow pages u32
    meta page  behind these 16 bytes: magic u32, version u32, address u64, map size u64, the free list's and the main
               table's description, last page u64, transaction u64
    table      page size u32 (in the first one), flags u16, depth u16, branch, leaf and overflow pages u64, entries u64,
               root u64
    node       at the offsets (u16) that follow the page's head: low u16, high u16, flags u16, key size u16, key; in a
               leaf low and high are the record's size and the record follows, in a branch with the flags they are the
               number of the page below

Numbers are in the order of the machine that wrote them. Source: LMDB 0.9, libraries/liblmdb/mdb.c, MDB_page, MDB_meta,
MDB_db, MDB_node.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_HEAD = struct.Struct("=QHHHH")
_META = struct.Struct("=IIQQ")
_TABLE = struct.Struct("=IHHQQQQQ")
_META_END = struct.Struct("=QQ")
_NODE = struct.Struct("=HHHH")
_PAGE_NUMBER = struct.Struct("=Q")
_OVERFLOW = struct.Struct("=QHHI")
_META_BYTES = _HEAD.size + _META.size + 2 * _TABLE.size + _META_END.size
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW_PAGE, _META_PAGE = 0x01, 0x02, 0x04, 0x08
_BIG, _SUB_TABLE, _DUPLICATES = 0x01, 0x02, 0x04
_KINDS = _BRANCH | _LEAF | _OVERFLOW_PAGE | _META_PAGE
_MAX_DEPTH = 32
"""Of the tree: LMDB's own CURSOR_STACK."""
_PAGE_SIZES = range(256, 65537)
_NO_PAGE = 2**64 - 1


class DamagedError(Exception):
    """What is wrong with the file, without its name."""


@dataclass(frozen=True)
class LmdbHeader:
    """What the newer of the two meta pages says.

    Attributes:
        page_size: in bytes.
        pages: how many the file must have.
        entries: how many records there are.
        root: page number of the tree's root; None for an empty table.
        depth: of the tree.
    """

    page_size: int
    pages: int
    entries: int
    root: int | None
    depth: int


def read_header(descriptor: int) -> LmdbHeader:
    """Read the header of an open file.

    Raises:
        DamagedError: it is no LMDB, or a truncated one.
        OSError: it cannot be read.
    """
    first, page_size = _meta(os.pread(descriptor, _META_BYTES, 0), None)
    second, _ = _meta(os.pread(descriptor, _META_BYTES, page_size), page_size)
    header = max((first, second), key=lambda found: found[0])[1]
    size = os.fstat(descriptor).st_size
    if size < header.pages * page_size:
        raise DamagedError(f"is truncated: it has {size} bytes of {header.pages * page_size}; copy it again")
    return header


def _meta(data: bytes, page_size: int | None) -> tuple[tuple[int, LmdbHeader], int]:
    """A meta page's transaction and header, and the page size; the first page says what that is."""
    if len(data) < _META_BYTES:
        raise DamagedError("is no LMDB: it is too short for one")
    flags = _HEAD.unpack_from(data)[2]
    magic, version, _, _ = _META.unpack_from(data, _HEAD.size)
    if magic != _MAGIC or flags & _KINDS != _META_PAGE:
        raise DamagedError("is no LMDB: it does not begin as one does")
    if version != _VERSION:
        raise DamagedError(f"is an LMDB of the version {version}; only version {_VERSION} is read")
    tables = _HEAD.size + _META.size
    own_size = _TABLE.unpack_from(data, tables)[0]
    page_size = page_size or own_size
    if page_size not in _PAGE_SIZES or page_size & (page_size - 1):
        raise DamagedError(f"has pages of {page_size} bytes, which no LMDB has")
    _, _, depth, _, _, _, entries, root = _TABLE.unpack_from(data, tables + _TABLE.size)
    last, transaction = _META_END.unpack_from(data, tables + 2 * _TABLE.size)
    header = LmdbHeader(page_size, last + 1, entries, None if root == _NO_PAGE else root, depth)
    return (transaction, header), page_size


@dataclass(frozen=True)
class _Node:
    """A record of a leaf page. `data` is the record, or the number of its first overflow page."""

    key: bytes
    size: int
    data: bytes | int


class LmdbTree:
    """The records of one open file, in the order of their keys.

    Raises, while it is walked:
        DamagedError: pages that cannot be, with the page's number.
        OSError: the file cannot be read.
    """

    def __init__(self, descriptor: int, header: LmdbHeader) -> None:
        self._file, self._header = descriptor, header
        self._read = 0

    def records(self, first: int = 0) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, record), without the `first` ones."""
        given = 0
        for node in self._nodes():
            given += 1
            if given > self._header.entries:
                raise DamagedError(f"is damaged: it has more records than its header says, {self._header.entries}")
            if given > first:
                yield node.key, self._record(node)
        if given != self._header.entries:
            raise DamagedError(f"is damaged: it has {given} records, its header says {self._header.entries}")

    def _nodes(self) -> Iterator[_Node]:
        """All records. The way down to a leaf is a stack of page numbers that are still to come."""
        if self._header.root is None:
            return
        self._read = 0
        levels = [iter([self._header.root])]
        while levels:
            number = next(levels[-1], None)
            if number is None:
                levels.pop()
                continue
            page, kind, offsets = self._tree_page(number)
            if kind == _LEAF:
                yield from (self._leaf_node(number, page, offset) for offset in offsets)
                continue
            if len(levels) >= _MAX_DEPTH:
                raise DamagedError(f"is damaged: page {number} lies deeper than {_MAX_DEPTH} levels")
            levels.append(iter([self._below(number, page, offset) for offset in offsets]))

    def _tree_page(self, number: int) -> tuple[bytes, int, tuple[int, ...]]:
        """A branch or leaf page, which of them, and where its nodes begin."""
        self._count(number, 1)
        page = self._bytes(number, self._header.page_size)
        own, _, flags, lower, upper = _HEAD.unpack_from(page)
        kind = flags & _KINDS
        if own != number or kind not in (_BRANCH, _LEAF):
            raise DamagedError(f"is damaged: page {number} is none of the tree's")
        if not _HEAD.size <= lower <= upper <= len(page) or lower % 2:
            raise DamagedError(f"is damaged: page {number} has the bounds {lower} and {upper}")
        offsets = struct.unpack_from(f"={(lower - _HEAD.size) // 2}H", page, _HEAD.size)
        if not offsets or min(offsets) < upper:
            raise DamagedError(f"is damaged: page {number} has nodes outside of their place, or none")
        return page, kind, offsets

    def _count(self, number: int, pages: int) -> None:
        """Refuse pages that several lead to: a small file could be endlessly long by that."""
        self._read += pages
        if self._read > self._header.pages:
            raise DamagedError(f"is damaged: its tree leads to page {number} twice")

    def _below(self, number: int, page: bytes, offset: int) -> int:
        low, high, flags, _ = self._node(number, page, offset)
        return low | high << 16 | flags << 32

    def _leaf_node(self, number: int, page: bytes, offset: int) -> _Node:
        low, high, flags, key_size = self._node(number, page, offset)
        if flags & (_SUB_TABLE | _DUPLICATES):
            raise DamagedError("holds tables with names, or several records of one key; Caffe's have neither")
        size, begin = low | high << 16, offset + _NODE.size + key_size
        end = begin + (_PAGE_NUMBER.size if flags & _BIG else size)
        if end > len(page):
            raise DamagedError(f"is damaged: page {number} has a record that ends behind it")
        key = page[offset + _NODE.size : begin]
        return _Node(key, size, _PAGE_NUMBER.unpack_from(page, begin)[0] if flags & _BIG else page[begin:end])

    def _node(self, number: int, page: bytes, offset: int) -> tuple[int, int, int, int]:
        if offset + _NODE.size > len(page):
            raise DamagedError(f"is damaged: page {number} has a node that ends behind it")
        low, high, flags, key_size = _NODE.unpack_from(page, offset)
        if offset + _NODE.size + key_size > len(page):
            raise DamagedError(f"is damaged: page {number} has a key that ends behind it")
        return low, high, flags, key_size

    def _record(self, node: _Node) -> bytes:
        if isinstance(node.data, bytes):
            return node.data
        own, _, flags, pages = _OVERFLOW.unpack_from(self._bytes(node.data, _OVERFLOW.size))
        if own != node.data or flags & _KINDS != _OVERFLOW_PAGE:
            raise DamagedError(f"is damaged: page {node.data} does not hold the record that should be there")
        if _OVERFLOW.size + node.size > pages * self._header.page_size:
            raise DamagedError(f"is damaged: a record of {node.size} bytes in {pages} pages from page {node.data} on")
        self._count(node.data, -(-(_OVERFLOW.size + node.size) // self._header.page_size))
        return self._bytes(node.data, _OVERFLOW.size + node.size)[_OVERFLOW.size :]

    def _bytes(self, number: int, count: int) -> bytes:
        """So many bytes from the beginning of a page on, within the pages that the header tells of."""
        size = self._header.page_size
        if number * size + count > self._header.pages * size:
            raise DamagedError(f"is damaged: it leads to page {number}, and has {self._header.pages}")
        data = os.pread(self._file, count, number * size)
        if len(data) < count:
            raise DamagedError(f"is truncated: page {number} is not there")
        return data
