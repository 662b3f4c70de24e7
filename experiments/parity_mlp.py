"""Accuracy on sparse parity: teacher, CE, one-shot, progressive and 2-shot students.

    python -m experiments.parity_mlp smoke
    python -m experiments.parity_mlp cpu --setting.n-teachers 10
    python -m experiments.parity_mlp --help

Reproduces Figure 1 (left) of arXiv 2410.05464. A wide teacher learns; a narrow student
learns from labels (CE), from the final teacher alone (one-shot), from its successive
checkpoints (progressive), or from one intermediate checkpoint and then the final one
(2-shot). All students of a seed see the same samples and start from the same weights.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import parity_setting
from experiments.parity_setting import Setting, Teachers
from sandbox.distill.sources import Final, NShot, PerSeed, Progressive
from sandbox.distill.strategy import Strategy, Target

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from sandbox.train.progress import Progress
    from sandbox.train.run import Run

LABELS = {
    "teacher": "teacher",
    "ce": "CE (labels)",
    "one_shot": "one-shot, τ = 1",
    "one_shot_hard": "one-shot, argmax",
    "progressive": "progressive",
    "two_shot": "2-shot (middle, final)",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The study's knobs.

    Attributes:
      setting: task, teachers and students.
      tau: teacher temperature of the taught students (the argmax control aside).
      argmax_control: also train one-shot from the argmax of the final teacher, which
        equals CE wherever that teacher is right.
    """

    setting: Setting = field(default_factory=parity_setting.smoke)
    tau: float = 1.0
    argmax_control: bool = True

    def __post_init__(self) -> None:
        """Builds the strategies once, so that a bad value is refused at once."""
        strategies(self, middle=0, hold=self.setting.student_eval_every)


def smoke() -> Config:
    """d=24, k=6, five teachers of width 500."""
    return Config(setting=parity_setting.smoke())


def cpu() -> Config:
    """d=32, k=6, twenty teachers of width 1000."""
    return Config(setting=parity_setting.cpu())


def paper() -> Config:
    """d=100, k=6, one teacher of width 50,000."""
    return Config(setting=parity_setting.paper(), argmax_control=False)


PRESETS = {"smoke": smoke, "cpu": cpu, "paper": paper}


@dataclass(frozen=True)
class Result:
    """Teachers and their students, group by group.

    Attributes:
      config: what was run.
      teachers: one entry a group.
      students: the finished run of each group's students.
    """

    config: Config
    teachers: list[Teachers]
    students: "list[Run]"

    @property
    def n90_teacher(self) -> "np.ndarray":
        """Samples to .90 of every teacher."""
        import numpy as np

        return np.concatenate([t.n90 for t in self.teachers])

    def n_students(self, strategy: str, level: float = 0.9) -> "np.ndarray":
        """Samples to `level` of every student; inf past its cap, NaN if absent."""
        import numpy as np

        return np.concatenate(
            [
                reached(t, r, strategy, level)
                for t, r in zip(self.teachers, self.students, strict=True)
            ]
        )


def reached(
    teachers: Teachers,
    run: "Run",
    strategy: str,
    level: float = 0.9,
    *,
    cap: "np.ndarray | None" = None,
) -> "np.ndarray":
    """Samples to `level` of one group's students under a strategy, `(S,)`."""
    import numpy as np

    from sandbox.theory.sample_complexity import samples_to

    m = run.metrics
    caps = teachers.caps() if cap is None else cap
    n = samples_to(m.steps, m.curves(strategy), level, cap=caps)
    absent = {a["seed"] for a in run.outcome["absent"] if a["strategy"] == strategy}
    gone = np.asarray([s in absent for s in m.seeds]) | ~teachers.usable
    return np.where(gone, np.nan, n)


def strategies(
    config: Config, *, middle: int | PerSeed, hold: int | PerSeed
) -> tuple[Strategy, ...]:
    """The lanes of the study; only the 2-shot one needs to know its teacher."""
    target = Target(tau=config.tau)
    s = config.setting
    out = [
        Strategy(name="ce"),
        Strategy(name="one_shot", source=Final(), target=target),
        Strategy(
            name="progressive", source=Progressive(every=s.spacing), target=target
        ),
        Strategy(
            name="two_shot",
            source=NShot(steps=(middle,), hold=hold),
            target=target,
        ),
    ]
    if config.argmax_control:
        out.append(
            Strategy(name="one_shot_hard", source=Final(), target=Target(tau=0.0))
        )
    return tuple(out)


def run(config: Config, *, root: Path, progress: "Progress | None" = None) -> Result:
    """Trains what is missing and opens the rest."""
    from sandbox.train.loop import fit

    teachers = parity_setting.train_teachers(config.setting, root, progress)
    students = []
    for t in teachers:
        lanes = strategies(config, middle=t.per_seed("middle"), hold=t.holds())
        students.append(fit(t.student_spec(lanes), root=root, progress=progress))
    return Result(config, teachers, students)


def draw(result: Result, *, published: "dict[str, list] | None" = None) -> "Figure":
    """Two panels: accuracy against samples, and samples to .90 of every seed.

    Args:
      result: of `run`.
      published: name -> [(million samples, accuracy), ...] drawn as open circles.
    """
    import numpy as np
    from matplotlib.figure import Figure

    from sandbox.plotting.curves import band, stack_ragged, strips
    from sandbox.plotting.style import COLORS, WIDE, styled

    s = result.config.setting
    one = s.n_teachers == 1
    unit, name = (1e6, "million") if s.teacher_cap > 5e6 else (1e3, "thousand")
    with styled():
        fig = Figure(figsize=(WIDE, 2.8), layout="constrained")
        left, right = fig.subplots(1, 2, width_ratios=(1.35, 1))
        curves = [("teacher", [(t.steps, t.accuracy, t.n90) for t in result.teachers])]
        for strategy in result.students[0].metrics.strategies:
            rows = [
                (r.metrics.steps, r.metrics.curves(strategy), t.n90)
                for t, r in zip(result.teachers, result.students, strict=True)
            ]
            curves.append((strategy, rows))
        for strategy, rows in curves:
            x = [np.broadcast_to(steps, y.shape) for steps, y, _ in rows]
            band(
                left,
                stack_ragged([v / unit for g in x for v in g]),
                stack_ragged([v for _, y, _ in rows for v in y]),
                label=LABELS[strategy],
                color=COLORS[strategy],
                linestyle="--" if strategy == "one_shot_hard" else "-",
            )
            for px, py in (published or {}).get(strategy, []):
                left.plot(px, py, "o", mfc="none", mec=COLORS[strategy], ms=4)
        left.set_xlabel(f"samples seen ({name})")
        left.set_ylabel("accuracy on fresh inputs")
        left.set_ylim(0.45, 1.02)
        fig.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=6)
        learned = sum(int(t.usable.sum()) for t in result.teachers)
        bands = "one seed" if one else f"median and quartiles of {learned} seeds"
        left.set_title(f"({s.task.d}, {_k(s)})-parity, {bands}")
        names = [n for n, _ in curves]
        values = [result.n90_teacher / unit]
        values += [result.n_students(n) / unit for n in names[1:]]
        cap = max(float(np.max(t.caps())) for t in result.teachers) / unit
        strips(
            right,
            values,
            labels=[LABELS[n] for n in names],
            colors=[COLORS[n] for n in names],
            cap=cap,
        )
        right.set_xlabel(f"samples to accuracy .90 ({name})")
        right.set_title("every seed; ▸ not by the cap")
    return fig


def _k(setting: Setting) -> int:
    return getattr(setting.task, "k", 0)


def main() -> None:
    """Runs the study from the command line and draws its figure."""
    from experiments.command import study_main

    study_main("parity_mlp", PRESETS, run, draw, __doc__)


if __name__ == "__main__":
    main()
