"""The teachers of a PCFG setting: trained, probed, checkpoints chosen by rule.

    teachers, lost = train_teachers(cpu(), root)   # one entry a seed
    teachers[0].drop.steepest                      # where its loss falls fastest

The rule is that of `sandbox.probes.phases.locate_drop`, fixed before any run: the
*middle* checkpoint is the record of steepest fall within the drop. A teacher whose loss
falls by less than `LEAST` nats has not learned: it enters no claim, and is listed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.pcfg_setting import Setting
from sandbox.distill.strategy import Strategy
from sandbox.errors import DivergenceError, SandboxError
from sandbox.probes.phases import Drop, locate_drop
from sandbox.train.spec import RunSpec

if TYPE_CHECKING:
    from sandbox.train.progress import Progress
    from sandbox.train.run import Run


LEAST = 0.05
"""Nats by which the loss of a teacher that has learned has fallen."""


class NoDrop(SandboxError):
    """No teacher's loss dropped, so that no checkpoint can be chosen."""


@dataclass(frozen=True)
class Teacher:
    """One trained teacher with its drop located.

    Attributes:
      run: the finished run.
      setting: what it was trained for.
      drop: where its evaluation loss drops, in optimizer steps.
    """

    run: "Run"
    setting: Setting
    drop: Drop

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.run.spec.first_seed

    @property
    def steps(self) -> "np.ndarray":
        """Optimizer steps at each record, `(R,)`."""
        return self.run.metrics.steps / self.setting.batch

    @property
    def loss(self) -> "np.ndarray":
        """Evaluation loss in nats, `(R,)`."""
        return self.run.metrics.curves("teacher", "loss")[0]

    @property
    def accuracy(self) -> "np.ndarray":
        """Top-1 accuracy, `(R,)`."""
        return self.run.metrics.curves("teacher")[0]

    @property
    def middle(self) -> int:
        """Step of the checkpoint chosen by rule."""
        return int(self.drop.steepest)

    def students(self, strategies: tuple[Strategy, ...]) -> RunSpec:
        """The record of students of this teacher."""
        return self.setting.student_spec(strategies, self.seed)


@dataclass(frozen=True)
class Probed:
    """What the n-gram probe found along one teacher's training.

    Attributes:
      steps: optimizer steps of the probed checkpoints, `(P,)`.
      values: every array of the probe, `(P,)`.
      seconds: what measuring took.
    """

    steps: "np.ndarray"
    values: "dict[str, np.ndarray]"
    seconds: float


def train_teachers(
    setting: Setting, root: Path, progress: "Progress | None" = None
) -> tuple[list[Teacher], list[str]]:
    """Trains every seed's teacher, or opens what exists, and locates its drop.

    Returns:
      The teachers that learned, and a phrase for every other one.

    Raises:
      NoDrop: none learned.
    """
    from sandbox.train.loop import fit

    out: list[Teacher] = []
    lost: list[str] = []
    for seed in range(setting.n_seeds):
        try:
            run = fit(setting.teacher_spec(seed), root=root, progress=progress)
        except DivergenceError:
            lost.append(f"seed {seed}: teacher non-finite")
            continue
        steps = run.metrics.steps / setting.batch
        loss = run.metrics.curves("teacher", "loss")[0]
        drop = locate_drop(steps, loss, least=LEAST)
        if drop is None:
            fell = float(np.nanmax(loss) - np.nanmin(loss))
            lost.append(f"seed {seed}: teacher's loss fell by {fell:.3f} nats only")
        else:
            out.append(Teacher(run, setting, drop))
    if not out:
        raise NoDrop(
            f"no teacher learned ({'; '.join(lost)}); try another learning rate"
            " (setting.lr) or more steps (setting.teacher_steps)."
        )
    return out, lost


def probe_teacher(
    teacher: Teacher, root: Path, progress: "Progress | None" = None
) -> Probed:
    """Runs the n-gram probe over a teacher's checkpoints, step 0 included."""
    from sandbox.probes.ngram import NgramProbe
    from sandbox.probes.offline import measure_trajectory

    s = teacher.setting
    probe = NgramProbe(
        task=s.made_task,  # pyright: ignore[reportArgumentType]
        model=teacher.run.spec.model,
        windows=s.windows,
        strings=s.probe_strings,
        places=s.probe_places,
    )
    every = s.samples(s.probe_every)
    steps = [t for t in teacher.run.trajectory.steps if t % every == 0]
    found = measure_trajectory(
        teacher.run, probe, root=root, steps=steps, progress=progress
    )
    values = {name: v[0] for name, v in found.values.items()}
    return Probed(found.steps / s.batch, values, found.wall_seconds)
