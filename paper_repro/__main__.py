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
from pathlib import Path

from paper_repro import SCALES, STUDIES


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line; answers help and mistakes without importing jax."""
    parser = argparse.ArgumentParser(
        prog="python -m paper_repro",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=", ".join(STUDIES))
    parser.add_argument(
        "--scale",
        choices=SCALES,
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
            close = difflib.get_close_matches(name, STUDIES, n=1)
            hint = (
                f"did you mean {close[0]}?"
                if close
                else f"choose {', '.join(STUDIES)}."
            )
            parser.error(f"unknown study {name!r}; {hint}")
    return args


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
