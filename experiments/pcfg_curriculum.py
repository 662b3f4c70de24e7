"""The curriculum in a PCFG teacher's checkpoints: phases, n-grams, and what they teach.

    python -m experiments.pcfg_curriculum smoke
    python -m experiments.pcfg_curriculum cpu --setting.n-seeds 5
    python -m experiments.pcfg_curriculum --help

Reproduces the figure on curricula in PCFGs of arXiv 2410.05464. A teacher's loss goes
through three phases; around its drop the teacher leans on short n-grams (M_robust),
measured beside the exact n-gram predictors; and 2-shot students are trained from a row
of checkpoints, to see which one teaches best.
"""

from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import pcfg_setting
from experiments.pcfg_setting import Setting, task_text
from experiments.pcfg_teachers import Probed, Teacher, probe_teacher, train_teachers
from sandbox.distill.sources import Final, NShot
from sandbox.distill.strategy import Strategy, Target
from sandbox.errors import require

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sandbox.train.progress import Progress
    from sandbox.train.run import Run


@dataclass(frozen=True, kw_only=True)
class Config:
    """The study's knobs.

    Attributes:
      setting: strings, teachers and students.
      candidates: teacher steps whose checkpoints teach the first stage of a 2-shot
        student each; the one chosen by rule comes on top.
      tau: teacher temperature; 0 is the argmax.
    """

    setting: Setting = field(default_factory=pcfg_setting.smoke)
    candidates: tuple[int, ...] = (25, 50, 100, 200, 400)
    tau: float = 1.0

    def __post_init__(self) -> None:
        """Builds the strategies once, so that a bad value is refused at once."""
        c = self.candidates
        require(
            len(c) >= 2 and list(c) == sorted(set(c)),
            f"candidates must be two or more increasing teacher steps, got {c}.",
        )
        require(
            self.setting.task == "masked",
            "setting.task must be masked: the n-gram probe masks tokens.",
        )
        self.setting.student_spec(strategies(self, middle=min(c)), 0)


def smoke() -> Config:
    """Level 10, one layer, two seeds."""
    return Config(setting=pcfg_setting.smoke())


def cpu() -> Config:
    """cfg3b from level 13, two layers, 8 heads to 2, five seeds."""
    return Config(
        setting=pcfg_setting.cpu(),
        candidates=(50, 100, 150, 200, 300, 450, 700, 1200, 2000),
    )


def paper() -> Config:
    """Whole cfg3b strings, four layers, 32 heads to 8, argmax of the teacher."""
    return Config(
        setting=pcfg_setting.paper(),
        candidates=(100, 200, 400, 600, 800, 1000, 1400),
        tau=0.0,
    )


PRESETS = {"smoke": smoke, "cpu": cpu, "paper": paper}


def lane_name(step: int) -> str:
    """How the 2-shot lane of a teacher step is called."""
    return f"from_{step}"


def strategies(config: Config, *, middle: int) -> tuple[Strategy, ...]:
    """CE, one-shot, and a 2-shot lane for every candidate and for the middle."""
    s, target = config.setting, Target(tau=config.tau)
    steps = sorted({*config.candidates, middle})
    return (
        Strategy(name="ce"),
        Strategy(name="one_shot", source=Final(), target=target),
        *(
            Strategy(
                name=lane_name(step),
                source=NShot(steps=(s.samples(step),), hold=s.samples(s.hold)),
                target=target,
            )
            for step in steps
        ),
    )


@dataclass(frozen=True)
class Result:
    """Teachers, what was measured on them, and their students, seed by seed.

    Attributes:
      config: what was run.
      teachers: one entry a seed.
      probed: the n-gram probe along each teacher's training.
      students: the run of each seed's students.
      lost: a phrase for every teacher that did not learn.
    """

    config: Config
    teachers: list[Teacher]
    probed: list[Probed]
    students: "list[Run]"
    lost: list[str]

    def at(self, share: float) -> int:
        """The student record at a share of all its steps."""
        return round(share * (len(self.students[0].metrics.steps) - 1))

    def accuracy(self, lane: str, share: float) -> "np.ndarray":
        """Accuracy of a lane at a share of all steps, `(S,)`."""
        import numpy as np

        r = self.at(share)
        return np.asarray([s.metrics.curves(lane)[0, r] for s in self.students])

    def by_candidate(self, share: float) -> "np.ndarray":
        """2-shot accuracy at a share of all steps, `(S, candidates)`."""
        import numpy as np

        lanes = [lane_name(step) for step in self.config.candidates]
        return np.stack([self.accuracy(lane, share) for lane in lanes], 1)

    def curve(self, name: str) -> "np.ndarray":
        """An array of the probe over training, `(S, P)`."""
        import numpy as np

        return np.stack([p.values[name] for p in self.probed])


def run(config: Config, *, root: Path, progress: "Progress | None" = None) -> Result:
    """Trains and measures what is missing and opens the rest."""
    from sandbox.train.loop import fit

    teachers, lost = train_teachers(config.setting, root, progress)
    probed = [probe_teacher(t, root, progress) for t in teachers]
    students = [
        fit(
            t.students(strategies(config, middle=t.middle)),
            root=root,
            progress=progress,
        )
        for t in teachers
    ]
    return Result(config, teachers, probed, students, lost)


def draw(result: Result, *, share: float = 0.5) -> "Figure":
    """Four panels: loss with its drop, M_robust, KL to n-gram predictors, students.

    Args:
      result: of `run`.
      share: of all student steps at which the students are compared.
    """
    from matplotlib.figure import Figure

    from sandbox.plotting.style import WIDE, styled

    with styled():
        fig = Figure(figsize=(WIDE, 5.0), layout="constrained")
        (a, b), (c, d) = fig.subplots(2, 2)
        _draw_loss(a, result)
        _draw_windows(b, result)
        _draw_distances(c, result)
        _draw_students(d, result, share)
        s = result.config.setting
        fig.suptitle(
            f"{task_text(s)}: {s.teacher_heads} heads teach {s.student_heads},"
            f" {len(result.teachers)} seeds (median, quartiles)",
            fontsize=8,
        )
    return fig


def _span(ax: "Axes", result: Result) -> None:
    """Shades the median drop, and marks the checkpoint chosen by rule."""
    import numpy as np

    from sandbox.plotting.curves import log_steps
    from sandbox.plotting.style import color_of

    drops = [t.drop for t in result.teachers]
    ends = [np.median([getattr(d, e) for d in drops]) for e in ("start", "end")]
    ax.axvspan(*ends, color="0.93", lw=0, zorder=0)
    ax.axvline(
        float(np.median([d.steepest for d in drops])),
        color=color_of("two_shot"),
        lw=0.9,
        ls=":",
    )
    log_steps(ax)
    ax.set_xlim(result.config.setting.spacing, result.config.setting.teacher_steps)
    ax.set_xlabel("teacher steps")


def _draw_loss(ax: "Axes", result: Result) -> None:
    import numpy as np

    from sandbox.plotting.curves import band
    from sandbox.plotting.style import color_of

    x = np.stack([t.steps for t in result.teachers])
    y = np.stack([t.loss for t in result.teachers])
    band(ax, x, y, label="loss", color=color_of("teacher"), points=2000)
    acc = np.stack([t.accuracy for t in result.teachers])
    band(ax, x, acc, label="accuracy", color="0.55", points=2000, linestyle="--")
    _span(ax, result)
    ax.set_ylim(0, None)
    ax.set_ylabel("teacher: loss (nats), accuracy")
    ax.set_title("three phases (drop shaded)")
    ax.legend(loc="upper right")


def _draw_each_window(ax: "Axes", result: Result, name: str) -> None:
    """An array of the probe over training, a line for every n."""
    import numpy as np

    from sandbox.plotting.curves import band

    x = np.stack([p.steps for p in result.probed])
    for n, color in _windows(result):
        y = result.curve(name.format(n))
        band(ax, x, y, label=f"{n}-gram", color=color, points=2000)


def _windows(result: Result) -> "Iterable[tuple[int, str]]":
    """Every n with its colour."""
    from sandbox.plotting.style import DEGREE_COLORS

    return zip(result.config.setting.windows, cycle(DEGREE_COLORS), strict=False)


def _draw_windows(ax: "Axes", result: Result) -> None:
    import numpy as np

    _draw_each_window(ax, result, "m_robust/{}/median")
    for n, color in _windows(result):
        exact = float(np.median(result.curve(f"exact/m_robust/{n}/median")))
        ax.axhline(exact, color=color, lw=0.8, ls=":")
    _span(ax, result)
    ax.set_ylim(-0.01, None)
    ax.set_ylabel("median M_robust (total variation)")
    ax.set_title("reliance on the n-gram (··· exact predictor)")
    ax.legend(loc="upper left")


def _draw_distances(ax: "Axes", result: Result) -> None:
    import numpy as np

    from sandbox.plotting.curves import band, log_levels
    from sandbox.plotting.style import color_of

    _draw_each_window(ax, result, "kl/{}")
    x = np.stack([p.steps for p in result.probed])
    y = result.curve("kl/all")
    band(ax, x, y, label="all tokens", color=color_of("teacher"), points=2000)
    _span(ax, result)
    log_levels(ax)
    ax.set_ylabel("KL(exact, restricted || teacher), nats")
    ax.set_title("which exact predictor it resembles")
    ax.legend(loc="lower left")


def _draw_students(ax: "Axes", result: Result, share: float) -> None:
    import numpy as np

    from sandbox.plotting.style import color_of

    y = result.by_candidate(share)
    steps = result.config.candidates
    low, mid, high = np.nanquantile(y, [0.25, 0.5, 0.75], axis=0)
    color = color_of("two_shot")
    ax.plot(steps, mid, "o-", color=color, ms=3, label="2-shot from this step")
    ax.fill_between(steps, low, high, color=color, alpha=0.15, lw=0)
    for row in y:
        ax.plot(steps, row, color=color, lw=0.4, alpha=0.5)
    for name, label in (("one_shot", "one-shot"), ("ce", "CE")):
        value = np.nanmedian(result.accuracy(name, share))
        ax.axhline(value, color=color_of(name), lw=1.1, label=label)
    _span(ax, result)
    ax.set_ylabel("student top-1 accuracy")
    ax.set_title(f"students at {share:.0%} of their steps")
    ax.legend(loc="lower left")


def main() -> None:
    """Runs the study from the command line and draws its figure."""
    from experiments.command import study_main

    study_main("pcfg_curriculum", PRESETS, run, draw, __doc__)


if __name__ == "__main__":
    main()
