"""The record of one run: everything that decides what is trained, and nothing else.

A run is a *group*: `n_seeds` consecutive seeds times the strategies that share each
seed's sample stream, trained together. A seed fixes its own support (if random), its
streams and its initialisations. How a run is executed (chunk length, progress, folders)
is not part of the record, because it cannot change a bit of the result.
"""

from dataclasses import dataclass, field
from math import gcd, lcm
from typing import Annotated, Literal

from sandbox.distill.sources import Adaptive, Lane, LiveSource, PerSeed, of_seed
from sandbox.distill.strategy import Strategy, shared_structure
from sandbox.distill.views import Identity
from sandbox.errors import require
from sandbox.models.base import Model
from sandbox.store.bounds import (
    AtLeast,
    AtMost,
    Increasing,
    Within,
    check_fields,
    is_whole,
)
from sandbox.store.config import later
from sandbox.tasks.base import Task, is_sequence_task
from sandbox.tasks.data import Data, Fresh, check_alike
from sandbox.train.optim import SGD, Optimizer

MAX_SEGMENT = 1024
"""Most rows sampled and taught at once."""

Count = Annotated[int, AtLeast(0), AtMost(2**32 - 1)]
Positive = Annotated[int, AtLeast(1), AtMost(2**32 - 1)]


@dataclass(frozen=True, kw_only=True)
class Stop:
    """When a seed is done; a group runs until all its seeds are.

    A seed is done at the earliest of

        max_samples,
        factor x n, where n is the first evaluation at which all its lanes have reached
          `accuracy`,
        give_up, if some lane has not reached `accuracy` by then.

    Attributes:
      max_samples: the cap.
      accuracy: None runs to the cap.
      factor: how much longer to train after the level was reached.
      give_up: a seed that has not reached `accuracy` by then is done (and counts as
        never having learned); None waits for it until the cap.
    """

    max_samples: Annotated[int | PerSeed, Within(1, 2**32 - 1)]
    accuracy: Annotated[float, Within(0, 1, "(]")] | None = None
    factor: Annotated[float, AtLeast(1)] = 1.0
    give_up: int | None = None

    def __post_init__(self) -> None:
        """Refuses a cap that trains nothing and levels that cannot be met."""
        check_fields(self, "stop")
        caps = self.max_samples
        require(
            not isinstance(caps, PerSeed) or None not in caps.values,
            f"stop.max_samples must have a number for every seed, got {caps}.",
        )
        if self.give_up is not None:
            require(
                self.accuracy is not None,
                f"stop.give_up = {self.give_up} needs stop.accuracy, the level that a"
                " seed must have reached by then.",
            )
            require(
                1 <= self.give_up <= self.largest,
                f"stop.give_up must be a whole number in 1..max_samples ="
                f" 1..{self.largest}, got {self.give_up}.",
            )

    @property
    def largest(self) -> int:
        """The cap of the group."""
        caps = self.max_samples
        return max(caps.numbers) if isinstance(caps, PerSeed) else caps


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What one group trains.

    Attributes:
      kind: `teacher` draws from the train stream, `student` from the distill stream.
      task: the task.
      model: the network that is trained.
      strategies: one lane each, sharing every seed's stream and initialisation.
      stop: when to stop.
      eval_every: samples between evaluations.
      n_seeds: seeds of the group.
      first_seed: the group covers first_seed .. first_seed + n_seeds - 1.
      optimizer: the update rule.
      batch_size: samples of one optimizer step.
      teacher: whose checkpoints teach, and which is final.
      eval_points: rows of the fixed evaluation stream.
      checkpoint_every: samples between stored checkpoints; 0 stores none.
      engine: `auto` takes the blocked engine where it applies; "online_triton" is that
        one with its recurrence in a kernel for NVIDIA GPUs, where it can run.
      block: samples T of one block; every switch, evaluation and checkpoint falls on a
        multiple of it.
      dtype: arithmetic of the whole run.
      micro: rows of one micro-batch of sequences, whose gradients are added up (at
        most; the largest divisor of the batch is taken); 0 is the whole batch. Without
        dropout, whose masks are drawn for a micro-batch at a time, it moves nothing but
        rounding, time and memory.
      padded: seeds and lanes that its programs are compiled for, where these are more
        than the run has: the others are computed and thrown away. Bits depend on both
        numbers, so runs that share them can be had one after the other or at once.
      checkpoints_at: samples at which checkpoints are stored as well, or instead, such
        as those of `log_spaced`, and evaluated.
      imported: hash of checkpoints that another program trained
        (`sandbox.train.imported`).
      data: which rows are trained on; the task's own, all new, by default.
      start: the run whose final checkpoint each seed starts from, in place of a fresh
        initialisation; the lanes of a seed without one are absent.
    """

    kind: Literal["teacher", "student"]
    task: Task
    model: Model
    strategies: tuple[Strategy, ...]
    stop: Stop
    eval_every: Positive
    n_seeds: Annotated[int, AtLeast(1), AtMost(2**16)] = 1
    first_seed: Count = 0
    optimizer: Optimizer = field(default_factory=SGD)
    batch_size: Positive = 1
    teacher: "TeacherRef | None" = None
    eval_points: Positive = 4096
    checkpoint_every: Count = 0
    engine: Literal["auto", "online_sgd", "online_triton", "generic"] = "auto"
    block: Positive = 32
    dtype: Literal["float32", "float64"] = "float32"
    micro: Annotated[int, Within(0, 2**32 - 1)] = later(0)
    padded: tuple[int, ...] = later(())
    checkpoints_at: Annotated[tuple[int, ...], Increasing(0)] = later(())
    imported: str = later("")
    data: Data = later(Fresh())
    start: "TeacherRef | None" = later(None)

    def __post_init__(self) -> None:
        """Refuses whatever could only fail later."""
        check_fields(self)
        self._check_inputs()
        require(
            self.model.n_classes == self.task.n_classes,
            f"model.n_classes = {self.model.n_classes} must equal the task's"
            f" {self.task.n_classes} classes.",
        )
        self._check_lanes()
        require(
            self.padded == ()
            or (len(self.padded) == 2 and self.shape == self.padded != self._own),
            f"padded must be empty, or more than the run's seeds and lanes {self._own}"
            f" (at least one of the two), got {self.padded}.",
        )
        self._check_borders()
        if self.engine.startswith("online"):
            require(not self.why_not_blocked(), f"engine: {self.why_not_blocked()}.")

    def _check_inputs(self) -> None:
        """Refuses a model that cannot read the task's inputs."""
        model, task = self.model, self.task
        if is_sequence_task(task):
            needs = {"positions": task.positions, "vocab": task.vocabulary.size}
            for name, need in needs.items():
                have = getattr(model, name, 0)
                require(
                    have >= need,
                    f"model.{name} = {have} must be at least {need} for this task"
                    " (a Transformer reads sequences, an MLP does not).",
                )
            return
        require(
            self.micro == 0, "micro applies to sequences; leave it 0 for this task."
        )
        d = getattr(task, "d", None)
        own = getattr(model, "d", d)
        require(d == own, f"model.d = {own} must equal task.d = {d}.")

    def _check_lanes(self) -> None:
        require(
            len(self.strategies) >= 1, "strategies must hold at least one strategy."
        )
        names = [s.name for s in self.strategies]
        require(
            len(set(names)) == len(names), f"strategy names must differ, got {names}."
        )
        self._check_parts(shared_structure(self.strategies))
        per_seed = [self.stop.max_samples]
        for s in self.strategies:
            per_seed += s.source.per_seed()
            require(
                not s.source.reads or self.teacher is not None,
                f"strategy {s.name!r} needs a teacher; set teacher=.",
            )
            why = s.source.refuses(self.task)
            require(not why, f"strategy {s.name!r}: {why}")
        if self.teacher is not None:
            require(
                self.teacher.spec.n_seeds == self.n_seeds
                and self.teacher.spec.first_seed == self.first_seed,
                "teacher.spec must cover the same seeds as its students.",
            )
            require(
                self.teacher.spec.task == self.task,
                "teacher.spec.task must equal the students' task.",
            )
            require(
                self.teacher.spec.dtype == self.dtype,
                f"teacher.spec.dtype = {self.teacher.spec.dtype} must equal the"
                f" students' dtype = {self.dtype}.",
            )
            per_seed.append(self.teacher.final)
        if self.start is not None:
            self._check_start(self.start)
            per_seed.append(self.start.final)
        for v in per_seed:
            require(
                not isinstance(v, PerSeed) or len(v.values) == self.n_seeds,
                f"per-seed values must have one entry for each of n_seeds ="
                f" {self.n_seeds} seeds, got {v}.",
            )
        if self.teacher is not None:
            self._check_trajectory(self.teacher)

    def _check_parts(self, shared: Strategy) -> None:
        """Refuses parts that need activations or a stored run that are not there."""
        for task in self.data.tasks:
            check_alike(self.task, task)
        loss, model = shared.loss, self.model
        teacher = self.teacher.spec.model if self.teacher is not None else None
        for who, of, taps in (
            ("model", model, loss.taps),
            ("teacher.spec.model", teacher, loss.teacher_taps),
        ):
            have = getattr(of, "taps", ())
            lacks = [t for t in taps if t not in have]
            require(
                not lacks,
                f"strategy {shared.name!r}: its loss reads {', '.join(lacks)}, which"
                f" {who} does not have; it has {', '.join(have) or 'none'}.",
            )
        frozen = loss.copies or loss.teacher_taps or shared.uses_known
        alone = isinstance(shared.source, LiveSource)
        require(
            not (frozen and alone),
            f"strategy {shared.name!r}: its loss or target reads more of the teacher"
            " than logits, which only a stored run has; choose another source.",
        )
        several = any(s.source.n_members > 1 for s in self.strategies)
        require(
            not (several and shared.uses_known),
            f"strategy {shared.name!r}: statistics of the teacher need a source of one"
            " network.",
        )

    def _check_start(self, start: "TeacherRef") -> None:
        own = start.spec
        require(
            (own.n_seeds, own.first_seed, own.dtype)
            == (self.n_seeds, self.first_seed, self.dtype)
            and all(
                (lane := start.lane(i)) is None or own.stores(lane.final)
                for i in range(self.n_seeds)
            )
            and start.lanes == 1,
            "start.spec must train one strategy on the same seeds at the same dtype,"
            " with final checkpoints that it stores.",
        )
        view = self.strategies[0].view
        require(
            view != Identity() or not any(s.init for s in self.strategies),
            "strategies that begin from start have one initialisation; set init = 0.",
        )
        require(
            own.model == self.model or view != Identity(),
            "start.spec.model must equal the model, unless a view maps one to the"
            " other.",
        )

    def _check_trajectory(self, teacher: "TeacherRef") -> None:
        every, last = teacher.spec.checkpoint_every, teacher.spec.stop.largest
        listed = teacher.spec.checkpoints_at
        words = [f"multiples of {every} up to {last}"] if every else []
        words += [", ".join(map(str, listed[:20]))] if listed else []
        for i in range(self.n_seeds):
            lane = teacher.lane(i)
            if lane is None:
                continue
            for s in self.strategies:
                for step in s.source.checkpoints(lane):
                    require(
                        0 <= step <= last and teacher.spec.stores(step),
                        f"strategy {s.name!r} asks for teacher checkpoint {step}, which"
                        f" is not in the trajectory ({'; '.join(words)}).",
                    )

    def _check_borders(self) -> None:
        for name, v in self._borders():
            require(
                is_whole(v) and v % self.unit == 0,
                f"{name} = {v} must be a multiple of {self.unit} samples (the block of"
                f" {self.block} and the batch of {self.batch_size} must both divide"
                " it).",
            )
        require(
            self.checkpoint_every % self.eval_every == 0,
            f"checkpoint_every = {self.checkpoint_every} must be a multiple of"
            f" eval_every = {self.eval_every}, so that each checkpoint is evaluated.",
        )
        last, listed = self.stop.largest, self.checkpoints_at
        require(
            max(listed, default=0) <= last,
            f"checkpoints_at must lie within stop.max_samples = {last}, got"
            f" {listed[:20]}.",
        )
        require(
            last % self.eval_every == 0,
            f"stop.max_samples = {last} must be a multiple of eval_every ="
            f" {self.eval_every}, so that the run ends on an evaluation.",
        )

    def _borders(self) -> list[tuple[str, int]]:
        out = [("eval_every", self.eval_every)]
        if self.checkpoint_every:
            out.append(("checkpoint_every", self.checkpoint_every))
        out += [("checkpoints_at", t) for t in self.checkpoints_at]
        for s in self.strategies:
            own = s.source.borders(self.n_seeds)
            out += [(f"{field} of {s.name!r}", v) for field, v in own]
        return out

    def evaluates(self, t: int) -> bool:
        """Whether lanes are evaluated at sample t."""
        return t % self.eval_every == 0 or t in self.checkpoints_at

    def stores(self, t: int) -> bool:
        """Whether the checkpoint at sample t, if the run gets there, is stored."""
        every = self.checkpoint_every
        return t in self.checkpoints_at or bool(every and t % every == 0)

    @property
    def unit(self) -> int:
        """Smallest piece between two borders: whole blocks and whole batches."""
        return lcm(self.block, self.batch_size)

    @property
    def segment(self) -> int:
        """Rows R sampled and taught at once: the largest divisor of all borders.

        A function of the record alone, so that it is never a knob.
        """
        every = gcd(*[v for _, v in self._borders()])
        pieces = every // self.unit
        most = max(MAX_SEGMENT // self.unit, 1)
        return self.unit * max(p for p in range(1, most + 1) if pieces % p == 0)

    def why_not_blocked(self) -> str:
        """Why the blocked engine does not apply; empty if it does."""
        if not getattr(self.model, "two_layer_relu", False):
            return "online_sgd needs a two-layer ReLU network"
        if self.batch_size != 1:
            return f"online_sgd needs batch_size = 1, got {self.batch_size}"
        if not self.optimizer.plain:
            return "online_sgd needs plain SGD (no momentum, no Adam)"
        needs = shared_structure(self.strategies).needs()
        return f"online_sgd cannot train {needs[0]}" if needs else ""

    @property
    def engine_used(self) -> Literal["online_sgd", "online_triton", "generic"]:
        """The engine that `auto` resolves to."""
        if self.engine != "auto":
            return self.engine
        return "generic" if self.why_not_blocked() else "online_sgd"

    @property
    def uses_known(self) -> bool:
        """Whether any part needs the teacher's answers on held-out rows."""
        return shared_structure(self.strategies).uses_known

    @property
    def _own(self) -> tuple[int, int]:
        return self.n_seeds, len(self.strategies)

    @property
    def shape(self) -> tuple[int, int]:
        """Seeds and lanes that programs are compiled for."""
        seeds, lanes = self.padded or (0, 0)
        return max(seeds, self._own[0]), max(lanes, self._own[1])

    @property
    def split(self) -> str:
        """The stream that is trained on."""
        return "train" if self.kind == "teacher" else "distill"

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the group."""
        return tuple(range(self.first_seed, self.first_seed + self.n_seeds))

    @property
    def saturating(self) -> bool:
        """Whether any lane advances by its own evaluations."""
        return any(isinstance(s.source, Adaptive) for s in self.strategies)


def log_spaced(first: int, last: int, n: int, *, every: int) -> tuple[int, ...]:
    """Samples from `first` to `last`, each the same factor beyond the one before.

    Args:
      first: the first one, positive.
      last: the last one.
      n: how many; fewer where several round to one multiple.
      every: what they are multiples of, e.g. eval_every.
    """
    require(
        1 <= every <= first <= last and n >= 2,
        f"log_spaced needs 1 <= every <= first <= last and n >= 2, got every = {every},"
        f" first = {first}, last = {last}, n = {n}.",
    )
    steps = (first * (last / first) ** (i / (n - 1)) for i in range(n))
    return tuple(sorted({every * round(step / every) for step in steps}))


@dataclass(frozen=True, kw_only=True)
class TeacherRef:
    """Whose trajectory teaches.

    Attributes:
      spec: the teacher's own record, which finds its run folder.
      lanes: strategies that it trains, more than one for sources that ask for several.
      final: step of the final checkpoint; None for a seed without a usable teacher,
        whose taught lanes are then absent.
    """

    spec: RunSpec
    final: Annotated[int | PerSeed, AtLeast(0)]
    lanes: Annotated[int, AtLeast(1)] = later(1)

    def __post_init__(self) -> None:
        """Refuses a teacher without checkpoints."""
        check_fields(self, "teacher")
        require(
            self.spec.checkpoint_every > 0 or bool(self.spec.checkpoints_at),
            "teacher.spec.checkpoint_every must be positive, or checkpoints_at list"
            " some, so that it can teach.",
        )
        n = len(self.spec.strategies)
        require(
            n == self.lanes,
            "teacher.spec must train one strategy, so that a seed has one teacher; set"
            f" teacher.lanes = {n} for a source that asks for several.",
        )

    def lane(self, seed: int) -> Lane | None:
        """The schedule's view of the seed at position `seed`; None if absent."""
        final = of_seed(self.final, seed)
        return None if final is None else Lane(seed, final)
