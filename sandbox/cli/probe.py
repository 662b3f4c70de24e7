"""`sandbox probe`: the arguments, checked against the stored run before jax starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from sandbox.cli.asked import (
    Module,
    check_out,
    lane_of,
    seeds_of,
    steps_of,
    study_classes,
    warn,
)
from sandbox.cli.stored import root_of
from sandbox.command import Root
from sandbox.errors import require
from sandbox.store.code import foreign_sources
from sandbox.store.files import read_json
from sandbox.store.find import resolve
from sandbox.store.folders import RunFolder
from sandbox.text import unknown

PROBES = ("fourier", "alignment", "spectrum", "nonterminals", "ngram")


@dataclass(frozen=True)
class Probe:
    """Measures probes on the checkpoints of a finished run, prints a table, stores all.

    Examples:
      sandbox probe 3f9a --probes fourier
          correlations of every checkpoint of every seed, in and off the support
      sandbox probe 3f9a --probes fourier alignment --seed 2 --steps every 50000
      sandbox probe 3f9a --probes fourier --steps 0,20000,40000 --points 20000
      sandbox probe 5c21 --probes nonterminals ngram --steps every 6400
          what a masked model of a grammar knows of its trees, and of its n-grams
      sandbox probe 77b0 --probes fourier --study experiments.staircase
          a run whose task or model is defined in experiments/staircase.py

    fourier prints mean |c_A| over all monomials of each degree, in the support and off
    it, averaged over seeds, +- its Monte-Carlo standard error. Where there is nothing
    to find, mean |c_A| is about 0.8 standard errors of one coefficient, not 0.
    alignment prints the share of a neuron's squared weights on the support: chance is
    k/d.
    spectrum prints the exact Fourier weight of p(1|x) by degree (d <= 20), of several
    classes the largest, and in brackets how much of it lies inside some support.
    nonterminals prints, level by level, how well the nonterminal over a token, and
    whether it ends there, is read off the frozen hidden states: by attention over
    positions, by a linear map, with labels of other strings (control), and from an
    untrained network.
    ngram prints how far a masked prediction moves (median total variation) when the
    n-gram around it is masked as well (robust) or everything else is (close), and its
    distance in nats from the exact prediction that sees the n-gram alone.

    A measurement is made once and kept under the root. --out exports it as an .npz with
    steps (R,), seeds (S,) and every array of the probe as (S, R, ...):
    in_support/{degree}, off_support/{degree}, degree1 (fourier), attention/nonterminal,
    linear/boundary, ... (nonterminals), each with its _se; and about, a JSON text with
    the run, strategy and probe.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """a run folder, or the beginning of its hash"""
    probes: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            aliases=["-p"],
            metavar="PROBE [PROBE ...]",
            help=f"one or more of: {', '.join(PROBES)}",
        ),
    ]
    steps: Annotated[tuple[str, ...], tyro.conf.arg(metavar="STEPS ...")] = ("all",)
    """all, a list such as 0,20000,40000, or every N (samples)"""
    seed: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: all)")] = (
        None
    )
    """one seed of the run"""
    strategy: str | None = None
    """which strategy, where a run trains several"""
    points: int = 100_000
    """Monte-Carlo inputs of fourier"""
    study: Module = None
    """module that defines the run's own classes"""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """export the arrays as .npz (one probe)"""
    root: Root = None

    def run(self) -> int:
        """Checks the request against the stored run, measures, prints and stores."""
        known = ", ".join(PROBES)
        require(bool(self.probes), f"--probes: name one or more of {known}.")
        for name in self.probes:
            require(name in PROBES, f"--probes: {unknown('probe', name, PROBES)}")
        require(self.points >= 2, f"--points must be at least 2, got {self.points}.")
        require(self.points < 2**32, "--points must be less than 2^32.")
        one = self.out is None or len(set(self.probes)) == 1
        require(one, "--out names one file; give one probe with it.")
        folder = resolve(self.name, root_of(self.root))
        steps = steps_of(self.steps, folder)
        classes = study_classes(self.study) if self.study else ()
        # lazily: a run that is not there is told before the train package is imported.
        from sandbox.train.run import open_run

        run = open_run(folder.path, extra=classes)
        _check_task(self.probes, run.spec.task)
        _warn_changed(folder, run.spec)
        lane = lane_of(
            self.strategy, [s.name for s in run.spec.strategies], "--strategy"
        )
        seeds = seeds_of(self.seed, run.spec.strategies[lane].name, run)
        if self.out is not None:
            check_out(self.out, folder.path)
        # lazily: it imports jax, which no mistake should wait for.
        from sandbox.cli.measure import measure

        measure(self, run, lane, seeds, steps)
        return 0


def _check_task(probes: tuple[str, ...], task: Any) -> None:
    """Refuses probes that measure another kind of task than the run's."""
    # lazily: these take as long as the rest of the command together.
    from sandbox.tasks.base import BooleanTask, VectorTask
    from sandbox.tasks.masking import MaskedLM
    from sandbox.tasks.sequences import GrammarTask

    fits: dict[str, tuple[type, str]] = {
        "fourier": (VectorTask, "tasks on vectors"),
        "alignment": (VectorTask, "tasks on vectors"),
        "spectrum": (BooleanTask, "tasks on the Boolean cube"),
        "nonterminals": (GrammarTask, "tasks on strings of a grammar"),
        "ngram": (MaskedLM, "masked-token prediction"),
    }
    mine = [name for name, (kind, _) in fits.items() if isinstance(task, kind)]
    for name in probes:
        require(
            name in mine,
            f"--probes: {name} measures {fits[name][1]}, and the task of this run is"
            f" {type(task).__name__}; it can be measured"
            f" with {' and '.join(mine) or 'none of them'}.",
        )


def _warn_changed(folder: RunFolder, spec: Any) -> None:
    """Says so if a class of the user's own is no longer what the run was made with."""
    then = read_json(folder.path / "config.json").get("foreign")
    then = then if isinstance(then, dict) else {}
    now = foreign_sources(spec)
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            text = f"{name} was edited since {folder.path} was trained"
            warn(f"{text}; the probe uses it as it is now.")
