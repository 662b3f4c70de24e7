r"""Products over increasing paths of coordinates: DAGFM (arXiv 2211.11159).

    h^0_s = a_s + x_s b_s,   h^l_s = h^0_s * sum_{f <= s} p^l_{f,s} * h^{l-1}_f

elementwise in E dimensions; logits are linear in the sums of h^0, ..., h^L over these.
So h^L has all monomials along paths of L + 1 coordinates that never decrease, and one
path of dimension 1 is a parity of L + 1 bits exactly (`parity`). Its propagation is the
published "inner" one, with two embeddings for the two values of a bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from sandbox.errors import require
from sandbox.models.base import Size
from sandbox.store.bounds import AtLeast, check_fields
from sandbox.types import Array, Outputs, Params


@dataclass(frozen=True, kw_only=True)
class DAGFM:
    """Products of up to `depth + 1` coordinates.

    Attributes:
      d: coordinates.
      depth: L.
      width: E.
      n_classes: logits.
    """

    d: Size = 32
    depth: Annotated[int, AtLeast(0)] = 3
    width: Size = 4
    n_classes: Annotated[int, AtLeast(2)] = 2

    taps = ("products",)

    def __post_init__(self) -> None:
        """Refuses impossible sizes."""
        check_fields(self, "model")

    def init(self, key: Any) -> Params:
        """Draws N(0, 1 / terms) for every sum, N(0, 1) / sqrt(E) for embeddings."""
        d, e, n = self.d, self.width, self.d * (self.depth + 1)
        keys = jax.random.split(key, 3)
        embedding = jax.random.normal(keys[0], (2, d, e)) / e**0.5
        mix = jax.random.normal(keys[1], (self.depth, d, d, e)) / d**0.5
        kernel = jax.random.normal(keys[2], (n, self.n_classes)) / n**0.5
        bias = jnp.zeros(self.n_classes, kernel.dtype)
        return {
            "embedding": {"constant": embedding[0], "slope": embedding[1]},
            "mix": mix,
            "head": {"kernel": kernel, "bias": bias},
        }

    def parity(self, support: Sequence[int], scale: float = 10.0) -> Params:
        """Parameters whose logits are +scale, -scale times the product over a support.

        The support has `depth + 1` coordinates, increasing.
        """
        s, e = list(support), jnp.zeros((self.d, self.width)).at[:, 0].set(1.0)
        require(
            len(s) == self.depth + 1 and s == sorted(set(s)) and self.n_classes == 2,
            f"a parity needs {self.depth + 1} increasing coordinates, got {s}.",
        )
        mix = jnp.zeros((self.depth, self.d, self.d, self.width))
        for level, (a, b) in enumerate(pairwise(s)):
            mix = mix.at[level, a, b, 0].set(1.0)
        kernel = jnp.zeros((self.d * (self.depth + 1), 2))
        at = self.depth * self.d + s[-1]
        kernel = kernel.at[at].set(jnp.array([scale, -scale]))
        return {
            "embedding": {"constant": jnp.zeros_like(e), "slope": e},
            "mix": mix,
            "head": {"kernel": kernel, "bias": jnp.zeros(2)},
        }

    def apply(
        self,
        params: Params,
        x: Float[Array, "B d"],
        *,
        key: Any | None = None,
        taps: Sequence[str] = (),
    ) -> Outputs:
        """Logits, and the sums that they are linear in, `(B, d (depth + 1))`."""
        a, b = (params["embedding"][name][None] for name in ("constant", "slope"))
        first = a + x[:, :, None] * b
        order = jnp.tril(jnp.ones((self.d, self.d), first.dtype)).T  # f <= s
        h, levels = first, [first]
        for level in range(self.depth):
            p = params["mix"][level] * order[:, :, None]
            h = first * jnp.einsum("bfe,fse->bse", h, p, precision="highest")
            levels.append(h)
        rows = jnp.concatenate([v.sum(-1) for v in levels], -1)
        head = params["head"]
        logits = jnp.dot(rows, head["kernel"], precision="highest")
        logits = logits + head["bias"][None]
        return Outputs(logits, {name: rows for name in taps if name == "products"})

    def width_axes(self, params: Params) -> Params:
        """Roles of the axes; embeddings have the only width."""
        return {
            "embedding": {name: ("io", "embedding") for name in params["embedding"]},
            "mix": ("io", "io", "io", "embedding"),
            "head": {"kernel": ("io", "io"), "bias": ("io",)},
        }
