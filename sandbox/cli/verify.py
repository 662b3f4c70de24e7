"""`sandbox verify`: compares every stored file with the checksum recorded for it."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from sandbox.cli.stored import held, root_of
from sandbox.command import Root
from sandbox.errors import StoreError
from sandbox.store.code import why_other_now
from sandbox.store.find import folders, resolve
from sandbox.store.folders import RunFolder

_PARTS = ("ckpt/step_*.safetensors", "resume-*.safetensors")
"""What a run holds that has lost its config before it was finished."""


@dataclass(frozen=True)
class Verify:
    """Compares size and sha256 of every file of finished runs with their manifests.

    Names each file that is missing, cut or altered, and checks of unfinished runs their
    saved state and the checkpoints it lists. A run that is being written now is only
    listed. Names also what other code than today's made.

    Examples:
      sandbox verify
      sandbox verify 3f9a
      sandbox verify runs/teacher/3f9a6c2e11d04b77

    Exit code: 0 all sound, 1 problems found, 2 no such run.
    """

    name: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN", help_behavior_hint="(default: every run)"),
    ] = ""
    """a run folder or the beginning of its hash"""
    root: Root = None

    def run(self) -> int:
        """Prints what is wrong and returns 1 if anything is."""
        root = root_of(self.root)
        found = [resolve(self.name, root)] if self.name else folders(root, *_PARTS)
        bad = unfinished = other = 0
        for folder in found:
            writing = not folder.complete and held(folder)
            problems = [] if writing else _problems(folder)
            bad += bool(problems)
            if not folder.complete and not problems:
                unfinished += 1
                state = "being written now" if writing else "unfinished"
                print(f"{folder.path} is {state}")
            for line in problems:
                print(line)
            if folder.complete and not problems:
                why = why_other_now(folder.made_by() or {})
                other += bool(why)
                if why:
                    print(f"{folder.path} {why}")
        sound = len(found) - bad - unfinished
        where = "" if self.name else f" under {root}"
        print(f"{sound} sound, {bad} with problems, {unfinished} unfinished{where}.")
        if other:
            print(f"{other} of the sound ones would be made otherwise now.")
        if bad:
            print("A run that lost a file is trained again once its folder is deleted.")
        return 1 if bad else 0


def _problems(folder: RunFolder) -> list[str]:
    try:
        return folder.problems() if folder.complete else folder.unfinished_problems()
    except StoreError as e:
        return [str(e)]
    except OSError as e:
        return [f"{e.filename or folder.path} cannot be read ({e.strerror})"]
