"""`bmnet_NAME.calib8.json` and its like: which files are of one run.

The formats that the compiler reads have no room for it, so it stands beside them: `bmnet_NAME.calib8.json` beside the
files of a calibration or of a search, `bmnet_NAME_mixed.calib8.json` beside a proposal of layers in FP32, and
`NAME_FORMAT.calib8.json` beside an export. One object:

    calib8_record   1, the format
    network         the network's name
    run             the run's identity: a digest of all thresholds and integers, so the same for the same result; ""
                    where there was no calibration yet, and only commands that looked at the network are recorded
    files           {"name of a file": "sha256:..."}, in the folder of the record

Keys are added, never renamed or removed; readers pass over keys that they do not know.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from calib8.atomic import claim_folder, write_atomically, write_together, written_files
from calib8.errors import TableError
from calib8.export.calibration_table import table_message
from calib8.lowering import Model
from calib8.quantize import QuantPlan
from calib8.reading import exists, file_digest, is_file, paths_in, read_file

MAX_RECORD_BYTES = 16 * 2**20
ENDING = ".calib8.json"
_FORMAT = 1
_MOST_RECORDS = 100
_BLOCK = 1 << 20
_PATIENCE = 10.0  # seconds that a note waits for another command
_ENDINGS = ("_int8.caffemodel", "_calibration_table", ".caffemodel")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """Which files are of one run.

    Attributes:
        network: its name.
        run: the identity.
        files: "sha256:..." by the file's name.
        further: other keys of the object, as they are.
    """

    network: str
    run: str
    files: Mapping[str, str]
    further: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Write the record as the bytes of its file."""
        content = {"calib8_record": _FORMAT, "network": self.network, "run": self.run, "files": dict(self.files)}
        return json.dumps({**content, **self.further}, indent=1).encode() + b"\n"


def record_path(file: str | os.PathLike[str]) -> Path:
    """Name the record that a file of a calibration belongs to, by the file's name."""
    path = Path(file)
    name = path.name.removesuffix(".pb2").removesuffix(".prototxt")
    ending = next((e for e in _ENDINGS if name.endswith(e) and name != e), "")
    return path.with_name(f"{name.removesuffix(ending)}{ENDING}")


def run_of(name: str, model: Model, plan: QuantPlan | None) -> str:
    """Identify a result: a digest of everything that its files hold; of the weights where there is no plan."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape"))
    if plan is not None:
        digest = hashlib.sha256(table_message(name, model, plan).SerializeToString(deterministic=True))
    for layer in model.net.layers:
        own = None if plan is None else plan.forms[layer.name]
        for blob in layer.blobs if own is None else own.blobs:
            digest.update(repr((layer.name, blob.shape, blob.dtype.str)).encode())
            flat = blob.reshape(-1)
            for start in range(0, flat.size, _BLOCK):
                digest.update(np.ascontiguousarray(flat[start : start + _BLOCK]).data)
    return digest.hexdigest()


def write_record(
    files: Iterable[str | os.PathLike[str]],
    name: str,
    run: str,
    further: Mapping[str, Any] = MappingProxyType({}),
    path: Path | None = None,
    always: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write the record of files of one folder, within the `write_together` that writes them.

    Files of the same run that a record knows already stay in it, and so does how images become samples.

    Args:
        further: keys to add; without any, those of the same run stay.
        always: keys that are there whatever stays.
        path: of the record, None for the one that the first file's name says.

    Raises:
        OptionError: the folder cannot be written.
    """
    wanted, written = [Path(file) for file in files], written_files()
    digests = {file.name: _sha256(part) for file, part in written.items() if file in wanted}
    path = path or record_path(wanted[0])
    before = _read_if_any(written.get(path, path), refuse=False)
    # Weights may be written by another call than the tables; files of an earlier run are no longer what they were.
    kept = before.files if before is not None and before.run == run else {}
    told = {**_kept(before, run, further), **always}
    with write_atomically(path) as file:
        file.write(Record(name, run, dict(sorted({**kept, **digests}.items())), told).to_bytes())


def _kept(before: Record | None, run: str, further: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a new record says beside its files: of another run, only the images are still true."""
    if before is None:
        return further
    commands = _commands_on(before, run)
    if further:
        return {**further, **commands}
    if before.run == run:
        return before.further
    return {**{k: v for k, v in before.further.items() if k == "images"}, **commands}


def _commands_on(before: Record, run: str) -> dict[str, Any]:
    """What commands did whose word is still true: on these integers, or on none."""
    commands = before.further.get("commands")
    known = commands if isinstance(commands, dict) else {}
    kept = {k: v for k, v in known.items() if isinstance(v, dict) and v.get("run", "") in ("", run)}
    return {"commands": kept} if kept else {}


def calibrated_images(table: str | os.PathLike[str]) -> int | None:
    """Say with how many samples a table was made, by the record beside it; None where that does not know the file."""
    path = record_path(table)
    record = _read_if_any(path, refuse=False)
    known = None if record is None else record.files.get(Path(table).name)
    if record is None or known is None or known != _sha256(table):
        return None
    samples = record.further.get("samples")
    images = samples.get("images") if isinstance(samples, dict) else None
    return images if isinstance(images, int) and images >= 0 else None


def told_of_run(table: str | os.PathLike[str], key: str, unsaid: Any = None) -> Any:
    """Read a key of the record beside a table; None where that does not know the file, `unsaid` where it lacks the key.

    Raises:
        TableError: the record is damaged.
    """
    origin = _Origin(table)
    return None if origin.run is None or origin.record is None else origin.record.further.get(key, unsaid)


def note_command(
    folder: str | os.PathLike[str], name: str, command: str, entry: Mapping[str, Any], images: Sequence[str] = ()
) -> None:
    """Add to a network's record what a command did, within the `write_together` that writes the command's files.

    Args:
        folder: of the record; a record that is there keeps what it says.
        command: its name; what the same command did before is replaced.
        entry: "options", "samples", "run" and the like; "files" are added here: what the block has written.
        images: words that say how samples are made, for a record to which no calibration has said it.

    Raises:
        OptionError: the folder cannot be written.
        TableError: there is another file in the record's place.
    """
    path = Path(folder) / f"bmnet_{name}{ENDING}"
    with claim_folder(folder, _PATIENCE), write_together():
        written = written_files()
        now = written.get(path, path)
        before = _read_if_any(now, refuse=True, called=path) or Record(name, "", {})
        beside = {p.name: part for p, part in written.items() if p.parent == path.parent}
        own = {name: _sha256(part) for name, part in beside.items() if not name.endswith(ENDING)}
        entry = {**entry, **({"files": dict(sorted(own.items()))} if own else {})}
        further = dict(before.further)
        known = further.get("commands")
        further["commands"] = dict(sorted({**(known if isinstance(known, dict) else {}), command: entry}.items()))
        if images and (not before.run or "images" not in further):
            further["images"] = list(images)
        with write_atomically(path) as file:
            file.write(replace(before, further=further).to_bytes())


def check_same_run(table: str | os.PathLike[str], weights: str | os.PathLike[str]) -> None:
    """Refuse weights and a table of different runs, as far as there are records of them.

    Raises:
        TableError: they are, or a record is damaged.
    """
    origins = [_Origin(path) for path in (table, weights)]
    runs = {origin.run for origin in origins if origin.run is not None}
    strangers = [origin for origin in origins if origin.record is not None and origin.run is None]
    if not runs:
        for origin in strangers:
            _log.warning("%s: %s is not the file that it tells of; it is not used", origin.record_path, origin.path)
        return
    if len(runs) > 1 or strangers:
        what = f"{strangers[0].path} has been changed or replaced since" if strangers else "they have two records"
        raise TableError(
            f"{os.fspath(table)} and {os.fspath(weights)} are of different runs: {what} ({origins[0].record_path}); "
            "together they give wrong results. Calibrate again, or take both from one run; if you have changed one of "
            "them on purpose, remove the record"
        )


def strangers_in(folder: Path) -> tuple[str, ...]:
    """Say which files of a folder are not those that its records tell of, and which records are of other runs."""
    try:
        paths = [path for path in paths_in(folder, TableError) if path.name.endswith(ENDING)]
    except TableError:
        return ()
    found = {path: record for path in paths[:_MOST_RECORDS] if (record := _read_if_any(path, refuse=False)) is not None}
    lines = []
    for path, record in found.items():
        changed = [name for name, digest in record.files.items() if _is_another(folder, name, digest)]
        if changed:
            lines.append(
                f"{', '.join(changed)}: changed or replaced since {path} was written, so the files of its run do not "
                "belong together any more"
            )
        of_calibration = found.get(folder / f"bmnet_{record.network}{ENDING}")
        if of_calibration is not None and of_calibration.run not in ("", record.run):
            lines.append(f"{path}: of another calibration than the bmnet_{record.network} files; make its files again")
    return tuple(lines)


def _is_another(folder: Path, name: str, digest: str) -> bool:
    """Whether a file is there, and has other bytes than it had."""
    path = folder / name
    if path.parent != folder or not is_file(path):  # a record from elsewhere names whatever it likes
        return False
    try:
        return file_digest(path, TableError) != digest
    except TableError:
        return False


class _Origin:
    """What the record beside a file says of it; `run` is None where it does not know these bytes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.record_path = record_path(path)
        self.record = _read_if_any(self.record_path, refuse=True)
        if self.record is not None and not self.record.run:
            self.record = None  # it tells of no calibration
        known = None if self.record is None else self.record.files.get(Path(path).name)
        self.run = self.record.run if self.record is not None and known == _sha256(path, known) else None


def _read_if_any(path: Path, *, refuse: bool, called: Path | None = None) -> Record | None:
    if not exists(path):
        return None
    try:
        return parse_record(read_file(path, MAX_RECORD_BYTES, TableError), str(called or path))
    except TableError:
        if refuse:
            raise
        return None


def parse_record(data: bytes, source: str) -> Record:
    """Parse a record's bytes.

    Raises:
        TableError: it is none, or of a format that is not known.
    """
    try:
        content = json.loads(data)
        keys = dict(content)
        number, network, run, files = (keys.pop(k) for k in ("calib8_record", "network", "run", "files"))
        right = number == _FORMAT and isinstance(network, str) and isinstance(run, str)
        right = right and all(isinstance(digest, str) for digest in dict(files).values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        right = False
    if not right:
        raise TableError(f"{source}: no record of a run, or one of a later calib8; remove it to go on without it")
    return Record(network, run, dict(files), keys)


def _sha256(path: str | os.PathLike[str], expected: str | None = "") -> str:
    """The digest of a file; not read where nothing is expected."""
    return "" if expected is None else file_digest(path, TableError)
