r"""The view of Gap Preserving Distillation: Guo et al. (arXiv 2410.04140).

One set of tensors is a wide teacher D; its student S is the leading part of every axis
of width, rescaled. Tiling a student r times gives D the same outputs:

    W' = tile(W) / r   where the axis that is summed over grows, else tile(W)

(in front of a transformer's decoder 1/r is in the norm). Gradients of S at rescaled
tensors grow by r^2, by which `rate="corrected"` divides them, so that S alone moves as
by itself; the published code, which rescales other tensors, does not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from sandbox.distill.views import View
from sandbox.models.base import Model, widened
from sandbox.store.bounds import AtLeast, check_fields
from sandbox.types import Array, Params

WIDTHS = ("hidden_", "residual", "heads_", "mlp_")
"""Roles of axes (`Model.width_axes`) that grow."""
Change = Callable[[Array, list[bool], bool, int], Array]
"""(leaf, which axes grow, whether it is rescaled, its number) -> another leaf."""


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _rescaled(a: Array, by: int, back: float) -> Array:
    """A times `by`; what comes back is multiplied by `back` instead."""
    return a * by


_rescaled.defvjp(lambda a, by, back: (a * by, None), lambda by, back, _, g: (g * back,))


@dataclass(frozen=True, kw_only=True)
class Expand(View):
    """The student inside a teacher r times as wide, on shared tensors.

    Attributes:
      network: the student.
      r: ratio of widths.
      noise: of every copy at the start, in standard deviations of its tensor; copies
        without any stay alike.
      rate: whether the student's gradients are divided by r^2.
    """

    network: Model
    r: Annotated[int, AtLeast(1)]
    noise: Annotated[float, AtLeast(0)] = 0.05
    rate: Literal["corrected", "raw"] = "corrected"

    def __post_init__(self) -> None:
        """Refuses no expansion."""
        check_fields(self, "view")

    def each(self, change: Change, params: Params) -> Params:
        """Every leaf of narrow or wide parameters, changed."""
        paths, tree = jax.tree_util.tree_flatten_with_path(params)
        roles = tree.flatten_up_to(self.network.width_axes(params))
        out = []
        for i, ((path, leaf), names) in enumerate(zip(paths, roles, strict=True)):
            grows = [name.startswith(WIDTHS) for name in names]
            keys = [p.key for p in path]
            summed = keys[-1] == "kernel" and grows[0]
            read_out = keys[0] == "head" and "norm" in keys
            out.append(change(leaf, grows, summed or read_out, i))
        return jax.tree.unflatten(tree, out)

    def init(self, key: Any, model: Model, given: Params | None) -> Params:
        """The tiled student, with noise."""

        def tiled(leaf: Array, grows: list[bool], rescaled: bool, i: int) -> Array:
            wide = jnp.tile(leaf, [self.r if g else 1 for g in grows])
            own = jax.random.normal(jax.random.fold_in(key, i), wide.shape, wide.dtype)
            wide = wide + self.noise * jnp.std(leaf) * own
            return wide / self.r if rescaled else wide

        return self.each(tiled, model.init(key) if given is None else given)

    def teacher(self, phi: Params) -> Params:
        """The wide network."""
        return phi

    @property
    def taught_by(self) -> Model:
        """The wide network's record."""
        return widened(self.network, self.r)

    def student(self, phi: Params) -> Params:
        """The leading part of every axis, times r where it was divided."""
        back = 1 / self.r if self.rate == "corrected" else float(self.r)

        def leading(leaf: Array, grows: list[bool], rescaled: bool, i: int) -> Array:
            sizes = zip(leaf.shape, grows, strict=True)
            part = leaf[tuple(slice(n // self.r if g else n) for n, g in sizes)]
            return _rescaled(part, self.r, back) if rescaled else part

        return self.each(leading, self.teacher(phi))
