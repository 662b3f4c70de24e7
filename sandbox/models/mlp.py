r"""ReLU multi-layer perceptron with PyTorch's default initialisation.

    h_0 = relu(x W_0 + b_0), ..., logits = h_{n-1} W_n + b_n

Every weight and every bias is drawn from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as
`torch.nn.Linear` does. Kernels are stored `(fan_in, fan_out)`, the transpose of
PyTorch's. Parameters: `{"layer_0": {"kernel", "bias"}, ..., "layer_n": {...}}`.

Example:
    >>> model = MLP(d=32, hidden=(1000,), n_classes=2)
    >>> params = model.init(jax.random.key(0))
    >>> model.apply(params, x, taps=("hidden_0",)).acts["hidden_0"].shape
    (B, 1000)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Float

from sandbox.errors import require
from sandbox.models.base import Size
from sandbox.platforms import platform
from sandbox.store.bounds import AtLeast, AtMost, check_fields
from sandbox.types import Array, Outputs, Params

WIDE = 4000
"""Hidden width from which a two-layer forward pass is tiled over hidden units."""
MANY_ROWS = 64
"""Rows from which tiling pays; below, a plain pass is as fast and cheaper to derive."""


@dataclass(frozen=True, kw_only=True)
class MLP:
    """An MLP with one or more hidden layers.

    Attributes:
      d: input bits.
      hidden: width of every hidden layer.
      n_classes: number of logits.
    """

    d: Size = 100
    hidden: tuple[Size, ...] = (100,)
    n_classes: Annotated[int, AtLeast(2), AtMost(2**31 - 1)] = 2

    def __post_init__(self) -> None:
        """Refuses empty layers."""
        check_fields(self, "model")
        require(
            len(self.hidden) >= 1,
            "model.hidden must name at least one layer width, e.g. (100,).",
        )

    @property
    def two_layer_relu(self) -> bool:
        """Whether the exact blocked online-SGD engine applies to this network."""
        return len(self.hidden) == 1

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the activations that `apply` can return."""
        return tuple(f"hidden_{i}" for i in range(len(self.hidden)))

    def init(self, key: Any) -> Params:
        """Draws parameters in jax's default float dtype."""
        x = jnp.zeros((1, self.d))
        return MLPModule(self.hidden, self.n_classes).init(key, x)["params"]

    def apply(
        self,
        params: Params,
        x: Float[Array, "B d"],
        *,
        key: Any | None = None,
        taps: Sequence[str] = (),
    ) -> Outputs:
        """Logits and activations; wide two-layer networks run tile by tile.

        Args:
          params: as `init` makes them.
          x: inputs.
          key: unused (there is no dropout).
          taps: names from `self.taps`.
        """
        unknown = [t for t in taps if t not in self.taps]
        require(
            not unknown,
            f"taps must be among {', '.join(self.taps)}, got {', '.join(unknown)}.",
        )
        wide = self.two_layer_relu and self.hidden[0] >= WIDE
        if wide and not taps and x.shape[0] >= MANY_ROWS:
            return Outputs(tiled_logits(params, x, tile=platform().hidden), {})
        module = MLPModule(self.hidden, self.n_classes)
        out: Any = module.apply({"params": params}, x)  # typed as a union by Linen
        logits, acts = out
        return Outputs(logits, {t: acts[t] for t in taps})

    def width_axes(self, params: Params) -> Params:
        """Roles of the axes: `io` for inputs and outputs, `hidden_i` for widths."""
        names = ["io", *self.taps, "io"]
        return {
            f"layer_{i}": {"kernel": (names[i], names[i + 1]), "bias": (names[i + 1],)}
            for i in range(len(params))
        }


class MLPModule(nn.Module):
    """Dense layers with ReLU between them; returns logits and hidden activations."""

    hidden: tuple[int, ...]
    n_classes: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B d"]
    ) -> tuple[Float[Array, "B C"], dict[str, Array]]:
        """Runs every layer."""
        acts: dict[str, Array] = {}
        widths = (*self.hidden, self.n_classes)
        for i, width in enumerate(widths):
            bound = x.shape[-1] ** -0.5
            init = partial(jax.random.uniform, minval=-bound, maxval=bound)
            x = nn.Dense(
                width,
                name=f"layer_{i}",
                kernel_init=init,
                bias_init=init,
                param_dtype=jnp.result_type(float),
                precision=lax.Precision.HIGHEST,
            )(x)
            if i < len(self.hidden):
                x = nn.relu(x)
                acts[f"hidden_{i}"] = x
        return x, acts


def tiled_logits(
    params: Params, x: Float[Array, "B d"], *, tile: int
) -> Float[Array, "B C"]:
    """Logits of a two-layer network, `tile` hidden units at a time.

    The same sum as the plain forward pass in another order; no `(B, m)` array is made,
    so a width of 50,000 runs at the speed of its matrix products.
    """
    w, b = params["layer_0"]["kernel"], params["layer_0"]["bias"]
    a, c = params["layer_1"]["kernel"], params["layer_1"]["bias"]
    m = w.shape[1]
    tile = min(tile, m)
    n = m // tile
    dot = partial(jnp.dot, precision=lax.Precision.HIGHEST)

    def add(i: Any, total: Array, size: int = tile) -> Array:
        cut = partial(lax.dynamic_slice_in_dim, start_index=i * tile, slice_size=size)
        h = jnp.maximum(dot(x, cut(w, axis=1)) + cut(b)[None, :], 0)
        return total + dot(h, cut(a))

    out = lax.fori_loop(0, n, add, jnp.zeros((x.shape[0], a.shape[1]), x.dtype))
    return (add(n, out, m % tile) if m % tile else out) + c[None, :]
