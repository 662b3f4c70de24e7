"""Which rows a run trains on: those of its task's stream, unless it says otherwise.

To add one, write a frozen dataclass that subclasses `Data`. Row t must follow from the
key and t alone.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from sandbox.errors import require
from sandbox.store.bounds import AtLeast, AtMost, Within, check_fields
from sandbox.tasks.base import Task, is_sequence_task, row_keys, row_numbers
from sandbox.types import Array, Batch

_DRAWS, _MIX = 32, 33  # folds of the task key
Count = Annotated[int, AtLeast(1), AtMost(2**31 - 1)]


@runtime_checkable
class Data(Protocol):
    """Training rows of a task; evaluation is always on the task's own."""

    @abstractmethod
    def sample(self, task: Task, key: Any, t0: Array, n: int, *, split: str) -> Batch:
        """Rows t0 .. t0+n, as `Task.sample`."""
        ...

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Further tasks whose rows are drawn; inputs and classes as the run's task."""
        return ()


@dataclass(frozen=True)
class Fresh(Data):
    """Every row is new."""

    def sample(self, task: Task, key: Any, t0: Array, n: int, *, split: str) -> Batch:
        """The task's own rows."""
        return task.sample(key, t0, n, split=split)


@dataclass(frozen=True, kw_only=True)
class Finite(Data):
    """Rows drawn with replacement from the first `n` of the stream.

    Attributes:
      n: how many different rows there are.
    """

    n: Count

    def __post_init__(self) -> None:
        """Refuses none."""
        check_fields(self, "data")

    def sample(self, task: Task, key: Any, t0: Array, n: int, *, split: str) -> Batch:
        """Row t is a uniform one of the n."""

        def row(t: Array) -> Batch:
            own = jax.random.fold_in(jax.random.fold_in(key, _DRAWS), t)
            i = jax.random.randint(own, (), 0, self.n, jnp.uint32)
            batch = task.sample(key, i, 1, split=split)
            return jax.tree.map(lambda a: a[0], batch)

        return jax.vmap(row)(row_numbers(t0, n))


@dataclass(frozen=True, kw_only=True)
class Phased(Data):
    """Another task's rows first, then the run's own: a curriculum of inputs.

    Attributes:
      first: whose rows come first, e.g. the same parity on biased bits. What its key
        decides (a random support) is the run's.
      until: how many of them.
    """

    first: Task
    until: Count

    def __post_init__(self) -> None:
        """Refuses no first phase."""
        check_fields(self, "data")

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The first phase's."""
        return (self.first,)

    def sample(self, task: Task, key: Any, t0: Array, n: int, *, split: str) -> Batch:
        """Rows below `until` are of the first task."""
        first = row_numbers(t0, n) < self.until
        return _chosen(first, self.first, task, key, t0, n, split)


@dataclass(frozen=True, kw_only=True)
class Mix(Data):
    """Rows of another task among the run's own.

    Attributes:
      other: the other task.
      share: of its rows, drawn row by row.
    """

    other: Task
    share: Annotated[float, Within(0, 1)]

    def __post_init__(self) -> None:
        """Refuses what is no share."""
        check_fields(self, "data")

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The other task."""
        return (self.other,)

    def sample(self, task: Task, key: Any, t0: Array, n: int, *, split: str) -> Batch:
        """Each row is of the other task with probability `share`."""
        keys = row_keys(jax.random.fold_in(key, _MIX), t0, n)
        draw = jax.vmap(jax.random.uniform)(keys)
        return _chosen(draw < self.share, self.other, task, key, t0, n, split)


def _chosen(
    first: Array, one: Task, other: Task, key: Any, t0: Array, n: int, split: str
) -> Batch:
    """Rows of one task where `first` is true, else those of the other."""
    a, b = (task.sample(key, t0, n, split=split) for task in (one, other))

    def pick(x: Array, y: Array) -> Array:
        return jnp.where(first.reshape(n, *(1,) * (x.ndim - 1)), x, y)

    shared = a.aux.keys() & b.aux.keys()
    a, b = (v._replace(aux={k: v.aux[k] for k in sorted(shared)}) for v in (a, b))
    return jax.tree.map(pick, a, b)


def check_alike(task: Task, other: Task) -> None:
    """Refuses a further task whose rows are not shaped as those of the run's."""

    def shape(of: Task) -> tuple[Any, ...]:
        if is_sequence_task(of):
            return of.positions, of.edges, of.vocabulary, of.n_classes
        return getattr(of, "d", None), of.n_classes

    require(
        is_sequence_task(task) == is_sequence_task(other)
        and shape(task) == shape(other),
        f"data: {type(other).__name__} has rows or classes of other shapes than the"
        f" run's task, {shape(other)} against {shape(task)}.",
    )


BUILT_IN_DATA = (Fresh, Finite, Phased, Mix)
"""What a stored record may name."""
