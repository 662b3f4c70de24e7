"""The generic engine: any model, any optax optimizer, any strategy, one step at a time.

It is the oracle of the blocked engine and the only engine for deeper networks, batches
and momentum. Lanes and seeds are vmapped; everything else is shared with the blocked
engine through `sandbox.train.teaching`. Sequences go by length through
`sandbox.train.buckets`, their lanes and seeds one after the other. A lane that leaves
the floats' range is frozen at the start of that segment; the others do not notice.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sandbox.distill.losses import value
from sandbox.tasks.base import is_sequence_task
from sandbox.train.buckets import loss_by_length
from sandbox.train.teaching import ALIVE, Plan, Segment, in_turn
from sandbox.types import Array, Params


class GenericState(NamedTuple):
    """Trained tensors and optimizer state with leading axes (S, L), and bookkeeping.

    Attributes:
      phi: trained tensors.
      optimizer: optax state.
      bad: first sample of the first step with a non-finite loss, or of the segment's
        last step if only its outcome was; `ALIVE` for a finite lane.
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
    phi: Params,
    optimizer: Any,
    x: Any,
    weight: Array,
    sup: Any,
    rate: Array,
    t: Array,
    noise: Array,
) -> tuple[Params, Any, Array]:
    """One optimizer step of one lane on one batch; also returns the loss before it."""
    structure = plan.structure
    drops = getattr(plan.model, "dropout", 0) > 0

    def summed(params: Params, rows: Any, part: Array) -> tuple[Array, Array]:
        x, weight, sup = rows
        key = jax.random.fold_in(noise, part) if drops else None
        per_row = value(
            structure.loss, plan.model.apply(params, x, key=key).logits, sup
        )
        return jnp.sum(weight * per_row), jnp.sum(weight)

    def loss_fn(params: Params) -> tuple[Array, Array]:
        rows = (x, weight, sup)
        if not is_sequence_task(plan.task):
            return summed(params, rows, jnp.uint32(0))
        length, edges = jnp.sum(x.valid, 1), plan.task.edges
        by_length = loss_by_length(summed, rows, length, edges=edges, micro=plan.micro)
        return by_length(params)

    phi, optimizer, loss = structure.update.step(
        phi,
        optimizer,
        rate,
        loss_fn=loss_fn,
        view=structure.view,
        transform=plan.optimizer.transform(),
    )
    return structure.view.after_update(phi, t), optimizer, loss


def _close(
    state: GenericState,
    phi: Params,
    optimizer: Any,
    loss: Array,
    weight: Array,
    t_step: Array,
) -> GenericState:
    """Applies a segment to a lane that stayed finite, else freezes it where it was.

    Args:
      state: of one lane at the start of the segment.
      phi: trained tensors at its end.
      optimizer: optimizer state at its end.
      loss: mean loss of every step.
      weight: summed weight of every step.
      t_step: first sample of every step.
    """
    # A sum is finite only if every entry is, and is many times cheaper to test.
    sums = [jnp.sum(leaf) for leaf in jax.tree.leaves(phi)]
    step_ok = jnp.isfinite(loss)
    step_ok = step_ok.at[-1].set(step_ok[-1] & jnp.all(jnp.isfinite(jnp.stack(sums))))
    finite, alive = jnp.all(step_ok), state.bad == ALIVE
    ok = finite & alive

    def keep(new: Array, old: Array) -> Array:
        return jnp.where(ok, new, old)

    return GenericState(
        phi=jax.tree.map(keep, phi, state.phi),
        optimizer=jax.tree.map(keep, optimizer, state.optimizer),
        bad=jnp.where((~finite) & alive, t_step[jnp.argmin(step_ok)], state.bad),
        loss=state.loss + jnp.where(ok, jnp.sum(loss * weight), 0),
        weight=state.weight + jnp.where(ok, jnp.sum(weight), 0),
    )


def train(
    plan: Plan, state: GenericState, key: Array, t0: Array, seg: Segment
) -> GenericState:
    """One seed after a segment, step by step."""
    size = plan.batch_size
    n_steps = plan.segment // size
    xs = jax.tree.map(
        lambda a: a.reshape(n_steps, size, *a.shape[1:]),
        (seg.x, seg.weight, seg.supervision),
    )
    rate = seg.rate.reshape(n_steps, size)[:, 0]
    t_step = t0 + size * jnp.arange(n_steps, dtype=jnp.uint32)

    def body(carry, inp):
        (x, weight, sup), eta, t = inp
        lanes_first = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), sup)
        noise = plan.noise_key(key, t)

        def step(phi, optimizer, sup):
            return _lane_step(plan, phi, optimizer, x, weight, sup, eta, t, noise)

        each: Any = in_turn if plan.in_turn else jax.vmap
        phi, optimizer, loss = each(step)(*carry, lanes_first)
        return (phi, optimizer), loss

    begin = (state.phi, state.optimizer)
    (phi, optimizer), loss_tL = lax.scan(body, begin, (xs, rate, t_step))
    close = jax.vmap(_close, (0, 0, 0, 1, None, None))
    weight_t = xs[1].reshape(n_steps, -1).sum(1)
    return close(state, phi, optimizer, loss_tL, weight_t, t_step)


def deployed(plan: Plan, state: GenericState) -> Params:
    """Parameters of one seed, stacked over lanes."""
    return jax.vmap(plan.structure.view.deploy)(state.phi)
