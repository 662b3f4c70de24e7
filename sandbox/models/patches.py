r"""The network of Allen-Zhu and Li (arXiv 2012.09816) on rows of patches.

    F_i(x) = sum_{r <= m} sum_p s(<w_{i,r}, x_p>)
    s(z) = 0 below 0,  z^a / (a v^(a-1)) on [0, v],  z - (1 - 1/a) v above

so that small responses grow slowly: s and its slope are continuous.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from sandbox.models.base import Size
from sandbox.store.bounds import AtLeast, MoreThan, check_fields
from sandbox.types import Array, Outputs, Params


@dataclass(frozen=True, kw_only=True)
class PatchNet:
    """One layer of smoothed ReLUs, shared by patches and summed.

    Attributes:
      patches: of a row.
      dims: of a patch.
      hidden: units m of each class.
      n_classes: classes.
      power: a.
      knee: v.
    """

    patches: Size = 16
    dims: Size = 32
    hidden: Size = 20
    n_classes: Annotated[int, AtLeast(2)] = 10
    power: Annotated[int, AtLeast(2)] = 4
    knee: Annotated[float, MoreThan(0)] = 0.5

    taps = ("responses",)

    def __post_init__(self) -> None:
        """Refuses impossible sizes."""
        check_fields(self, "model")

    @property
    def d(self) -> int:
        """Entries of a row."""
        return self.patches * self.dims

    def init(self, key: Any) -> Params:
        """Draws N(0, .01) entries."""
        shape = (self.n_classes, self.hidden, self.dims)
        return {"kernel": 0.1 * jax.random.normal(key, shape)}

    def apply(
        self,
        params: Params,
        x: Float[Array, "B d"],
        *,
        key: Any | None = None,
        taps: Sequence[str] = (),
    ) -> Outputs:
        """Logits, and what each unit adds to its class, `(B, C m)`."""
        rows = x.reshape(-1, self.patches, self.dims)
        z = jnp.einsum("bpd,crd->bpcr", rows, params["kernel"], precision="highest")
        each = smoothed_relu(z, self.power, self.knee).sum(1)
        flat = each.reshape(len(x), -1)
        return Outputs(each.sum(-1), {t: flat for t in taps if t == "responses"})

    def width_axes(self, params: Params) -> Params:
        """Roles of the axes."""
        return {"kernel": ("io", "hidden_0", "io")}


def smoothed_relu(z: Array, power: int, knee: float) -> Array:
    """The s of the module's text."""
    low = jnp.clip(z, 0, knee)
    return low**power / (power * knee ** (power - 1)) + jnp.maximum(z - knee, 0)
