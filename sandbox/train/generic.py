"""The generic engine: any model, any optax optimizer, any strategy, one step at a time.

It is the oracle of the blocked engine and the only engine for deeper networks, batches
and momentum. Lanes and seeds are vmapped; everything else is shared with the blocked
engine through `sandbox.train.teaching`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sandbox.distill.losses import value
from sandbox.train.online_sgd import ALIVE
from sandbox.train.teaching import LaneArrays, Plan, make_segment, over_seeds
from sandbox.types import Array, Params


class GenericState(NamedTuple):
    """Trained tensors and optimizer state with leading axes (S, L), and bookkeeping.

    Attributes:
      phi: trained tensors.
      optimizer: optax state.
      bad: first sample of the first step with a non-finite loss or update, or `ALIVE`.
      loss: sum of training losses since it was last read.
      weight: sum of their weights.
    """

    phi: Params
    optimizer: Any
    bad: Array
    loss: Array
    weight: Array


def from_phi(plan: Plan, phi: Params) -> GenericState:
    """State of one seed from trained tensors stacked over lanes `(L, ...)`."""
    transform = plan.optimizer.transform()
    zero = jnp.zeros(plan.n_lanes, jnp.result_type(float))
    return GenericState(
        phi=phi,
        optimizer=jax.vmap(transform.init)(phi),
        bad=jnp.full(plan.n_lanes, ALIVE, jnp.uint32),
        loss=zero,
        weight=zero,
    )


def _lane_step(
    plan: Plan,
    state: GenericState,
    x: Any,
    weight: Array,
    sup: Any,
    rate: Array,
    t: Array,
) -> GenericState:
    """One optimizer step of one lane on one batch."""
    structure = plan.structure

    def loss_fn(params: Params) -> tuple[Array, Array]:
        per_example = value(structure.loss, plan.model.apply(params, x).logits, sup)
        return jnp.sum(weight * per_example), jnp.sum(weight)

    phi, optimizer, loss = structure.update.step(
        state.phi,
        state.optimizer,
        rate,
        loss_fn=loss_fn,
        view=structure.view,
        transform=plan.optimizer.transform(),
    )
    phi = structure.view.after_update(phi, t)
    finite = jnp.isfinite(loss) & jnp.all(
        jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(phi)])
    )
    ok = finite & (state.bad == ALIVE)

    def keep(new: Array, old: Array) -> Array:
        return jnp.where(ok, new, old)

    total = jnp.sum(weight)
    return GenericState(
        phi=jax.tree.map(keep, phi, state.phi),
        optimizer=jax.tree.map(keep, optimizer, state.optimizer),
        bad=jnp.where((~finite) & (state.bad == ALIVE), t, state.bad),
        loss=state.loss + jnp.where(ok, loss * total, 0),
        weight=state.weight + jnp.where(ok, total, 0),
    )


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def run_chunk(
    plan: Plan,
    state: GenericState,
    keys: Array,
    t0: Array,
    n_segments: Array,
    teacher: Params | None,
    index: Array,
    lanes: LaneArrays,
) -> GenericState:
    """Trains every seed on `n_segments` segments from sample t0."""
    size = plan.batch_size
    n_steps = plan.segment // size

    def one(state, key, t_start, teacher, index):
        seg = make_segment(plan, key, t_start, teacher, index, lanes)
        xs = jax.tree.map(
            lambda a: a.reshape(n_steps, size, *a.shape[1:]),
            (seg.x, seg.weight, seg.supervision),
        )
        rate = seg.rate.reshape(n_steps, size)[:, 0]
        t_step = t_start + size * jnp.arange(n_steps, dtype=jnp.uint32)

        def body(s, inp):
            (x, weight, sup), eta, t = inp
            step = partial(_lane_step, plan)
            lanes_first = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), sup)
            in_axes = (0, None, None, 0, None, None)
            return jax.vmap(step, in_axes)(s, x, weight, lanes_first, eta, t), None

        return lax.scan(body, state, (xs, rate, t_step))[0]

    def segment(i, state):
        t = jnp.uint32(t0) + jnp.uint32(plan.segment) * i.astype(jnp.uint32)
        t_S = jnp.broadcast_to(t, (plan.n_seeds,))
        return over_seeds(one, plan.n_seeds, state, keys, t_S, teacher, index)

    return lax.fori_loop(0, n_segments, segment, state)
