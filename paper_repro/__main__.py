"""Reproduces studies: trains what is missing, draws the figures, checks the claims.

    python -m paper_repro                                    list
    python -m paper_repro parity_mlp --scale smoke           under a minute
    python -m paper_repro parity_mlp parity_curriculum --scale cpu
    python -m paper_repro parity_mlp --scale paper           says how long, then starts

Interrupt at any time: the same command goes on where it stopped (exit code 75). Figure,
claims and numbers go to RUNS/studies/; --publish writes the committed ones as well.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from paper_repro import SCALES, STUDIES
from sandbox.command import guarded, parse
from sandbox.errors import require
from sandbox.store.folders import default_root
from sandbox.text import unknown


@dataclass(frozen=True, kw_only=True)
class Command:
    """What is asked for.

    Attributes:
      studies: their names; none lists them.
      scale: smoke: the pipeline; cpu: the phenomenon; paper: the published sizes.
      root: where runs are stored ($SANDBOX_RUNS, else runs).
      estimate: say how long it would take, and stop.
      publish: also write figures/ and paper_repro/results/.
    """

    studies: tyro.conf.Positional[tuple[str, ...]] = ()
    scale: str = "smoke"
    root: Path | None = None
    estimate: bool = False
    publish: bool = False

    def __post_init__(self) -> None:
        """Refuses names that do not exist, before anything heavy is imported."""
        for name in self.studies:
            require(name in STUDIES, unknown("study", name, STUDIES))
        require(
            self.scale in SCALES, f"--scale: {unknown('scale', self.scale, SCALES)}"
        )


def list_studies() -> None:
    """Prints every study and which of its results are there."""
    results = Path(__file__).parent / "results"
    for name, what in STUDIES.items():
        have = [s for s in SCALES if (results / f"{name}.{s}.json").is_file()]
        print(f"{name:20s} {what}")
        print(f"{'':20s} results: {', '.join(have) if have else 'none yet'}")


def reproduce(command: Command) -> None:
    """Runs the studies in turn."""
    # after the command line was read: studies import jax
    from sandbox.study.study import Options, print_estimate, run_all, study_in

    options = Options(root=command.root, publish=command.publish)
    modules = {n: importlib.import_module(f"experiments.{n}") for n in command.studies}
    studies = {n: study_in(m).preset(command.scale) for n, m in modules.items()}
    if command.scale == "paper" or command.estimate:
        print_estimate(studies, command.root or default_root())
    if command.estimate:
        return
    for study in studies.values():
        run_all(command.scale, [study], options)
    if command.publish:
        # lazily: a list of studies needs no jax
        from paper_repro.tables import rewrite

        rewrite()


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    words = sys.argv[1:] if argv is None else argv
    description = f"{__doc__}\nstudies: {', '.join(STUDIES)}"
    command = parse(
        Command, words, prog="python -m paper_repro", description=description
    )
    if command.studies:
        guarded(lambda: reproduce(command))
    else:
        list_studies()


if __name__ == "__main__":
    main()
