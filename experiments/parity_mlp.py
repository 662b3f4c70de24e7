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
from experiments.parity_missing import counts_text, list_missing, missing_runs
from experiments.parity_setting import STOP, Setting, task_text
from experiments.parity_students import Taught
from experiments.parity_teachers import (
    Teachers,
    scaled_rows,
    train_teachers,
)
from sandbox.distill.sources import Final, NShot, PerSeed, Progressive
from sandbox.distill.strategy import Strategy, Target
from sandbox.train.spec import RunSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sandbox.train.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Config:
    """The study's knobs.

    Attributes:
      setting: task, teachers and students.
      tau: teacher temperature of the taught students (the argmax control aside).
      argmax_control: also train one-shot from the argmax of the final teacher, which
        equals CE wherever that teacher is right (left out where tau is 0 already).
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


@dataclass(frozen=True, kw_only=True)
class Result(Taught):
    """Teachers and their students, group by group.

    Attributes:
      config: what was run.
    """

    config: Config


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
    if config.argmax_control and config.tau > 0:
        out.append(
            Strategy(name="one_shot_hard", source=Final(), target=Target(tau=0.0))
        )
    return tuple(out)


def run(config: Config, *, root: Path, progress: "Progress | None" = None) -> Result:
    """Trains what is missing and opens the rest."""
    from sandbox.train.loop import fit

    teachers = train_teachers(config.setting, root, progress)
    students = []
    for t in teachers:
        specs = student_specs(config, t)
        students.append(tuple(fit(s, root=root, progress=progress) for s in specs))
    return Result(config=config, teachers=teachers, students=students)


def student_specs(config: Config, teachers: Teachers) -> list[RunSpec]:
    """The records of one group's students: one run, or two with their own caps."""
    middle, hold = teachers.per_seed("middle"), teachers.holds()
    lanes = strategies(config, middle=middle, hold=hold)
    own = config.setting.progressive_cap
    if not own:
        return [teachers.students(lanes)]
    pace = tuple(s for s in lanes if s.name == "progressive")
    rest = tuple(s for s in lanes if s.name != "progressive")
    return [teachers.students(pace, teachers.caps(own)), teachers.students(rest)]


def draw(result: Result, *, published: "dict[str, list] | None" = None) -> "Figure":
    """Two panels: accuracy against samples, and samples to .90 of every seed.

    Only seeds whose teacher learned are drawn, in every curve the same ones. With
    several teachers the abscissa of the curves is divided by the teacher's n90.

    Args:
      result: of `run`.
      published: name -> [(million samples, accuracy), ...] drawn as open circles.
    """
    from matplotlib.figure import Figure

    from sandbox.plotting.style import WIDE, color_of, styled

    with styled():
        fig = Figure(figsize=(WIDE, 2.8), layout="constrained")
        left, right = fig.subplots(1, 2, width_ratios=(1.35, 1))
        _draw_curves(left, result, published or {})
        names = ["teacher", *result.names]
        draw_strips(
            right,
            result,
            labels=[label_of(n, result.config) for n in names],
            colors=[color_of(n) for n in names],
        )
        list_missing(fig, missing_runs(result.teachers, result.students))
        fig.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=6)
    return fig


def _draw_curves(ax: "Axes", result: Result, published: "dict[str, list]") -> None:
    from sandbox.plotting.curves import band
    from sandbox.plotting.style import color_of

    s = result.config.setting
    curves = {"teacher": [(t.steps, t.accuracy) for t in result.teachers]}
    for name in result.names:
        curves[name] = result.curves(name)
    # Students that train alone stop as soon as they have learned.
    alone = s.lanes == 1 < s.n_teachers
    for name, rows in curves.items():
        held = {"learned": STOP, "until": s.student_cap} if alone else {}
        x, y = scaled_rows(result.teachers, rows, **held)
        control = name == "one_shot_hard"
        style = {"linestyle": "--", "shade": False} if control else {}
        label = label_of(name, result.config)
        band(ax, x, y, label=label, color=color_of(name), **style)
        for px, py in published.get(name, []):
            ax.plot(px, py, "o", mfc="none", mec=color_of(name), ms=4)
    if published:
        ax.plot([], [], "o", mfc="none", mec="0.3", ms=4, label="published")
    single = s.n_teachers == 1
    ax.set_xlabel("million samples" if single else "samples / n90 of the teacher")
    if not single:
        ax.set_xlim(0, s.student_cap)
    ax.set_ylabel("accuracy on fresh inputs")
    ax.set_ylim(0.45, 1.02)
    ax.set_title(f"{task_text(s.task)}: {counts_text(result.teachers, s)}")


def draw_strips(
    ax: "Axes", result: Taught, *, labels: list[str], colors: list[str]
) -> None:
    """Samples to .90 of the teachers, then of the students, one row a strategy.

    Args:
      ax: where.
      result: teachers and students.
      labels: of the rows.
      colors: of the rows.
    """
    import numpy as np

    from sandbox.plotting.curves import strips

    values = [result.n90_teacher]
    values += [result.n_students(n).ravel() for n in result.names]
    slow = np.any(np.nan_to_num(values[0]) > 2e6)
    unit, word = (1e6, "million") if slow else (1e3, "thousand")
    cap = max(float(np.max(t.caps())) for t in result.teachers) / unit
    strips(
        ax,
        [v / unit for v in values],
        labels=labels,
        colors=colors,
        cap=cap,
    )
    ax.set_xlabel(f"samples to accuracy .90 ({word})")
    ax.set_title("each run; ▸ not by its cap")


def label_of(name: str, config: Config) -> str:
    """Legend entry of a strategy; the temperature is part of it."""
    tau = f"τ = {config.tau:g}" if config.tau else "argmax"
    labels = {
        "ce": "CE (labels)",
        "one_shot": f"one-shot, {tau}",
        "one_shot_hard": "one-shot, argmax",
        "two_shot": "2-shot (middle, final)",
    }
    return labels.get(name, name)


def main() -> None:
    """Runs the study from the command line and draws its figure."""
    from experiments.command import study_main

    study_main("parity_mlp", PRESETS, run, draw, __doc__)


if __name__ == "__main__":
    main()
