"""What the subcommands share: the folder of runs, and whether one is being written."""

import fcntl
import os
import stat
from pathlib import Path

from sandbox.errors import StoreError
from sandbox.store.folders import RunFolder, default_root


def root_of(root: Path | None) -> Path:
    """The folder of runs that was asked for.

    Raises:
      StoreError: it is something else than a folder, or was named and is not there.
    """
    folder = default_root() if root is None else root
    if not folder.is_dir() and (root is not None or folder.exists()):
        name = "the folder of runs" if root is None else "--root"
        raise StoreError(f"{name}: {folder} is not a folder.")
    return folder


def held(run: RunFolder) -> bool:
    """Whether some process is writing this run now; frees the lock at once."""
    try:
        handle = os.open(run.path / ".lock", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
