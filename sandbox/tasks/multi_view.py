r"""Data that can be told by several views: Allen-Zhu and Li (arXiv 2012.09816).

MultiView     P patches in D dimensions. Class j has two orthonormal features v_{j,1},
              v_{j,2}. A multi-view row has both, each in two patches of its own with
              weights that add up to between 1 and 2, and features of other classes with
              weights up to .4, as long as patches last. A single-view row (share mu)
              has one of the two and a weak other one. The patches that are left hold
              Gaussian noise, by which a row can be memorised; the paper's other patches
              have some as well.
TwoViews      bits with the parity of S_1 = {0..k-1} equal to that of S_2 = {k..2k-1};
              a single-view row has zeros on one of the two.

In both, all rows are told right by whoever knows both views; one who knows a single
one has next to nothing to go by in half of the single-view rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from sandbox.errors import require
from sandbox.store.bounds import AtLeast, Within, check_fields
from sandbox.tasks.base import (
    STREAM,
    VectorTask,
    accuracy_and_loss,
    cube_rows,
    row_keys,
    stream_key,
)
from sandbox.types import Array, Batch

WEAK, OTHERS = 0.02, 0.4
"""Weight of a single-view row's other view; largest weight of another class."""


@dataclass(frozen=True, kw_only=True)
class MultiView:
    """Patches with features of classes; the first 2 C axes of a patch are features.

    Attributes:
      n_classes: classes.
      patches: P of a row.
      dims: D of a patch.
      mu: share of single-view rows.
      sparse: share of other classes' views that are there.
      noise: standard deviation of the entries of patches without a feature.
    """

    n_classes: Annotated[int, AtLeast(2)] = 10
    patches: Annotated[int, AtLeast(4)] = 16
    dims: Annotated[int, AtLeast(4)] = 32
    mu: Annotated[float, Within(0, 1)] = 0.3
    sparse: Annotated[float, Within(0, 1)] = 0.1
    noise: Annotated[float, AtLeast(0)] = 0.05

    def __post_init__(self) -> None:
        """Refuses more features than axes."""
        check_fields(self, "task")
        require(
            2 * self.n_classes <= self.dims,
            f"task.dims must be at least 2 n_classes = {2 * self.n_classes}, got"
            f" {self.dims}.",
        )

    @property
    def d(self) -> int:
        """Entries of a row."""
        return self.patches * self.dims

    def sample(self, key: Any, t0: Any, n: int, *, split: str) -> Batch:
        """Rows t0 .. t0+n; `aux["view"]` is 0 or 1 for single-view rows, else -1."""
        keys = row_keys(stream_key(key, STREAM, split), t0, n)
        x, y, view = jax.vmap(self._row)(keys)
        weight = jnp.ones(n, x.dtype)
        return Batch(x=x, y=y, weight=weight, aux={"clean": y, "view": view})

    def _row(self, key: Any) -> tuple[Array, Array, Array]:
        c, own = self.n_classes, jax.random.split(key, 8)
        y = jax.random.randint(own[0], (), 0, c)
        single = jax.random.bernoulli(own[1], self.mu)
        strong = jax.random.randint(own[2], (), 0, 2)
        total = jax.random.uniform(own[3], (2,), minval=1.0, maxval=2.0)
        weak = WEAK * jnp.ones(2)
        mine = jnp.where(single, jnp.where(jnp.arange(2) == strong, total, weak), total)
        there = jax.random.bernoulli(own[4], self.sparse, (c, 2))
        other = there * jax.random.uniform(own[5], (c, 2), maxval=OTHERS)
        is_y = (jnp.arange(c) == y)[:, None]
        z = jnp.where(is_y, mine[None], other).reshape(-1)  # (2 C,) by feature
        # Patches go to own views first, then to the others by weight.
        rank = jnp.argsort(jnp.argsort(-2 * is_y.repeat(2) - z))
        z = jnp.where(rank < self.patches // 2, z, 0)
        order = jax.random.permutation(own[6], self.patches)
        noisy = jnp.argsort(order) >= 2 * jnp.sum(z > 0)
        x = self.noise * jax.random.normal(own[7], (self.patches, self.dims))
        x = jnp.where(noisy[:, None], x, 0)
        for half in (0, 1):
            where = order[(2 * rank + half) % self.patches]
            x = x.at[where, jnp.arange(2 * c)].add(z / 2)
        return x.reshape(-1), y, jnp.where(single, strong, -1)

    def bayes(self, batch: Batch) -> Float[Array, "B C"]:
        """One-hot at the label, which both views together always tell."""
        return jax.nn.one_hot(batch.y, self.n_classes, dtype=batch.x.dtype)

    def enumerate(self, key: Any | None = None) -> Batch | None:
        """None: inputs are not finite."""
        return None

    def metrics(self, logits: Array, batch: Batch) -> Mapping[str, tuple[Array, Array]]:
        """Accuracy and loss, and accuracy on single-view rows by their view."""
        out = accuracy_and_loss(logits, batch.y, batch.weight)
        hit = (jnp.argmax(logits, -1) == batch.y).astype(batch.weight.dtype)
        for view in (0, 1):
            own = batch.weight * (batch.aux["view"] == view)
            out[f"accuracy_view_{view}"] = (jnp.sum(own * hit), jnp.sum(own))
        return out


@dataclass(frozen=True, kw_only=True)
class TwoViews(VectorTask):
    """Two parities that agree, of which a row may show one.

    Attributes:
      k: size of each support.
      mu: share of single-view rows.
    """

    k: Annotated[int, AtLeast(1)] = 3
    mu: Annotated[float, Within(0, 1)] = 0.3

    def __post_init__(self) -> None:
        """Refuses supports that do not fit."""
        super().__post_init__()
        require(2 * self.k <= self.d, f"task.k must be at most d/2, got {self.k}.")

    def supports(self, key: Any) -> Int[Array, "2 k"]:
        """Both, the same for every seed."""
        return jnp.arange(2 * self.k).reshape(2, self.k)

    def inputs(self, row_keys: Any) -> Float[Array, "n d"]:
        """Bits whose two parities agree, one view blank in single-view rows."""
        x, k = cube_rows(row_keys, self.d), self.k
        agree = x[:, :k].prod(-1) * x[:, k : 2 * k].prod(-1)
        x = x.at[:, k].multiply(agree)

        def blank(key: Any) -> Array:
            own = jax.random.split(jax.random.fold_in(key, 1))
            single = jax.random.bernoulli(own[0], self.mu)
            which = jax.random.randint(own[1], (), 0, 2)
            off = jnp.arange(self.d) // k == which
            return jnp.where(single & off, 0.0, 1.0)

        return x * jax.vmap(blank)(row_keys)

    def labels(
        self, x: Float[Array, "B d"], supports: Int[Array, "2 k"]
    ) -> Int[Array, " B"]:
        """Class 1 where the parity of a view that is there is -1."""
        signs = jnp.stack([x[:, s].prod(-1) for s in supports])
        return (signs.sum(0) < 0).astype(int)
