"""`python -m experiments`: the studies there are, each a command of its own."""

import ast
import sys
from pathlib import Path
from textwrap import fill

from sandbox.command import guarded
from sandbox.errors import ConfigError
from sandbox.text import meant


def studies() -> dict[str, str]:
    """Name -> first line of every file that runs a study; nothing is imported."""
    texts = {p.stem: p.read_text() for p in sorted(Path(__file__).parent.glob("*.py"))}
    own = {n: t for n, t in texts.items() if t.rstrip().endswith(".main()")}
    docs = {n: ast.get_docstring(ast.parse(t)) or "" for n, t in own.items()}
    return {n: doc.partition("\n")[0] for n, doc in docs.items()}


def main() -> None:
    """Lists them; a name is told its command."""
    found = studies()
    if words := [w for w in sys.argv[1:] if w not in ("-h", "--help")]:
        name = words[0].removesuffix(".py")
        near = f"; `python -m experiments.{name}` runs it"
        why = near if name in found else meant(name, found)
        raise ConfigError(f"python -m experiments only lists studies{why}")
    print("Each is a command: python -m experiments.NAME --help\n")
    for name, line in found.items():
        print(fill(f"{name:20} {line}", 80, subsequent_indent=" " * 21))
    print(
        "\n`python -m paper_repro` reproduces them; `sandbox new FILE.py` begins one."
    )


if __name__ == "__main__":
    guarded(main)
