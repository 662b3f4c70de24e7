"""The teachers of a PCFG setting: trained, probed, checkpoints chosen by rule.

    teachers = train_teachers(cpu(), root)   # one entry a seed
    teachers[0].drop.steepest                # where its loss falls fastest

The rule is that of `sandbox.probes.phases.locate_drop`, fixed before any run: the
*middle* checkpoint is the record of steepest fall within the drop.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.pcfg_setting import Setting
from sandbox.distill.strategy import Strategy
from sandbox.errors import SandboxError
from sandbox.probes.phases import Drop, locate_drop
from sandbox.train.spec import RunSpec

if TYPE_CHECKING:
    import numpy as np

    from sandbox.train.progress import Progress
    from sandbox.train.run import Run


class NoDrop(SandboxError):
    """A teacher's loss never dropped, so that no checkpoint can be chosen."""


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
) -> list[Teacher]:
    """Trains every seed's teacher, or opens what exists, and locates its drop.

    Raises:
      NoDrop: some teacher's loss never decreased.
    """
    from sandbox.train.loop import fit

    out = []
    for seed in range(setting.n_seeds):
        run = fit(setting.teacher_spec(seed), root=root, progress=progress)
        steps = run.metrics.steps / setting.batch
        drop = locate_drop(steps, run.metrics.curves("teacher", "loss")[0])
        if drop is None:
            raise NoDrop(
                f"the loss of teacher {run.folder.path.name} (seed {seed}) never"
                " decreased; try another learning rate (setting.lr)."
            )
        out.append(Teacher(run, setting, drop))
    return out


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
