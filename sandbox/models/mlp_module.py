"""The Flax side of `sandbox.models.mlp`: Linen module and tiled forward pass."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Float

from sandbox.types import Array, Params


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the default of `torch.nn.Linear`."""
    bound = fan_in**-0.5

    def init(
        key: Array,
        shape: Sequence[int],
        dtype: object = None,
        out_sharding: object = None,
    ) -> Array:
        del dtype, out_sharding
        return jax.random.uniform(
            key, tuple(shape), jnp.result_type(float), -bound, bound
        )

    return init


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
            init = torch_uniform(x.shape[-1])
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

    def run(self, params: Params, x: Array) -> tuple[Array, dict[str, Array]]:
        """Applies the module to explicit parameters."""
        out: Any = self.apply({"params": params}, x)  # typed as a union by Linen
        return out


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
    high = lax.Precision.HIGHEST

    def part(start: Array, size: int) -> Array:
        w_t = lax.dynamic_slice_in_dim(w, start, size, 1)
        b_t = lax.dynamic_slice_in_dim(b, start, size, 0)
        a_t = lax.dynamic_slice_in_dim(a, start, size, 0)
        h = jnp.maximum(jnp.dot(x, w_t, precision=high) + b_t[None, :], 0)
        return jnp.dot(h, a_t, precision=high)

    def body(i: Array, acc: Array) -> Array:
        return acc + part(i * tile, tile)

    out = lax.fori_loop(0, n, body, jnp.zeros((x.shape[0], a.shape[1]), x.dtype))
    if m % tile:
        out = out + part(jnp.asarray(n * tile), m % tile)
    return out + c[None, :]
