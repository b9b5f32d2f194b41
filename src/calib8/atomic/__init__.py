"""Files that appear whole or not at all, one by one or as a set with one commit point.

- `sets`: `write_atomically` and `write_together`, which everything that writes a file goes through
- `folders`: `write_folder`, the same for an LMDB
- `staging`: the hidden folder that a set lies in until it is complete, and what the next run makes of one that was left
- `commit`: how a set takes its names in one step
- `lock`: one command at a time in a folder

docs/decisions/0014-a-set-is-a-set.md says why it is done like this.
"""

from calib8.atomic.folders import make_folder, write_folder
from calib8.atomic.lock import claim_folder
from calib8.atomic.sets import note_write, record_writes, write_atomically, write_together, written_files

__all__ = [
    "claim_folder",
    "make_folder",
    "note_write",
    "record_writes",
    "write_atomically",
    "write_folder",
    "write_together",
    "written_files",
]
