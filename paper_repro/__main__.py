"""Reproduces studies: trains what is missing, draws the figures, checks the claims.

    python -m paper_repro                                    list
    python -m paper_repro parity_mlp --scale smoke           under a minute
    python -m paper_repro parity_mlp parity_curriculum --scale cpu
    python -m paper_repro parity_mlp --scale paper           says how long, then starts

Interrupt at any time: the same command goes on where it stopped (exit code 75).
"""

import argparse
import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from paper_repro import SCALES, STUDIES


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the message alone; usage is what `--help` is for."""
        self.exit(2, f"error: {message:.400} (see `{self.prog} --help`)\n")


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line; answers help and mistakes without importing jax."""
    parser = _Parser(
        prog="python -m paper_repro",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=", ".join(STUDIES))
    parser.add_argument(
        "--scale",
        metavar="{" + ",".join(SCALES) + "}",
        default="smoke",
        help="smoke: the pipeline; cpu: the phenomenon; paper: the published sizes",
    )
    parser.add_argument(
        "--root", type=Path, help="where runs are stored ($SANDBOX_RUNS, else runs)"
    )
    parser.add_argument(
        "--estimate", action="store_true", help="say how long it would take, and stop"
    )
    args = parser.parse_args(argv)
    for name in args.studies:
        if name not in STUDIES:
            parser.error(f"unknown study {name[:60]!r}; {_nearest(name, STUDIES)}")
    if args.scale not in SCALES:
        hint = _nearest(args.scale, SCALES)
        parser.error(f"--scale: there is no scale {args.scale[:60]!r}; {hint}")
    if args.root is not None and args.root.exists() and not args.root.is_dir():
        parser.error(f"--root: {args.root} is not a folder")
    return args


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word[:60], list(known), n=1)
    return f"did you mean {close[0]}?" if close else f"choose {', '.join(known)}."


def list_studies() -> None:
    """Prints every study and which of its results are there."""
    results = Path(__file__).parent / "results"
    for name, what in STUDIES.items():
        have = [s for s in SCALES if (results / f"{name}.{s}.json").is_file()]
        print(f"{name:20s} {what}")
        print(f"{'':20s} results: {', '.join(have) if have else 'none yet'}")


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    args = parse(sys.argv[1:] if argv is None else argv)
    if not args.studies:
        list_studies()
        return
    from experiments.command import guarded

    guarded(lambda: reproduce(args))


def reproduce(args: argparse.Namespace) -> None:
    """Runs the studies in turn."""
    import importlib

    from sandbox.store.runs import default_root

    root = args.root or default_root()
    if args.scale == "paper" or args.estimate:
        from paper_repro.estimate import print_estimate

        print_estimate(args.studies, args.scale, root)
    if args.estimate:
        return
    for name in args.studies:
        module = importlib.import_module(f"paper_repro.{name}")
        module.reproduce(args.scale, root).publish()


if __name__ == "__main__":
    main()
