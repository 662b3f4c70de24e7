"""What the subcommands share: finding runs, describing them, and aligned tables."""

import argparse
import fcntl
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sandbox.errors import StoreError
from sandbox.store.runs import MANIFEST, RunFolder, default_root


def add_root(parser: argparse.ArgumentParser) -> None:
    """Adds `--root`."""
    parser.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="where the runs are (default: $SANDBOX_RUNS, else ./runs)",
    )


def root_of(args: argparse.Namespace) -> Path:
    """The folder of runs that was asked for.

    Raises:
      StoreError: it was named and is not a folder.
    """
    if args.root is None:
        return default_root()
    if not args.root.is_dir():
        raise StoreError(f"--root: {args.root} is not a folder.")
    return args.root


def folders(root: Path) -> list[RunFolder]:
    """Every run under `root`, also one that has lost its config."""
    found = {
        p.parent for name in ("config.json", MANIFEST) for p in root.glob(f"*/*/{name}")
    }
    return [RunFolder(p) for p in sorted(found)]


def resolve(name: str, root: Path) -> RunFolder:
    """The run that `name` means: a folder, or the beginning of one run's hash.

    Raises:
      StoreError: no run, or more than one, is meant.
    """
    path = Path(name)
    try:
        if any((path / f).is_file() for f in ("config.json", MANIFEST)):
            return RunFolder(path)
    except (OSError, ValueError) as e:  # no file can have such a name
        raise StoreError(f"{name[:60]!r} cannot be the name of a run ({e}).") from e
    kind, _, start = name.rpartition("/")
    match = [
        r
        for r in folders(root)
        if start and r.path.name.startswith(start) and kind in ("", r.path.parent.name)
    ]
    if not match:
        raise StoreError(
            f"no run folder and no run under {root} is called {name[:60]!r};"
            " `sandbox runs` lists what there is."
        )
    if len(match) > 1:
        names = ", ".join(f"{r.path.parent.name}/{r.path.name}" for r in match[:4])
        more = f" and {len(match) - 4} more" if len(match) > 4 else ""
        raise StoreError(f"{name!r} begins {names}{more}; give more of it.")
    return match[0]


def is_plain(path: Path) -> bool:
    """Whether there is a file proper: no link, pipe or folder, which are not read."""
    return path.is_file() and not path.is_symlink()


def held(run: RunFolder) -> bool:
    """Whether some process is writing this run now; frees the lock at once."""
    try:
        handle = os.open(run.path / ".lock", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def record_text(record: Any) -> str:
    """One line of a saved record, e.g. `Parity d=32 k=6 RandomSupport`."""
    if not isinstance(record, dict):
        return "?"
    words = [word_of(record.get("type", "?"))]
    for name, value in list(record.items())[:20]:
        if isinstance(value, dict):
            words.append(word_of(value.get("type", "?")))
        elif isinstance(value, list):
            words.append(f"{name}={'x'.join(word_of(v) for v in value[:20])}")
        elif name != "type":
            words.append(f"{name}={word_of(value)}")
    return " ".join(words)


def word_of(value: Any) -> str:
    """A value of a record where a number or a name is expected."""
    return str(value) if isinstance(value, str | int | float | None) else "?"


def printable(text: str, most: int = 1000) -> str:
    """Text of unknown origin on one line: nothing in it can steer a terminal."""
    shown = "".join(c if c.isprintable() else "?" for c in text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 3] + "..."


def size_text(n_bytes: int) -> str:
    """Bytes as `812 B`, `3.4 MB`."""
    if n_bytes < 1000:
        return f"{n_bytes} B"
    size = float(n_bytes)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: str = ""
) -> str:
    """Aligned columns, two spaces apart.

    Args:
      header: a name for every column.
      rows: the cells.
      right: one letter a column, `r` to align it to the right.
    """
    widths = [max(len(r[i]) for r in (header, *rows)) for i in range(len(header))]
    sides = right.ljust(len(header), "l")
    lines = []
    for row in (header, *rows):
        cells = [
            c.rjust(w) if s == "r" else c.ljust(w)
            for c, w, s in zip(row, widths, sides, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
