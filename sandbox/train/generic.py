"""The generic engine: any model, any optax optimizer, any strategy, one step at a time.

It is the oracle of the blocked engine and the only engine for deeper networks, batches
and momentum. Lanes and seeds are vmapped; everything else is shared with the blocked
engine through `sandbox.train.teaching`. Sequences go by length through
`sandbox.train.buckets`, their lanes and seeds one after the other. A lane that leaves
the floats' range is frozen at the start of that segment; the others do not notice.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sandbox.distill.losses import Answers
from sandbox.distill.sources import LiveSource
from sandbox.distill.updates import Step, Trained
from sandbox.tasks.base import is_sequence_task
from sandbox.train.buckets import loss_by_length, micro_size
from sandbox.train.forward import joined, parted
from sandbox.train.teaching import ALIVE, Plan, Segment, in_turn, supervised
from sandbox.types import Array, Params

_INPUTS = 2**32 - 1  # fold of a step's key; those of micro-batches are small


class GenericState(NamedTuple):
    """What is trained (see `Trained`) with leading axes (S, L), and bookkeeping.

    Attributes:
      phi: trained tensors.
      aux: parameters of the loss.
      teacher: parameters of a live source.
      optimizer: optax state.
      bad: first sample of the first step with a non-finite loss, or of the segment's
        last step if only its outcome was; `ALIVE` for a finite lane.
      loss: sum of training losses since it was last read.
      weight: sum of their weights.
    """

    phi: Params
    aux: Params
    teacher: Params
    optimizer: Any
    bad: Array
    loss: Array
    weight: Array

    @property
    def trained(self) -> Trained:
        """What is trained."""
        return Trained(*self[:4])


def begin(plan: Plan, trained: Trained) -> GenericState:
    """State of one seed from trained tensors stacked over lanes `(L, ...)`."""
    update = plan.structure.update
    transform = plan.optimizer.transform()
    zero = jnp.zeros(plan.n_lanes, jnp.result_type(float))
    kept = jax.vmap(lambda own: update.init(own, transform))(trained)
    return GenericState(
        *trained._replace(optimizer=kept),
        bad=jnp.full(plan.n_lanes, ALIVE, jnp.uint32),
        loss=zero,
        weight=zero,
    )


class Rows(NamedTuple):
    """A batch of one lane: everything that is cut to length where rows are sequences.

    Attributes:
      x: inputs.
      weight: of each row in the mean.
      sup: the loss's supervision, or what it is prepared of beside a live teacher.
      keep: weight of each row in the loss; None where all count.
      extra: rows that the loss made of each row.
    """

    x: Any
    weight: Array
    sup: Any
    keep: Array | None
    extra: Any


def _lane_step(
    plan: Plan,
    trained: Trained,
    rows: Rows,
    quiz: Any,
    rate: Array,
    t: Array,
    noise: Array,
) -> tuple[Trained, Array]:
    """One optimizer step of one lane on one batch; also returns the loss before it."""
    structure = plan.structure
    loss, view, source = structure.loss, structure.view, structure.source
    drops = getattr(plan.model, "dropout", 0) > 0
    if isinstance(source, LiveSource):
        own = jax.random.fold_in(noise, _INPUTS)
        x = source.inputs(trained.phi, rows.x, own, view, plan.model)
        rows = rows._replace(x=x)

    def logits_of_teacher(phi: Params, teacher: Params, rows: Rows) -> Array:
        assert isinstance(source, LiveSource)
        frozen = rows.sup.answers
        return source.outputs(teacher, phi, rows.x, frozen, view, plan.model)

    def answers(params: Params, rows: Rows, key: Array | None) -> Answers:
        taps = {"taps": loss.taps} if loss.taps else {}
        out = plan.model.apply(params, rows.x, key=key, **taps)
        if rows.extra is None:
            return Answers(out.logits, out.acts)
        more = plan.model.apply(params, joined(rows.extra, plan.in_turn), key=key)
        extra = parted(more.logits, loss.copies, plan.in_turn)
        return Answers(out.logits, out.acts, extra)

    def of_student(
        own: Any, rows: Rows, key: Array | None, cut: Any = lax.stop_gradient
    ) -> Array:
        phi, aux, teacher = own
        sup, keep = rows.sup, rows.keep
        if isinstance(source, LiveSource):
            said = logits_of_teacher(cut(phi), cut(teacher), rows)
            sup, keep = supervised(plan, rows.sup._replace(answers=Answers(said)))
        per_row = loss.value(answers(view.student(phi), rows, key), sup, aux)
        return per_row if keep is None else per_row * keep

    def of_teacher(own: Any, rows: Rows, key: Array | None) -> Array:
        if not isinstance(source, LiveSource):  # a view's teacher that nobody trains
            return jnp.zeros_like(rows.weight)
        phi, teacher = own

        def student() -> Array:
            params = lax.stop_gradient(view.student(phi))
            return plan.model.apply(params, rows.x).logits

        said = logits_of_teacher(phi, teacher, rows)
        return source.own_loss(said, rows.sup.label, student)

    def of_quiz(phi: Params, rows: Rows, key: Array | None) -> Array:
        logits = plan.model.apply(view.student(phi), rows.x).logits
        log_q = jax.nn.log_softmax(logits, -1)
        one_hot = jax.nn.one_hot(rows.sup, log_q.shape[-1], dtype=log_q.dtype)
        return -jnp.sum(one_hot * log_q, -1)

    def mean(per_row: Any, rows: Rows) -> Callable[[Any], Array]:
        def summed(own: Any, rows: Rows, part: Array) -> tuple[Array, Array]:
            key = jax.random.fold_in(noise, part) if drops else None
            return jnp.sum(rows.weight * per_row(own, rows, key)), jnp.sum(rows.weight)

        def loss_fn(own: Any) -> tuple[Array, Array]:
            if not is_sequence_task(plan.task):
                return summed(own, rows, jnp.uint32(0))
            length, edges = jnp.sum(rows.x.valid, 1), plan.task.edges
            n = rows.weight.shape[0]
            micro = plan.micro if n == plan.batch_size else micro_size(n, plan.micro)
            over = plan.shards and plan.shards.rows
            return loss_by_length(
                summed, rows, length, edges=edges, micro=micro, over=over
            )(own)

        def mean_loss(own: Any) -> Array:
            total, weight = loss_fn(own)
            return total / jnp.where(weight > 0, weight, 1)  # no weight, no step

        return mean_loss

    student = mean(of_student, rows)
    through = mean(partial(of_student, cut=lambda own: own), rows)
    teacher = mean(of_teacher, rows)
    step = Step(
        lr=rate,
        t=t,
        view=view,
        transform=plan.optimizer.transform(),
        loss=lambda phi, aux, teacher: student((phi, aux, teacher)),
        through=lambda phi, aux, teacher: through((phi, aux, teacher)),
        own=lambda phi, own: teacher((phi, own)),
        quiz=lambda phi: mean(of_quiz, Rows(quiz[0], quiz[2], quiz[1], None, None))(
            phi
        ),
    )
    new, loss_before = structure.update.step(trained, step)
    if isinstance(source, LiveSource):
        moved = source.advance(new.teacher, new.phi, t, view)
        new = new._replace(teacher=moved)
    return new, loss_before


def _close(
    state: GenericState,
    trained: Trained,
    loss: Array,
    weight: Array,
    t_step: Array,
) -> GenericState:
    """Applies a segment to a lane that stayed finite, else freezes it where it was.

    Args:
      state: of one lane at the start of the segment.
      trained: what is trained at its end.
      loss: mean loss of every step.
      weight: summed weight of every step.
      t_step: first sample of every step.
    """
    # A sum is finite only if every entry is, and is many times cheaper to test.
    moved = (trained.phi, trained.aux, trained.teacher)
    sums = [jnp.sum(leaf) for leaf in jax.tree.leaves(moved)]
    step_ok = jnp.isfinite(loss)
    step_ok = step_ok.at[-1].set(step_ok[-1] & jnp.all(jnp.isfinite(jnp.stack(sums))))
    finite, alive = jnp.all(step_ok), state.bad == ALIVE
    ok = finite & alive

    def keep(new: Array, old: Array) -> Array:
        return jnp.where(ok, new, old)

    return GenericState(
        *jax.tree.map(keep, trained, state.trained),
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

    def by_step(tree: Any) -> Any:
        return jax.tree.map(lambda a: a.reshape(n_steps, -1, *a.shape[1:]), tree)

    rows = by_step(Rows(seg.x, seg.weight, seg.supervision, seg.keep, seg.extra))
    quiz = by_step(seg.quiz)
    rate = seg.rate.reshape(n_steps, size)[:, 0]
    t_step = t0 + size * jnp.arange(n_steps, dtype=jnp.uint32)

    def body(trained, inp):
        rows, quiz, eta, t = inp
        own = (rows.sup, rows.keep)
        lanes_first = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), own)
        noise = plan.noise_key(key, t)

        def step(trained, own):
            sup, keep = own
            of_lane = rows._replace(sup=sup, keep=keep)
            return _lane_step(plan, trained, of_lane, quiz, eta, t, noise)

        each: Any = in_turn if plan.in_turn else jax.vmap
        return each(step)(trained, lanes_first)

    trained, loss_tL = lax.scan(body, state.trained, (rows, quiz, rate, t_step))
    close = jax.vmap(_close, (0, 0, 1, None, None))
    weight_t = rows.weight.reshape(n_steps, -1).sum(1)
    return close(state, trained, loss_tL, weight_t, t_step)


def deployed(plan: Plan, state: GenericState) -> Params:
    """Parameters of one seed, stacked over lanes."""
    return jax.vmap(plan.structure.view.deploy)(state.phi)
