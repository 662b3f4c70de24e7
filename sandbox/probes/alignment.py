r"""How much of each first-layer neuron's weight lies on the support.

    a_j = sum_{i in S} W_ij^2 / sum_i W_ij^2

A neuron with isotropic weights has a_j near k/d; one that reads only the support has
a_j = 1. This looks at weights, so it sees the support before the outputs do. Where the
task's directions are not axes, weights are taken in its frame.

Example:
    >>> jax.jit(AlignmentProbe(task).measure)(params, key)["alignment"].shape
    (1, 1000)
"""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any

import jax.numpy as jnp
from jaxtyping import Float, Int

from sandbox.errors import require
from sandbox.store.bounds import Within, check_fields
from sandbox.tasks.base import VectorTask
from sandbox.types import Array, Params


def alignment(
    kernel: Float[Array, "d m"], supports: Int[Array, "n k"]
) -> Float[Array, "n m"]:
    """Share of every neuron's squared weights that lies on every node's support.

    In [0, 1]. A neuron whose weights are all zero gets the chance value k/d.
    """
    d, (n, k) = kernel.shape[0], supports.shape
    member_nd = (
        jnp.zeros((n, d), kernel.dtype).at[jnp.arange(n)[:, None], supports].set(1)
    )
    square_dm = kernel**2
    on_nm = jnp.dot(member_nd, square_dm, precision="highest")
    all_m = square_dm.sum(0)
    share_nm = on_nm / jnp.where(all_m > 0, all_m, 1)[None, :]
    return jnp.where((all_m > 0)[None, :], share_nm, k / d)


Share = Annotated[float, Within(0, 1)]


@dataclass(frozen=True)
class AlignmentProbe:
    """Alignment of the first hidden layer with the task's supports; exact, no sampling.

    Attributes:
      task: any task on vectors; one row of its `supports` is called a node.
      levels: the quantiles over neurons that summarise the layer.
    """

    task: VectorTask
    _: KW_ONLY
    levels: tuple[Share, ...] = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)

    def __post_init__(self) -> None:
        """Refuses quantile levels outside [0, 1]."""
        check_fields(self, "probe")

    def measure(self, params: Params, key: Any) -> dict[str, Array]:
        """Alignments and their distribution; pure and jittable.

        Args:
          params: an MLP's, `{"layer_0": {"kernel": (d, m), "bias": (m,)}, ...}`.
          key: the lane's task key; it fixes the support.

        Returns:
          `alignment` `(n, m)`, `mean` `(n,)`, `quantiles` `(n, len(levels))` and the
          scalar `chance` k/d, the value expected of isotropic weights.
        """
        require(
            "layer_0" in params,
            f"params must hold layer_0, the first dense layer, got {sorted(params)}.",
        )
        supports = self.task.supports(key)
        kernel = self.task.rotate(params["layer_0"]["kernel"].T, key).T
        a_nm = alignment(kernel, supports)
        levels = jnp.asarray(self.levels, a_nm.dtype)
        return {
            "alignment": a_nm,
            "mean": a_nm.mean(1),
            "quantiles": jnp.quantile(a_nm, levels, axis=1).T,
            "chance": jnp.asarray(supports.shape[1] / self.task.d, a_nm.dtype),
        }
