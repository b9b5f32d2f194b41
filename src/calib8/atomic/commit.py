"""How the files of a set take their names in one step, and how a step that was interrupted is undone or finished.

A rename is atomic, four renames are not. So every name first becomes a link through one further link, `now`:

    NAME -> .calib8-X/now/NAME,  now -> old        all names show the old files
    now -> parts                                   one rename: all names show the new files

Before and after, each step changes what no reader sees: old files become links to themselves, links to new files
become these files. In the end there are ordinary files and no links.

Where the file system has no links (FAT, some mounted from other systems), the commit point is the rename of `parts` to
`committed`: what is interrupted later is finished by the next run, but may be seen half done until then.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from calib8.atomic.staging import Staging, is_folder, left_behind, names_in, sync_folder

_log = logging.getLogger(__name__)
_CANNOT_LINK = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_OLD, _LINKS, _NEW, _NOW, _COMMITTED = "old", "links", "parts", "now", "committed"


def commit(staging: Staging) -> None:
    """Give the files in `staging.parts` their names, all of them or none. The folder is claimed by the caller.

    Raises:
        OSError: it was not possible; all files are as before.
    """
    names = names_in(staging.parts)
    sync_folder(staging.parts)
    if len(names) == 1:
        (staging.parts / names[0]).replace(staging.folder / names[0])
        sync_afterwards(staging.folder)
        return
    staging.is_needed = True
    try:
        _switch(staging) if _show_old_through_links(staging, names) else _mark(staging)
    except OSError:
        undo(staging.path, staging.folder)
        staging.is_needed = False
        raise
    _finish_or_leave(staging)


def _show_old_through_links(staging: Staging, names: Sequence[str]) -> bool:
    """Make every name a link that leads to the old file; False, and no links, where there can be none."""
    try:
        for name in (_OLD, _LINKS, "made"):
            (staging.path / name).mkdir()
        for name in names:
            _keep(staging, name)
            (staging.path / "made" / name).symlink_to(Path(staging.path.name) / _NOW / name)
        (staging.path / _NOW).symlink_to(_OLD)
        for path in (staging.path / _OLD, staging.path, staging.folder):
            sync_folder(path)
        for name in names:
            (staging.path / "made" / name).replace(staging.folder / name)
        sync_folder(staging.folder)
    except OSError as why:
        if why.errno not in _CANNOT_LINK:
            raise
        undo(staging.path, staging.folder)
        return False
    return True


def _keep(staging: Staging, name: str) -> None:
    """A second name for what has the name in the folder, if anything has."""
    file = staging.folder / name
    if file.is_symlink():  # the user's own; it is replaced in the end, never written through
        (staging.path / _OLD / name).symlink_to(Path("../..") / file.readlink())
        os.link(file, staging.path / _LINKS / name, follow_symlinks=False)
    elif os.path.lexists(file):
        (staging.path / _OLD / name).hardlink_to(file)


def _switch(staging: Staging) -> None:
    """The commit point with links."""
    (staging.path / "next").symlink_to(_NEW)
    (staging.path / "next").replace(staging.path / _NOW)


def _mark(staging: Staging) -> None:
    """The commit point without links."""
    sync_folder(staging.path)
    staging.parts.rename(staging.path / _COMMITTED)


def _finish_or_leave(staging: Staging) -> None:
    try:
        sync_folder(staging.path)
        _finish(staging.path, staging.folder)
        staging.is_needed = False
    except OSError as why:
        half = "" if os.path.lexists(staging.path / _NOW) else "; until then some of them may be the old ones"
        _log.warning(
            "%s: the new files are there, but could not be put into place: %s; the next command that writes there does "
            "it%s", staging.folder, why.strerror, half,
        )  # fmt: skip


def sync_afterwards(folder: Path) -> None:
    """Bring a folder's entries to the disk after the fact: where that fails, a power cut could undo them."""
    try:
        sync_folder(folder)
    except OSError as why:
        _log.warning("%s: the new file is there, but may not outlive a power cut: %s", folder, why.strerror)


def recover(folder: Path) -> None:
    """Finish or undo what killed runs have left in a folder, and remove it. The folder is claimed by the caller.

    Raises:
        OSError: not possible.
    """
    for path in left_behind(folder):
        if is_folder(path / _COMMITTED) and _has_links(path, folder):
            _log.warning("%s: no run leaves that where there are links; look what it is, and remove it", path)
            continue
        (_finish if _is_committed(path) else undo)(path, folder)
        shutil.rmtree(path)
        _log.info("%s: removed what an interrupted run had left", path)


def _is_committed(path: Path) -> bool:
    """Whether the set in a hidden folder had passed its commit point."""
    now = path / _NOW
    return str(now.readlink()) == _NEW if now.is_symlink() else is_folder(path / _COMMITTED)


def _finish(path: Path, folder: Path) -> None:
    """Put the new files into the place of what shows them."""
    has_links = (path / _NOW).is_symlink()
    parts = path / (_NEW if has_links else _COMMITTED)
    for name in names_in(parts):
        # A folder from elsewhere may hold what looks like a set of ours: names that do not lead to it stay as they are.
        if not has_links or _leads_to(path, folder / name):
            (parts / name).replace(folder / name)
    sync_folder(folder)


def _leads_to(path: Path, file: Path) -> bool:
    """Whether a name has become a link through the hidden folder."""
    return file.is_symlink() and file.readlink() == Path(path.name) / _NOW / file.name


def _has_links(path: Path, folder: Path) -> bool:
    """Whether a run would have made links, symbolic ones and those that keep the old files."""
    probe = path / "probe"
    files = [folder / name for name in names_in(path / _COMMITTED)]
    try:
        probe.symlink_to(_NEW)
        probe.unlink()
        for file in files:
            if os.path.lexists(file):
                os.link(file, probe, follow_symlinks=False)  # the system may refuse that for files of other users
                probe.unlink()
    except OSError:
        return False
    return True


def undo(path: Path, folder: Path) -> None:
    """Put the old files into the place of the links that show them. Readers see no difference.

    Raises:
        OSError: not possible now; readers see the old files all the same.
    """
    for name in names_in(path / _NEW) if (path / _NOW).is_symlink() else ():
        file = folder / name
        if not _leads_to(path, file):
            continue  # it had not come to this one
        before = path / (_LINKS if os.path.lexists(path / _LINKS / name) else _OLD) / name
        if os.path.lexists(before):
            before.replace(file)
        else:
            file.unlink()
    sync_folder(folder)
    (path / _NOW).unlink(missing_ok=True)
