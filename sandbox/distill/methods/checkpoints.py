"""Stored networks that teach throughout: one, or several by their mean logits.

Fixed      one checkpoint, not the final one
Snapshots  the last few of one trajectory: Wang et al. (arXiv 2210.06458)
Ensemble   final ones of as many teachers: Allen-Zhu and Li (arXiv 2012.09816)

A student's own architecture as its teacher's makes any of them self-distillation.
"""

from dataclasses import dataclass
from typing import Annotated

from sandbox.distill.sources import Final, Lane, Member, PerSeed, Source, of_seed
from sandbox.store.bounds import AtLeast, check_fields


@dataclass(frozen=True, kw_only=True)
class Fixed(Source):
    """One checkpoint for the whole run.

    Attributes:
      step: the checkpoint.
    """

    step: Annotated[int | PerSeed, AtLeast(0)]

    def __post_init__(self) -> None:
        """Refuses negative steps."""
        check_fields(self, "source")

    def checkpoint_at(self, t: int, lane: Lane) -> int | None:
        """The same for every sample."""
        return of_seed(self.step, lane.seed)

    def next_switch(self, t: int, lane: Lane) -> int | None:
        """Never."""
        return None

    def checkpoints(self, lane: Lane) -> tuple[int, ...]:
        """That one, if the seed has it."""
        step = of_seed(self.step, lane.seed)
        return () if step is None else (step,)

    def per_seed(self) -> tuple[PerSeed, ...]:
        """The step, if it differs from seed to seed."""
        return (self.step,) if isinstance(self.step, PerSeed) else ()


@dataclass(frozen=True, kw_only=True)
class Snapshots(Final):
    """The last checkpoints up to the final one.

    Attributes:
      last: how many; 1 is the final one alone.
      every: samples between them.
    """

    last: Annotated[int, AtLeast(1)]
    every: Annotated[int, AtLeast(1)]

    def __post_init__(self) -> None:
        """Refuses none."""
        check_fields(self, "source")

    @property
    def n_members(self) -> int:
        """How many."""
        return self.last

    def members_at(self, t: int, lane: Lane) -> tuple[Member, ...]:
        """All of them, with equal weights."""
        return tuple(Member(step, 1 / self.last) for step in self.checkpoints(lane))

    def checkpoints(self, lane: Lane) -> tuple[int, ...]:
        """Their steps; where a trajectory is too short, its first counts again."""
        return tuple(max(lane.final - i * self.every, 0) for i in range(self.last))


@dataclass(frozen=True, kw_only=True)
class Ensemble(Final):
    """The final checkpoints of teachers that began apart.

    Attributes:
      n: how many: the strategies of the teachers' run, which `replicas` makes.
    """

    n: Annotated[int, AtLeast(1)]

    def __post_init__(self) -> None:
        """Refuses none."""
        check_fields(self, "source")

    @property
    def n_members(self) -> int:
        """How many."""
        return self.n

    def members_at(self, t: int, lane: Lane) -> tuple[Member, ...]:
        """All of them, with equal weights."""
        return tuple(Member(lane.final, 1 / self.n, lane=i) for i in range(self.n))
