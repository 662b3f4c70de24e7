r"""Exact online SGD for two-layer ReLU networks at batch size 1, in blocks of T.

Inputs do not depend on the weights, so with first-layer weights W (bias as last row)
at the start of a block, X the block's inputs with a 1 appended, and g_s the gradient at
the hidden preactivations of sample s,

    h_t = (X W)_t - sum_{s<t} eta_s (x_s . x_t + 1) g_s .

One product X W, one Gram matrix X X^T, a recurrence in which the second layer is
updated exactly at every sample, and one rank-T update W <- W - X^T (eta G) at the end.
This is plain SGD rearranged, not an approximation; only rounding differs from the
generic engine.

With two classes the loss depends on the margin M = z_1 - z_0 alone. Writing
u = a_1 - a_0 for the output weights, dL/dz_1 = -dL/dz_0 = delta, the sum a_0 + a_1
never moves and (u, c_1 - c_0) follows the same recurrence at twice the rate.

Lanes of one seed share its inputs: their hidden units are concatenated, so X W, the
Gram matrix and the update are one product each for all lanes. A lane whose margins or
output weights become non-finite, or pass the square root of the largest float (the
products of the next block would overflow), is frozen at the start of that block; the
others do not notice.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, UInt

from sandbox.distill.losses import Answers, Loss, is_plain
from sandbox.distill.updates import Trained
from sandbox.platforms import platform
from sandbox.train import online_kernel
from sandbox.train.teaching import ALIVE, Plan, Segment
from sandbox.types import Array, Params

INNER_BLOCKS = 4
"""Pieces of a block; corrections from earlier pieces are one product each."""
_HIGH = lax.Precision.HIGHEST


class OnlineState(NamedTuple):
    """Engine-native state, each leaf with a leading seed axis S.

    Attributes:
      w: `(d+1, L m)` first layer, bias as the last row, lanes side by side.
      u: `(J, L, m)` output weights: J = 1 holds a_1 - a_0 for two classes, else J = C.
      c: `(J, L)` output biases likewise.
      u_sum: `(L, m)` the conserved a_0 + a_1 (empty unless J = 1).
      c_sum: `(L,)` the conserved c_0 + c_1.
      bad: `(L,)` first sample that left the floats' range, or `ALIVE`.
      loss: `(L,)` sum of training losses since it was last read.
      weight: `(L,)` sum of their weights.
    """

    w: Array
    u: Array
    c: Array
    u_sum: Array
    c_sum: Array
    bad: Array
    loss: Array
    weight: Array


def begin(plan: Plan, trained: Trained) -> OnlineState:
    """State of one seed from parameters stacked over lanes `(L, ...)`."""
    phi = trained.phi
    k0, b0 = phi["layer_0"]["kernel"], phi["layer_0"]["bias"]
    k1, b1 = phi["layer_1"]["kernel"], phi["layer_1"]["bias"]
    n_lanes, d, m = k0.shape
    w = jnp.concatenate([k0, b0[:, None, :]], 1)  # (L, d+1, m)
    w = jnp.swapaxes(w, 0, 1).reshape(d + 1, n_lanes * m)
    a = jnp.moveaxis(k1, -1, 0)  # (C, L, m)
    c = jnp.moveaxis(b1, -1, 0)  # (C, L)
    zero = jnp.zeros(n_lanes, w.dtype)
    if a.shape[0] == 2:
        u, cc, u_sum, c_sum = a[1:] - a[:1], c[1:] - c[:1], a[0] + a[1], c[0] + c[1]
    else:
        u, cc, u_sum, c_sum = a, c, jnp.zeros((n_lanes, 0), w.dtype), zero
    bad = jnp.full(n_lanes, ALIVE, jnp.uint32)
    return OnlineState(w, u, cc, u_sum, c_sum, bad, zero, zero)


def deployed(plan: Plan, state: OnlineState) -> Params:
    """Parameters of one seed, stacked over lanes."""
    n_lanes, m = state.u.shape[1:]
    w = jnp.swapaxes(state.w.reshape(-1, n_lanes, m), 0, 1)
    if state.u.shape[0] == 1:
        a = jnp.stack([(state.u_sum - state.u[0]) / 2, (state.u_sum + state.u[0]) / 2])
        c = jnp.stack([(state.c_sum - state.c[0]) / 2, (state.c_sum + state.c[0]) / 2])
    else:
        a, c = state.u, state.c
    return {
        "layer_0": {"kernel": w[:, :-1], "bias": w[:, -1]},
        "layer_1": {"kernel": jnp.moveaxis(a, 0, -1), "bias": jnp.moveaxis(c, 0, -1)},
    }


def _logits(margins: Array) -> Array:
    """Class-last logits `(..., L, C)` from `(..., J, L)`; J = 1 means (0, margin)."""
    z = jnp.moveaxis(margins, -2, -1)
    return jnp.concatenate([jnp.zeros_like(z), z], -1) if z.shape[-1] == 1 else z


def _is_plain(plan: Plan) -> bool:
    """Whether the loss is the cross-entropy to one mixed target."""
    loss = plan.structure.loss
    return isinstance(loss, Loss) and is_plain(loss)


def _delta(plan: Plan, margin: Float[Array, "J L"], sup: Any) -> Array:
    """dL/d(logit or margin), `(J, L)`."""
    loss = plan.structure.loss
    if margin.shape[0] == 1:
        if _is_plain(plan):
            return jax.nn.sigmoid(margin) - sup.mixed[None, :, 1]
        return loss.delta(_logits(margin), sup)[:, 1][None]
    return loss.delta(_logits(margin), sup).T


def _margin(u: Float[Array, "J L m"], a: Float[Array, "L m"], c: Array) -> Array:
    if u.shape[:2] == (1, 1):
        return jnp.dot(u[0, 0], a[0], precision=_HIGH)[None, None] + c
    return jnp.sum(u * a[None], -1) + c


def _in_kernel(plan: Plan, state: OnlineState) -> bool:
    """Whether the recurrence runs in a kernel of its own."""
    classes, n_lanes, m = state.u.shape
    lanes = plan.n_seeds * n_lanes
    can = classes == 1 and _is_plain(plan) and state.u.dtype == jnp.float32
    asked = plan.triton and platform().triton and plan.shards is None
    return asked and can and online_kernel.fits(plan.block, m, lanes)


def _block(
    plan: Plan,
    state: OnlineState,
    x: Float[Array, "T D"],
    eta: Float[Array, " T"],
    weight: Float[Array, " T"],
    sup: Any,
    keep: Float[Array, "T L"] | None,
    t0: UInt[Array, ""],
) -> OnlineState:
    """Trains on one block; `sup` and `keep` have leading axes (T, L)."""
    size, n_lanes, m = x.shape[0], state.u.shape[1], state.u.shape[2]
    rate = 2.0 if state.u.shape[0] == 1 else 1.0
    lone = state.u.shape[:2] == (1, 1) and _is_plain(plan) and keep is None
    p = jnp.dot(x, state.w, precision=_HIGH)
    gram = jnp.dot(x, x.T, precision=_HIGH)
    u, c = state.u, state.c
    if _in_kernel(plan, state):
        eta_TL = jnp.broadcast_to(eta[:, None], (size, n_lanes))
        eta_TL = eta_TL if keep is None else eta_TL * keep
        args = (p, gram, u[0], c[0], sup.mixed[..., 1], eta_TL)
        g, u, c, margins = online_kernel.recurrence(*args)
        last = (u[None], c[None], margins[:, None])
        return _close(plan, state, x, g, *last, sup, keep, weight, t0)
    margins = jnp.zeros((size, *c.shape), c.dtype)
    unrolled = platform().unrolled
    inner = unrolled or -(-size // INNER_BLOCKS)

    def dot(u: Array, a: Array) -> Array:
        # A sum becomes part of its neighbours' kernels, a product is one of its own.
        return jnp.sum(u * a) if unrolled else jnp.dot(u, a, precision=_HIGH)

    def sample(
        t: Any, h: Array, u: Array, c: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Second layer after sample t, its gradient at h, and its margin."""
        if lone:
            a = jnp.maximum(h, 0)
            margin = dot(u[0, 0], a) + c[0, 0]
            dz = (jax.nn.sigmoid(margin) - sup.mixed[t, 0, 1]) * eta[t]
            g = jnp.where(h > 0, dz * u[0, 0], jnp.zeros_like(h))
            u, c = u - (rate * dz) * a[None, None], c - rate * dz
            return u, c, g, margin
        h = h.reshape(n_lanes, m)
        a = jnp.maximum(h, 0)
        margin = _margin(u, a, c)
        dz = _delta(plan, margin, jax.tree.map(lambda s: s[t], sup)) * eta[t]
        dz = dz if keep is None else dz * keep[t]
        back = jnp.sum(dz[:, :, None] * u, 0)
        g = jnp.where(h > 0, back, jnp.zeros_like(back)).reshape(-1)
        u = u - (rate * dz)[:, :, None] * a[None]
        c = c - rate * dz
        return u, c, g, margin

    def put(margins: Array, t: Any, margin: Array) -> Array:
        return margins.at[(t, 0, 0) if lone else t].set(margin)

    done: list[Array] = []
    seen: list[Array] = []
    for lo in range(0, size, inner):
        hi = min(lo + inner, size)
        p_in = p[lo:hi]
        if done:
            earlier = jnp.concatenate(done, 0)
            p_in = p_in - jnp.dot(gram[lo:hi, :lo], earlier, precision=_HIGH)
        gram_in = gram[lo:hi, lo:hi]
        if unrolled:
            rows: list[Array] = []
            h = list(p_in)
            for i in range(hi - lo):
                u, c, g, margin = sample(lo + i, h[i], u, c)
                later = [h[j] - gram_in[j, i] * g for j in range(i + 1, hi - lo)]
                # One kernel for all of them, and none of it again in the next one.
                u, g, h[i + 1 :] = lax.optimization_barrier((u, g, later))
                rows.append(g)
                seen.append(margin.reshape(c.shape))
            done.append(jnp.stack(rows))
            continue

        def step(
            i: Array,
            carry: tuple[Array, Array, Array, Array],
            lo: int = lo,
            p_in: Array = p_in,
            gram_in: Array = gram_in,
        ) -> tuple[Array, Array, Array, Array]:
            u, c, g_in, margins = carry
            t = lo + i
            h = p_in[i] - jnp.dot(gram_in[i], g_in, precision=_HIGH)
            u, c, g, margin = sample(t, h, u, c)
            return u, c, g_in.at[i].set(g), put(margins, t, margin)

        empty = jnp.zeros((hi - lo, n_lanes * m), p.dtype)
        u, c, g_in, margins = lax.fori_loop(0, hi - lo, step, (u, c, empty, margins))
        done.append(g_in)
    margins = jnp.stack(seen) if unrolled else margins
    return _close(
        plan, state, x, jnp.concatenate(done, 0), u, c, margins, sup, keep, weight, t0
    )


def _close(
    plan: Plan,
    state: OnlineState,
    x: Array,
    g: Array,
    u: Array,
    c: Array,
    margins: Float[Array, "T J L"],
    sup: Any,
    keep: Array | None,
    weight: Array,
    t0: Array,
) -> OnlineState:
    """Applies a block to the lanes that stayed finite and freezes the others."""
    n_lanes, m = u.shape[1:]
    limit = jnp.sqrt(jnp.finfo(margins.dtype).max)  # NaN compares false
    last_L = jnp.all(jnp.abs(u) < limit, (0, 2)) & jnp.all(jnp.abs(c) < limit, 0)
    finite_TL = jnp.all(jnp.abs(margins) < limit, 1)
    finite_TL = finite_TL.at[-1].set(finite_TL[-1] & last_L)
    finite = jnp.all(finite_TL, 0)
    first = jnp.argmin(finite_TL, 0).astype(jnp.uint32) + t0
    fresh = (~finite) & (state.bad == ALIVE)
    ok = finite & (state.bad == ALIVE)
    if n_lanes > 1:
        whole = jnp.repeat(ok, m)[None, :]
        w = state.w - jnp.dot(x.T, jnp.where(whole, g, 0), precision=_HIGH)
    else:  # the same, without a pass over g
        w = state.w - jnp.dot(x.T, g, precision=_HIGH)
        w = jnp.where(ok[0], w, state.w)
    loss_TL = plan.structure.loss.value(Answers(_logits(margins)), sup, None)
    loss_TL = loss_TL if keep is None else loss_TL * keep
    loss = jnp.sum(loss_TL * weight[:, None], 0)
    return state._replace(
        w=w,
        u=jnp.where(ok[None, :, None], u, state.u),
        c=jnp.where(ok[None, :], c, state.c),
        bad=jnp.where(fresh, first, state.bad),
        loss=state.loss + jnp.where(ok, loss, 0),
        weight=state.weight + jnp.where(ok, jnp.sum(weight), 0),
    )


def train(
    plan: Plan, state: OnlineState, key: Array, t0: Array, seg: Segment
) -> OnlineState:
    """One seed after a segment, block by block."""
    size, n_blocks = plan.block, plan.segment // plan.block
    xs = (
        jnp.concatenate([seg.x, jnp.ones((plan.segment, 1), seg.x.dtype)], 1),
        jnp.where(seg.weight > 0, seg.rate, 0),  # a mean over one row
        seg.weight,
        seg.supervision,
        seg.keep,
    )
    xs = jax.tree.map(lambda a: a.reshape(n_blocks, size, *a.shape[1:]), xs)
    t_block = t0 + size * jnp.arange(n_blocks, dtype=jnp.uint32)

    def body(s, inp):
        (x, eta, weight, sup, keep), t_b = inp
        return _block(plan, s, x, eta, weight, sup, keep, t_b), None

    return lax.scan(body, state, (xs, t_block))[0]
