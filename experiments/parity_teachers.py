"""The teachers of a parity setting: trained, probed, checkpoints chosen by rule.

    teachers = train_teachers(cpu(), root)   # one entry a group of seeds
    teachers[0].chosen[2].middle             # a checkpoint found by rule

All rules are those of `sandbox.probes.transitions.choose_checkpoints`, fixed before any
run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float

from experiments.parity_setting import Setting
from sandbox.distill.sources import PerSeed
from sandbox.distill.strategy import Strategy, replica_name
from sandbox.tasks.base import VectorTask
from sandbox.train.spec import RunSpec, TeacherRef

if TYPE_CHECKING:
    import numpy as np

    from sandbox.probes.transitions import Candidates
    from sandbox.train.progress import Progress
    from sandbox.train.run import Run
    from sandbox.types import Array


@dataclass(frozen=True)
class Teachers:
    """One trained group, probed, with its checkpoints chosen.

    Attributes:
      run: the finished run.
      setting: what it was trained for.
      probe: correlations along the trajectory, `(S, R, ...)` by name.
      inside: mean |degree-1 correlation| in the support, `(S, R)`.
      outside: the same off the support.
      chosen: the candidate checkpoints of every seed.
      n90: samples to accuracy .90 of every seed, `(S,)`.
      probe_seconds: what measuring the trajectory took.
    """

    run: "Run"
    setting: Setting
    probe: "dict[str, np.ndarray]"
    inside: "np.ndarray"
    outside: "np.ndarray"
    chosen: "tuple[Candidates, ...]"
    n90: "np.ndarray"
    probe_seconds: float

    @property
    def steps(self) -> "np.ndarray":
        """Samples seen at each checkpoint, `(R,)`."""
        return self.run.metrics.steps

    @property
    def accuracy(self) -> "np.ndarray":
        """Teacher accuracy `(S, R)`."""
        return self.run.metrics.curves("teacher")

    def per_seed(self, name: str) -> PerSeed:
        """A candidate checkpoint of every seed; None where there is none."""
        return PerSeed(
            tuple(
                getattr(c, name) if ok else None
                for c, ok in zip(self.chosen, self.usable, strict=True)
            )
        )

    def holds(self) -> PerSeed:
        """First stage of a 2-shot student, a whole number of student evaluations."""
        import numpy as np

        s = self.setting
        if s.hold_samples:
            return PerSeed((s.hold_samples,) * len(self.n90))
        unit = s.student_eval_every
        return PerSeed(
            tuple(
                max(round(s.hold_fraction * n / unit), 1) * unit
                if np.isfinite(n)
                else None
                for n in self.n90
            )
        )

    def caps(self, multiple: float | None = None) -> "np.ndarray":
        """Samples a student of each seed may see; one evaluation without a teacher.

        Args:
          multiple: of the teacher's n90; the setting's `student_cap` by default.
        """
        import numpy as np

        s = self.setting
        unit, multiple = s.student_eval_every, multiple or s.student_cap
        n90 = np.where(self.usable, self.n90, 0)
        least = np.where(self.usable, s.student_least, 0)
        whole = np.ceil(np.maximum(multiple * n90, least) / unit) * unit
        return np.maximum(whole, unit).astype(int)

    @property
    def usable(self) -> "np.ndarray":
        """Seeds whose teacher learned and has a final checkpoint, `(S,)` bool."""
        import numpy as np

        final = np.asarray([c.final is not None for c in self.chosen])
        return final & np.isfinite(self.n90)

    def students(
        self, strategies: tuple[Strategy, ...], caps: "np.ndarray | None" = None
    ) -> RunSpec:
        """The record of students of these teachers; `caps` as in `self.caps()`."""
        ref = TeacherRef(spec=self.run.spec, final=self.per_seed("final"))
        samples = self.caps() if caps is None else caps
        whole = PerSeed(tuple(int(c) for c in samples))
        return self.setting.student_spec(strategies, ref, caps=whole)


def train_teachers(
    setting: Setting, root: Path, progress: "Progress | None" = None
) -> list[Teachers]:
    """Trains, probes and reads every group of teachers; what exists is only opened."""
    from sandbox.train.loop import fit

    runs = [fit(spec, root=root, progress=progress) for spec in setting.teacher_specs()]
    return [_study(run, setting, root, progress) for run in runs]


def _study(
    run: "Run", setting: Setting, root: Path, progress: "Progress | None"
) -> Teachers:
    import numpy as np

    from sandbox.probes.fourier import FourierProbe
    from sandbox.probes.offline import measure_trajectory
    from sandbox.probes.transitions import blind_score, choose_checkpoints
    from sandbox.theory.sample_complexity import samples_to

    probe = FourierProbe(
        setting.task,
        run.spec.model,
        degrees=setting.degrees,
        points=setting.choice_points,
    )
    measured = measure_trajectory(run, probe, root=root, progress=progress)
    out = measured.values
    pairs = [gaps(out["degree1"][s], supports(run, s)) for s in range(run.spec.n_seeds)]
    inside, outside = (np.asarray(side) for side in zip(*pairs, strict=True))
    score_axis = 1 if run.spec.task.n_classes == 2 else slice(None)
    steps, accuracy = run.metrics.steps, run.metrics.curves("teacher")
    limit = np.full(run.spec.n_seeds, setting.teacher_limit)
    n90 = samples_to(np.asarray(steps), accuracy, 0.9, cap=limit)
    chosen = []
    for s in range(run.spec.n_seeds):
        c = out["degree1"][s][..., score_axis].reshape(len(steps), -1)
        se = out["degree1_se"][s][..., score_axis].reshape(len(steps), -1)
        # What a seed's companions make it train beyond its own end is not looked at.
        own = steps <= setting.teacher_factor * n90[s]
        chosen.append(
            choose_checkpoints(
                steps[own],
                accuracy[s][own],
                (inside[s] - outside[s])[own],
                blind_score(c, se)[own],
                n_classes=run.spec.task.n_classes,
                scale_rule=setting.rule,
            )
        )
    return Teachers(
        run, setting, out, inside, outside, tuple(chosen), n90, measured.wall_seconds
    )


def supports(run: "Run", seed: int) -> "Array":
    """Coordinates behind the labels of the seed at a position of its group."""
    from sandbox.train.teaching import task_key

    task = run.spec.task
    assert isinstance(task, VectorTask)
    return task.supports(task_key(run.spec.seeds[seed]))


def gaps(degree1: "np.ndarray", support: "Array") -> "tuple[np.ndarray, np.ndarray]":
    """Mean |degree-1 correlation| in and off the support, `(R,)` each.

    Args:
      degree1: correlations `(R, d, C)` of one seed.
      support: its coordinates, one node a row.
    """
    import jax
    import numpy as np

    from sandbox.probes.fourier import degree1_gap

    gap = jax.vmap(lambda c: degree1_gap(c, support))(degree1)
    return np.asarray(gap.inside).mean(-1), np.asarray(gap.outside)


def student_lanes(run: "Run", strategy: str) -> list[str]:
    """The lanes of a strategy in a run of students, one an initialisation."""
    names = [replica_name(strategy, i) for i in range(len(run.spec.strategies))]
    return [n for n in names if n in run.metrics.strategies]


def student_curves(
    run: "Run", strategy: str, name: str = "accuracy"
) -> "Float[np.ndarray, 'S I R']":
    """A metric of all students of a strategy: seeds, initialisations, evaluations."""
    import numpy as np

    lanes = student_lanes(run, strategy)
    return np.stack([run.metrics.curves(lane, name) for lane in lanes], 1)


def learned_n90(teachers: list[Teachers]) -> "np.ndarray":
    """Samples to accuracy .90 of every teacher that learned, NaN for the others."""
    import numpy as np

    return np.concatenate([np.where(t.usable, t.n90, np.nan) for t in teachers])


def abscissa(teachers: list[Teachers]) -> "np.ndarray":
    """What samples of every seed are divided by in figures; NaN leaves a seed out.

    A single teacher's samples are shown in millions, those of several in units of each
    teacher's n90, so that early and late transitions can be compared.
    """
    import numpy as np

    n90 = learned_n90(teachers)
    return n90 if len(n90) > 1 else np.where(np.isnan(n90), np.nan, 1e6)


def scaled_rows(
    teachers: list[Teachers],
    curves: "list[tuple[np.ndarray, np.ndarray]]",
    *,
    learned: float = 2.0,
    until: float = 0.0,
) -> "tuple[np.ndarray, np.ndarray]":
    """Every group's (steps (R,), values) as (x, y) rows of the usable seeds.

    Args:
      teachers: the groups.
      curves: values are `(S, R)`, or `(S, I, R)` where every seed has I curves.
      learned: a curve that ended at this value or above, because its run stops there,
        goes on at its last value.
      until: abscissa up to which it does.
    """
    import numpy as np

    from sandbox.plotting.curves import stack_ragged

    rows = [(steps, np.atleast_2d(y)) for steps, ys in curves for y in ys]
    scale = abscissa(teachers)
    keep = np.flatnonzero(~np.isnan(scale))
    flat = [(rows[i][0] / scale[i], y) for i in keep for y in rows[i][1]]
    flat = [
        (np.append(x, until), np.append(y, y[-1]))
        if y[-1] >= learned and x[-1] < until
        else (x, y)
        for x, y in flat
    ]
    return stack_ragged([x for x, _ in flat]), stack_ragged([y for _, y in flat])
