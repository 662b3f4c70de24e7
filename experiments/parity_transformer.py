"""Accuracy on sparse parity with transformers: a teacher with many heads, students.

    python -m experiments.parity_transformer smoke
    python -m experiments.parity_transformer cpu --setting.n-teachers 20
    python -m experiments.parity_transformer --help

Reproduces Figure 1 (middle) of arXiv 2410.05464 as `experiments.parity_mlp` does the
left: GPT-2 with many heads teaches GPT-2 with few, by Adam. Every teacher and every
student is a run of its own, which ends when it has learned; students of a seed see the
same samples and start from the same weights all the same.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import parity_mlp
from experiments.parity_mlp import Config, Result, draw
from experiments.parity_setting import Setting
from experiments.parity_teachers import train_teachers
from sandbox.errors import require
from sandbox.models.base import Model
from sandbox.models.bit_transformer import BitTransformer
from sandbox.models.transformer import Transformer
from sandbox.tasks.parity import ExplicitSupport, FirstSupport, Parity, RandomSupport
from sandbox.train.optim import Adam, LearningRate, Optimizer

if TYPE_CHECKING:
    from sandbox.train.progress import Progress

CAPTION = """\
GPT-2 with many heads teaches GPT-2 with few on sparse parity. Left: accuracy against
samples in units of the teacher's n90, medians and quartiles over the seeds whose
teacher learned. Right: samples to .90 of every run; a triangle counts those not there
by their cap.
"""
WARMUP = 0.06
"""Share of a horizon in which the learning rate rises, as in the released scripts."""


def adam(peak: float, *, horizon: int) -> Adam:
    """Adam without decay, its rate constant after a linear warm-up.

    Args:
      peak: the rate after the warm-up.
      horizon: samples of which the warm-up takes 6%.
    """
    return Adam(lr=LearningRate(peak=peak, warmup=round(WARMUP * horizon)))


@dataclass(frozen=True, kw_only=True)
class TransformerSetting(Setting):
    """A teacher with many heads, students with few; each seed is a group of its own.

    Attributes:
      teacher_width: heads times their size.
      student_width: the same of the students.
      layers: of teacher and students.
      head_dim: size of a head.
      dropout: of teacher and students in training.
    """

    teacher_width: int = 128
    student_width: int = 16
    teacher_optimizer: Optimizer = field(default_factory=Adam)
    student_optimizer: Optimizer = field(default_factory=Adam)
    group: int = 1
    batch_size: int = 32
    layers: int = 2
    head_dim: int = 8
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuses widths that are no whole number of heads."""
        for name in ("teacher_width", "student_width"):
            v = getattr(self, name)
            require(
                v >= 1 and self.head_dim >= 1 and v % self.head_dim == 0,
                f"setting.{name} = {v} must be a multiple of setting.head_dim ="
                f" {self.head_dim}.",
            )
        super().__post_init__()

    def model(self, width: int) -> Model:
        """GPT-2 on bits, read at the last position; decoder apart from embedding."""
        d, n_classes = self.task.d, self.task.n_classes
        network = Transformer(
            kind="gpt2",
            vocab=max(2, n_classes),
            n_classes=n_classes,
            positions=d,
            layers=self.layers,
            heads=width // self.head_dim,
            head_dim=self.head_dim,
            dropout=self.dropout,
            tied=False,
        )
        return BitTransformer(d=d, network=network)


def smoke() -> Config:
    """d=8, k=2, one layer, 8 heads to 2, three teachers."""
    setting = TransformerSetting(
        task=Parity(d=8, k=2, support=RandomSupport()),
        teacher_width=64,
        layers=1,
        teacher_optimizer=adam(3e-4, horizon=64_000),
        student_optimizer=adam(1e-3, horizon=64_000),
        n_teachers=3,
        spacing=640,
        student_eval_every=640,
        teacher_limit=64_000,
        student_cap=4.0,
        student_least=32_000,
        choice_points=1024,
        claim_points=4096,
        eval_points=512,
        degrees=(1, 2),
    )
    return Config(setting=setting, argmax_control=False)


def cpu() -> Config:
    """d=12, k=3, two layers, 8 heads to 2, twelve teachers.

    Teachers have 6,400 steps to learn in, students 14,000 or more; rates rise for 384
    steps to the published teacher's, the first stage of 2-shot is 1,600 steps. The
    support holds the last position, whose output is read. Without it few teachers learn
    in time. The first k positions, as published, are the easiest under a causal mask
    (position k - 1 sees the support and nothing else), but then at this size most
    progressive students miss the transition.
    """
    setting = TransformerSetting(
        task=Parity(d=12, k=3, support=ExplicitSupport(indices=(3, 7, 11))),
        teacher_width=64,
        teacher_optimizer=adam(3e-4, horizon=204_800),
        student_optimizer=adam(3e-4, horizon=204_800),
        n_teachers=12,
        spacing=1280,
        student_eval_every=1280,
        teacher_limit=204_800,
        student_least=448_000,
        hold_samples=51_200,
        choice_points=1024,
        eval_points=1024,
        degrees=(1, 2, 3),
    )
    return Config(setting=setting, argmax_control=False)


def paper() -> Config:
    """The published setting: (100, 6), 32 heads to 4, dropout .1, 8M samples.

    Where the sources differ: 32 heads (text; the released script says 16) and tau = 1
    as in the released MLP scripts (the text uses a near-zero one: `--tau 0`). The
    released schedule warms up over 6% of 8M steps of 32 samples and then decays, but
    stops after 8M samples, so its rate only rises, to about half of the peak.
    """
    limit = 8_000_000
    setting = TransformerSetting(
        task=Parity(d=100, k=6, support=FirstSupport()),
        teacher_width=256,
        student_width=32,
        dropout=0.1,
        teacher_optimizer=adam(3e-4, horizon=32 * limit),
        student_optimizer=adam(1e-4, horizon=32 * limit),
        n_teachers=8,
        spacing=64_000,
        student_eval_every=64_000,
        teacher_limit=limit,
        teacher_factor=1.5,
        student_cap=1.0,
        student_least=limit,
        hold_samples=1_024_000,
        rule="paper",
        choice_points=16_384,
        degrees=(1, 2, 3, 4, 5),
    )
    return Config(setting=setting, argmax_control=False)


PRESETS = {"smoke": smoke, "cpu": cpu, "paper": paper}


def run(config: Config, *, root: Path, progress: "Progress | None" = None) -> Result:
    """Trains what is missing and opens the rest, one run a teacher and a student."""
    from sandbox.train.loop import fit

    teachers = train_teachers(config.setting, root, progress)
    students = []
    for t in teachers:
        lanes = parity_mlp.strategies(
            config, middle=t.per_seed("middle"), hold=t.holds()
        )
        specs = [t.students((lane,)) for lane in lanes]
        students.append(tuple(fit(s, root=root, progress=progress) for s in specs))
    return Result(config=config, teachers=teachers, students=students)


def main() -> None:
    """Runs the study from the command line and draws its figure."""
    from experiments.command import study_main

    study_main("parity_transformer", PRESETS, run, draw, __doc__)


if __name__ == "__main__":
    main()
