r"""The recurrence of a block of online SGD in one Triton kernel, on an NVIDIA GPU.

From the preactivations p_t = x_t W and the Gram matrix K of the block's T inputs, with
two classes and the plain loss (see `sandbox.train.online_sgd`), for t = 0 .. T-1

    h_t = p_t - sum_{s<t} K_ts g_s           M_t = u . max(h_t, 0) + c
    dz_t = eta_t (sigmoid(M_t) - y_t)        g_t = dz_t u where h_t > 0
    u <- u - 2 dz_t max(h_t, 0)              c <- c - 2 dz_t

A program keeps up to `WIDEST` hidden units of a lane, with their T gradients, in
registers. A wider lane takes several programs of `UNITS`, which meet at every sample:
each posts its part of M_t in a slot of its own, where a sentinel was, and all read all
slots and add them in one order, so that the sum is the same every time. They must all
be running at once, so there are at most `RESIDENT`. Waiting ends after `SPINS` reads,
with M_t NaN, which freezes the lane like any other that leaves the floats' range. Never
run on a GPU yet, only compiled for one.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Float

from sandbox.platforms import platform
from sandbox.types import Array

UNITS, WIDEST, LONGEST = 512, 1024, 64
"""Hidden units of a program beside others and alone, and samples of a block at most."""
RESIDENT = 128
"""Programs that wait for one another, all lanes and seeds together; an H100 has 132
multiprocessors."""
SPINS = 2**22
WARPS = 16
_SENTINEL = np.int32(0x7FC0DEAD)  # a NaN that no sum is


class Block(NamedTuple):
    """What must be known before tracing.

    Attributes:
      size: samples T.
      m: hidden units of a lane.
      width: those of a program, a power of 2.
      parts: programs of a lane.
      spins: reads of the others' slots before giving up.
    """

    size: int
    m: int
    width: int
    parts: int
    spins: int

    @classmethod
    def of(cls, size: int, m: int) -> "Block":
        """One program a lane where its units fit."""
        width = UNITS if m > WIDEST else 1 << (m - 1).bit_length()
        return cls(size, m, width, pl.cdiv(m, width), SPINS)


def fits(size: int, m: int, lanes: int) -> bool:
    """Whether blocks of these sizes can run in kernels, for so many lanes at once."""
    parts = Block.of(size, m).parts
    return size <= LONGEST and (parts == 1 or parts * lanes <= RESIDENT)


def recurrence(
    p: Float[Array, "T Lm"],
    gram: Float[Array, "T T"],
    u: Float[Array, "L m"],
    c: Float[Array, " L"],
    y: Float[Array, "T L"],
    eta: Float[Array, "T L"],
    block: Block | None = None,
) -> tuple[Array, Array, Array, Array]:
    """Gradients times rates `(T, L m)`, u, c, and margins `(T, L)`.

    Args:
      p: preactivations from the weights at the start of the block, lanes side by side.
      gram: x_s . x_t, with the 1 of the bias.
      u: a_1 - a_0.
      c: c_1 - c_0.
      y: probability of class 1 that is aimed at.
      eta: learning rate times the row's weight.
      block: sizes, by default those of `Block.of`.
    """
    lanes, m = u.shape
    block = block or Block.of(p.shape[0], m)
    slots = jnp.full((block.size, lanes, block.parts), _SENTINEL)
    # In interpret mode off the GPU, which is for tests alone.
    how: dict[str, Any] = {"interpret": True}
    if platform().triton:
        how = {"compiler_params": plt.CompilerParams(num_warps=WARPS, num_stages=1)}
    made = (p, u, c, y, slots)
    out = pl.pallas_call(
        partial(_kernel, block),
        grid=(lanes, block.parts),
        out_shape=[jax.ShapeDtypeStruct(a.shape, a.dtype) for a in made],
        input_output_aliases={6: 4},
        **how,
    )(p, gram, u, c, y, eta, slots)
    return out[0], out[1], out[2], out[3]


def _kernel(
    b: Block, p, gram, u_in, c_in, y, eta, _, g_out, u_out, c_out, margins, slots
) -> None:
    lane, part = pl.program_id(0), pl.program_id(1)
    units = part * b.width + jnp.arange(b.width)
    own = units < b.m
    columns = lane * b.m + units
    rows = jnp.arange(1 << (b.size - 1).bit_length())
    inside = rows < b.size

    def summed(t: Array, value: Array) -> Array:
        """The sum of every part's value."""
        if b.parts == 1:
            return value
        bits = lax.bitcast_convert_type(value, jnp.int32)
        # Adding is atomic, seen by all, and wraps.
        plt.atomic_add(slots, (t, lane, part), bits - _SENTINEL)
        every = jnp.arange(1 << (b.parts - 1).bit_length())

        def read() -> Array:
            there = every < b.parts
            return plt.load(
                slots.at[t, lane, every], mask=there, other=0, volatile=True
            )

        def missing(posted: Array) -> Array:
            return jnp.sum(jnp.where(posted == _SENTINEL, 1, 0))

        def again(carry: tuple[Array, Array]) -> tuple[Array, Array]:
            return carry[0] + 1, read()

        def waits(carry: tuple[Array, Array]) -> Array:
            return (carry[0] < b.spins) & (missing(carry[1]) > 0)

        posted = lax.while_loop(waits, again, (jnp.int32(0), read()))[1]
        total = jnp.sum(lax.bitcast_convert_type(posted, jnp.float32))
        return jnp.where(missing(posted) > 0, jnp.float32(jnp.nan), total)

    def step(t: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        u, c, g = carry
        k_t = plt.load(gram.at[t, rows], mask=inside, other=0.0)
        h = plt.load(p.at[t, columns], mask=own, other=0.0)
        h = h - jnp.sum(k_t[:, None] * g, 0)
        a = jnp.maximum(h, 0.0)
        margin = summed(t, jnp.sum(u * a)) + c
        wrong = 1.0 / (1.0 + jnp.exp(-margin)) - plt.load(y.at[t, lane])
        dz = wrong * plt.load(eta.at[t, lane])
        g_t = jnp.where(h > 0, dz * u, 0.0)

        @pl.when(part == 0)
        def _() -> None:
            plt.store(margins.at[t, lane], margin)

        g = jnp.where(rows[:, None] == t, g_t[None, :], g)
        return u - (2 * dz) * a, c - 2 * dz, g

    u = plt.load(u_in.at[lane, units], mask=own, other=0.0)
    c = plt.load(c_in.at[lane])
    zero = jnp.zeros((rows.shape[0], b.width), jnp.float32)
    u, c, g = lax.fori_loop(0, b.size, step, (u, c, zero))
    plt.store(u_out.at[lane, units], u, mask=own)
    where = inside[:, None] & own[None, :]
    plt.store(g_out.at[rows[:, None], columns[None, :]], g, mask=where)

    @pl.when(part == 0)
    def _() -> None:
        plt.store(c_out.at[lane], c)
