"""What a study trains: a task, a large teacher, small students, and their budgets.

    Setting(task=Parity(d=32, k=6), teacher=TwoLayer(1000), student=TwoLayer(20))
    Setting(task=Strings(grammar="cfg3b"), teacher=Heads(8), student=Heads(2),
            budget=Fixed(teacher=4000, student=1000), rule=ByDrop(), unit="steps", ...)

A seed has its own teacher, support (if random), streams and student initialisations.
Counts are in the setting's `unit`: samples, or optimizer steps of `batch` samples.
Records of runs always count samples.
"""

from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from sandbox.distill.strategy import Strategy, replicas
from sandbox.errors import require
from sandbox.models.base import Model
from sandbox.models.bit_transformer import BitTransformer
from sandbox.models.mlp import MLP
from sandbox.models.transformer import Transformer
from sandbox.store.bounds import AtLeast, Increasing, MoreThan, Within, check_fields
from sandbox.study.rules import ByDrop, ByGap, ByNode, Checked
from sandbox.tasks.base import BooleanTask, VectorTask, is_sequence_task
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.masking import MaskedLM
from sandbox.tasks.next_token import NextToken
from sandbox.train.optim import SGD, Adam, LearningRate, Optimizer
from sandbox.train.run import folder_of
from sandbox.train.spec import RunSpec, Stop, TeacherRef

LEARNED, STOP = 0.9, 0.95
"""Accuracy of a teacher that has learned, and at which its students stop."""
IN_TURN = 3
"""Lanes from which the number of those computed one by one moves no bit: XLA unrolls a
loop of one or two."""


@dataclass(frozen=True)
class TwoLayer(Checked):
    """A two-layer ReLU network.

    Attributes:
      width: hidden units.
    """

    width: Annotated[int, AtLeast(1)] = 500

    called = "network"

    def model(self, task: Any) -> Model:
        """The network of a task."""
        return MLP(d=task.d, hidden=(self.width,), n_classes=task.n_classes)


@dataclass(frozen=True)
class Heads(Checked):
    """A transformer: BERT on masked tokens, GPT-2 on next tokens and on bits.

    Attributes:
      heads: of every layer; the width is heads times their size.
      layers: of the network.
      head_dim: size of a head.
      dropout: in training.
      compute: arithmetic of matrix products.
    """

    heads: Annotated[int, AtLeast(1)] = 8
    layers: Annotated[int, AtLeast(1)] = 2
    head_dim: Annotated[int, AtLeast(1)] = 8
    dropout: Annotated[float, Within(0, 1)] = 0.0
    compute: Literal["float32", "bfloat16"] = "float32"

    called = "network"

    def model(self, task: Any) -> Model:
        """The network of a task; bits are read at the last position."""
        bits = isinstance(task, VectorTask)
        network = Transformer(
            kind="bert" if isinstance(task, MaskedLM) else "gpt2",
            vocab=max(2, task.n_classes) if bits else task.vocabulary.size,
            n_classes=task.n_classes,
            positions=task.d if bits else task.positions,
            layers=self.layers,
            heads=self.heads,
            head_dim=self.head_dim,
            dropout=self.dropout,
            tied=not bits,
            compute=self.compute,
        )
        return BitTransformer(d=task.d, network=network) if bits else network


@dataclass(frozen=True, kw_only=True)
class CosineAdam(Checked):
    """Adam over a run's whole length: linear warm-up, then a cosine to 0.

    Attributes:
      peak: the largest learning rate.
      warmup: share of the run in which it rises.
      clip: largest norm of a gradient.
    """

    peak: Annotated[float, MoreThan(0)] = 3e-3
    warmup: Annotated[float, Within(0, 1)] = 0.06
    clip: Annotated[float, AtLeast(0)] = 1.0

    called = "optimizer"

    def over(self, steps: int, batch: int) -> Adam:
        """The optimizer of a run of so many steps."""
        rate = LearningRate(
            peak=self.peak,
            warmup=max(round(self.warmup * steps), 1) * batch,
            decay="cosine",
            total=steps * batch,
        )
        return Adam(lr=rate, b1=0.9, b2=0.95, clip=self.clip)


@dataclass(frozen=True, kw_only=True)
class Strings:
    """Strings of a grammar, with masked tokens to fill in or next ones to predict.

    Attributes:
      grammar: a packaged grammar or a file in nltk's syntax.
      start: nonterminals that strings start from; empty for the grammar's own.
      predict: `masked` or `next` tokens.
      rate: share of selected tokens (masked).
      hidden: whether selected positions are hidden from attention (masked).
      level: score only tokens that end a nonterminal of this depth (next); -1 for all.
    """

    grammar: str = "cfg3b"
    start: tuple[str, ...] = ("13", "14", "15")
    predict: Literal["masked", "next"] = "masked"
    rate: float = 0.3
    hidden: bool = True
    level: int = -1

    def __str__(self) -> str:
        """E.g. `cfg3b from 13, 14, 15, masked 30%`."""
        where = f" from {', '.join(self.start)}" if self.start else ""
        ends = f" at ends of depth {self.level}" if self.level >= 0 else ""
        what = f"masked {self.rate:.0%}"
        if self.predict == "next":
            what = f"next token{ends}"
        return f"{self.grammar}{where}, {what}"

    @cached_property
    def task(self) -> MaskedLM | NextToken:
        """The task, its grammar loaded."""
        grammar = load_grammar(self.grammar, start=self.start or None)
        if self.predict == "next":
            level = None if self.level < 0 else self.level
            return NextToken(grammar=grammar, level=level)
        return MaskedLM(grammar=grammar, rate=self.rate, hidden=self.hidden)


@dataclass(frozen=True, kw_only=True)
class UntilLearned(Checked):
    """Teachers and students train until they have learned.

    Attributes:
      limit: within which a teacher must reach accuracy .90; one that does not counts as
        never having learned and enters no ratio.
      factor: a teacher that did trains on to this multiple of its n90.
      cap: of a student, as a multiple of its teacher's n90.
      least: that a student may see at least, whatever its teacher's n90.
      hold_fraction: first stage of a 2-shot student as a share of its teacher's n90,
        where the setting's `hold` is 0.
      expected: a teacher's n90 in estimates of time; 0 is half of the limit.
    """

    limit: Annotated[int, AtLeast(1)] = 128_000
    factor: float = 3.0
    cap: Annotated[float, MoreThan(0)] = 6.0
    least: Annotated[int, AtLeast(0)] = 0
    hold_fraction: float = 0.3
    expected: Annotated[int, AtLeast(0)] = 0

    called = "budget"
    varies: ClassVar[bool] = True

    def check(self, s: "Setting") -> None:
        """Refuses what would fail after the teachers were trained."""
        _multiple("budget.limit", self.limit, "spacing", s.spacing)
        require(
            self.hold_fraction > 0 or s.hold > 0,
            "budget.hold_fraction must be positive where setting.hold is 0.",
        )
        least = s.rule.least_factor
        require(
            self.factor >= least,
            f"budget.factor must be at least {least} for the final checkpoint of"
            f" {s.rule!r}, got {self.factor}.",
        )

    def teacher_stop(self, s: "Setting") -> Stop:
        """When teachers stop."""
        whole = ceil(self.factor * self.limit / s.spacing) * s.spacing
        return Stop(
            max_samples=s.samples(whole),
            accuracy=LEARNED,
            factor=self.factor,
            give_up=s.samples(self.limit),
        )

    @property
    def expects(self) -> tuple[int | float, int]:
        """A teacher's n90 that is likely, and the most."""
        return self.expected or self.limit / 2, self.limit


@dataclass(frozen=True, kw_only=True)
class Fixed(Checked):
    """Teachers and students train for a fixed length.

    Attributes:
      teacher: length of a teacher's training.
      student: length of a student's.
    """

    teacher: Annotated[int, AtLeast(1)] = 4000
    student: Annotated[int, AtLeast(1)] = 1000

    called = "budget"
    varies: ClassVar[bool] = False

    def check(self, s: "Setting") -> None:
        """Refuses what would fail after the teachers were trained."""
        _multiple("budget.teacher", self.teacher, "spacing", s.spacing)
        _multiple("budget.student", self.student, "student_every", s.student_every)
        require(
            0 < s.hold < self.student,
            f"setting.hold = {s.hold} must be positive and below budget.student ="
            f" {self.student}, or a 2-shot student never sees the final teacher.",
        )

    def teacher_stop(self, s: "Setting") -> Stop:
        """When teachers stop."""
        return Stop(max_samples=s.samples(self.teacher))

    @property
    def expects(self) -> tuple[int, int]:
        """A fixed length is no multiple of anything: see `teacher_stop`."""
        return self.teacher, self.teacher


def _multiple(name: str, value: int, unit: str, every: int) -> None:
    require(
        value % every == 0,
        f"{name} = {value} must be a multiple of setting.{unit} = {every}.",
    )


def padding(task: Any, shape: tuple[int, int], own: tuple[int, int]) -> tuple[int, ...]:
    """`RunSpec.padded` of programs for so many seeds and lanes.

    Args:
      task: of sequences only the first `IN_TURN` lanes count.
      shape: seeds and lanes that the programs are for.
      own: those of the run.
    """
    if is_sequence_task(task) and shape[1] > 1:
        shape = shape[0], max(IN_TURN, own[1])
    return () if shape == own else shape


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A task, a large teacher, small students, and how long each may train.

    Attributes:
      task: on bits or other coordinates, or strings of a grammar.
      teacher: the large network.
      student: the small one.
      teacher_optimizer: update rule of the teacher.
      student_optimizer: update rule of the students.
      budget: how long teachers and students train.
      rule: how checkpoints are chosen, and what is measured along the trajectory.
      n_teachers: seeds.
      seed: the first of them.
      group: seeds trained together. The last group may have fewer; its programs are
        padded to as many, so that later seeds come out the same apart or together.
      lanes: strategies trained together, padded likewise. Those of sequences, which are
        computed one by one, are all trained together, and padded to three.
      inits: initialisations of every student; all share their teacher's passes and
        their seed's samples.
      alone: whether every strategy is a run of its own, which ends when it has learned.
      spacing: between teacher checkpoints (and its evaluations).
      checkpoints_at: others of the teacher, such as closer ones within its transition.
      student_every: between evaluations of students.
      hold: first stage of a 2-shot student; 0 where the budget says it.
      unit: of all counts here: samples, or optimizer steps.
      batch: samples of one optimizer step.
      micro: sequences that are computed at once; 0 for the whole batch.
      eval_points: rows of the fixed evaluation stream.
    """

    task: VectorTask | Strings
    teacher: TwoLayer | Heads = TwoLayer(500)
    student: TwoLayer | Heads = TwoLayer(20)
    teacher_optimizer: Optimizer | CosineAdam = field(default_factory=SGD)
    student_optimizer: Optimizer | CosineAdam = field(default_factory=SGD)
    budget: UntilLearned | Fixed = UntilLearned()
    rule: ByGap | ByDrop | ByNode = field(default_factory=ByGap)
    n_teachers: Annotated[int, AtLeast(1)] = 5
    seed: Annotated[int, AtLeast(0)] = 0
    group: Annotated[int, AtLeast(1)] = 5
    lanes: Annotated[int, AtLeast(1)] = 5
    inits: Annotated[int, AtLeast(1)] = 1
    alone: bool = False
    spacing: Annotated[int, AtLeast(1)] = 1280
    checkpoints_at: Annotated[tuple[int, ...], Increasing(0)] = ()
    student_every: Annotated[int, AtLeast(1)] = 1280
    hold: Annotated[int, AtLeast(0)] = 0
    unit: Literal["samples", "steps"] = "samples"
    batch: Annotated[int, AtLeast(1)] = 1
    micro: Annotated[int, AtLeast(0)] = 0
    eval_points: Annotated[int, AtLeast(1)] = 4096

    def __post_init__(self) -> None:
        """Refuses what would fail after the teachers were trained."""
        check_fields(self, "setting")
        _multiple("setting.spacing", self.spacing, "student_every", self.student_every)
        self.budget.check(self)
        self.rule.check(self.made_task)
        require(
            self.budget.varies or self.group == 1,
            "setting.group must be 1 where the budget is Fixed.",
        )

    @property
    def made_task(self) -> Any:
        """The task, of strings its grammar loaded."""
        return self.task.task if isinstance(self.task, Strings) else self.task

    @property
    def at_once(self) -> int:
        """Most strategies of one run of students."""
        if self.alone:
            return 1
        return 2**16 if isinstance(self.task, Strings) else self.lanes

    @property
    def one(self) -> int:
        """Samples of one unit."""
        return self.batch if self.unit == "steps" else 1

    def samples(self, count: int) -> int:
        """So many units in samples."""
        return count * self.one

    def _spec(self, kind: Any, model: Model, **fields: Any) -> RunSpec:
        """What records of teachers and students have in common."""
        stop = fields["stop"].largest // self.batch
        rule = self.teacher_optimizer if kind == "teacher" else self.student_optimizer
        made = rule.over(stop, self.batch) if isinstance(rule, CosineAdam) else rule
        own = fields["n_seeds"], len(fields["strategies"])
        lanes = 1 if kind == "teacher" else self.at_once * self.inits
        return RunSpec(
            kind=kind,
            task=self.made_task,
            model=model,
            optimizer=made,
            batch_size=self.batch,
            block=max(32, self.batch),
            micro=self.micro,
            eval_points=self.eval_points,
            padded=padding(self.made_task, (self.group, lanes), own),
            **fields,
        )

    def teacher_specs(self, root: Path | None = None) -> list[RunSpec]:
        """One record a group of seeds.

        Args:
          root: where runs are stored; groups that are there are taken as they are, and
            only seeds between them form groups of their own.
        """
        end = self.seed + self.n_teachers

        def stored(first: int) -> RunSpec | None:
            """The largest group that begins here."""
            if root is None:
                return None
            sizes = range(min(self.group, end - first), 0, -1)
            specs = (self.teacher_spec(first, n) for n in sizes)
            return next((s for s in specs if folder_of(s, root).complete), None)

        out, first = [], self.seed
        while first < end:
            spec, most = stored(first), min(self.group, end - first)
            if spec is None:
                most = next((n for n in range(1, most) if stored(first + n)), most)
            out.append(spec or self.teacher_spec(first, most))
            first += out[-1].n_seeds
        return out

    def teacher_spec(self, first: int, n_seeds: int) -> RunSpec:
        """The record of one group."""
        every = self.samples(self.spacing)
        return self._spec(
            "teacher",
            self.teacher.model(self.made_task),
            strategies=(Strategy(name="teacher"),),
            stop=self.budget.teacher_stop(self),
            eval_every=every,
            checkpoint_every=every,
            checkpoints_at=tuple(map(self.samples, self.checkpoints_at)),
            first_seed=first,
            n_seeds=n_seeds,
        )

    def student_spec(
        self,
        strategies: tuple[Strategy, ...],
        teacher: TeacherRef,
        stop: Stop,
        *,
        model: Model | None = None,
        **fields: Any,
    ) -> RunSpec:
        """The record of one group's students, from every initialisation.

        `model` is the student, the setting's by default; `fields` are further ones.
        """
        return self._spec(
            "student",
            model or self.student.model(self.made_task),
            strategies=replicas(strategies, self.inits),
            stop=stop,
            eval_every=self.samples(self.student_every),
            teacher=teacher,
            **fields,
            n_seeds=teacher.spec.n_seeds,
            first_seed=teacher.spec.first_seed,
        )

    def __str__(self) -> str:
        """The task in a title, e.g. `Parity, d=32, k=6`."""
        task = self.task
        if isinstance(task, Strings):
            return str(task)
        names = ("d", "k", "eps", "depth", "feature_complexity")
        known = [f"{n}={getattr(task, n)}" for n in names if hasattr(task, n)]
        words = [type(task).__name__, *known]
        if isinstance(task, BooleanTask) and not task.uniform_signs:
            words.append(f"P(x = -1)={task.p:g}")
        return ", ".join(words)
