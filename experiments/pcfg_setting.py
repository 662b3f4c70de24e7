"""The setting the PCFG studies share: strings, task, teacher, students, and budgets.

A seed has its own teacher, student initialisation and streams. Steps are optimizer
steps; records count samples, steps times the batch. `experiments.pcfg_teachers` trains
and probes the teachers of a setting.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from sandbox.distill.sources import Final
from sandbox.distill.strategy import Strategy
from sandbox.errors import require
from sandbox.models.transformer import Transformer
from sandbox.store.config import is_number
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.masking import MaskedLM
from sandbox.tasks.next_token import NextToken
from sandbox.train.optim import Adam, LearningRate
from sandbox.train.spec import RunSpec, Stop, TeacherRef

TaskName = Literal["masked", "next_token"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Strings of a grammar, a teacher with many heads, and students with few.

    Attributes:
      grammar: a packaged grammar or a file in nltk's syntax.
      start: nonterminals that strings start from.
      task: "masked" trains BERT on masked tokens, "next_token" GPT-2 on next ones.
      rate: share of selected tokens (masked).
      hidden: whether selected positions are hidden from attention (masked).
      level: score only tokens that end a nonterminal of this depth (next_token); -1
        scores all.
      layers: of teacher and students.
      teacher_heads: of the teacher.
      student_heads: of the students.
      head_dim: size of a head; the width is heads times it.
      dropout: of the teacher and the students in training.
      compute: arithmetic of matrix products.
      teacher_steps: optimizer steps of the teacher.
      student_steps: optimizer steps of the students.
      batch: sequences of one step.
      micro: sequences that are computed at once.
      lr: peak learning rate, after 6% warm-up and with cosine decay to 0, for both.
      clip: largest norm of a gradient.
      spacing: steps between teacher checkpoints, and between all evaluations.
      progressive_every: steps between the checkpoints that progressive students use.
      progressive_speed: how much faster than the teacher they go through them.
      hold: steps of the first stage of a 2-shot student.
      n_seeds: teachers.
      eval_points: strings of the evaluation stream; where a grammar has few strings,
        training has seen them too, under other masks.
      probe_strings: strings of the n-gram probe.
      probe_places: positions of each that are probed.
      probe_every: steps between probed checkpoints, of which the last one is probed.
      windows: n-grams that are probed.
    """

    grammar: str = "cfg3b"
    start: tuple[str, ...] = ("13", "14", "15")
    task: TaskName = "masked"
    rate: float = 0.3
    hidden: bool = True
    level: int = -1
    layers: int = 2
    teacher_heads: int = 8
    student_heads: int = 2
    head_dim: int = 8
    dropout: float = 0.0
    compute: Literal["float32", "bfloat16"] = "float32"
    teacher_steps: int = 4000
    student_steps: int = 1000
    batch: int = 64
    micro: int = 16
    lr: float = 3e-3
    clip: float = 1.0
    spacing: int = 50
    progressive_every: int = 200
    progressive_speed: float = 4.0
    hold: int = 300
    n_seeds: int = 5
    eval_points: int = 1024
    probe_strings: int = 128
    probe_places: int = 4
    probe_every: int = 50
    windows: tuple[int, ...] = (2, 3, 4, 5)

    def __post_init__(self) -> None:
        """Refuses what would fail after the teachers were trained."""
        for name in ("spacing", "teacher_steps", "student_steps", "n_seeds", "batch"):
            v = getattr(self, name)
            require(
                type(v) is int and v >= 1,
                f"setting.{name} must be at least 1, a whole number, got {v!r}.",
            )
        for name in (
            "teacher_steps",
            "student_steps",
            "progressive_every",
            "probe_every",
            "hold",
        ):
            v = getattr(self, name)
            require(
                v >= 1 and v % self.spacing == 0,
                f"setting.{name} = {v} must be a positive multiple of setting.spacing ="
                f" {self.spacing}.",
            )
        require(
            self.teacher_steps % self.probe_every == 0,
            f"setting.probe_every = {self.probe_every} must divide teacher_steps ="
            f" {self.teacher_steps}, so that the end is probed.",
        )
        require(
            self.hold < self.student_steps,
            f"setting.hold = {self.hold} must be below setting.student_steps ="
            f" {self.student_steps}, or a 2-shot student never sees the final teacher.",
        )
        speed = self.progressive_speed
        require(
            is_number(speed) and speed * self.student_steps >= self.teacher_steps,
            f"setting.progressive_speed = {speed!r} must be at least"
            f" {self.teacher_steps / self.student_steps:g} = teacher_steps /"
            " student_steps, or a progressive student never sees the final teacher.",
        )
        require(
            len(self.windows) > 0
            and all(type(n) is int and n >= 1 for n in self.windows)
            and list(self.windows) == sorted(set(self.windows)),
            "setting.windows must be increasing whole numbers from 1, e.g. (2, 3), got"
            f" {self.windows!r}.",
        )
        for name in ("probe_strings", "probe_places"):
            v = getattr(self, name)
            require(
                type(v) is int and 1 <= v <= 2**20,
                f"setting.{name} must lie in 1..{2**20}, got {v!r}.",
            )
        require(
            is_number(self.lr) and self.lr > 0,
            f"setting.lr must be positive and finite, got {self.lr!r}.",
        )
        self.student_spec((Strategy(name="one_shot", source=Final()),), 0)

    @cached_property
    def made_task(self) -> MaskedLM | NextToken:
        """The task."""
        grammar = load_grammar(self.grammar, start=self.start or None)
        if self.task == "next_token":
            level = None if self.level < 0 else self.level
            return NextToken(grammar=grammar, level=level)
        return MaskedLM(grammar=grammar, rate=self.rate, hidden=self.hidden)

    def model(self, heads: int) -> Transformer:
        """A network of the setting with so many heads."""
        task = self.made_task
        return Transformer(
            kind="bert" if self.task == "masked" else "gpt2",
            vocab=task.vocabulary.size,
            n_classes=task.n_classes,
            positions=task.positions,
            layers=self.layers,
            heads=heads,
            head_dim=self.head_dim,
            dropout=self.dropout,
            compute=self.compute,
        )

    def optimizer(self, steps: int) -> Adam:
        """AdamW without decay, as released: 6% warm-up, cosine, clipped gradients."""
        rate = LearningRate(
            peak=self.lr,
            warmup=max(round(0.06 * steps), 1) * self.batch,
            decay="cosine",
            total=steps * self.batch,
        )
        return Adam(lr=rate, b1=0.9, b2=0.95, clip=self.clip)

    def samples(self, steps: int) -> int:
        """Sequences that so many steps see."""
        return steps * self.batch

    def teacher_spec(self, seed: int) -> RunSpec:
        """The record of one seed's teacher."""
        return RunSpec(
            kind="teacher",
            task=self.made_task,
            model=self.model(self.teacher_heads),
            strategies=(Strategy(name="teacher"),),
            optimizer=self.optimizer(self.teacher_steps),
            stop=Stop(max_samples=self.samples(self.teacher_steps)),
            eval_every=self.samples(self.spacing),
            checkpoint_every=self.samples(self.spacing),
            first_seed=seed,
            batch_size=self.batch,
            block=self.batch,
            micro=self.micro,
            eval_points=self.eval_points,
        )

    def student_spec(self, strategies: tuple[Strategy, ...], seed: int) -> RunSpec:
        """The record of one seed's students, one lane a strategy."""
        teacher = self.teacher_spec(seed)
        return RunSpec(
            kind="student",
            task=teacher.task,
            model=self.model(self.student_heads),
            strategies=strategies,
            optimizer=self.optimizer(self.student_steps),
            stop=Stop(max_samples=self.samples(self.student_steps)),
            eval_every=teacher.eval_every,
            first_seed=seed,
            batch_size=self.batch,
            block=self.batch,
            micro=self.micro,
            eval_points=self.eval_points,
            teacher=TeacherRef(spec=teacher, final=self.samples(self.teacher_steps)),
        )


def smoke() -> Setting:
    """The whole pipeline: level 10, one layer, 4 heads to 1, two seeds."""
    return Setting(
        start=("10", "11", "12"),
        layers=1,
        teacher_heads=4,
        student_heads=1,
        teacher_steps=600,
        student_steps=600,
        batch=32,
        spacing=25,
        progressive_every=50,
        progressive_speed=1.0,
        hold=150,
        n_seeds=2,
        eval_points=512,
        probe_strings=64,
        probe_places=3,
    )


def cpu() -> Setting:
    """The phenomenon on a laptop: cfg3b from level 13, 8 heads to 2, five seeds.

    Students have a quarter of the teacher's steps, chosen after a run of three seeds in
    which they had all 4,000 and ended alike, at what two heads can hold; progressive
    ones go through the teacher's checkpoints four times as fast as it did. Strings from
    level 13 are few (2,176), so that teachers may remember them.
    """
    return Setting()


def paper() -> Setting:
    """The published setting: whole cfg3b strings, 4 layers, 32 heads to 8.

    As released: batch 512, learning rate 5e-3, 2,000 steps of fresh strings (the
    released data set has as many), dropout .1, checkpoints every 100 steps (released:
    200 to 1,000).
    """
    return Setting(
        start=("22",),
        layers=4,
        teacher_heads=32,
        student_heads=8,
        dropout=0.1,
        compute="bfloat16",
        teacher_steps=2000,
        student_steps=2000,
        batch=512,
        micro=64,
        lr=5e-3,
        spacing=100,
        progressive_every=200,
        progressive_speed=1.0,
        hold=500,
        n_seeds=1,
        probe_strings=128,
        probe_places=14,
        probe_every=100,
    )


PRESETS = {"smoke": smoke, "cpu": cpu, "paper": paper}


def task_text(setting: Setting) -> str:
    """A setting in a title, e.g. `cfg3b from 13, 14, 15, masked 30%`."""
    where = f" from {', '.join(setting.start)}" if setting.start else ""
    what = f"masked {setting.rate:.0%}"
    if setting.task == "next_token":
        what = "next token"
        what += f" at ends of depth {setting.level}" if setting.level >= 0 else ""
    return f"{setting.grammar}{where}, {what}"
