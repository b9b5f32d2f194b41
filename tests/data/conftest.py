"""Small LMDBs and prototxts made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lmdb
import pytest

from calib8.proto.text import parse_prototxt


@pytest.fixture
def layer_of() -> Callable[[str], Any]:
    """The LayerParameter of a prototxt with one layer."""
    return lambda text: parse_prototxt(text).net.layer[0]


@pytest.fixture
def write_lmdb(tmp_path: Path) -> Callable[..., Path]:
    """Write an LMDB of {key: record} into tmp_path/NAME."""

    def write(records: Mapping[bytes, bytes], name: str = "lmdb") -> Path:
        path = tmp_path / name
        path.mkdir(parents=True)
        with lmdb.open(str(path), map_size=1 << 26) as env, env.begin(write=True) as transaction:
            for key, record in records.items():
                transaction.put(key, record)
        return path

    return write
