r"""Matching how outputs change when one coordinate does, after IGDM (arXiv 2312.03286).

For n random coordinates i of each row, x^i the row with i changed and p, q the two
networks' probabilities,

    D_i p = (p(x) - p(x^i)) / 2
    signed      sum_i |D_i q - D_i p|^2 / 2     sums of squares over classes
    absolute    sum_i |D_i q - D_i p|_1 / 2
    magnitude   sum_i | |D_i q| - |D_i p| |^2 / 2

On bits D_i p = sum over A containing i of p^(A) chi_A (O'Donnell, section 2.2), so the
expectation of the signed loss, summed over i, is sum_A |A| (q^(A) - p^(A))^2: no
monomial's coefficient enters another's gradient. Magnitudes are another function, and
tell where a teacher's output depends on i at all. A token is replaced by that of a
random position of the string (now and then its own). The published method perturbs
images along the student's attack.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from sandbox.distill.losses import Answers, Objective, Taught
from sandbox.distill.targets import soften
from sandbox.errors import require
from sandbox.store.bounds import AtLeast, check_fields
from sandbox.types import Array, Params, Tokens


@dataclass(frozen=True, kw_only=True)
class Flips(Objective):
    """Differences under n changes of a row.

    Attributes:
      n: changed rows of each row: as many further passes of both networks.
      match: how differences are compared.
    """

    n: Annotated[int, AtLeast(1)] = 4
    match: Literal["signed", "absolute", "magnitude"] = "magnitude"

    shift_free = True

    def __post_init__(self) -> None:
        """Refuses none."""
        check_fields(self, "loss")

    @property
    def copies(self) -> int:
        """The changed rows."""
        return self.n

    def inputs(self, key: Any, x: Any) -> Any:
        """Rows with bit i turned, or token i replaced by another's."""
        if not isinstance(x, Tokens):
            d = x.shape[0]
            require(self.n <= d, f"loss.n = {self.n} bits of d = {d} cannot be turned.")
            i = jax.random.permutation(key, x.shape[0])[: self.n]
            return x[None] * (1 - 2 * jax.nn.one_hot(i, x.shape[0], dtype=x.dtype))
        length = jnp.sum(x.valid)
        at = jax.random.randint(key, (2, self.n), 0, jnp.maximum(length, 1))
        rows = jax.vmap(lambda to, by: x.ids.at[to].set(x.ids[by]))(*at)
        same = (jnp.broadcast_to(a, rows.shape) for a in (x.valid, x.visible))
        return Tokens(rows, *same)

    def supervise(self, label: Array, taught: Taught | None, numbers: Any) -> Any:
        """The teacher's differences `(*n, copies, C)`."""
        assert taught is not None and taught.answers.extra is not None
        extra, logits = taught.answers.extra, taught.answers.logits
        tau = jnp.broadcast_to(taught.tau[..., None], extra.shape[:-1])
        return (soften(logits, taught.tau)[..., None, :] - soften(extra, tau)) / 2

    def value(self, out: Answers, sup: Any, aux: Params) -> Array:
        """The loss of each row."""
        assert out.extra is not None
        own = jax.nn.softmax(out.logits, -1)[..., None, :]
        d = (own - jax.nn.softmax(out.extra, -1)) / 2
        if self.match == "absolute":
            return jnp.sum(jnp.abs(d - sup), (-2, -1)) / 2
        gap = d - sup if self.match == "signed" else jnp.abs(d) - jnp.abs(sup)
        return jnp.sum(gap**2, (-2, -1)) / 2
