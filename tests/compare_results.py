"""Compares the claims in two folders of result files, number by number.

    python -m tests.compare_results paper_repro/results /tmp/new/results [NAME...]

Exact: the last bit counts, and null and infinities too. NAMEs restrict to files that
begin with them (`parity_mlp`, `'*.smoke'`). Exit 1 where anything differs.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

FIELDS = ("obtained", "lower", "upper", "point", "whole")


def named(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The result files of a folder, by name without `.json`."""
    files = {p.stem: p for p in sorted(folder.glob("*.json"))}
    wanted = [f"{name}*" for name in names or [""]]
    return {n: p for n, p in files.items() if any(fnmatch(n, w) for w in wanted)}


def claims(path: Path) -> dict[str, dict[str, Any]]:
    """The claims of a file by id; a benchmark makes none."""
    data = json.loads(path.read_text())
    found = data.get("claims", []) if isinstance(data, dict) else []
    return {c["id"]: c for c in found}


def same(a: Any, b: Any) -> bool:
    """Of one kind and equal; a NaN is itself."""
    return type(a) is type(b) and (a == b or (a != a and b != b))


def told(a: Any, b: Any) -> str:
    """Two values, and where both are numbers by what part of the larger they differ."""
    part = ""
    if all(type(v) in (int, float) for v in (a, b)):
        part = f" (relative {abs(a - b) / (max(abs(a), abs(b)) or 1):.2g})"
    return f"{a!r} != {b!r}{part}"


def differences(a: Path, b: Path) -> Iterator[str]:
    """One sentence for each thing that two result files do not agree on."""
    one, two = claims(a), claims(b)
    for name, only in ((a, one.keys() - two), (b, two.keys() - one)):
        yield from (f"{claim} is only in {name}" for claim in sorted(only))
    for claim in (c for c in one if c in two):
        for field in FIELDS:
            x, y = (c[claim].get(field) for c in (one, two))
            if not same(x, y):
                yield f"{claim} {field}: {told(x, y)}"


def compare(a: Path, b: Path, names: Sequence[str] = ()) -> bool:
    """Prints a line per file and difference; whether all are equal."""
    one, two = named(a, names), named(b, names)
    equal = True
    for name in sorted(one | two):
        if name not in one or name not in two:
            found = [f"only in {a if name in one else b}"]
        else:
            found = list(differences(one[name], two[name]))
        equal &= not found
        print(f"{name}: {'differs' if found else 'equal'}", *found, sep="\n  ")
    if not one | two:
        raise SystemExit("no result files there")
    return equal


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs=2, type=Path, metavar="FOLDER")
    parser.add_argument("names", nargs="*", metavar="NAME")
    args = parser.parse_args()
    raise SystemExit(not compare(*args.folders, args.names))
