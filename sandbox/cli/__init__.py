"""The `sandbox` command: list runs, draw, export, check, probe them, look around.

One module a subcommand, each with a record of its arguments whose `run()` returns the
exit code. `--help`, listings and errors answer without importing jax. Exit codes: 0 all
is well, 1 something checked was not, 2 the command cannot be carried out (one `error:`
line says why), 75 it was interrupted and can be given again.

Example:
    >>> main(["verify", "--root", "runs"])
    0
"""

import importlib
import os
import sys
from collections.abc import Sequence

from sandbox import __version__
from sandbox.command import choose, guarded, parse
from sandbox.errors import StoreError
from sandbox.text import table

__all__ = ["main"]

_COMMANDS = {
    "runs": ("list_runs.Runs", "list what is stored"),
    "plot": ("plot.Plot", "draw a run's curves, or find a study's figure"),
    "export": ("export.Export", "a run or study as CSV, JSON or LaTeX; a model"),
    "verify": ("verify.Verify", "compare every stored file with its checksum"),
    "probe": ("probe.Probe", "probe the checkpoints of a stored trajectory"),
    "import": ("imported.Import", "store checkpoints of another program as a teacher"),
    "grammar": ("grammar.Describe", "what is in a grammar, and strings of it"),
    "launch": ("launch.main", "a study's groups by several processes or machines"),
    "new": ("new.New", "begin a study of your own from the template"),
    "doctor": ("doctor.Doctor", "devices, drivers, and which extra to install"),
}
_HELP = """\
usage: sandbox COMMAND [-h] [OPTIONS]

Looks at what is stored, draws and exports it, checks it, probes it.

commands:
{commands}

examples:
  sandbox doctor                          what this machine has, what to install
  sandbox runs                            what is in $SANDBOX_RUNS, else ./runs
  sandbox plot 3f9a                       accuracy against samples
  sandbox export 3f9a --csv               every metric, as a table
  sandbox verify                          compare every file with its checksum
  sandbox probe 3f9a --probes fourier     the curriculum hidden in a trajectory

`sandbox COMMAND --help` says more. Studies are run by `python -m paper_repro`
and `python -m experiments.NAME`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    try:
        return guarded(lambda: _run(words)) or 0
    except SystemExit as e:  # --help and everything that was refused
        return int(e.code or 0)


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        rows = [(f"  {name}", what) for name, (_, what) in _COMMANDS.items()]
        print(_HELP.format(commands=table(rows[0], rows[1:])))
        return 0
    if words[0] == "--version":
        print(f"sandbox {__version__}")
        return 0
    name = choose(words, _COMMANDS, what="command", prog="sandbox")
    if name != "launch":  # no other takes most of a GPU, as jax does by default
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    module, _, attribute = _COMMANDS[name][0].partition(".")
    # lazily: what one command needs must not slow another down.
    command = getattr(importlib.import_module(f"sandbox.cli.{module}"), attribute)
    try:
        if not isinstance(command, type):  # it reads its words itself
            return command(words[1:])
        return parse(command, words[1:], prog=f"sandbox {name}").run()
    except BrokenPipeError:
        raise
    except RecursionError as e:
        raise StoreError("a stored file is nested too deeply to be read.") from e
    except OSError as e:  # a name too long for a file, a disk that cannot be read
        where = f"{e.filename}: " if e.filename else ""
        raise StoreError(f"{where}{e.strerror or e}.") from e
