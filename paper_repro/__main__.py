"""Reproduces studies: trains what is missing, draws the figures, checks the claims.

    python -m paper_repro                               list
    python -m paper_repro parity_mlp --scale smoke      under a minute
    python -m paper_repro parity_mlp parity_curriculum --scale cpu
    python -m paper_repro parity_mlp --scale paper      how long, then starts
    python -m paper_repro parity_mlp --scale paper --no-estimate
    python -m paper_repro report                        a page of all results

Interrupt at any time: the same command goes on where it stopped (exit code 75). Figure,
claims and numbers go to RUNS/studies/; --publish writes the committed ones as well. A
GPU's stand beside a CPU's, as NAME.SCALE.gpu.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from paper_repro import SCALES, STUDIES
from paper_repro.report import Report
from paper_repro.report import __doc__ as page_help
from sandbox.command import Root, guarded, parse
from sandbox.errors import require
from sandbox.store.folders import default_root
from sandbox.text import unknown
from sandbox.train.signals import stop_after

_UNSET = tyro.conf.arg(help_behavior_hint="")
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Command:
    """What is asked for.

    Attributes:
      studies: their names; none lists them.
      scale: smoke: the pipeline; cpu: the phenomenon; paper: the published sizes.
      root: where runs are stored.
      estimate: say how long it would take, and stop.
      no_estimate: start at once at the paper scale, too.
      teachers: so many in every setting, in place of the preset's; not published.
      time_limit: seconds after which it is interrupted, as by SIGTERM.
      publish: also write figures/ and paper_repro/results/.
    """

    studies: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="NAME ...", help_behavior_hint=""),
    ] = ()
    scale: str = "smoke"
    root: Root = None
    estimate: bool = False
    no_estimate: bool = False
    teachers: Annotated[int | None, _UNSET] = None
    time_limit: Annotated[float | None, _UNSET] = None
    publish: bool = False

    def __post_init__(self) -> None:
        """Refuses names that do not exist, before anything heavy is imported."""
        for name in self.studies:
            require(name in STUDIES, unknown("study", name, STUDIES))
        require(
            self.scale in SCALES, f"--scale: {unknown('scale', self.scale, SCALES)}"
        )
        both = self.estimate and self.no_estimate
        require(not both, "--estimate and --no-estimate exclude each other.")
        n, limit = self.teachers, self.time_limit
        require(n is None or n >= 1, f"--teachers must be at least 1, got {n}.")
        require(
            n is None or not self.publish,
            "--publish is for presets as they stand, without --teachers.",
        )
        require(
            limit is None or 0 < limit <= 1e8,
            f"--time-limit must lie in (0, 1e8] seconds, got {limit}.",
        )


def list_studies() -> None:
    """Prints every study and which of its results are there."""
    for name, what in STUDIES.items():
        found = [sorted(p.stem for p in RESULTS.glob(f"{name}.{s}.*")) for s in SCALES]
        have = [stem.removeprefix(f"{name}.") for stems in found for stem in stems]
        print(f"{name:20s} {what}")
        print(f"{'':20s} results: {', '.join(have) if have else 'none yet'}")


def with_teachers(study: Any, n: int) -> Any:
    """A study with n teachers in each of its settings."""
    own = {f.name: getattr(study, f.name) for f in fields(study)}
    changed = {k: replace(s, n_teachers=n) for k, s in own.items()
               if hasattr(s, "n_teachers")}  # fmt: skip
    require(changed != {}, f"--teachers: {study.name()} has no setting to change.")
    return replace(study, **changed)


def reproduce(command: Command) -> None:
    """Runs the studies in turn."""
    if command.time_limit is not None:
        stop_after(command.time_limit)
    # after the command line was read: studies import jax
    from sandbox.study.study import Options, print_estimate, run_all, study_in

    options = Options(root=command.root, publish=command.publish)
    modules = {n: importlib.import_module(f"experiments.{n}") for n in command.studies}
    studies = {n: study_in(m).preset(command.scale) for n, m in modules.items()}
    if command.teachers is not None:
        studies = {k: with_teachers(s, command.teachers) for k, s in studies.items()}
    if command.estimate or (command.scale == "paper" and not command.no_estimate):
        print_estimate(studies, command.root or default_root())
    if command.estimate:
        return
    for study in studies.values():
        run_all(command.scale, [study], options)
    if command.publish:
        # lazily: a list of studies needs no jax
        from paper_repro.tables import rewrite

        rewrite()
    if command.time_limit is not None:
        stop_after(0.0)  # the process may take a while to end


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["report"]:
        prog = "python -m paper_repro report"
        report = parse(Report, words[1:], prog=prog, description=page_help or "")
        guarded(report.write)
        return
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
