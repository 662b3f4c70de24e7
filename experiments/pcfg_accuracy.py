"""Accuracy on PCFG strings: teacher, CE, one-shot, progressive and 2-shot students.

    python -m experiments.pcfg_accuracy smoke
    python -m experiments.pcfg_accuracy cpu --setting.n-seeds 5
    python -m experiments.pcfg_accuracy --help

Reproduces Figure 1 (right) of arXiv 2410.05464 as curves over training. A BERT teacher
with many heads learns masked tokens; a student with few heads learns from labels (CE),
from the final teacher (one-shot), from its successive checkpoints (progressive), or
from the one where its loss falls fastest and then the final one (2-shot). All students
of a seed see the same masked strings and start from the same weights.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import pcfg_setting
from experiments.pcfg_setting import Setting, task_text
from experiments.pcfg_teachers import Teacher, train_teachers
from sandbox.distill.sources import Final, NShot, Progressive
from sandbox.distill.strategy import Strategy, Target
from sandbox.errors import require

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sandbox.train.progress import Progress
    from sandbox.train.run import Run

TAUGHT = ("one_shot", "progressive", "two_shot")
LABELS = {
    "teacher": "teacher",
    "ce": "CE",
    "one_shot": "one-shot",
    "progressive": "progressive",
    "two_shot": "2-shot",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The study's knobs.

    Attributes:
      setting: strings, teachers and students.
      taus: teacher temperatures of the taught students; 0 is the argmax.
    """

    setting: Setting = field(default_factory=pcfg_setting.smoke)
    taus: tuple[float, ...] = (1.0, 0.0)

    def __post_init__(self) -> None:
        """Builds the strategies once, so that a bad value is refused at once."""
        require(
            len(self.taus) >= 1 and len(set(self.taus)) == len(self.taus),
            f"taus must be distinct temperatures, e.g. (1.0, 0.0), got {self.taus}.",
        )
        self.setting.student_spec(strategies(self, middle=self.setting.spacing), 0)


def smoke() -> Config:
    """Level 10, one layer, two seeds."""
    return Config(setting=pcfg_setting.smoke())


def cpu() -> Config:
    """cfg3b from level 13, two layers, 8 heads to 2, five seeds."""
    return Config(setting=pcfg_setting.cpu())


def paper() -> Config:
    """Whole cfg3b strings, four layers, 32 heads to 8, argmax of the teacher."""
    return Config(setting=pcfg_setting.paper(), taus=(0.0,))


PRESETS = {"smoke": smoke, "cpu": cpu, "paper": paper}


def lane_name(strategy: str, tau: float) -> str:
    """How a lane is called: `one_shot`, and with the argmax `one_shot_hard`."""
    if tau == 1:
        return strategy
    return f"{strategy}_hard" if tau == 0 else f"{strategy}_tau{tau:g}"


def strategies(config: Config, *, middle: int) -> tuple[Strategy, ...]:
    """The lanes of the study; `middle` is a teacher step."""
    s = config.setting
    sources = {
        "one_shot": Final(),
        "progressive": Progressive(
            every=s.samples(s.progressive_every), speed=s.progressive_speed
        ),
        "two_shot": NShot(steps=(s.samples(middle),), hold=s.samples(s.hold)),
    }
    out = [Strategy(name="ce")]
    for tau in config.taus:
        for name in TAUGHT:
            target = Target(tau=tau)
            out.append(
                Strategy(name=lane_name(name, tau), source=sources[name], target=target)
            )
    return tuple(out)


@dataclass(frozen=True)
class Result:
    """Teachers and students, seed by seed.

    Attributes:
      config: what was run.
      teachers: one entry a seed.
      students: the run of each seed's students.
      lost: a phrase for every teacher that did not learn.
      ceiling: accuracy of the exact predictor, where it is known.
    """

    config: Config
    teachers: list[Teacher]
    students: "list[Run]"
    lost: list[str]
    ceiling: float | None

    def accuracy(self, lane: str) -> "np.ndarray":
        """Top-1 accuracy of a lane's students, `(S, R)`; NaN where one failed."""
        import numpy as np

        return np.stack([r.metrics.curves(lane)[0] for r in self.students])

    @property
    def steps(self) -> "np.ndarray":
        """Optimizer steps of the students' records, `(R,)`."""
        return self.students[0].metrics.steps / self.config.setting.batch


def run(config: Config, *, root: Path, progress: "Progress | None" = None) -> Result:
    """Trains what is missing and opens the rest."""
    from sandbox.train.loop import fit

    teachers, lost = train_teachers(config.setting, root, progress)
    students = [
        fit(
            t.students(strategies(config, middle=t.middle)),
            root=root,
            progress=progress,
        )
        for t in teachers
    ]
    return Result(config, teachers, students, lost, _ceiling(config.setting))


CEILING_STRINGS = 512


def _ceiling(setting: Setting) -> float | None:
    """Accuracy of the exact predictor on masked strings; None for next tokens."""
    import jax

    from sandbox.tasks.bayes_context import accuracy_ceiling
    from sandbox.tasks.channel import Channel
    from sandbox.tasks.masking import MaskedLM

    task = setting.made_task
    if not isinstance(task, MaskedLM):
        return None
    channel = Channel(rate=task.rate, mask=task.mask, random=task.random)
    found = accuracy_ceiling(
        task.arrays, jax.random.key(0), CEILING_STRINGS, channel, hidden=task.hidden
    )
    return found.accuracy


def draw(result: Result, *, published: "dict[str, list] | None" = None) -> "Figure":
    """A panel a temperature (curves), and paired differences between strategies.

    Args:
      result: of `run`.
      published: name -> [(thousand steps, accuracy), ...] drawn as open circles.
    """
    from matplotlib.figure import Figure

    from sandbox.plotting.style import WIDE, styled

    taus = result.config.taus
    with styled():
        fig = Figure(figsize=(WIDE, 2.7), layout="constrained")
        axes = fig.subplots(1, len(taus) + 1, squeeze=False)[0]
        for ax, tau in zip(axes, taus, strict=False):
            draw_curves(ax, result, tau, published)
        _draw_differences(axes[-1], result)
        fig.legend(
            *axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=6
        )
        s = result.config.setting
        fig.supxlabel(
            f"{task_text(s)}: {s.teacher_heads} heads teach {s.student_heads}; median"
            f" and quartiles of {len(result.teachers)} seeds",
            fontsize=7,
        )
    return fig


def draw_curves(
    ax: "Axes",
    result: Result,
    tau: float,
    published: "dict[str, list] | None" = None,
) -> None:
    """Draws the teacher's and every strategy's accuracy over training.

    Args:
      ax: where.
      result: of `run`.
      tau: which temperature's lanes.
      published: name -> [(thousand steps, accuracy), ...] drawn as open circles.
    """
    import numpy as np

    from sandbox.plotting.curves import band
    from sandbox.plotting.style import color_of

    t = result.teachers
    x = np.stack([a.steps for a in t])
    y = np.stack([a.accuracy for a in t])
    band(ax, x, y, label="teacher", color=color_of("teacher"), linewidth=0.9)
    for name in ("ce", *TAUGHT):
        lane = "ce" if name == "ce" else lane_name(name, tau)
        y = result.accuracy(lane)
        x = np.broadcast_to(result.steps, y.shape)
        band(ax, x, y, label=LABELS[name], color=color_of(name))
    s = result.config.setting
    if result.ceiling is not None:
        ax.axhline(
            result.ceiling, color="0.4", lw=0.8, ls="--", label="exact predictor"
        )
    ax.axvline(s.hold, color=color_of("two_shot"), lw=0.8, ls=":")
    ax.set_xlim(0, s.student_steps)
    for name, points in (published or {}).items():
        for px, py in points:
            ax.plot(1000 * px, py, "o", mfc="none", mec=color_of(name), ms=3.5)
    ax.set_xlabel("optimizer steps")
    ax.set_ylabel("top-1 accuracy at scored tokens")
    ax.set_title("argmax of the teacher" if tau == 0 else f"temperature {tau:g}")


PAIRS = (("one_shot", "ce"), ("progressive", "one_shot"), ("two_shot", "ce"))
"""Differences that are drawn, first minus second."""


def _draw_differences(ax: "Axes", result: Result) -> None:
    import numpy as np

    from sandbox.plotting.curves import band
    from sandbox.plotting.style import color_of

    tau = result.config.taus[0]
    for first, second in PAIRS:
        lanes = [n if n == "ce" else lane_name(n, tau) for n in (first, second)]
        y = result.accuracy(lanes[0]) - result.accuracy(lanes[1])
        x = np.broadcast_to(result.steps, y.shape)
        label = f"{LABELS[first]} - {LABELS[second]}"
        band(ax, x, y, label=label, color=color_of(first))
    ax.axhline(0, color="0.5", lw=0.8)
    ax.set_xlabel("optimizer steps")
    ax.set_ylabel("difference in accuracy")
    ax.set_title(f"paired by seed, tau = {tau:g}")
    ax.legend(loc="best")


def main() -> None:
    """Runs the study from the command line and draws its figure."""
    from experiments.command import study_main

    study_main("pcfg_accuracy", PRESETS, run, draw, __doc__)


if __name__ == "__main__":
    main()
