"""What the parity studies share: a setting, its teachers, probes and checkpoints.

    teachers = train_teachers(cpu(), root)   # one entry a group of seeds
    teachers[0].chosen[2].middle             # a checkpoint found by rule

A seed has its own support, teacher, student initialisation and streams. All rules are
those of `sandbox.probes.transitions.choose_checkpoints`, fixed before any run.
"""

from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sandbox.distill.sources import PerSeed
from sandbox.distill.strategy import Strategy
from sandbox.errors import require
from sandbox.models.mlp import MLP
from sandbox.tasks.base import BooleanTask
from sandbox.tasks.parity import FirstSupport, Parity, RandomSupport
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.spec import RunSpec, Stop, TeacherRef

if TYPE_CHECKING:
    import numpy as np

    from sandbox.probes.transitions import Candidates
    from sandbox.train.progress import Progress
    from sandbox.train.run import Run
    from sandbox.types import Array


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A task, a wide teacher, a narrow student, and how long each may train.

    Attributes:
      task: the Boolean target.
      teacher_width: hidden units of the teacher.
      student_width: hidden units of the student.
      teacher_optimizer: batch-1 SGD of the teacher.
      student_optimizer: batch-1 SGD of the students.
      n_teachers: seeds.
      group: most seeds trained together; the largest divisor of n_teachers up to it is
        taken.
      spacing: samples between teacher checkpoints (and its evaluations).
      student_eval_every: samples between student evaluations.
      teacher_limit: samples within which a teacher must reach accuracy .90; one that
        does not is counted as never having learned and enters no ratio.
      teacher_factor: a teacher that did trains on to this multiple of its n90.
      student_cap: samples of a student, as a multiple of its teacher's n90.
      hold_fraction: first stage of a 2-shot student, a fraction of its teacher's n90.
      hold_samples: the same in samples; 0 uses the fraction.
      rule: which of the two fixed rules finds the final checkpoint.
      choice_points: probe inputs behind the checkpoint choice.
      claim_points: fresh probe inputs behind claims about correlations.
      degrees: monomial degrees that are probed along the trajectory.
    """

    task: BooleanTask = field(default_factory=lambda: Parity(d=24, k=6))
    teacher_width: int = 500
    student_width: int = 20
    teacher_optimizer: SGD = field(default_factory=SGD)
    student_optimizer: SGD = field(default_factory=SGD)
    n_teachers: int = 5
    group: int = 5
    spacing: int = 1280
    student_eval_every: int = 1280
    teacher_limit: int = 128_000
    teacher_factor: float = 3.0
    student_cap: float = 6.0
    hold_fraction: float = 0.3
    hold_samples: int = 0
    rule: Literal["cpu", "paper"] = "cpu"
    choice_points: int = 16_384
    claim_points: int = 100_000
    degrees: tuple[int, ...] = (1, 2, 3)

    def __post_init__(self) -> None:
        """Refuses what would fail after the teachers were trained."""
        for name in (
            "n_teachers",
            "group",
            "spacing",
            "student_eval_every",
            "teacher_limit",
            "teacher_width",
            "student_width",
        ):
            v = getattr(self, name)
            require(v >= 1, f"setting.{name} must be at least 1, got {v}.")
        for name in ("spacing", "teacher_limit"):
            unit = {"spacing": "student_eval_every", "teacher_limit": "spacing"}[name]
            v, u = getattr(self, name), getattr(self, unit)
            require(
                v % u == 0,
                f"setting.{name} = {v} must be a multiple of setting.{unit} = {u}.",
            )
        for name in ("choice_points", "claim_points"):
            v = getattr(self, name)
            require(v >= 2, f"setting.{name} must be at least 2, got {v}.")
        require(
            self.hold_fraction > 0 or self.hold_samples > 0,
            "setting.hold_fraction must be positive where hold_samples is 0.",
        )
        require(
            self.student_cap > 0,
            f"setting.student_cap must be positive, got {self.student_cap}.",
        )
        least = 3.0 if self.rule == "cpu" else 1.3
        require(
            self.teacher_factor >= least,
            f"setting.teacher_factor must be at least {least} for the final checkpoint"
            f" of rule {self.rule!r}, got {self.teacher_factor}.",
        )
        require(
            bool(self.degrees) and all(1 <= a <= self.task.d for a in self.degrees),
            f"setting.degrees must lie in 1..d = 1..{self.task.d}, got {self.degrees}.",
        )
        require(
            1 in self.degrees,
            "setting.degrees must hold 1, which the checkpoint choice needs.",
        )
        self.example_students((Strategy(name="ce"),))

    @property
    def lanes(self) -> int:
        """Seeds of one group."""
        n = self.n_teachers
        return max(g for g in range(1, min(self.group, n) + 1) if n % g == 0)

    def example_students(self, strategies: tuple[Strategy, ...]) -> RunSpec:
        """A student record with made-up checkpoints: for checks and for timing."""
        teacher = self.teacher_specs()[0]
        return self.student_spec(
            strategies,
            TeacherRef(spec=teacher, final=self.teacher_limit),
            caps=PerSeed((self.hold_samples or self.student_eval_every,) * self.lanes),
        )

    def student_spec(
        self, strategies: tuple[Strategy, ...], teacher: TeacherRef, *, caps: PerSeed
    ) -> RunSpec:
        """The record of one group's students.

        Args:
          strategies: one lane each.
          teacher: whose trajectory teaches.
          caps: samples that a student of each seed may see.
        """
        task = self.task
        return RunSpec(
            kind="student",
            task=task,
            model=MLP(d=task.d, hidden=(self.student_width,), n_classes=task.n_classes),
            strategies=strategies,
            optimizer=self.student_optimizer,
            stop=Stop(max_samples=caps, accuracy=0.95),
            eval_every=self.student_eval_every,
            teacher=teacher,
            n_seeds=teacher.spec.n_seeds,
            first_seed=teacher.spec.first_seed,
        )

    def teacher_specs(self) -> list[RunSpec]:
        """One record a group of seeds."""
        model = MLP(
            d=self.task.d,
            hidden=(self.teacher_width,),
            n_classes=self.task.n_classes,
        )
        whole = ceil(self.teacher_factor * self.teacher_limit / self.spacing)
        whole *= self.spacing
        return [
            RunSpec(
                kind="teacher",
                task=self.task,
                model=model,
                strategies=(Strategy(name="teacher"),),
                optimizer=self.teacher_optimizer,
                stop=Stop(
                    max_samples=whole,
                    accuracy=0.9,
                    factor=self.teacher_factor,
                    give_up=self.teacher_limit,
                ),
                eval_every=self.spacing,
                checkpoint_every=self.spacing,
                first_seed=first,
                n_seeds=self.lanes,
            )
            for first in range(0, self.n_teachers, self.lanes)
        ]


def smoke() -> Setting:
    """The whole pipeline in well under a minute: d=24, k=6, five teachers."""
    task = Parity(d=24, k=6, support=RandomSupport())
    return Setting(task=task, choice_points=4096)


def cpu() -> Setting:
    """The phenomenon on a laptop: d=32, k=6, width 1000 to 20, twenty teachers."""
    return Setting(
        task=Parity(d=32, k=6, support=RandomSupport()),
        teacher_width=1000,
        student_width=20,
        n_teachers=20,
        group=5,
        spacing=2560,
        student_eval_every=2560,
        teacher_limit=409_600,
    )


def paper() -> Setting:
    """The published setting (section 2 and Figure 1): (100, 6), width 50,000 to 100.

    Batch 1, checkpoints every 100k samples, first stage 1M. Where the sources differ:
    rate 0.01 constant for teacher and students (the released teacher script has 0.005
    or 0.01 constant, the student script a warm-up and cosine), tau = 1 as in the
    released MLP scripts (the text uses a near-zero one: `--tau 0`), and students train
    to 1.5 n90 of their teacher, where the claims are read, not to 20M.
    """
    rate = LearningRate(peak=0.01)
    return Setting(
        task=Parity(d=100, k=6, support=FirstSupport()),
        teacher_width=50_000,
        student_width=100,
        teacher_optimizer=SGD(lr=rate),
        student_optimizer=SGD(lr=rate),
        n_teachers=1,
        group=1,
        spacing=100_000,
        student_eval_every=20_000,
        teacher_limit=20_000_000,
        teacher_factor=1.6,
        student_cap=1.5,
        hold_samples=1_000_000,
        rule="paper",
        degrees=(1, 2, 3, 4, 5),
    )


PRESETS = {"smoke": smoke, "cpu": cpu, "paper": paper}


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

    def caps(self) -> "np.ndarray":
        """Samples a student of each seed may see; one evaluation without a teacher."""
        import numpy as np

        s = self.setting
        unit = s.student_eval_every
        n90 = np.where(self.usable, self.n90, 0)
        whole = np.ceil(s.student_cap * n90 / unit) * unit
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
        run.spec.task,
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

    return run.spec.task.supports(task_key(run.spec.seeds[seed]))


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


def abscissa(teachers: list[Teachers]) -> "np.ndarray":
    """What samples of every seed are divided by in figures; NaN leaves a seed out.

    A single teacher's samples are shown in millions, those of several in units of each
    teacher's n90, so that early and late transitions can be compared.
    """
    import numpy as np

    usable = np.concatenate([t.usable for t in teachers])
    n90 = np.concatenate([t.n90 for t in teachers])
    return np.where(usable, n90 if len(n90) > 1 else 1e6, np.nan)


def scaled_rows(
    teachers: list[Teachers], curves: "list[tuple[np.ndarray, np.ndarray]]"
) -> "tuple[np.ndarray, np.ndarray]":
    """Every group's (steps (R,), values (S, R)) as (x, y) rows of the usable seeds."""
    import numpy as np

    from sandbox.plotting.curves import stack_ragged

    rows = [(steps, y) for steps, ys in curves for y in ys]
    scale = abscissa(teachers)
    keep = np.flatnonzero(~np.isnan(scale))
    x = stack_ragged([rows[i][0] / scale[i] for i in keep])
    return x, stack_ragged([rows[i][1] for i in keep])


def task_text(task: BooleanTask) -> str:
    """A task in a title, e.g. `Parity, d=32, k=6`."""
    words = [type(task).__name__]
    for name in ("d", "k", "eps", "depth", "feature_complexity"):
        if hasattr(task, name):
            words.append(f"{name}={getattr(task, name)}")
    return ", ".join(words)
