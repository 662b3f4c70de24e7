r"""Two towers and their inner product, as for queries and documents.

    z = <f(x_A), g(x_B)>,   logits (z, -z) / 2

A the first `query` coordinates, B the others, f and g two-layer ReLU networks. A parity
of S is the product of those of S in A and in B, so one dimension would do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from sandbox.errors import require
from sandbox.models.base import Size
from sandbox.models.mlp import MLP
from sandbox.store.bounds import AtLeast, check_fields
from sandbox.types import Array, Outputs, Params

TOWERS = ("query", "document")


@dataclass(frozen=True, kw_only=True)
class TwoTowers:
    """An inner product of two embeddings.

    Attributes:
      d: coordinates.
      query: how many of them the first tower reads.
      hidden: hidden units of both towers.
      dims: of the embeddings.
    """

    d: Size = 32
    query: Size = 16
    hidden: tuple[Size, Size] = (100, 100)
    dims: Annotated[Size, AtLeast(2)] = 8

    n_classes = 2
    taps = TOWERS

    def __post_init__(self) -> None:
        """Refuses a tower without inputs."""
        check_fields(self, "model")
        words = f"model.query = {self.query} must be below d = {self.d}."
        require(self.query < self.d, words)

    @property
    def _towers(self) -> dict[str, tuple[MLP, slice]]:
        sizes = (self.query, self.d - self.query)
        parts = (slice(self.query), slice(self.query, self.d))
        return {
            name: (MLP(d=d, hidden=(m,), n_classes=self.dims), part)
            for name, d, m, part in zip(TOWERS, sizes, self.hidden, parts, strict=True)
        }

    def init(self, key: Any) -> Params:
        """Fresh towers."""
        keys = jax.random.split(key)
        towers = self._towers.items()
        return {n: t.init(k) for k, (n, (t, _)) in zip(keys, towers, strict=True)}

    def apply(
        self,
        params: Params,
        x: Float[Array, "B d"],
        *,
        key: Any | None = None,
        taps: Sequence[str] = (),
    ) -> Outputs:
        """Logits, and the embeddings that are asked for."""
        acts = {
            n: tower.apply(params[n], x[:, part]).logits
            for n, (tower, part) in self._towers.items()
        }
        z = jnp.sum(acts["query"] * acts["document"], -1)
        return Outputs(jnp.stack([z, -z], -1) / 2, {t: acts[t] for t in taps})

    def width_axes(self, params: Params) -> Params:
        """Roles of the axes, by tower."""
        return {
            n: jax.tree.map(
                lambda names, n=n: tuple(f"{n}_{role}" for role in names),
                tower.width_axes(params[n]),
                is_leaf=lambda a: isinstance(a, tuple),
            )
            for n, (tower, _) in self._towers.items()
        }
