"""Nonterminals in hidden states: which level is found when, and in which student.

    python -m experiments.pcfg_nonterminals smoke
    python -m experiments.pcfg_nonterminals cpu --train 2048
    python -m experiments.pcfg_nonterminals --help

Probes of nonterminals and boundaries (`sandbox.probes.nonterminals`) on a PCFG
teacher's checkpoints and on the finished students of `experiments.pcfg_accuracy`, after
section 4 of arXiv 2410.05464: the multi-head probe whose attention looks at positions
only, a linear probe, and the controls of both.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import pcfg_accuracy
from experiments.pcfg_setting import task_text
from experiments.pcfg_teachers import Probed, Teacher, probe_teacher
from sandbox.errors import require

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sandbox.probes.nonterminals import NonterminalProbe
    from sandbox.train.progress import Progress
    from sandbox.train.run import Run


@dataclass(frozen=True, kw_only=True)
class Config:
    """The study's knobs.

    Attributes:
      accuracy: the study whose teachers and students are probed.
      probed: teacher steps that are probed, the last one its end.
      train: strings a probe is trained on.
      test: further strings it is scored on.
      epochs: passes over the training strings.
      heads: heads of the attention probe.
    """

    accuracy: pcfg_accuracy.Config = field(default_factory=pcfg_accuracy.smoke)
    probed: tuple[int, ...] = (25, 100, 300, 600)
    train: int = 1024
    test: int = 512
    epochs: int = 8
    heads: int = 8

    def __post_init__(self) -> None:
        """Refuses steps without a checkpoint."""
        s, p = self.accuracy.setting, self.probed
        require(
            len(p) >= 2 and list(p) == sorted(set(p)) and p[-1] == s.teacher_steps,
            f"probed must be increasing teacher steps up to {s.teacher_steps}, got"
            f" {p}.",
        )
        require(
            s.task == "masked",
            f"accuracy.setting.task must be masked, got {s.task}: the n-gram probe"
            " masks tokens.",
        )
        require(
            self.train % 64 == 0 and self.train > 0 and self.heads >= 1,
            "train must be a multiple of 64 and heads at least 1, got"
            f" {self.train} and {self.heads}.",
        )
        for step in p:
            require(
                step > 0 and step % s.spacing == 0,
                f"probed must hold multiples of {s.spacing}, got {step}.",
            )


def smoke() -> Config:
    """Level 10, one layer, two seeds."""
    return Config(accuracy=pcfg_accuracy.smoke(), train=256, test=128)


def cpu() -> Config:
    """cfg3b from level 13, two layers, 8 heads to 2, five seeds."""
    return Config(
        accuracy=pcfg_accuracy.cpu(),
        probed=(50, 100, 150, 200, 300, 450, 700, 1200, 2000, 4000),
    )


def paper() -> Config:
    """Whole cfg3b strings, four layers, 32 heads to 8; 16 heads in the probe."""
    return Config(
        accuracy=pcfg_accuracy.paper(),
        probed=(100, 300, 500, 700, 900, 1200, 1600, 2000),
        train=4096,
        epochs=4,
        heads=16,
    )


PRESETS = {"smoke": smoke, "cpu": cpu, "paper": paper}


@dataclass(frozen=True)
class Result:
    """What the probes found, seed by seed.

    Attributes:
      config: what was run.
      teachers: one entry a seed.
      ngrams: the n-gram probe along each teacher's training.
      steps: probed teacher steps, `(P,)`.
      along: arrays of the probe along training, `(S, P, levels)` by name.
      students: lane -> arrays of the probe on its finished student, `(S, levels)`.
      runs: the students' runs.
      seconds: what measuring took.
      lost: a phrase for every teacher that did not learn.
    """

    config: Config
    teachers: list[Teacher]
    ngrams: list[Probed]
    steps: "np.ndarray"
    along: "dict[str, np.ndarray]"
    students: "dict[str, dict[str, np.ndarray]]"
    runs: "list[Run]"
    seconds: float
    lost: list[str]

    @property
    def levels(self) -> "np.ndarray":
        """Levels with more than one symbol, about which there is something to know."""
        import numpy as np

        task = self.config.accuracy.setting.made_task
        return np.flatnonzero(task.arrays.at_level[:-1].sum(1) > 1)


def run(config: Config, *, root: Path, progress: "Progress | None" = None) -> Result:
    """Trains and measures what is missing and opens the rest."""
    import numpy as np

    from sandbox.probes.offline import measure_trajectory

    trained = pcfg_accuracy.run(config.accuracy, root=root, progress=progress)
    s = config.accuracy.setting
    at = [s.samples(step) for step in config.probed]
    rows, seconds = [], 0.0
    for t in trained.teachers:
        probe = _probe(config, t.run)
        found = measure_trajectory(t.run, probe, root=root, steps=at, progress=progress)
        rows.append(found.values)
        seconds += found.wall_seconds
    along = {k: np.concatenate([r[k] for r in rows]) for k in rows[0]}
    students: dict[str, dict[str, np.ndarray]] = {}
    for i, strategy in enumerate(trained.students[0].spec.strategies):
        ends = []
        for r in trained.students:
            found = measure_trajectory(
                r,
                _probe(config, r),
                root=root,
                steps=[r.trajectory.steps[-1]],
                lane=i,
                progress=progress,
            )
            ends.append(found.values)
            seconds += found.wall_seconds
        found = {k: np.concatenate([e[k][:, 0] for e in ends]) for k in ends[0]}
        for j, r in enumerate(trained.students):
            out = [*r.outcome["failed"], *r.outcome["absent"]]
            if strategy.name in [lane["strategy"] for lane in out]:
                for v in found.values():
                    v[j] = np.nan  # what it holds is no result
        students[strategy.name] = found
    ngrams = [probe_teacher(t, root, progress) for t in trained.teachers]
    seconds += sum(p.seconds for p in ngrams)
    return Result(
        config,
        trained.teachers,
        ngrams,
        np.asarray(config.probed),
        along,
        students,
        trained.students,
        seconds,
        trained.lost,
    )


def _probe(config: Config, run: "Run") -> "NonterminalProbe":
    from sandbox.probes.nonterminals import NonterminalProbe

    return NonterminalProbe(
        task=run.spec.task,  # pyright: ignore[reportArgumentType]
        model=run.spec.model,
        train=config.train,
        test=config.test,
        epochs=config.epochs,
        heads=config.heads,
    )


def gain(values: "dict[str, np.ndarray]", target: str) -> "np.ndarray":
    """Accuracy of the attention probe above the majority's, by level."""
    return values[f"attention/{target}"] - values[f"majority/{target}"]


def draw(result: Result) -> "Figure":
    """Two targets along the teacher's training, and the students at their ends."""
    from matplotlib.figure import Figure

    from sandbox.plotting.style import WIDE, styled

    with styled():
        fig = Figure(figsize=(WIDE, 2.8), layout="constrained")
        a, b, c = fig.subplots(1, 3)
        _draw_along(a, result, "nonterminal", "nonterminal over each token")
        _draw_along(b, result, "boundary_balanced", "does it end here (balanced)")
        _draw_students(c, result)
        s = result.config.accuracy.setting
        fig.suptitle(
            f"{task_text(s)}, {len(result.teachers)} seeds; — attention probe,"
            " -- linear, ··· untrained network",
            fontsize=8,
        )
    return fig


def _draw_along(ax: "Axes", result: Result, target: str, title: str) -> None:
    import numpy as np

    from sandbox.plotting.curves import log_steps
    from sandbox.plotting.style import DEGREE_COLORS

    n_levels = result.along[f"attention/{target}"].shape[-1]
    boundary = target.startswith("boundary")
    for level in range(1, n_levels) if boundary else result.levels:
        color = DEGREE_COLORS[(n_levels - 1 - level) % len(DEGREE_COLORS)]
        for kind, style in (("attention", "-"), ("linear", "--")):
            y = np.median(result.along[f"{kind}/{target}"][..., level], 0)
            label = f"depth {level}" if kind == "attention" else "_"
            ax.plot(result.steps, y, style, color=color, label=label, lw=1.2)
        y = np.median(result.along[f"untrained/attention/{target}"][..., level], 0)
        ax.plot(result.steps, y, ":", color=color, lw=0.9)
    log_steps(ax)
    ax.set_xlabel("teacher steps")
    ax.set_ylabel("accuracy of the probe")
    ax.set_title(title)
    ax.legend(loc="lower right")


def _draw_students(ax: "Axes", result: Result) -> None:
    import numpy as np

    from sandbox.plotting.style import color_of

    tau = result.config.accuracy.taus[0]
    names = ["ce"]
    names += [pcfg_accuracy.lane_name(n, tau) for n in pcfg_accuracy.TAUGHT]
    for i, name in enumerate(names):
        y = result.students[name]["attention/nonterminal"][:, result.levels].mean(-1)
        color = color_of(name.removesuffix("_hard"))
        ax.plot(np.full(len(y), i), y, "o", color=color, ms=3.5)
        ax.plot([i - 0.3, i + 0.3], [np.median(y)] * 2, color=color, lw=2)
    words = [pcfg_accuracy.LABELS[n.removesuffix("_hard")] for n in names]
    ax.set_xticks(range(len(names)), words, rotation=30, ha="right")
    ax.set_ylabel("nonterminals: mean over levels")
    ax.set_title("finished students")


def main() -> None:
    """Runs the study from the command line and draws its figure."""
    from experiments.command import study_main

    study_main("pcfg_nonterminals", PRESETS, run, draw, __doc__)


if __name__ == "__main__":
    main()
