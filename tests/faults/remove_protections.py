"""Removes each protection against a fault, and sees its test fail.

    python -m tests.faults.remove_protections               # all
    python -m tests.faults.remove_protections --only S5 S7

Reads `protections/*.toml`. For each entry the project is copied, the protection's
source text replaced, and its test run there: it must pass in a copy without the change,
and fail with it. Ends with 1 if one did not, and writes the table into `OUTCOME.md`
when all were run.
"""

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sandbox.store.files import write_atomic

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
OUTCOME = HERE / "OUTCOME.md"
REFERENCE = "FAULTS_REFERENCE"
"""Names the folder where the study of the intact project is kept between tests."""
COMMAND = "python -m tests.faults.remove_protections"
LIMIT_SECONDS = 1800


@dataclass(frozen=True, kw_only=True)
class Protection:
    """A protection, how to take it away, and the test that must notice.

    Attributes:
      promise: which promise it keeps, e.g. `S5`.
      what: the protection in words.
      file: where it stands, from the project's root.
      old: its source text, which occurs there once.
      new: the text without it.
      test: pytest's name of the test.
    """

    promise: str
    what: str
    file: str
    old: str
    new: str
    test: str

    def removed(self, root: Path) -> str:
        """The file's text without the protection.

        Raises:
          ValueError: `old` does not occur there exactly once.
        """
        text = (root / self.file).read_text(encoding="utf-8")
        if (n := text.count(self.old)) != 1:
            raise ValueError(f"{self.what}: found {n} times in {self.file}, not once.")
        return text.replace(self.old, self.new)


def protections(folder: Path = HERE / "protections") -> list[Protection]:
    """Every entry of every file."""
    out = []
    for path in sorted(folder.glob("*.toml")):
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        out += [Protection(**entry) for entry in data.get("protection", [])]
    return out


def copy_project(target: Path) -> None:
    """Copies what git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


_IMPORTED = """
import pathlib, sys
import experiments, paper_repro, sandbox.command
for module in (experiments, paper_repro, sandbox):
    path = pathlib.Path(list(module.__path__)[0]).resolve()
    if path.parent != pathlib.Path.cwd().resolve():
        sys.exit(f"{path} is imported, not the copy in {pathlib.Path.cwd()}")
"""


def test_in(copy: Path, test: str) -> tuple[int, str]:
    """Pytest's exit code and last lines for one test of a copy.

    Raises:
      RuntimeError: the packages imported there are not the copy's.
    """
    env = os.environ | {
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        REFERENCE: str(copy.parent / "reference"),
    }
    seen = subprocess.run(
        [sys.executable, "-c", _IMPORTED], cwd=copy, env=env, capture_output=True
    )
    if seen.returncode:
        raise RuntimeError(seen.stderr.decode(errors="replace").strip())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-m", "", "--tb=short", test],
        cwd=copy,
        env=env,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=LIMIT_SECONDS,
    )
    return done.returncode, "\n".join(done.stdout.strip().splitlines()[-12:])


def notices(copy: Path, p: Protection) -> tuple[bool, str]:
    """Whether a protection's test fails without it, and in which words."""
    path = copy / p.file
    before = path.read_text(encoding="utf-8")
    path.write_text(p.removed(copy), encoding="utf-8")
    try:
        code, tail = test_in(copy, p.test)
    except subprocess.TimeoutExpired:
        return True, "did not end"
    finally:
        path.write_text(before, encoding="utf-8")
    failed = code == 1 and re.search(r"\b\d+ failed\b", tail) is not None
    if failed:
        return True, "the test fails"
    words = {0: "THE TEST PASSES"}.get(code, f"NOT RUN (pytest ended with {code})")
    print(tail, file=sys.stderr)
    return False, words


def remove_all(entries: Iterable[Protection]) -> tuple[bool, list[Sequence[str]]]:
    """Takes every protection away in turn: whether all are noticed, and table rows."""
    good, rows, passes = True, [], {}
    with tempfile.TemporaryDirectory(prefix="protections-") as scratch:
        copy = Path(scratch).resolve() / "project"
        copy_project(copy)
        for p in entries:
            if p.test not in passes:
                passes[p.test] = test_in(copy, p.test)
            code, tail = passes[p.test]
            if code:
                noticed, words = False, "THE TEST FAILS ANYWAY"
                print(tail, file=sys.stderr)
            else:
                noticed, words = notices(copy, p)
            good &= noticed
            row = (p.promise, p.what, f"`{p.test.removeprefix('tests/')}`", words)
            print(" | ".join(row), flush=True)
            rows.append(row)
    return good, rows


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def machine() -> str:
    """When and on what, in one line."""
    from sandbox.store.provenance import hardware

    found = hardware()
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {found['cpu']}, {found['cores']} cores,"
        f" {platform.system()}, Python {platform.python_version()},"
        f" jax {importlib.metadata.version('jax')}"
    )


def replace_section(path: Path, title: str, text: str) -> None:
    """Puts a section into a Markdown file, in place of the one of the same title."""
    start = "# Outcomes of the fault tests\n\nWritten by the commands below."
    whole = path.read_text(encoding="utf-8") if path.exists() else start
    head, *sections = re.split(r"^## ", whole, flags=re.MULTILINE)
    kept = [s for s in sections if s.splitlines()[0] != f"`{title}`"]
    parts = [head, *kept, f"`{title}`\n\n{text}"]
    write_atomic(path, ("\n\n## ".join(p.strip() for p in parts) + "\n").encode())


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="PROMISE", help="e.g. S5 S7")
    only = parser.parse_args().only
    entries = [p for p in protections() if only is None or p.promise in only]
    good, rows = remove_all(entries)
    if only is None:
        head = ("promise", "protection", "test", "without it")
        text = "\n".join([machine(), "", *table(head, rows)])
        replace_section(OUTCOME, COMMAND, text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
