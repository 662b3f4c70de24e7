"""Files written atomically and read with their checksum; one writer per folder.

Every file is written under a temporary name in its own folder, flushed to disk and
renamed, so that a reader sees all of it or none. The lock is the kernel's (`flock`): it
is freed when its holder dies, so a killed run never blocks the next one.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandbox.errors import StoreError

TEMPORARY = ".tmp"


def write_atomic(path: Path, data: bytes) -> None:
    """Writes `data` so that `path` holds all of it or what it held before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with open(temporary, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"cannot write {path}: {e.strerror or e}.") from e
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, data: Any) -> None:
    """Writes indented JSON atomically."""
    text = json.dumps(data, indent=1, sort_keys=True, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """Reads JSON, naming the file if it is not."""
    try:
        return json.loads(path.read_text())
    except OSError as e:
        raise StoreError(f"cannot read {path}: {e.strerror or e}.") from e
    except ValueError as e:
        raise StoreError(f"{path} is not valid JSON ({e}).") from e


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
      StoreError: another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        raise StoreError(f"cannot use {folder}: {e.strerror or e}.") from e
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            holder = os.read(handle, 64).decode(errors="replace").strip() or "unknown"
            raise StoreError(
                f"{folder} is being written by process {holder}; wait for it or"
                " stop it."
            ) from e
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
