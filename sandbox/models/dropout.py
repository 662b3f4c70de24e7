"""Dropout whose decisions are hashes of two random words, and never stored.

An entry of a matrix is dropped if a hash of its row's word plus its column's word lies
below a threshold. So a few words decide a large array; any piece of it can be decided
anywhere, twice (once more in the backward pass), in any order; and one draw of words
serves a whole model, which keeps it quick to compile.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float, UInt

from sandbox.types import Array


class Words:
    """Random words, handed out in order."""

    def __init__(self, key: Array, n: int) -> None:
        """Draws n words, to be taken exactly."""
        self.left = jax.random.bits(key, (n,), jnp.uint32)

    def take(self, *shape: int) -> UInt[Array, "..."]:
        """The next words, in an array of this shape."""
        n = math.prod(shape)
        taken, self.left = self.left[:n], self.left[n:]
        return taken.reshape(shape)


def drop(
    a: Float[Array, "*batch I J"],
    rows: UInt[Array, "*rows I"],
    columns: UInt[Array, "*columns J"],
    *,
    rate: float,
) -> Float[Array, "*batch I J"]:
    """`a` with entries at 0 with probability `rate`, the others over 1 - rate.

    The rate is rounded to a multiple of 2^-16. Linear in `a`, and its own transpose.

    Args:
      a: any array.
      rows: a random word for each row, with the axes of `a` or 1 in their place.
      columns: one for each column, likewise.
      rate: 0 returns `a`.
    """
    if round(rate * 2**16) == 0:
        return a
    keep, scale = kept(rows[..., :, None] + columns[..., None, :], rate)
    return jnp.where(keep, a * scale, 0)


def kept(h: Array, rate: float) -> tuple[Array, float]:
    """Which entries are kept, from the sums of their words, and by what they grow."""
    threshold = round(rate * 2**16)
    # Xor-shifts and odd multipliers, one to one on 32 bits; high bits mix best.
    h = (h ^ (h >> 16)) * jnp.uint32(0x7FEB352D)
    h = (h ^ (h >> 15)) * jnp.uint32(0x846CA68B)
    return (h >> 16) >= threshold, 1 / (1 - threshold / 2**16)
