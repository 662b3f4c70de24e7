"""Files written atomically and read with their checksum; one writer per folder.

Every file is written under a temporary name in its own folder, flushed to disk and
renamed, so that a reader sees all of it or none. The lock is the kernel's (`flock`): it
is freed when its holder dies, so a killed run never blocks the next one.
"""

import errno
import fcntl
import glob
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sandbox.errors import Busy, StoreError

TEMPORARY = ".tmp"


_FIX = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "raise the file size limit (`ulimit -f`)",
    errno.EROFS: "make the file system writable",
    errno.EACCES: "grant yourself write permission",
    errno.EPERM: "grant yourself write permission",
    errno.ENAMETOOLONG: "choose a shorter path",
}


def unwritable(verb: str, path: Path, e: OSError) -> StoreError:
    """The error for a path that the system refuses: what, why, and the way out."""
    fix = _FIX.get(e.errno or 0)
    then = f"; {fix} and run the same command to go on" if fix else ""
    return StoreError(f"cannot {verb} {path}: {e.strerror or e}{then}.")


def make_folder(path: Path) -> None:
    """Makes a folder and its parents.

    Raises:
      StoreError: the system refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise unwritable("make the folder", path, e) from e


def write_atomic(path: Path, data: bytes) -> None:
    """Writes `data` so that `path` holds all of it or what it held before.

    A file that holds just that already is left as it is. What killed writers of the
    same file left behind is removed.

    Raises:
      StoreError: the system refuses; the message says what to do.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        _sweep_killed(path)
        if _holds(path, data):
            return
        with open(temporary, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException as e:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(e, OSError):
            raise unwritable("write", path, e) from e
        raise


def _holds(path: Path, data: bytes) -> bool:
    """Whether a regular file holds just these bytes; if it cannot be read, no."""
    with suppress(OSError):
        if path.is_file() and not path.is_symlink():
            return path.stat().st_size == len(data) and path.read_bytes() == data
    return False


def _sweep_killed(path: Path) -> None:
    """Removes temporary files of `path` whose writers on this machine are dead."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY}"):
        writer = left.name.removesuffix(TEMPORARY).rpartition(".")[2]
        if writer.isdecimal() and not _alive(int(writer)):
            left.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def write_json(path: Path, data: Any) -> None:
    """Writes indented JSON atomically."""
    text = json.dumps(data, indent=1, sort_keys=True, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """Reads JSON, naming the file if it is not, or says something twice."""
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise StoreError(f"cannot read {path}: it is not a file.")
        return json.loads(path.read_text(), object_pairs_hook=_once)
    except OSError as e:
        raise StoreError(f"cannot read {path}: {e.strerror or e}.") from e
    except RecursionError as e:
        raise StoreError(f"{path} is not valid JSON (nested too deeply).") from e
    except ValueError as e:
        raise StoreError(f"{path} is not valid JSON ({e}).") from e


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names differ."""
    out = dict(pairs)
    if len(out) != len(pairs):
        twice = next(n for i, (n, _) in enumerate(pairs) if n in dict(pairs[:i]))
        raise ValueError(f"it names {twice!r:.60} twice")
    return out


def sha256(data: bytes) -> str:
    """Hex sha256."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sweep_temporary(folder: Path) -> None:
    """Removes what killed writers left behind; call only while holding the lock."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, or says who does.

    Raises:
      Busy: another process holds it.
      StoreError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        raise unwritable("use", folder, e) from e
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            holder = os.read(handle, 64).decode(errors="replace").strip() or "unknown"
            raise Busy(
                f"{folder} is being written by process {holder}; wait for it or"
                " stop it."
            ) from e
        with suppress(OSError):  # on a full disk the lock holds without its note
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
