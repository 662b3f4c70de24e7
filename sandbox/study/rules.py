"""Which checkpoints of a teacher teach: rules on recorded curves, fixed before any run.

    ByGap()   parity: where the degree-1 correlations of the support stand out most
    ByNode()  tree labels: the same node by node
    ByDrop()  sequences: where the loss falls fastest within its drop

A rule measures what it needs along a group's trajectory and names checkpoints, each a
step in samples for every seed, None where a seed has no such checkpoint. A name may
stand for several checkpoints that teach one after the other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np

from sandbox.errors import require
from sandbox.probes.fourier import FourierProbe, degree1_gap
from sandbox.probes.nodes import NodeProbe, Nodes, groups_of, inside_outside
from sandbox.probes.offline import Measured, Probe
from sandbox.probes.phases import locate_drop
from sandbox.probes.transitions import (
    Candidates,
    blind_score,
    choose_checkpoints,
    locate,
    output_variance,
)
from sandbox.store.bounds import AtLeast, check_fields
from sandbox.tasks.base import VectorTask
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.text import number
from sandbox.train.run import Run
from sandbox.train.teaching import task_key
from sandbox.types import Array

Stages = tuple[tuple[int | None, ...], ...]
"""Checkpoints that teach one after the other, each a step for every seed."""
LABEL_FREE = ("blind", "half_rise")
"""Candidates of rules that see no label: where one finds none, it has not taught."""
CANDIDATES = ("final", "after", "middle", "before", "before_last", *LABEL_FREE)


class Chosen(NamedTuple):
    """What a rule found for one group of teachers.

    Attributes:
      stages: candidate name -> its checkpoints.
      usable: seeds whose teacher learned and has a final checkpoint, `(S,)`.
      why: what is wrong with each of the other seeds' teachers, in words.
      facts: what a report says of each seed's teacher.
      each: what the rule located for every seed, for figures and claims.
      measured: arrays along the trajectory, `(S, R, ...)` by name.
      seconds: what measuring took.
    """

    stages: Mapping[str, Stages]
    usable: np.ndarray
    why: Sequence[str] = ()
    facts: Sequence[dict[str, Any]] = ()
    each: Sequence[Any] = ()
    measured: Mapping[str, np.ndarray] = MappingProxyType({})
    seconds: float = 0.0


Measure = Callable[[Probe], Measured]
"""Measures a probe along the trajectory of the group that a rule is asked about."""


class Checked:
    """A record that refuses what its fields' annotations rule out when it is made."""

    called: ClassVar[str]
    """By messages."""

    def __post_init__(self) -> None:
        """Refuses values beyond their bounds."""
        check_fields(self, self.called)


@dataclass(frozen=True, kw_only=True)
class ByGap(Checked):
    """The rules of `sandbox.probes.transitions.choose_checkpoints`.

    Attributes:
      scale: which of the two fixed rules finds the final checkpoint.
      points: probe inputs behind the choice.
      claim_points: fresh probe inputs behind claims about correlations.
      degrees: monomial degrees that are probed along the trajectory; 1 is needed.
    """

    scale: Literal["cpu", "paper"] = "cpu"
    points: Annotated[int, AtLeast(2)] = 16_384
    claim_points: Annotated[int, AtLeast(2)] = 100_000
    degrees: tuple[int, ...] = (1, 2, 3)

    called = "rule"

    def check(self, task: Any) -> None:
        """Refuses degrees that the task does not have."""
        require(
            isinstance(task, VectorTask),
            f"rule: {type(self).__name__} needs a task on bits, got {task!r:.60}.",
        )
        require(
            bool(self.degrees) and all(1 <= a <= task.d for a in self.degrees),
            f"rule.degrees must lie in 1..d = 1..{task.d}, got {self.degrees}.",
        )
        require(
            1 in self.degrees,
            "rule.degrees must hold 1, which the checkpoint choice needs.",
        )

    @property
    def least_factor(self) -> float:
        """Multiple of n90 that a teacher must train to for its final checkpoint."""
        return 3.0 if self.scale == "cpu" else 1.3

    def names(self, task: Any) -> dict[str, int]:
        """Every candidate with its number of stages."""
        return dict.fromkeys(CANDIDATES, 1)

    def choose(
        self, run: Run, n90: np.ndarray, own: np.ndarray, measure: Measure
    ) -> Chosen:
        """Measures a group's trajectory and chooses.

        Args:
          run: the finished run.
          n90: of every seed, infinite where it did not learn in time.
          own: up to which sample each seed's curve is looked at.
          measure: measures a probe along the run's trajectory.
        """
        spec, task, n_seeds = run.spec, run.spec.task, run.spec.n_seeds
        probe = FourierProbe(
            task,  # pyright: ignore[reportArgumentType]
            spec.model,
            degrees=self.degrees,
            points=self.points,
        )
        found = measure(probe)
        out = found.values
        pairs = [gaps(out["degree1"][s], supports(run, s)) for s in range(n_seeds)]
        inside, outside = (np.asarray(side) for side in zip(*pairs, strict=True))
        axis = 1 if task.n_classes == 2 else slice(None)
        steps, accuracy = run.metrics.steps, run.metrics.curves("teacher")
        each: list[Candidates] = []
        for s in range(n_seeds):
            c, se = (
                out[name][s][..., axis].reshape(len(steps), -1)
                for name in ("degree1", "degree1_se")
            )
            seen = steps <= own[s]
            chosen = choose_checkpoints(
                steps[seen],
                accuracy[s][seen],
                (inside[s] - outside[s])[seen],
                blind_score(c, se)[seen],
                output_variance(c, se, self.points)[seen],
                n_classes=task.n_classes,
                scale_rule=self.scale,
            )
            each.append(chosen)
        usable = np.isfinite(n90) & [c.final is not None for c in each]
        kept = [asdict(c) if ok else {} for c, ok in zip(each, usable, strict=True)]
        phases = [locate(steps, curve) for curve in accuracy]
        return Chosen(
            {name: (tuple(c.get(name) for c in kept),) for name in CANDIDATES},
            usable,
            why=["teacher has no final checkpoint by its rule"] * n_seeds,
            facts=[
                {
                    "seed": spec.seeds[s],
                    "n90": number(float(n90[s])),
                    "transition": phase and asdict(phase),
                    "spacing_over_n90": float(spec.checkpoint_every / n90[s]),
                    "checkpoints": asdict(each[s]),
                }
                for s, phase in enumerate(phases)
            ],
            each=each,
            measured={**out, "inside": inside, "outside": outside},
            seconds=found.wall_seconds,
        )


@dataclass(frozen=True, kw_only=True)
class ByNode(ByGap):
    """`ByGap`, and one checkpoint a level or a node of tree labels.

    `by_level` and `by_node` are the checkpoints at which these nodes leak their
    supports most, in the order of time.
    """

    degrees: tuple[int, ...] = (1,)

    def check(self, task: Any) -> None:
        """Refuses tasks without a tree."""
        require(
            isinstance(task, Hierarchy),
            f"setting.task must be a Hierarchy (tree labels), got {task!r:.60}.",
        )
        super().check(task)

    def names(self, task: Any) -> dict[str, int]:
        """Every candidate with its number of stages."""
        groups = groups_of(task.depth)
        return super().names(task) | {name: len(g) for name, g in groups.items()}

    def choose(
        self, run: Run, n90: np.ndarray, own: np.ndarray, measure: Measure
    ) -> Chosen:
        """Measures a group's trajectory and chooses; `each` is a `Nodes` alone."""
        chosen = super().choose(run, n90, own, measure)
        task = run.spec.task
        assert isinstance(task, Hierarchy)
        found = measure(NodeProbe(task, run.spec.model, points=self.points))
        pairs = [
            inside_outside(c, np.asarray(supports(run, s)))
            for s, c in enumerate(found.values["degree1"])
        ]
        inside, outside = map(np.stack, zip(*pairs, strict=True))
        accuracy = found.values["accuracy"]
        nodes = Nodes(task.depth, found.steps, accuracy, inside, outside)
        (final,) = chosen.stages["final"]
        stages = dict(chosen.stages)
        for name, groups in groups_of(task.depth).items():
            rows: list[Any] = []  # in the order of time, none where one is lacking
            for s, last in enumerate(final):
                at = nodes.middles(s, groups, last)
                rows.append([None] * len(at) if None in at else sorted(at))  # pyright: ignore
            stages[name] = tuple(zip(*rows, strict=True))
        return chosen._replace(
            stages=stages, seconds=chosen.seconds + found.wall_seconds, each=[nodes]
        )


@dataclass(frozen=True, kw_only=True)
class ByDrop(Checked):
    """The record of steepest fall within the drop of the loss (`locate_drop`).

    Attributes:
      least: nats by which the loss of a teacher that has learned has fallen.
    """

    least: Annotated[float, AtLeast(0)] = 0.05

    called = "rule"
    least_factor: ClassVar[float] = 1.0

    def check(self, task: Any) -> None:
        """Any task has a loss."""

    def names(self, task: Any) -> dict[str, int]:
        """The candidates: the last checkpoint, and the middle of the drop."""
        return {"final": 1, "middle": 1}

    def choose(
        self, run: Run, n90: np.ndarray, own: np.ndarray, measure: Measure
    ) -> Chosen:
        """Locates the drop of every seed's loss; `each` is a `Drop` in samples."""
        del n90, own, measure
        steps, loss = run.metrics.steps, run.metrics.curves("teacher", "loss")
        accuracy = run.metrics.curves("teacher")
        drops = [locate_drop(steps, row, least=self.least) for row in loss]
        last = run.trajectory.steps[-1]
        fell = np.nanmax(loss, 1) - np.nanmin(loss, 1)
        return Chosen(
            {
                "final": (tuple(last if d else None for d in drops),),
                "middle": (tuple(int(d.steepest) if d else None for d in drops),),
            },
            np.asarray([d is not None for d in drops]),
            why=[f"teacher's loss fell by {v:.3f} nats only" for v in fell],
            facts=[
                {
                    "seed": run.spec.seeds[s],
                    "accuracy": number(float(accuracy[s, -1])),
                    "loss": number(float(loss[s, -1])),
                    "drop_in_samples": d and asdict(d),
                }
                for s, d in enumerate(drops)
            ],
            each=drops,
        )


def supports(run: Run, seed: int) -> Array:
    """Coordinates behind the labels of the seed at a position of its group."""
    task = run.spec.task
    assert isinstance(task, VectorTask)
    return task.supports(task_key(run.spec.seeds[seed]))


def gaps(degree1: np.ndarray, support: Array) -> tuple[np.ndarray, np.ndarray]:
    """Mean |degree-1 correlation| in and off the support, `(R,)` each.

    Args:
      degree1: correlations `(R, d, C)` of one seed.
      support: its coordinates, one node a row.
    """
    gap = jax.vmap(lambda c: degree1_gap(c, support))(degree1)
    return np.asarray(gap.inside).mean(-1), np.asarray(gap.outside)
