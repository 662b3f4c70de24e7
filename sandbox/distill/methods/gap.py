"""Branches and target of Gap Preserving Distillation (arXiv 2410.04140).

The wide teacher D learns from labels, the student from labels and from D's smoothed
answers, through which no gradient passes:

    Strategy(name="gpd", source=Dynamic(), view=Expand(network=student, r=8),
             target=Target(transforms=(Flatten(share=0.1),)),
             loss=Sum(losses=(Loss(alpha=1.0), Loss()), weights=(1.0, 3.0)))
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from sandbox.distill.methods.expansion import Expand
from sandbox.distill.targets import Known, Transform
from sandbox.models.base import Model
from sandbox.store.bounds import AtLeast, Within, check_fields
from sandbox.types import Array, Params


@dataclass(frozen=True, kw_only=True)
class Branched(Expand):
    """An `Expand` with parallel kernels beside each one, added up by gains.

    A kernel is g_0 W + sum_b g_b B_b with a gain for every output; theirs are branches
    of 3x3 convolutions. All gains but g_0 = 1 start at 0.

    Attributes:
      branches: how many kernels beside each.
    """

    branches: Annotated[int, AtLeast(1)] = 2

    def init(self, key: Any, model: Model, given: Params | None) -> Params:
        """The wide network, and its branches."""
        main = super().init(key, model, given)
        kernels = [a for a in jax.tree.leaves(main) if a.ndim > 1]
        keys = jax.random.split(jax.random.fold_in(key, len(kernels)), len(kernels))
        made, gains = [], []
        for own, a in zip(keys, kernels, strict=True):
            draw = jax.random.normal(own, (self.branches, *a.shape), a.dtype)
            made.append(jnp.std(a) * draw)
            zero = jnp.zeros((1 + self.branches, a.shape[-1]), a.dtype)
            gains.append(zero.at[0].set(1))
        return {"main": main, "branches": made, "gains": gains}

    def teacher(self, phi: Params) -> Params:
        """The wide network, its branches added up."""
        leaves, tree = jax.tree.flatten(phi["main"])
        kernels = [i for i, a in enumerate(leaves) if a.ndim > 1]
        for i, more, g in zip(kernels, phi["branches"], phi["gains"], strict=True):
            every = jnp.concatenate([leaves[i][None], more])
            leaves[i] = jnp.einsum("b...o,bo->...o", every, g, precision="highest")
        return jax.tree.unflatten(tree, leaves)


@dataclass(frozen=True, kw_only=True)
class Flatten(Transform):
    """A share of the target is spread over all classes."""

    share: Annotated[float, Within(0, 1)]

    def __post_init__(self) -> None:
        """Refuses what is no share."""
        check_fields(self, "target")

    def apply(
        self, p: Array, logits: Array, label: Array, known: Known | None
    ) -> tuple[Array, None]:
        """(1 - share) p + share / C."""
        return (1 - self.share) * p + self.share / p.shape[-1], None
