"""Who teaches at sample t: labels, or a checkpoint of a teacher's trajectory.

A source is a frozen record. For a lane (one strategy of one seed) it answers two
questions, on the host, between chunks of training:

    checkpoint_at(t, lane)   which checkpoint step teaches sample t
    next_switch(t, lane)     the first t' > t where that answer changes

To add one, write a frozen dataclass that subclasses `Source`; one that moves on by what
the student has learnt also defines `advances` (see `Adaptive`).

Everything is counted in samples the student has seen, never in optimizer steps. Past a
seed's final checkpoint every schedule means the final checkpoint.

Source: Panigrahi et al. (arXiv 2410.05464), section 2 and released code.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp

from sandbox.distill.cost import Cost
from sandbox.distill.losses import Answers
from sandbox.distill.views import View
from sandbox.errors import require
from sandbox.models.base import Model
from sandbox.store.bounds import AtLeast, MoreThan, check_fields, is_whole
from sandbox.types import Array, Params

MAX_CHECKPOINTS = 100_000
"""Most teacher checkpoints that one schedule may use; each is a file."""


@dataclass(frozen=True)
class PerSeed:
    """A number that differs from seed to seed, in seed order.

    Attributes:
      values: one entry a seed; None marks a seed for which it does not exist, and whose
        lane is then reported as absent: nothing meaningful is trained there.
    """

    values: tuple[int | None, ...]

    def __post_init__(self) -> None:
        """Refuses negative and fractional entries."""
        require(
            isinstance(self.values, tuple)
            and all(v is None or (is_whole(v) and v >= 0) for v in self.values),
            f"per-seed values must be whole numbers from 0, got {self.values!r}.",
        )

    @property
    def numbers(self) -> tuple[int, ...]:
        """The values that exist, for which the bounds of a field hold."""
        return tuple(v for v in self.values if v is not None)


def of_seed(value: int | PerSeed, seed: int) -> int | None:
    """The value that holds for the seed at position `seed` of its group."""
    return value.values[seed] if isinstance(value, PerSeed) else value


class Lane(NamedTuple):
    """Where a schedule is asked: a seed's position and its final checkpoint step.

    Attributes:
      seed: position of the seed in its group.
      final: the seed's final checkpoint.
      switched_at: sample at which a saturation schedule last advanced.
      position: how many times a saturation schedule has advanced.
    """

    seed: int
    final: int
    switched_at: int = 0
    position: int = 0


def _multiples(every: int, final: int) -> tuple[int, ...]:
    """Every multiple of `every` up to the final checkpoint, and that one."""
    require(
        final <= every * MAX_CHECKPOINTS,
        f"source.every = {every} asks for more than {MAX_CHECKPOINTS:,} checkpoints.",
    )
    return (*range(every, final, every), final)


class Member(NamedTuple):
    """One of the networks whose logits, averaged, teach a sample.

    Attributes:
      step: its checkpoint.
      weight: of its logits in the sum.
      lane: which of the teacher's strategies it is.
      variant: what `Source.prepare` is told to do to it; 0 leaves it as it is stored.
    """

    step: int
    weight: float = 1.0
    lane: int = 0
    variant: int = 0


@runtime_checkable
class Source(Protocol):
    """Who teaches a lane at each sample: what the loop needs from a schedule.

    The answers must follow from the record and the lane alone. Subclasses write the
    first three methods and inherit defaults for the rest.

    Attributes:
      needs_teacher: whether there is a teacher term; False where labels teach.
      stored: whether a stored run teaches (or is a part of who does).
      n_members: how many networks teach a sample together.
    """

    needs_teacher: ClassVar[bool] = True
    stored: ClassVar[bool] = True

    @property
    def reads(self) -> bool:
        """Whether a stored run teaches."""
        return self.needs_teacher and self.stored

    @property
    def n_members(self) -> int:
        """How many networks teach a sample together."""
        return 1

    @property
    def cost(self) -> Cost:
        """Passes a sample, beside one forward through every member."""
        return Cost()

    def members_at(self, t: int, lane: Lane) -> tuple[Member, ...]:
        """Who teaches sample t: as many as `n_members`, or none."""
        step = self.checkpoint_at(t, lane)
        return () if step is None else (Member(step),)

    def prepare(self, params: Params, variant: int, seed: int) -> Params:
        """Stored parameters of one network, changed on the host before it teaches.

        Args:
          params: numpy arrays.
          variant: of the member, never 0.
          seed: number of the seed, from which randomness must follow.
        """
        return params

    @abstractmethod
    def checkpoint_at(self, t: int, lane: Lane) -> int | None:
        """The checkpoint step that teaches sample t; None if the lane has no teacher.

        Args:
          t: index of the sample, from 0.
          lane: the lane's seed, final checkpoint and last switch.
        """
        ...

    @abstractmethod
    def next_switch(self, t: int, lane: Lane) -> int | None:
        """The first sample after t at which that answer changes; None for never."""
        ...

    @abstractmethod
    def checkpoints(self, lane: Lane) -> tuple[int, ...]:
        """Every checkpoint step that may be asked for, so that it is checked early."""
        ...

    def borders(self, n_seeds: int) -> list[tuple[str, int]]:
        """(Field, samples) pairs that must be whole blocks: the gaps between switches.

        Args:
          n_seeds: seeds of the group.
        """
        del n_seeds
        return []

    def per_seed(self) -> tuple[PerSeed, ...]:
        """The per-seed values of the record, whose lengths are checked."""
        return ()

    def refuses(self, task: Any) -> str:
        """Why it cannot teach a run's task; empty if it can."""
        return ""


@runtime_checkable
class Adaptive(Protocol):
    """A source that moves on by the lane's own evaluations.

    Its `next_switch` is None: it switches where `advances` says so, which is counted in
    `Lane.position`.
    """

    def advances(self, t: int, lane: Lane, history: Sequence[float]) -> bool:
        """Whether the lane moves on at the evaluation at sample t.

        Args:
          t: samples seen.
          lane: the lane's seed, final checkpoint and last switch.
          history: accuracies since the last switch, oldest first.
        """
        ...


@runtime_checkable
class LiveSource(Source, Protocol):
    """A teacher that is trained, or moves, beside its student.

    With `stored` a stored run is a part of it, whose answers `outputs` is given.
    """

    stored: ClassVar[bool] = False

    def init(self, key: Any, model: Model) -> Params:
        """Its own parameters at the start; None for none.

        Args:
          key: of the lane's initialisation.
          model: the student.
        """
        return None

    @abstractmethod
    def outputs(
        self,
        teacher: Params,
        phi: Params,
        x: Any,
        frozen: Answers | None,
        view: View,
        model: Model,
    ) -> Array:
        """Its logits of the rows x.

        Args:
          teacher: its own parameters.
          phi: the tensors of the view.
          x: rows.
          frozen: what the stored run says of them; None without one.
          view: of the strategy.
          model: the student.
        """
        ...

    def inputs(self, phi: Params, x: Any, key: Any, view: View, model: Model) -> Any:
        """The rows of a step in place of x, of the same shapes.

        Args:
          phi: the tensors of the view before the step.
          x: the run's rows.
          key: of the step.
          view: of the strategy.
          model: the student.
        """
        return x

    def own_loss(
        self, logits: Array, label: Array, student: Callable[[], Array]
    ) -> Array:
        """What its own training lowers, of each row; 0 where it is not trained.

        Args:
          logits: its own.
          label: one-hot.
          student: makes the student's logits, through which no gradient passes; a pass
            more, which `cost` counts.
        """
        return jnp.zeros(label.shape[:-1], label.dtype)

    def advance(self, teacher: Params, phi: Params, t: Array, view: View) -> Params:
        """Its parameters after the step from sample t, e.g. an average of phi's."""
        return teacher

    def checkpoint_at(self, t: int, lane: Lane) -> int | None:
        """The stored run's final checkpoint, or none."""
        return lane.final if self.stored else None

    def next_switch(self, t: int, lane: Lane) -> int | None:
        """Never."""
        return None

    def checkpoints(self, lane: Lane) -> tuple[int, ...]:
        """The stored run's final checkpoint, or none."""
        return (lane.final,) if self.stored else ()


@dataclass(frozen=True)
class Labels(Source):
    """The label teaches: plain cross-entropy training (CE)."""

    needs_teacher = False

    def checkpoint_at(self, t: int, lane: Lane) -> int | None:
        """No checkpoint is used."""
        return None

    def next_switch(self, t: int, lane: Lane) -> int | None:
        """Never."""
        return None

    def checkpoints(self, lane: Lane) -> tuple[int, ...]:
        """No checkpoint is used."""
        return ()


@dataclass(frozen=True)
class Final(Source):
    """The final checkpoint teaches throughout: one-shot distillation."""

    needs_teacher = True

    def checkpoint_at(self, t: int, lane: Lane) -> int | None:
        """The seed's final checkpoint."""
        return lane.final

    def next_switch(self, t: int, lane: Lane) -> int | None:
        """Never."""
        return None

    def checkpoints(self, lane: Lane) -> tuple[int, ...]:
        """The final checkpoint alone."""
        return (lane.final,)


@dataclass(frozen=True, kw_only=True)
class Progressive(Source):
    """Successive checkpoints, ahead of the student as in the released code.

    Sample t is taught by the first multiple of `every` at or after `speed * (t + 1)`.

    Attributes:
      every: samples between the teacher checkpoints used.
      speed: 1 keeps the teacher's own pace, 2 goes twice as fast.
    """

    every: Annotated[int, AtLeast(1)]
    speed: Annotated[float, AtLeast(1e-6)] = 1.0

    needs_teacher = True

    def __post_init__(self) -> None:
        """Refuses a schedule that never moves or switches between samples."""
        check_fields(self, "source")
        require(
            (self.every / self._speed).denominator == 1,
            f"source.every / source.speed = {self.every}/{self.speed} must be a whole"
            " number of samples.",
        )

    @property
    def _speed(self) -> Fraction:
        return Fraction(self.speed).limit_denominator(10**6)

    def checkpoint_at(self, t: int, lane: Lane) -> int | None:
        """The first multiple of `every` at or after speed (t + 1), or the final."""
        ahead = ceil(self._speed * (t + 1) / self.every) * self.every
        return min(ahead, lane.final)

    def next_switch(self, t: int, lane: Lane) -> int | None:
        """The sample at which the teacher moves on."""
        now = self.checkpoint_at(t, lane)
        if now is None or now >= lane.final:
            return None
        return int(now / self._speed)

    def checkpoints(self, lane: Lane) -> tuple[int, ...]:
        """Every multiple of `every` up to the final checkpoint, and that one."""
        return _multiples(self.every, lane.final)

    def borders(self, n_seeds: int) -> list[tuple[str, int]]:
        """The samples that each checkpoint teaches."""
        del n_seeds
        return [("source.every / speed", int(self.every / self._speed))]


@dataclass(frozen=True, kw_only=True)
class NShot(Source):
    """(N, T)-progressive: chosen checkpoints for T samples each, then the final one.

    Attributes:
      steps: the N - 1 chosen checkpoint steps, in the order they teach.
      hold: T, samples that each of them teaches.
    """

    steps: tuple[Annotated[int | PerSeed, AtLeast(0)], ...]
    hold: Annotated[int | PerSeed, AtLeast(1)]

    needs_teacher = True

    def __post_init__(self) -> None:
        """Refuses an empty first stage."""
        check_fields(self, "source")
        require(len(self.steps) > 0, "source.steps must name at least one checkpoint.")

    def borders(self, n_seeds: int) -> list[tuple[str, int]]:
        """The samples that each seed's chosen checkpoints teach."""
        holds = [of_seed(self.hold, seed) for seed in range(n_seeds)]
        return [("source.hold", hold) for hold in holds if hold is not None]

    def per_seed(self) -> tuple[PerSeed, ...]:
        """Those of the steps and the hold that differ from seed to seed."""
        return tuple(v for v in (*self.steps, self.hold) if isinstance(v, PerSeed))

    def _resolved(self, lane: Lane) -> tuple[list[int], int] | None:
        steps = [of_seed(s, lane.seed) for s in self.steps]
        hold = of_seed(self.hold, lane.seed)
        known = [s for s in steps if s is not None]
        if hold is None or len(known) < len(steps):
            return None
        return known, hold

    def checkpoint_at(self, t: int, lane: Lane) -> int | None:
        """The checkpoint of the stage that sample t falls in; None if absent."""
        resolved = self._resolved(lane)
        if resolved is None:
            return None
        steps, hold = resolved
        stage = t // hold
        return steps[stage] if stage < len(steps) else lane.final

    def next_switch(self, t: int, lane: Lane) -> int | None:
        """The end of the stage that sample t falls in."""
        resolved = self._resolved(lane)
        if resolved is None:
            return None
        steps, hold = resolved
        stage = t // hold
        return (stage + 1) * hold if stage < len(steps) else None

    def checkpoints(self, lane: Lane) -> tuple[int, ...]:
        """The chosen steps and the final one; nothing for an absent lane."""
        resolved = self._resolved(lane)
        return () if resolved is None else (*resolved[0], lane.final)


@dataclass(frozen=True, kw_only=True)
class UntilSaturation(Source):
    """Moves to the next checkpoint when the student has stopped improving.

    Asked at every evaluation, on the accuracies recorded since the last switch (the one
    at the switch included). It advances when

        the last `window` evaluations gained less than `min_gain`, and
        accuracy has gained at least `min_gain` since the switch,

    or when `limit` samples have passed since the switch.

    Attributes:
      every: samples between the teacher checkpoints used.
      limit: samples after which it advances in any case.
      window: evaluations over which improvement is judged.
      min_gain: accuracy that counts as improvement.
    """

    every: Annotated[int, AtLeast(1)]
    limit: Annotated[int, AtLeast(1)]
    window: Annotated[int, AtLeast(1)] = 5
    min_gain: Annotated[float, MoreThan(0)] = 0.01

    needs_teacher = True

    def __post_init__(self) -> None:
        """Refuses a schedule that cannot be judged."""
        check_fields(self, "source")

    def checkpoint_at(self, t: int, lane: Lane) -> int | None:
        """Checkpoint number `position + 1`, at most the final."""
        return min((lane.position + 1) * self.every, lane.final)

    def next_switch(self, t: int, lane: Lane) -> int | None:
        """Unknown ahead of time: `advances` is asked at each evaluation instead."""
        return None

    def checkpoints(self, lane: Lane) -> tuple[int, ...]:
        """Every multiple of `every` up to the final checkpoint, and that one."""
        return _multiples(self.every, lane.final)

    def advances(self, t: int, lane: Lane, history: Sequence[float]) -> bool:
        """Whether the lane moves on at the evaluation at sample t.

        Args:
          t: samples seen.
          lane: the lane's seed, final checkpoint and last switch.
          history: accuracies since the last switch, oldest first.
        """
        if (lane.position + 1) * self.every >= lane.final:
            return False
        if t - lane.switched_at >= self.limit:
            return True
        if len(history) <= self.window:
            return False
        stalled = history[-1] - history[-1 - self.window] < self.min_gain
        return stalled and max(history) - history[0] >= self.min_gain


BuiltInSource = Labels | Final | Progressive | NShot | UntilSaturation
"""The schedules of this module, which a stored record may name."""
