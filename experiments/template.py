"""Copy me: from an idea to a figure in one file.

    python -m sandbox new my_idea.py
    python my_idea.py smoke
    python my_idea.py smoke --setting.task.d 32 --grid tau=0.5,1,2
    sandbox probe HASH --probes fourier --study my_idea

The idea here: parity is hard because its one monomial must be found at a leap. A
staircase of the same k bits comes in steps. Does distillation still help when the steps
are small, and is there still a curriculum to be seen in the teacher?

Yours are a task, presets, the lanes to compare, what to draw and what to claim.
Sampling, training, checkpoints, probes, tables and the command line come with them.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from matplotlib.figure import Figure

import sandbox.study as st
from sandbox.errors import require
from sandbox.plotting.curves import band
from sandbox.plotting.style import sequence
from sandbox.tasks.base import BooleanTask
from sandbox.types import Array


@dataclass(frozen=True, kw_only=True)
class Staircase(BooleanTask):
    """Sign of s_1 + s_2 + ..., s_j the product of the first j * step of k bits."""

    k: int = 6
    step: int = 1  # the leap; k is parity. s_1 decides ties

    def __post_init__(self) -> None:
        """Refuses what does not fit."""
        super().__post_init__()
        require(1 <= self.k <= self.d, f"task.k must lie in 1..d, got {self.k}.")
        fits = 0 < self.step and self.k % self.step == 0 and 2 * self.step != self.k
        require(fits, f"task.step must divide task.k = {self.k}, not in two.")

    def supports(self, key: Any) -> Array:
        """The first k coordinates `(1, k)`; `key` would draw random ones."""
        return jnp.arange(self.k)[None, :]

    def labels(self, x: Array, supports: Array) -> Array:
        """Class 0 where the sum is positive, class 1 where it is negative."""
        s = x[:, supports[0]].cumprod(-1)[:, self.step - 1 :: self.step]
        return (s.sum(-1) + s[:, 0] / 2 < 0).astype(int)


SMOKE = st.Setting(task=Staircase(d=24), rule=st.ByGap(degrees=(1,), points=4096))


class Staircases(st.Study):
    """How much a curriculum helps when the target comes in steps."""

    setting: st.Setting = SMOKE
    steps: tuple[int, ...] = (1, 2, 6)
    tau: float = 1.0

    presets = {
        "smoke": st.preset("d=24, k=6, five teachers of width 500."),
        "cpu": st.preset("The same, ten.", setting=replace(SMOKE, n_teachers=10)),
    }

    @property
    def settings(self) -> dict[str, st.Setting]:
        """Teachers and students of every step."""
        s = self.setting
        tasks = {f"step {n}": replace(s.task, step=n) for n in self.steps}
        return {name: replace(s, task=task) for name, task in tasks.items()}

    def lanes(self, t: st.Teachers) -> list[st.Lane]:
        """What is compared."""
        return [st.ce(), st.one_shot(self.tau), st.progressive(t.spacing, self.tau)]

    def figure(self, r: st.Result) -> Figure:
        """Samples to .90 at every step, and the curriculum in the checkpoints.

        (a) A dot a student, a bar the median; triangles count those not there by their
        cap. (b) Degree-1 correlations in the support less those off it, medians over
        teachers that learned, bands quartiles (extremes of fewer than ten).
        """
        fig, (a, b) = st.panels(1, 2)
        st.ratios(a, r.parts)
        for (name, p), color in zip(
            r.parts.items(), sequence(len(r.parts)), strict=True
        ):
            x, gap = p.along(lambda t: t.measured["inside"] - t.measured["outside"])
            band(b, x, gap, label=f"{name}: {len(x)} learned", color=color)
        b.set(xlim=(0, 2.5), xlabel=r.abscissa_text, ylabel="degree 1, in − off")
        a.set_title("Students of every step")
        b.set_title("What checkpoints leak")
        return fig

    def claims(self, r: st.Result) -> list[st.Claim]:
        """That labels take twice as long as the teacher's checkpoints."""
        each = {n: p.n90["ce"] / p.n90["progressive"] for n, p in r.parts.items()}
        return [st.at_least(n, q, 2.0, f"{n}: CE is later") for n, q in each.items()]


if __name__ == "__main__":
    Staircases.main()
