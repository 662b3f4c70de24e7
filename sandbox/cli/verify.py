"""`sandbox verify`: compares every stored file with the checksum recorded for it."""

import argparse
from pathlib import Path
from typing import Any

from sandbox.cli.listing import add_root, folders, held, resolve, root_of
from sandbox.errors import StoreError
from sandbox.store.runs import RunFolder


def add(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "verify",
        help="compare every stored file with its checksum",
        description=(
            "Compares size and sha256 of every file of finished runs with their"
            " manifests and names each one that is missing, cut or altered, and of"
            " unfinished runs their saved state and the checkpoints it lists. A run"
            " that is being written now is only listed."
        ),
        epilog=(
            "examples:\n  sandbox verify\n  sandbox verify 3f9a\n"
            "  sandbox verify runs/teacher/3f9a6c2e11d04b77\n\n"
            "exit code: 0 all sound, 1 problems found, 2 no such run"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "name",
        nargs="?",
        metavar="RUN",
        help="a run folder or the beginning of its hash (default: every run)",
    )
    add_root(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints what is wrong and returns 1 if anything is."""
    root = root_of(args)
    found = [resolve(args.name, root)] if args.name else _folders(root)
    sound = bad = unfinished = 0
    for folder in found:
        writing = not folder.complete and held(folder)
        problems = [] if writing else _problems(folder)
        if not folder.complete and not problems:
            unfinished += 1
            state = "being written now" if writing else "unfinished"
            print(f"{folder.path} is {state}")
            continue
        bad += bool(problems)
        sound += not problems
        for line in problems:
            print(line)
    where = "" if args.name else f" under {root}"
    print(f"{sound} sound, {bad} with problems, {unfinished} unfinished{where}.")
    if bad:
        print("A run that lost a file is trained again once its folder is deleted.")
    return 1 if bad else 0


def _folders(root: Path) -> list[RunFolder]:
    """Every run, also one that has lost its config before it was finished."""
    paths = {r.path for r in folders(root)}
    paths |= {p.parent.parent for p in root.glob("*/*/ckpt/step_*.safetensors")}
    paths |= {p.parent for p in root.glob("*/*/resume-*.safetensors")}
    return [RunFolder(p) for p in sorted(paths)]


def _problems(folder: RunFolder) -> list[str]:
    try:
        if folder.complete:
            return folder.problems()
        return folder.unfinished_problems()
    except StoreError as e:
        return [str(e)]
    except OSError as e:
        return [f"{e.filename or folder.path} cannot be read ({e.strerror})"]
