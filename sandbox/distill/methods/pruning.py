r"""Pruning while distilling, after HomoDistil: Liang et al. (arXiv 2302.09632).

The student starts as its teacher (`RunSpec.start`) and loses units while it learns. At
sample t between `first` and `last` the share that stays is

    kept + (1 - kept) (1 - (t - first) / (last - first))^3

of the hidden units, heads and MLP units of every layer: those with the largest

    sensitivity = sum over a unit's entries of |theta dL/dtheta|

(a running mean here, since a batch can be one row). What is gone stays gone.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from sandbox.distill.views import View
from sandbox.errors import require
from sandbox.models.base import Model
from sandbox.store.bounds import AtLeast, Within, check_fields
from sandbox.types import Array, Params

PRUNED = ("hidden_", "heads_", "mlp_")
"""Roles of axes (`Model.width_axes`) that lose units."""


@dataclass(frozen=True, kw_only=True)
class Pruned(View):
    """A student that loses units; phi has its weights, a mask and a score by role.

    Attributes:
      network: the student, as wide as its teacher.
      kept: share of the units that stay in the end.
      first: sample from which units go.
      last: sample from which none does.
      memory: of the running mean of sensitivities, in steps.
    """

    network: Model
    kept: Annotated[float, Within(0, 1, "(]")]
    first: Annotated[int, AtLeast(0)] = 0
    last: Annotated[int, AtLeast(1)]
    memory: Annotated[int, AtLeast(1)] = 100

    def __post_init__(self) -> None:
        """Refuses a schedule that ends before it begins."""
        check_fields(self, "view")
        words = f"view.first = {self.first} must lie before last = {self.last}."
        require(self.first < self.last, words)

    def _summed(self, params: Params) -> dict[str, Array]:
        """Sums over the entries of every unit, `(units,)` by role."""
        leaves, tree = jax.tree.flatten(params)
        out: dict[str, Array] = {}
        for leaf, roles in zip(leaves, self._roles(params, tree), strict=True):
            for i, role in enumerate(roles):
                if role.startswith(PRUNED):
                    rest = tuple(j for j in range(leaf.ndim) if j != i)
                    out[role] = out.get(role, 0) + leaf.sum(rest)
        return out

    def _roles(self, params: Params, tree: Any) -> list[tuple[str, ...]]:
        return tree.flatten_up_to(self.network.width_axes(params))

    def init(self, key: Any, model: Model, given: Params | None) -> Params:
        """The given weights, all of them there."""
        params = model.init(key) if given is None else given
        zero = jax.tree.map(jnp.zeros_like, self._summed(params))
        return {
            "params": params,
            "mask": jax.tree.map(jnp.ones_like, zero),
            "score": zero,
        }

    def student(self, phi: Params) -> Params:
        """The weights of the units that are there, 0 elsewhere."""
        leaves, tree = jax.tree.flatten(phi["params"])
        for n, roles in enumerate(self._roles(phi["params"], tree)):
            for i, role in enumerate(roles):
                if role in phi["mask"]:
                    shape = [-1 if j == i else 1 for j in range(leaves[n].ndim)]
                    own = jax.lax.stop_gradient(phi["mask"][role])
                    leaves[n] = leaves[n] * own.reshape(shape)
        return jax.tree.unflatten(tree, leaves)

    def lr_scale(self, phi: Params) -> Params:
        """Only weights are moved by gradients."""
        one = jax.tree.map(lambda _: 1.0, phi["params"])
        zero = jax.tree.map(lambda _: 0.0, {k: phi[k] for k in ("mask", "score")})
        return {"params": one, **zero}

    def after_update(self, phi: Params, t: Array, grad: Params) -> Params:
        """Updates the scores, and drops the units that the schedule wants gone."""
        product = jax.tree.map(
            lambda p, g: jnp.abs(p * g), phi["params"], grad["params"]
        )
        new, a = self._summed(product), 1 / self.memory
        score = {k: (1 - a) * s + a * new[k] for k, s in phi["score"].items()}
        span = float(self.last - self.first)
        part = (t.astype(jnp.result_type(float)) - self.first) / span
        share = self.kept + (1 - self.kept) * (1 - jnp.clip(part, 0, 1)) ** 3
        mask = {k: _kept(score[k], m, share) for k, m in phi["mask"].items()}
        return {"params": phi["params"], "mask": mask, "score": score}


def _kept(score: Array, mask: Array, share: Array) -> Array:
    """A mask of the units with the largest scores, among those that are there.

    The n-th largest is found bit by bit, since floats >= 0 are in the order of their
    bits: on a CPU ten times as fast as XLA's sort.
    """
    n, size = jnp.ceil(share * len(mask)), jnp.finfo(score.dtype).bits
    kind = jnp.dtype(f"uint{size}")
    bits = jax.lax.bitcast_convert_type(score, kind)
    order = jnp.where(mask > 0, bits + 1, 0)

    def larger(i: Array, found: Array) -> Array:
        tried = found | (jnp.ones((), kind) << (size - 1 - i).astype(kind))
        return jnp.where((order >= tried).sum() >= n, tried, found)

    least = jax.lax.fori_loop(0, size, larger, jnp.zeros((), kind))
    above, tied = order > least, order == least
    return mask * (above | (tied & (jnp.cumsum(tied) <= n - above.sum())))
