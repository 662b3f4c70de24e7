"""Copy me: a new Boolean target in one file, with teacher, probe, students and figures.

    cp experiments/template.py experiments/my_target.py
    python -m experiments.my_target smoke
    python -m experiments.my_target smoke --setting.task.d 32 --setting.n-teachers 10
    sandbox probe runs/teacher/HASH --probes fourier --study experiments.my_target

Write your label in `Target.labels` and the coordinates it depends on in
`Target.supports`; everything else comes with `BooleanTask` and the parity studies. The
example is the product of a majority and a parity, which has Fourier weight at degrees
k - 2 and k only (here 4 and 6), so its leaps are large, as parity's are.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int

from experiments import parity_curriculum, parity_mlp
from experiments.command import study_main
from experiments.parity_setting import Setting
from sandbox.errors import require
from sandbox.tasks.base import BooleanTask
from sandbox.types import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Target(BooleanTask):
    """y = majority(x_1, x_2, x_3) * x_4 * ... * x_k; class 0 means y = +1.

    Attributes:
      d: input bits.
      k: coordinates that matter, the first k.
    """

    k: int = 6

    def __post_init__(self) -> None:
        """Refuses a support that does not fit."""
        super().__post_init__()
        require(3 <= self.k <= self.d, f"task.k must lie in 3..d, got {self.k}.")

    def supports(self, key: Any) -> Int[Array, "1 k"]:
        """The first k coordinates."""
        import jax.numpy as jnp

        del key
        return jnp.arange(self.k)[None, :]

    def labels(
        self, x: Float[Array, "B d"], supports: Int[Array, "1 k"]
    ) -> Int[Array, " B"]:
        """Class of every row."""
        z = x[:, supports[0]]
        y = z[:, :3].sum(-1) * z[:, 3:].prod(-1)
        return (y < 0).astype(int)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The study's knobs; `setting` holds task, teacher and student."""

    setting: Setting
    tau: float = 1.0


def smoke() -> Config:
    """d=24, k=6, five teachers of width 500."""
    return Config(setting=Setting(task=Target(d=24, k=6), degrees=(1, 2, 3, 4)))


def cpu() -> Config:
    """d=32, k=6, ten teachers of width 1000."""
    setting = Setting(
        task=Target(d=32, k=6),
        teacher_width=1000,
        n_teachers=10,
        spacing=2560,
        student_eval_every=2560,
        teacher_limit=409_600,
        degrees=(1, 2, 3, 4),
    )
    return Config(setting=setting)


def run(config: Config, *, root: Path) -> tuple[Any, Any]:
    """Teachers once; their students under every strategy and from every candidate."""
    s, tau = config.setting, config.tau
    students = parity_mlp.run(parity_mlp.Config(setting=s, tau=tau), root=root)
    curriculum = parity_curriculum.Config(setting=s, tau=tau)
    return students, parity_curriculum.run(curriculum, root=root)


def draw(results: tuple[Any, Any]) -> "dict[str, Figure]":
    """One figure of strategies, one of the curriculum."""
    students, curriculum = results
    return {
        "strategies": parity_mlp.draw(students),
        "curriculum": parity_curriculum.draw(curriculum),
    }


if __name__ == "__main__":
    study_main("template", {"smoke": smoke, "cpu": cpu}, run, draw, __doc__)
