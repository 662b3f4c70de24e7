"""Tree labels: which node's support leaks when, and students under every strategy.

    python -m experiments.parity_hierarchy smoke
    python -m experiments.parity_hierarchy cpu --tau 1
    python -m experiments.parity_hierarchy --help

Claim P8 of arXiv 2410.05464 (appendix). The label is a leaf of a tree whose nodes are
parities of their own, so a teacher learns in steps and leaks the supports one after the
other. Students see argmax teachers; only the one-shot student of the claim has tau = 1,
since the argmax of a perfect final teacher is the label (shown as a control).

Every seed has the same supports here: coordinates are exchangeable, in the inputs as in
the initialisations, so drawing them would change nothing.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import parity_setting
from experiments.parity_missing import counts_text, list_missing, missing_runs
from experiments.parity_mlp import draw_strips
from experiments.parity_nodes import Nodes, groups_of, levels, measure_nodes, stages
from experiments.parity_setting import Setting
from experiments.parity_students import Taught
from experiments.parity_teachers import (
    Teachers,
    abscissa,
    scaled_rows,
    train_teachers,
)
from sandbox.distill.sources import Final, NShot, PerSeed, Progressive
from sandbox.distill.strategy import Strategy, Target
from sandbox.errors import require
from sandbox.tasks.hierarchy import Hierarchy

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sandbox.train.progress import Progress
    from sandbox.train.spec import RunSpec

COLORS = {"by_level": "#1b7f79", "by_node": "#8c510a"}
"""Colours of the strategies that only this study has."""
LEVEL_COLORS = ("#0b6e69", "#c17c00", "#7a21dd", "#a0522d")
"""Colours of the levels of the tree, the root's first."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The study's knobs.

    Attributes:
      setting: a `Hierarchy` task, teachers and students.
      tau: teacher temperature of the taught students, 0 for the argmax.
      one_shot_tau: that of the one-shot student of the claim; where it is not 0, the
        argmax one is trained too, as a control.
    """

    setting: Setting
    tau: float = 0.0
    one_shot_tau: float = 1.0

    def __post_init__(self) -> None:
        """Builds the strategies once, so that a bad value is refused at once."""
        task = self.setting.task
        require(
            isinstance(task, Hierarchy),
            f"setting.task must be a Hierarchy (tree labels), got {task!r}.",
        )
        require(
            self.setting.progressive_cap == 0,
            "setting.progressive_cap must be 0: all students train together here.",
        )
        strategies(self, {}, hold=self.setting.student_eval_every)

    @property
    def task(self) -> Hierarchy:
        """The tree."""
        assert isinstance(self.setting.task, Hierarchy)
        return self.setting.task


def smoke() -> Config:
    """d=18, four labels of parities of k=4, three teachers of width 300."""
    return Config(
        setting=Setting(
            task=Hierarchy(d=18, depth=2, feature_complexity=4),
            teacher_width=300,
            student_width=30,
            n_teachers=3,
            spacing=640,
            student_eval_every=640,
            teacher_limit=64_000,
            choice_points=4096,
            degrees=(1,),
        )
    )


def cpu() -> Config:
    """d=32, four labels of parities of k=5, ten teachers of width 1000."""
    return Config(
        setting=Setting(
            task=Hierarchy(d=32, depth=2, feature_complexity=5),
            teacher_width=1000,
            student_width=50,
            n_teachers=10,
            spacing=2560,
            student_eval_every=2560,
            teacher_limit=409_600,
            degrees=(1,),
        )
    )


def paper() -> Config:
    """The released eight labels of parities of k=5 on 100 bits, one teacher."""
    base = parity_setting.paper()
    task = Hierarchy(d=100, depth=3, feature_complexity=5)
    return Config(
        setting=replace(
            base,
            task=task,
            student_width=1000,
            student_inits=3,
            student_cap=3.0,
            progressive_cap=0.0,
            degrees=(1,),
        )
    )


PRESETS = {"smoke": smoke, "cpu": cpu, "paper": paper}


@dataclass(frozen=True, kw_only=True)
class Result(Taught):
    """Teachers, their students, and their nodes, group by group.

    Attributes:
      config: what was run.
      nodes: measurements of each group's teachers.
    """

    config: Config
    nodes: list[Nodes]


def strategies(
    config: Config, steps: dict[str, list[PerSeed]], *, hold: int | PerSeed
) -> tuple[Strategy, ...]:
    """The lanes of the study.

    Args:
      config: its knobs.
      steps: chosen checkpoints of every N-shot schedule; made-up ones where absent.
      hold: samples that each of them teaches.
    """
    target = Target(tau=config.tau)
    spacing = config.setting.spacing
    made_up = {"two_shot": [0]}
    made_up |= {name: [0] * len(g) for name, g in groups_of(config.task.depth).items()}
    out = [
        Strategy(name="ce"),
        Strategy(
            name="one_shot", source=Final(), target=Target(tau=config.one_shot_tau)
        ),
        Strategy(name="progressive", source=Progressive(every=spacing), target=target),
        *[
            Strategy(
                name=name,
                source=NShot(steps=tuple(steps.get(name, default)), hold=hold),
                target=target,
            )
            for name, default in made_up.items()
        ],
    ]
    if config.one_shot_tau > 0:
        out.append(
            Strategy(name="one_shot_hard", source=Final(), target=Target(tau=0.0))
        )
    return tuple(out)


def run(config: Config, *, root: Path, progress: "Progress | None" = None) -> Result:
    """Trains and measures what is missing and opens the rest."""
    from sandbox.train.loop import fit

    teachers = train_teachers(config.setting, root, progress)
    nodes = [measure_nodes(t, root, progress) for t in teachers]
    specs = [student_spec(config, t, n) for t, n in zip(teachers, nodes, strict=True)]
    students = [(fit(s, root=root, progress=progress),) for s in specs]
    return Result(config=config, teachers=teachers, students=students, nodes=nodes)


def student_spec(config: Config, teachers: Teachers, nodes: Nodes) -> "RunSpec":
    """The record of one group's students."""
    steps = stages(teachers, nodes)
    return teachers.students(strategies(config, steps, hold=teachers.holds()))


CAPTION = """\
Tree labels: every inner node of a binary tree has a parity of its own, the class is the
leaf that all of them lead to. Top left: accuracy against samples in units of the
teacher's n90, medians and quartiles of seeds; it climbs node by node. Top right:
samples to .90 of every run. Bottom left: accuracy of the teachers at each node, ticks
where each seed's transition lies by the rule of `locate`. Bottom right: mean
|correlation| of the node's output with the coordinates of its support minus that with
the others, vertical lines where the nodes are learned (medians).
"""


def draw(result: Result) -> "Figure":
    """Four panels: students, samples to .90, and the nodes' accuracy and leaks.

    Nodes of a level are told apart by the order in which a teacher learns them. Every
    abscissa but that of the strips is divided by the teacher's n90, unless there is one
    teacher only.
    """
    from matplotlib.figure import Figure

    from sandbox.plotting.style import WIDE, styled

    with styled():
        fig = Figure(figsize=(WIDE, 5.2), layout="constrained")
        (a, b), (c, d) = fig.subplots(2, 2)
        _draw_students(a, result)
        names = ["teacher", *result.names]
        draw_strips(
            b,
            result,
            labels=[label_of(n, result.config).partition(" (")[0] for n in names],
            colors=[_color(n) for n in names],
        )
        _draw_nodes(c, d, result)
        list_missing(fig, missing_runs(result.teachers, result.students))
        fig.legend(*a.get_legend_handles_labels(), loc="outside upper left", ncols=4)
        single = result.config.setting.n_teachers == 1
        for ax in (a, c, d):
            ax.set_xlabel("million samples" if single else "samples / n90 of teacher")
    return fig


def _color(name: str) -> str:
    from sandbox.plotting.style import color_of

    return COLORS.get(name) or color_of(name)


def label_of(name: str, config: Config) -> str:
    """Legend entry of a strategy; the temperature is part of it."""

    def tau(value: float) -> str:
        return f"τ = {value:g}" if value else "argmax"

    several = {k: len(g) + 1 for k, g in groups_of(config.task.depth).items()}
    labels = {
        "ce": "CE (labels)",
        "one_shot": f"one-shot, {tau(config.one_shot_tau)}",
        "one_shot_hard": "one-shot, argmax",
        "progressive": f"progressive, {tau(config.tau)}",
        "two_shot": "2-shot (middle)",
        "by_level": f"{several['by_level']}-shot (middle of each level)",
        "by_node": f"{several['by_node']}-shot (middle of each node)",
    }
    return labels.get(name, name)


def _draw_students(ax: "Axes", result: Result) -> None:
    from sandbox.plotting.curves import band

    s, n_classes = result.config.setting, result.config.task.n_classes
    curves = {"teacher": [(t.steps, t.accuracy) for t in result.teachers]}
    for name in result.names:
        curves[name] = result.curves(name)
    for name, rows in curves.items():
        x, y = scaled_rows(result.teachers, rows)
        control = name == "one_shot_hard"
        line = "--" if control else "-"
        shade = name in ("teacher", "ce", "progressive")
        label = label_of(name, result.config)
        band(ax, x, y, label=label, color=_color(name), shade=shade, linestyle=line)
    if s.n_teachers > 1:
        ax.set_xlim(0, s.student_cap)
    ax.set_ylim(1 / n_classes - 0.05, 1.02)
    ax.set_yticks([share / n_classes for share in range(1, n_classes + 1)])
    ax.set_ylabel("accuracy on fresh inputs")
    task, counts = result.config.task, counts_text(result.teachers, s)
    sizes = f"d={task.d}, k={task.feature_complexity}, C={n_classes}"
    ax.set_title(f"{sizes}: {counts}")


def _draw_nodes(top: "Axes", bottom: "Axes", result: Result) -> None:
    import numpy as np

    from sandbox.plotting.curves import band

    scale, order = abscissa(result.teachers), [n.in_order for n in result.nodes]
    groups = list(zip(result.nodes, order, strict=True))

    def rows(values: str, role: int) -> "list[tuple[np.ndarray, np.ndarray]]":
        """A field of the nodes in one role, one curve a seed."""
        found = []
        for n, o in groups:
            each = zip(getattr(n, values), o[:, role], strict=True)
            found.append((n.steps, np.stack([y[:, v] for y, v in each])))
        return found

    for role, level in enumerate(levels(result.config.task.depth)):
        rank = role + 1 - 2**level
        color = LEVEL_COLORS[level % len(LEVEL_COLORS)]
        line = ("-", "--", "-.", ":")[rank % 4]
        label = f"level {level}, {_ordinal(rank)}" if level else "root"
        for ax, values in ((top, "accuracy"), (bottom, "gap")):
            x, y = scaled_rows(result.teachers, rows(values, role))
            band(ax, x, y, label=label, color=color, linestyle=line)
        each = [n.times[np.arange(len(o)), o[:, role]] for n, o in groups]
        at = np.concatenate(each) / scale
        at = at[np.isfinite(at)]
        top.plot(at, np.full(len(at), 0.48 - 0.02 * role), "|", c=color, ms=4)
        if len(at):
            bottom.axvline(float(np.median(at)), color=color, lw=0.7, ls=line, zorder=0)
    for ax in (top, bottom):
        if len(scale) > 1:
            ax.set_xlim(0, 2)
    top.set_ylabel("accuracy at the node")
    top.set_title("teachers' nodes in the order learned (ticks)")
    bottom.axhline(0, color="0.6", lw=0.8)
    bottom.set_ylabel("mean |cov(q_v, x_i)|: in - off")
    bottom.set_title("support leaked by a node (lines: learned)")
    if top.get_legend_handles_labels()[0]:
        top.legend(loc="lower right")


def _ordinal(rank: int) -> str:
    return ("first", "second", "third", "fourth")[rank] if rank < 4 else f"{rank + 1}th"


def main() -> None:
    """Runs the study from the command line and draws its figure."""
    from experiments.command import study_main

    study_main("parity_hierarchy", PRESETS, run, draw, __doc__)


if __name__ == "__main__":
    main()
