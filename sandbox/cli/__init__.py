"""The `sandbox` command: list runs, check them, probe them, look at the machine.

One module a subcommand, each with `add(subparsers)` and `run(args) -> exit code`.
`--help`, listings and errors answer without importing jax. Exit codes: 0 all is well,
1 something checked was not, 2 the command cannot be carried out (one `error:` line
says why), 75 training was interrupted and can be resumed.

Example:
    >>> main(["verify", "--root", "runs"])
    0
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from sandbox import __version__
from sandbox.cli import doctor, probe, runs, verify
from sandbox.cli.listing import printable
from sandbox.errors import SandboxError

__all__ = ["main"]

_EXAMPLES = """\
examples:
  sandbox doctor                          what this machine has, what to install
  sandbox runs                            every run under $SANDBOX_RUNS, else ./runs
  sandbox verify                          compare every file with its checksum
  sandbox probe 3f9a --probes fourier     the curriculum hidden in a trajectory

`sandbox COMMAND --help` says more. Studies are run by `python -m paper_repro` and
`python -m experiments.NAME`.
"""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the message alone; usage is what `--help` is for."""
        self.exit(2, f"error: {message:.400} (see `{self.prog} --help`)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sandbox",
        description="Look at stored runs, check them, probe them, check the machine.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sandbox {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for module in (runs, verify, probe, doctor):
        module.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    parser = _parser()
    try:
        args = parser.parse_args(argv)
    except SystemExit as e:  # --help, --version and errors of usage
        return int(e.code or 0)
    if not hasattr(args, "run"):
        parser.print_help()
        return 0
    try:
        code = args.run(args)
        sys.stdout.flush()
        return code
    except SandboxError as e:
        print(f"error: {printable(str(e))}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        print("error: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `sandbox runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except RecursionError:
        print("error: a stored file is nested too deeply to be read.", file=sys.stderr)
        return SandboxError.exit_code
    except OSError as e:  # a name too long for a file, a disk that cannot be read
        where = f"{e.filename}: " if e.filename else ""
        print(f"error: {printable(f'{where}{e.strerror or e}')}.", file=sys.stderr)
        return SandboxError.exit_code
