r"""(d, k)-sparse parity, clean or with label noise.

    y = prod_{i in S} x_i,  x uniform on {-1,+1}^d,  |S| = k

Class 0 means product +1 and class 1 means product -1, as in the released code of
Panigrahi et al. (arXiv 2410.05464), section 3.

Example:
    >>> Parity(d=32, k=6, support=RandomSupport())
    Parity(d=32, p=0.5, k=6, support=RandomSupport())
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from sandbox.errors import require
from sandbox.store.bounds import Within, check_fields
from sandbox.tasks.base import BooleanTask, VectorTask
from sandbox.types import Array, Batch


@dataclass(frozen=True)
class FirstSupport:
    """The support is the first k coordinates (the paper's choice)."""


@dataclass(frozen=True)
class RandomSupport:
    """The support is a uniformly random k-subset drawn from the lane's task key."""


@dataclass(frozen=True, kw_only=True)
class ExplicitSupport:
    """The support is given.

    Attributes:
      indices: k distinct coordinates in 0 .. d-1.
    """

    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuses what are no whole numbers."""
        check_fields(self, "task.support")


Support = FirstSupport | RandomSupport | ExplicitSupport


def check_support(support: Any, k: int, d: int) -> None:
    """Refuses what is no support of k of d coordinates."""
    if isinstance(support, ExplicitSupport):
        s = support.indices
        require(
            len(s) == k,
            f"task.support.indices must name k = {k} coordinates, got {len(s)}.",
        )
        require(
            len(set(s)) == len(s),
            f"task.support.indices must be distinct, got {s}.",
        )
        require(
            all(0 <= i < d for i in s),
            f"task.support.indices must lie in 0..d-1 = 0..{d - 1}, got {s}.",
        )


def place_support(
    task: VectorTask, support: Support, k: int, key: Any
) -> Int[Array, "1 k"]:
    """The coordinates of a support in increasing order, as the only row.

    Args:
      task: whose support it is.
      support: where it lies.
      k: its size.
      key: the lane's task key; needed only where the support is random.
    """
    if isinstance(support, FirstSupport):
        s = jnp.arange(k)
    elif isinstance(support, ExplicitSupport):
        s = jnp.asarray(sorted(support.indices))
    else:
        s = jnp.sort(jax.random.permutation(task.support_key(key), task.d)[:k])
    return s[None, :]


@dataclass(frozen=True, kw_only=True)
class Parity(BooleanTask):
    """Sparse parity without noise.

    Attributes:
      d: input bits.
      k: size of the support.
      support: which coordinates; `RandomSupport` gives each seed its own.
    """

    k: int = 6
    support: Support = field(default_factory=FirstSupport)

    def __post_init__(self) -> None:
        """Refuses a support that does not fit the cube."""
        super().__post_init__()
        require(
            1 <= self.k <= self.d,
            f"task.k must lie in 1..d = 1..{self.d}, got {self.k}.",
        )
        check_support(self.support, self.k, self.d)

    def supports(self, key: Any) -> Int[Array, "1 k"]:
        """The support in increasing order, as the only row."""
        return place_support(self, self.support, self.k, key)

    def labels(
        self, x: Float[Array, "B d"], supports: Int[Array, "1 k"]
    ) -> Int[Array, " B"]:
        """Class 0 where the product over the support is +1, class 1 where it is -1."""
        return (x[:, supports[0]].prod(-1) < 0).astype(int)


@dataclass(frozen=True, kw_only=True)
class NoisyParity(Parity):
    """Sparse parity whose observed label is flipped with probability `eps`.

    The exact posterior is p(clean | x) = 1 - eps, p(other | x) = eps. Recorded
    accuracies are agreement with the clean label.

    Attributes:
      eps: flip probability in [0, 1/2).
    """

    eps: Annotated[float, Within(0, 0.5, "[)")] = 0.1

    def observe(self, clean: Int[Array, " B"], row_keys: Any) -> Int[Array, " B"]:
        """Flips each label with probability eps, from its row's own key."""
        u = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 1)))(row_keys)
        return jnp.where(u < self.eps, 1 - clean, clean)

    def bayes(self, batch: Batch) -> Float[Array, "B 2"]:
        """Posterior of the observed label: 1 - eps at the clean class."""
        onehot = jax.nn.one_hot(batch.aux["clean"], 2, dtype=batch.x.dtype)
        return (1 - 2 * self.eps) * onehot + self.eps
