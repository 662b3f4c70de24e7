"""Exact Fourier weight of a model's output by degree, for cubes small enough to list.

    W_j = sum_{|A| = j} c_A^2,   c_A = E[ p(c | x) chi_A(x) ]

over the whole cube, so there is no Monte-Carlo error. By Parseval the W_j of a class
sum to E[p(c | x)^2].
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from sandbox.errors import require
from sandbox.models.base import Model
from sandbox.probes.fourier import check_uniform, exact_spectrum
from sandbox.tasks.base import MAX_ENUMERATED_BITS, VectorTask
from sandbox.types import Array, Params


@dataclass(frozen=True)
class SpectrumProbe:
    """Exact Fourier weight per degree, in all and on the support.

    Attributes:
      task: a Boolean task on an unbiased cube with d <= 20.
      model: the network whose softmax is probed.
    """

    task: VectorTask
    model: Model

    def __post_init__(self) -> None:
        """Refuses cubes that cannot be listed, and biased ones."""
        check_uniform(self.task)
        require(
            self.task.d <= MAX_ENUMERATED_BITS,
            f"probe.task.d must be at most {MAX_ENUMERATED_BITS} for an exact spectrum,"
            f" got {self.task.d}; the fourier probe estimates it.",
        )

    def measure(self, params: Params, key: Any) -> dict[str, Array]:
        """Weights of every class probability; pure and jittable.

        Args:
          params: parameters of `model`.
          key: the lane's task key, which fixes the support.

        Returns:
          `weight`: `(d + 1, C)` over all monomials of each degree; `in_support`:
          `(n, d + 1, C)` over those inside each node's support; `in_any`: `(d + 1, C)`
          over those inside some node's, each counted once.
        """
        d = self.task.d
        square_NC = exact_spectrum(self.task, self.model, params, key) ** 2
        masks = np.arange(2**d, dtype=np.uint32)
        degree_N = jnp.asarray(np.bitwise_count(masks))
        levels_jN = (degree_N[None, :] == jnp.arange(d + 1)[:, None]).astype(
            square_NC.dtype
        )
        supports_nk = self.task.supports(key).astype(jnp.uint32)
        inside_n = jnp.sum(jnp.uint32(1) << supports_nk, 1, dtype=jnp.uint32)
        within_nN = (jnp.asarray(masks)[None, :] & ~inside_n[:, None]) == 0
        kept_nNC = jnp.where(within_nN[:, :, None], square_NC[None], 0)
        any_NC = jnp.where(within_nN.any(0)[:, None], square_NC, 0)
        dot = partial(jnp.dot, precision="highest")
        return {
            "weight": dot(levels_jN, square_NC),
            "in_any": dot(levels_jN, any_NC),
            "in_support": jnp.moveaxis(dot(levels_jN, kept_nNC), 0, 1),
        }
