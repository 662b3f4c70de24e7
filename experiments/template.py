"""Copy me: from an idea to a figure in one file.

    cp experiments/template.py experiments/my_idea.py
    python -m experiments.my_idea smoke
    python -m experiments.my_idea smoke --setting.task.d 32 --setting.n-teachers 10
    sandbox probe runs/teacher/HASH --probes fourier --study experiments.my_idea

The idea here: parity is hard because its one monomial must be found at a leap. A
staircase of the same k bits comes in steps. Does distillation still help when the steps
are small, and is there still a curriculum to be seen in the teacher?

Four parts are yours: a target (`labels`, and the coordinates it depends on,
`supports`), presets, what to run, what to draw. Sampling, training, checkpoints,
probes and the command line come with them.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int

from experiments import parity_mlp
from experiments.command import study_main
from experiments.parity_setting import Setting
from sandbox.errors import require
from sandbox.tasks.base import BooleanTask
from sandbox.types import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = dict[int, parity_mlp.Result]


@dataclass(frozen=True, kw_only=True)
class Target(BooleanTask):
    """Sign of s_1 + s_2 + ..., with s_j the product of the first j * step of k bits.

    step = k is parity. The leap of the target is `step`; s_1 decides ties.

    Attributes:
      k: coordinates that matter, the first ones.
      step: how many of them each product adds; at half of k, s_1 would decide alone.
    """

    k: int = 6
    step: int = 1

    def __post_init__(self) -> None:
        """Refuses what would make other coordinates matter."""
        super().__post_init__()
        require(1 <= self.k <= self.d, f"task.k must lie in 1..d, got {self.k}.")
        fits = self.step >= 1 and self.k % self.step == 0 and 2 * self.step != self.k
        require(
            fits, f"task.step must divide k = {self.k} (not in two), got {self.step}."
        )

    def supports(self, key: Any) -> Int[Array, "1 k"]:
        """The first k coordinates; `key` would draw random ones."""
        import jax.numpy as jnp

        return jnp.arange(self.k)[None, :]

    def labels(
        self, x: Float[Array, "B d"], supports: Int[Array, "1 k"]
    ) -> Int[Array, " B"]:
        """Class 0 where the sum is positive, class 1 where it is negative."""
        s = x[:, supports[0]].cumprod(-1)[:, self.step - 1 :: self.step]
        return (s.sum(-1) + s[:, 0] / 2 < 0).astype(int)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The study's knobs: task, teachers and students; the steps to compare."""

    setting: Setting
    steps: tuple[int, ...] = (1, 2, 6)


def smoke() -> Config:
    """d=24, k=6, five teachers of width 500 and as many students of width 20."""
    task = Target(d=24, k=6)
    return Config(setting=Setting(task=task, degrees=(1,), choice_points=4096))


def cpu() -> Config:
    """d=32, k=6, ten teachers of width 1000."""
    setting = Setting(
        task=Target(d=32, k=6),
        teacher_width=1000,
        n_teachers=10,
        teacher_limit=409_600,
        degrees=(1,),
    )
    return Config(setting=setting)


PRESETS = {"smoke": smoke, "cpu": cpu}


def run(config: Config, *, root: Path) -> Results:
    """Teachers, their probes and their students, for every step."""
    target, results = config.setting.task, {}
    assert isinstance(target, Target)
    for step in config.steps:
        setting = replace(config.setting, task=replace(target, step=step))
        results[step] = parity_mlp.run(parity_mlp.Config(setting=setting), root=root)
    return results


def draw(results: Results) -> "Figure":
    """Samples to accuracy .90, and the curriculum in the teachers' checkpoints."""
    import numpy as np
    from matplotlib.figure import Figure

    from experiments.parity_teachers import scaled_rows
    from sandbox.plotting.curves import band, strips
    from sandbox.plotting.style import DEGREE_COLORS, WIDE, color_of, styled

    names = ("ce", "one_shot", "progressive")
    rows = [(s, r, name) for s, r in results.items() for name in names]
    with styled():
        fig = Figure(figsize=(WIDE, 2.6), layout="constrained")
        left, right = fig.subplots(1, 2)
        strips(
            left,
            [(r.n_students(n) / r.n90_teacher[:, None]).ravel() for _, r, n in rows],
            labels=[
                f"step {s}: {parity_mlp.label_of(n, r.config)}" for s, r, n in rows
            ],
            colors=[color_of(n) for *_, n in rows],
            cap=rows[0][1].config.setting.student_cap,
        )
        left.set_xlabel("samples to .90 / n90 of teacher; ▸ not by its cap")
        for (step, r), color in zip(results.items(), DEGREE_COLORS, strict=False):
            gaps = [(t.steps, t.inside - t.outside) for t in r.teachers]
            x, y = scaled_rows(r.teachers, gaps)
            known = np.isfinite(r.n90_teacher)
            label = f"step {step}: {known.sum()} of {len(known)} learned"
            band(right, x, y, label=label, color=color)
        right.set_xlim(0, 2.5)
        right.set_xlabel("samples / n90 of the teacher")
        right.set_ylabel("degree-1 |correlation|, in − off")
        right.legend()
    return fig


if __name__ == "__main__":
    study_main("template", PRESETS, run, draw, __doc__)
