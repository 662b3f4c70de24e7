"""The `Task` protocol, and the base classes of tasks on vectors and on the cube.

Tasks on strings of a grammar are in `sandbox.tasks.sequences`.

To add a Boolean target, subclass `BooleanTask` and write `supports` and `labels`;
sampling, enumeration, scoring and the exact posterior come with it
(`experiments/template.py` is a worked example). Likewise `GaussianTask` of
`sandbox.tasks.gaussian`; for other inputs with independent coordinates, subclass
`VectorTask` and write `inputs` too.

Randomness. A lane's task key fixes everything random about the task: its support and
its sample streams. Row `t` of a stream is made from `fold_in(stream key, t)` alone, so
no chunk, segment or batch size can move a sample. The streams are

    train    what teachers (and models trained without a teacher study) see
    distill  what students see, so that no student meets its teacher's own samples
    quiz     held-out rows for methods that need a second training stream
    eval     the fixed rows behind every recorded accuracy
    probe    the fixed rows behind every Monte-Carlo probe
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from math import sqrt
from typing import Annotated, Any, Protocol, TypeGuard, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jaxtyping import Float, Int

from sandbox.errors import ConfigError, require
from sandbox.store.bounds import AtLeast, AtMost, Within, check_fields, shown
from sandbox.store.code import is_foreign
from sandbox.store.config import later
from sandbox.types import Array, Batch

SPLITS = ("train", "distill", "quiz", "eval", "probe")
_SUPPORT, STREAM = 0, 1  # first fold of the task key
MAX_ENUMERATED_BITS = 20
LOOKED_AT = 256
"""Rows of each of a few keys by which a target is judged."""
Size = Annotated[int, AtLeast(1), AtMost(2**31 - 1)]


@runtime_checkable
class Task(Protocol):
    """What the loop and the probes need from a task."""

    @property
    def n_classes(self) -> int:
        """Number of classes C."""
        ...

    def sample(self, key: Any, t0: Any, n: int, *, split: str) -> Batch:
        """Rows t0 .. t0+n of the stream `split`."""
        ...

    def bayes(self, batch: Batch) -> Array | None:
        """Exact posterior of every label given the input, if it is known."""
        ...

    def enumerate(self, key: Any | None = None) -> Batch | None:
        """All inputs, or None where they are too many."""
        ...

    def metrics(self, logits: Array, batch: Batch) -> Mapping[str, tuple[Array, Array]]:
        """Weighted sums and weights of every recorded metric."""
        ...


@runtime_checkable
class SequenceTask(Task, Protocol):
    """A task whose rows are `Tokens`, labelled at every position."""

    @property
    def positions(self) -> int:
        """Positions N of a row."""
        ...

    @property
    def edges(self) -> tuple[int, ...]:
        """Lengths that rows may be cut to, increasing, the last one N."""
        ...

    @property
    def vocabulary(self) -> Any:
        """Numbers of the tokens; `.size` is how many there are."""
        ...


def stream_key(key: Any, what: int, split: str) -> Any:
    """Key of one stream of a task; row t folds in t.

    Args:
      key: the lane's task key.
      what: the fold behind the stream, e.g. `STREAM`.
      split: one of `SPLITS`.
    """
    if split not in SPLITS:
        raise ConfigError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")
    return jax.random.fold_in(jax.random.fold_in(key, what), SPLITS.index(split))


def row_numbers(t0: Any, n: int) -> Any:
    """The numbers t0 .. t0+n of rows, unsigned."""
    return jnp.asarray(t0, jnp.uint32) + jnp.arange(n, dtype=jnp.uint32)


def row_keys(stream: Any, t0: Any, n: int) -> Any:
    """Keys of the rows t0 .. t0+n of a stream."""
    return jax.vmap(lambda i: jax.random.fold_in(stream, i))(row_numbers(t0, n))


def accuracy_and_loss(
    logits: Array, labels: Array, weight: Array
) -> dict[str, tuple[Array, Array]]:
    """(weighted sum, weight) of top-1 accuracy and cross-entropy in nats."""
    hit = (jnp.argmax(logits, -1) == labels).astype(weight.dtype)
    log_q = jax.nn.log_softmax(logits, -1)
    nll = -jnp.take_along_axis(log_q, labels[..., None], -1)[..., 0]
    total = jnp.sum(weight)
    return {
        "accuracy": (jnp.sum(weight * hit), total),
        "loss": (jnp.sum(weight * nll), total),
    }


def is_sequence_task(task: Task) -> TypeGuard[SequenceTask]:
    """Whether the rows of a task are sequences."""
    return hasattr(task, "edges")


@lru_cache(maxsize=64)
def check_target(task: Any) -> None:
    """Refuses a user's task on vectors that is no target, from a few hundred rows.

    Raises:
      ConfigError: supports are no coordinates, an index lies beyond the rows (which jax
        clamps in silence), or labels are no classes.
    """
    if not isinstance(task, VectorTask) or not is_foreign(type(task)):
        return
    name, d, c = type(task).__name__, task.d, task.n_classes

    @jax.jit
    @partial(checkify.checkify, errors=checkify.index_checks)
    def draw(key: Any) -> tuple[Array, ...]:
        keys = row_keys(stream_key(key, STREAM, "probe"), 0, LOOKED_AT)
        x, supports = task.inputs(keys), task.supports(key)
        clean = task.labels(task.rotate(x, key), supports)
        return supports, x, clean, task.observe(clean, keys)

    for key in map(jax.random.key, range(3)):
        error, (supports, x, clean, seen) = draw(key)
        whole = jnp.issubdtype(supports.dtype, jnp.integer) and supports.ndim == 2
        require(
            whole and bool(((supports >= 0) & (supports < d)).all()),
            f"{name}.supports must be whole numbers in 0..d-1 = 0..{d - 1}, one"
            f" monomial a row, got {shown(np.asarray(supports).tolist())}.",
        )
        require(
            x.shape == (LOOKED_AT, d) and bool(jnp.isfinite(x).all()),
            f"{name}.inputs must be finite and of shape (rows, d) = ({LOOKED_AT}, {d}),"
            f" got {x.shape}.",
        )
        beyond = (error.get() or "").partition("\n")[0]
        require(
            not beyond,
            f"{name}.labels takes an index beyond the {d} coordinates of a row:"
            f" {beyond}",
        )
        for what, y in (("labels", clean), ("observe", seen)):
            classes = jnp.issubdtype(y.dtype, jnp.integer) and y.shape == (LOOKED_AT,)
            require(
                classes and bool(((y >= 0) & (y < c)).all()),
                f"{name}.{what} must give every row a class in 0..{c - 1}, as whole"
                f" numbers of shape (rows,), got {y.dtype} {y.shape} in"
                f" {y.min()}..{y.max()}; of signs, (signs < 0).astype(int) makes some.",
            )


def cube_rows(row_keys: Any, d: int, p: float = 0.5) -> Float[Array, "n d"]:
    """Rows of {-1,+1}^d with independent coordinates, one row per key.

    Uniform rows take 32 coordinates from each random word: bit value 0 becomes +1 and
    1 becomes -1. Biased ones take a word each: -1 where it is below 2^32 p.

    Args:
      row_keys: one key a row.
      d: coordinates.
      p: P(x_i = -1), up to 2^-32.

    Returns:
      Rows in jax's default float dtype.
    """
    if p != 0.5:
        below = jnp.uint32(min(max(round(p * 2**32), 1), 2**32 - 1))
        words = jax.vmap(lambda k: jax.random.bits(k, (d,), jnp.uint32))(row_keys)
        return 1.0 - 2.0 * (words < below).astype(jnp.result_type(float))
    n_words = -(-d // 32)
    words = jax.vmap(lambda k: jax.random.bits(k, (n_words,), jnp.uint32))(row_keys)
    shifts = jnp.arange(32, dtype=jnp.uint32)
    bits = (words[:, :, None] >> shifts[None, None, :]) & jnp.uint32(1)
    bits = bits.reshape(words.shape[0], n_words * 32)[:, :d]
    return 1.0 - 2.0 * bits.astype(jnp.result_type(float))


@dataclass(frozen=True, kw_only=True)
class VectorTask:
    """A classification target on d independent coordinates, some of which matter.

    Subclasses define `inputs(row_keys)`, `supports(key)`, `labels(x, supports)` and,
    where C is not 2, `n_classes`. They may override `observe` to corrupt the clean
    label, `rotate` where other directions than the inputs' own matter, and
    `standardise` where a coordinate's mean is not 0 or its variance not 1.

    Attributes:
      d: input coordinates.
    """

    d: Size = 100

    def __new__(cls, *args: Any, **fields: Any) -> Any:
        """Refuses a class whose fields no decorator has made fields."""
        own = vars(cls).get("__annotations__", {}).items()
        own = [name for name, hint in own if "ClassVar" not in str(hint)]
        require(
            not own or "__dataclass_params__" in vars(cls),
            f"{cls.__name__} must be decorated with @dataclass(frozen=True,"
            f" kw_only=True); without, {', '.join(own)} are no fields.",
        )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Refuses impossible values of single fields, those of subclasses too."""
        check_fields(self, "task")

    @property
    def n_classes(self) -> int:
        """Number of classes; two unless overridden."""
        return 2

    @property
    def uniform_signs(self) -> bool:
        """Whether inputs are uniform on {-1,+1}^d, so that monomials square to 1."""
        return False

    def inputs(self, row_keys: Any) -> Float[Array, "n d"]:
        """One input row from each key."""
        raise NotImplementedError(f"{type(self).__name__} must define inputs(keys).")

    def supports(self, key: Any) -> Int[Array, "n k"]:
        """Coordinates behind the label, one monomial a row; `key` draws random ones."""
        raise NotImplementedError(f"{type(self).__name__} must define supports(key).")

    def labels(
        self, x: Float[Array, "B d"], supports: Int[Array, "n k"]
    ) -> Int[Array, " B"]:
        """Clean labels of the rows of `x`, which are in the frame of `rotate`."""
        raise NotImplementedError(f"{type(self).__name__} must define labels(x, ...).")

    def rotate(self, x: Float[Array, "B d"], key: Any) -> Float[Array, "B d"]:
        """Rows in the frame whose axes `supports` numbers: the inputs' own."""
        return x

    def standardise(self, x: Float[Array, "B d"]) -> Float[Array, "B d"]:
        """Coordinates with mean 0 and variance 1, as the probes' monomials need."""
        return x

    def support_key(self, key: Any) -> Any:
        """The key a random support is drawn from."""
        require(
            key is not None,
            "a task with a random support needs the lane's task key; pass key=.",
        )
        return jax.random.fold_in(key, _SUPPORT)

    def observe(self, clean: Int[Array, " B"], row_keys: Any) -> Int[Array, " B"]:
        """The label the learner sees; the clean one unless overridden."""
        del row_keys
        return clean

    def sample(self, key: Any, t0: Any, n: int, *, split: str) -> Batch:
        """Rows t0 .. t0+n of the stream `split`; jittable, `n` static.

        Args:
          key: the lane's task key.
          t0: index of the first row, a traced unsigned integer below 2^32.
          n: number of rows.
          split: one of `SPLITS`.
        """
        keys = row_keys(stream_key(key, STREAM, split), t0, n)
        x = self.inputs(keys)
        clean = self.labels(self.rotate(x, key), self.supports(key))
        y = self.observe(clean, keys)
        return Batch(x=x, y=y, weight=jnp.ones(n, x.dtype), aux={"clean": clean})

    def enumerate(self, key: Any | None = None) -> Batch | None:
        """All inputs; None, because they are too many."""
        return None

    def bayes(self, batch: Batch) -> Float[Array, "B C"] | None:
        """One-hot posterior at the clean label (there is no label noise)."""
        return jax.nn.one_hot(batch.aux["clean"], self.n_classes, dtype=batch.x.dtype)

    def metrics(self, logits: Array, batch: Batch) -> Mapping[str, tuple[Array, Array]]:
        """(weighted sum, weight) of accuracy and cross-entropy in nats.

        Both are against the clean label, so label noise does not cap the accuracy.
        """
        return accuracy_and_loss(logits, batch.aux["clean"], batch.weight)


@dataclass(frozen=True, kw_only=True)
class BooleanTask(VectorTask):
    r"""A classification target on {-1,+1}^d, uniform or biased.

    On a biased cube the probes measure correlations with the orthonormal monomials

        phi_A(x) = prod_{i in A} (x_i - mu) / sigma,
        mu = 1 - 2p,  sigma = 2 sqrt(p (1 - p))

    (R. O'Donnell, Analysis of Boolean Functions, section 8.4). They are not the
    products that `supports` and a label are made of: a parity on k coordinates has
    weight mu^(k - |A|) sigma^|A| on every A in its support, so bias gives it low
    degrees.

    Attributes:
      d: input bits.
      p: P(x_i = -1) of every bit, independently.
    """

    p: Annotated[float, Within(0, 1, "()")] = later(0.5)

    @property
    def uniform_signs(self) -> bool:
        """Whether the cube is unbiased."""
        return self.p == 0.5

    def inputs(self, row_keys: Any) -> Float[Array, "n d"]:
        """One row of the cube from each key."""
        return cube_rows(row_keys, self.d, self.p)

    def standardise(self, x: Float[Array, "B d"]) -> Float[Array, "B d"]:
        """The bits themselves, or (x - mu) / sigma where they are biased."""
        if self.uniform_signs:
            return x
        return (x - (1 - 2 * self.p)) / (2 * sqrt(self.p * (1 - self.p)))

    def enumerate(self, key: Any | None = None) -> Batch | None:
        """The whole cube with clean labels, or None for d > 20.

        Row `r` has coordinate i equal to -1 exactly where bit i of r is set; its weight
        is 2^d P(row), which is 1 on the uniform cube.

        Args:
          key: the lane's task key; needed only where the support is random.
        """
        if self.d > MAX_ENUMERATED_BITS:
            return None
        r = jnp.arange(2**self.d, dtype=jnp.uint32)
        bits = (r[:, None] >> jnp.arange(self.d, dtype=jnp.uint32)[None, :]) & 1
        x = 1.0 - 2.0 * bits.astype(jnp.result_type(float))
        clean = self.labels(x, self.supports(key))
        weight = jnp.ones(x.shape[0], x.dtype)
        if not self.uniform_signs:
            weight = jnp.prod(jnp.where(x < 0, 2 * self.p, 2 - 2 * self.p), -1)
        return Batch(x=x, y=clean, weight=weight, aux={"clean": clean})
