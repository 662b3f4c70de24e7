"""One face for both engines: initial state, chunks, parameters, evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sandbox.distill.sources import LiveSource
from sandbox.distill.targets import Known
from sandbox.distill.updates import Trained
from sandbox.distill.views import View
from sandbox.models.base import Model
from sandbox.tasks.base import Task
from sandbox.train import generic, online_sgd
from sandbox.train.devices import Shards, over_devices, place, seed_mesh, to_host
from sandbox.train.forward import forward
from sandbox.train.spec import RunSpec
from sandbox.train.teaching import (
    ALIVE,
    Kernel,
    LaneArrays,
    Members,
    Plan,
    answer_shapes,
    init_key,
    known_rows,
    run_chunk,
    task_key,
)
from sandbox.types import Array, Params

V = TypeVar("V")
_AUX, _LIVE = 18, 19  # folds of an initialisation's key
KERNELS: dict[str, Kernel] = {
    "online_sgd": online_sgd,
    "online_triton": online_sgd,
    "generic": generic,
}


class Engine:
    """Runs the group of one record.

    Attributes:
      spec: the record.
      plan: its compiled-in part.
      kernel: what computes.
      keys: task keys `(S,)`.
      mesh: the local devices that share the seeds; None for one device.
      shards: the devices that share the model of one seed.
    """

    def __init__(self, spec: RunSpec, given: Params | None = None) -> None:
        """Derives plan and keys; compiles nothing yet.

        Args:
          spec: the record.
          given: parameters `(S, ...)` of the run it starts from, if any.
        """
        self.spec, self.given = spec, given
        self._teacher: tuple[Any, Any, Known | None] = (None, None, None)
        self.plan = Plan.of(spec)
        self.kernel = KERNELS[spec.engine_used]
        self.mesh = seed_mesh(self.plan.n_seeds)
        self.shards = Shards.of(spec)
        seeds = _to(spec.seeds, self.plan.n_seeds)
        self.keys = self.place(jnp.stack([task_key(s) for s in seeds]))
        self.lanes = LaneArrays.of(_to(spec.strategies, self.plan.n_lanes))

    def init(self) -> Any:
        """Fresh state, on its devices."""
        return self.place(self.begin())

    def begin(self) -> Any:
        """Fresh state; lanes of a seed with the same `init` start from one point."""
        inits = [s.init for s in _to(self.spec.strategies, self.plan.n_lanes)]
        own = sorted(set(inits))
        kind, seeds = self.spec.kind, _to(self.spec.seeds, self.plan.n_seeds)
        keys = jnp.stack([init_key(s, kind, i) for s in seeds for i in own])
        which = jnp.asarray([own.index(i) for i in inits])
        given = self.given
        if given is None and self.spec.start is not None:  # of shapes alone
            model = self.spec.start.spec.model
            given = jax.vmap(model.init)(self.keys[: self.spec.n_seeds])
        if self.shards is None:  # else of one seed, which nothing pads
            given = self._whole(given, self.plan.n_seeds)
        part, keys = self.plan.structure, keys.reshape(len(seeds), -1)
        live = part.source if isinstance(part.source, LiveSource) else None
        aux = self.plan if part.loss.has_aux else None
        begin = _init(part.view, live, aux, self.plan.model, keys, which, given)
        return _start(self.kernel, self.plan, begin)

    def place(self, state: Any) -> Any:
        """Anything with a leading seed axis, each seed (or part) on its device."""
        return self.shards.place(state) if self.shards else place(state, self.mesh)

    def run(
        self, state: Any, t0: int, n_segments: int, teacher: Params | None, index: Any
    ) -> Any:
        """Trains `n_segments` segments from sample t0; `state` is donated."""
        return _chunk(self.kernel, self.plan, self.mesh, self.shards)(
            state,
            self.keys,
            np.uint32(t0),
            np.int32(n_segments),
            *self.taught(teacher, index),
        )

    def taught(self, teacher: Params | None, index: Any) -> tuple[Any, ...]:
        """The teachers' side of a chunk: stack, index, lanes, and known answers."""
        if self._teacher[0] is not teacher:  # once for every switch
            stacked = jax.device_put(self._whole(teacher, self.plan.n_seeds))
            known = None
            if teacher is not None and self.spec.uses_known:
                known = known_rows(self.plan, self.keys, stacked)
            self._teacher = teacher, stacked, known
        _, stacked, known = self._teacher
        if not isinstance(index, Members):
            index = jnp.asarray(index, jnp.int32)
        return stacked, self._whole(index, *self.spec.shape), self.lanes, known

    def _whole(self, tree: Any, *sizes: int) -> Any:
        """Arrays whose first axes are filled up by their last entry, placed."""

        def filled(a: Array) -> Array:
            more = [(0, n - k) for n, k in zip(sizes, a.shape, strict=False)]
            more += [(0, 0)] * (a.ndim - len(more))
            return jnp.pad(a, more, mode="edge") if any(n for _, n in more) else a

        return self.place(jax.tree.map(filled, tree))

    def _own(self, tree: Any) -> Any:
        """Of arrays `(S, L, ...)` the run's own seeds and lanes."""
        s, n = self.spec.n_seeds, len(self.spec.strategies)
        padded = self.spec.padded != ()
        return jax.tree.map(lambda a: a[:s, :n], tree) if padded else tree

    def lowered(self, state: Any, teacher: Params | None, index: Any) -> list[str]:
        """The programs that train and evaluate, as XLA is given them."""
        args = (
            state,
            self.keys,
            np.uint32(0),
            np.int32(0),
            *self.taught(teacher, index),
        )
        if self.mesh or self.shards:  # the same text on one device
            args = jax.eval_shape(lambda *a: a, *args)
        chunk = run_chunk.lower(self.kernel, self.plan, *args)
        params, points = self.params(state), self.spec.eval_points
        task, model = self.plan.task, self.plan.model
        keys = self.keys[: self.spec.n_seeds]
        if self.mesh or self.shards:
            params, keys = jax.eval_shape(lambda *a: a, params, keys)
        measured = _evaluate.lower(task, model, points, params, keys)
        return [chunk.as_text(), measured.as_text()]

    def params(self, state: Any) -> Params:
        """Deployed parameters `(S, L, ...)`."""
        return self._own(_params(self.kernel, self.plan, state))

    def first_bad(self, state: Any) -> np.ndarray:
        """First non-finite sample `(S, L)`; -1 for lanes that are alive."""
        bad = to_host(self._own(state.bad)).astype(np.int64)
        return np.where(bad == int(ALIVE), -1, bad)

    def read_loss(self, state: Any) -> tuple[np.ndarray, Any]:
        """Mean training loss since the last reading, `(S, L)`, and the state reset."""
        weight, loss = to_host(self._own((state.weight, state.loss)))
        mean = loss / np.maximum(weight, 1)
        mean = np.where(weight > 0, mean, np.nan)
        zero = self.place(jnp.zeros(state.loss.shape, state.loss.dtype))
        return mean, state._replace(loss=zero, weight=self.place(jnp.copy(zero)))

    def evaluate(self, state: Any) -> dict[str, np.ndarray]:
        """The task's metrics on its fixed evaluation stream, each `(S, L)`."""
        params, keys = self.params(state), self.keys[: self.spec.n_seeds]
        if self.mesh is not None:  # whose devices share the padded seeds
            params, keys = _params(self.kernel, self.plan, state), self.keys
        task, model, points = self.plan.task, self.plan.model, self.spec.eval_points
        found = evaluate(task, model, params, keys, points=points, mesh=self.mesh)
        return self._own(found)


def _to(values: Sequence[V], n: int) -> tuple[V, ...]:
    """Values, the last one repeated up to n."""
    return (*values, *[values[-1]] * (n - len(values)))


@lru_cache(maxsize=64)
def _chunk(
    kernel: Kernel, plan: Plan, mesh: Mesh | None, shards: Shards | None
) -> Callable[..., Any]:
    """The compiled chunk: state, keys, t0, n_segments, teacher, index, lanes, known."""
    if shards is not None:
        shared = replace(plan, shards=shards)

        def chunk(*args: Any) -> Any:
            return shards.keep(run_chunk(kernel, shared, *args))

        return jax.jit(chunk, donate_argnums=0)
    if mesh is None:
        return partial(run_chunk, kernel, plan)
    own = replace(plan, n_seeds=plan.n_seeds // mesh.size)
    split = (True, True, False, False, True, True, False, True)
    return over_devices(partial(run_chunk, kernel, own), mesh, split, donate=True)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _init(
    view: View,
    live: LiveSource | None,
    plan: Plan | None,
    model: Model,
    keys: Array,
    which: Array,
    given: Params | None,
) -> Trained:
    """What is trained `(S, L, ...)` from keys `(S, I)`; lane l has init `which[l]`.

    `plan` is that of a loss with parameters; others share one program.
    """

    def one(key: Array, given: Params | None) -> Trained:
        phi = view.init(key, model, given)
        folded = [jax.random.fold_in(key, i) for i in (_AUX, _LIVE)]
        aux = None
        if plan is not None:  # else no network is traced for it
            aux = plan.structure.loss.init_aux(folded[0], *answer_shapes(plan))
        return Trained(phi, aux, live and live.init(folded[1], model))

    def of_seed(args: tuple[Array, Params | None]) -> Trained:
        keys_I, given = args
        begin_I = jax.lax.map(lambda key: one(key, given), keys_I)
        return jax.tree.map(lambda p: p[which], begin_I)

    return jax.lax.map(of_seed, (keys, given))


@partial(jax.jit, static_argnums=(0, 1))
def _start(kernel: Kernel, plan: Plan, begin: Trained) -> Any:
    return jax.vmap(partial(kernel.begin, plan))(begin)


@partial(jax.jit, static_argnums=(0, 1))
def _params(kernel: Kernel, plan: Plan, state: Any) -> Params:
    return jax.vmap(partial(kernel.deployed, plan))(state)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _evaluate(
    task: Task, model: Model, points: int, params: Params, keys: Array
) -> dict[str, Array]:
    def one_seed(args: tuple[Params, Array]) -> dict[str, Array]:
        params_L, key = args
        batch = task.sample(key, jnp.uint32(0), points, split="eval")

        def one_lane(p: Params) -> dict[str, Array]:
            sums = task.metrics(forward(task, model, p, batch.x), batch)
            return {name: total / weight for name, (total, weight) in sums.items()}

        return jax.lax.map(one_lane, params_L)

    return jax.lax.map(one_seed, (params, keys))


@lru_cache(maxsize=64)
def _evaluation(
    task: Task, model: Model, points: int, mesh: Mesh | None
) -> Callable[..., Any]:
    """The compiled evaluation: parameters, keys."""
    measure = partial(_evaluate, task, model, points)
    return measure if mesh is None else over_devices(measure, mesh, (True, True))


def evaluate(
    task: Task,
    model: Model,
    params: Params,
    keys: Array,
    *,
    points: int,
    mesh: Mesh | None = None,
) -> dict[str, np.ndarray]:
    """Metrics of parameters `(S, L, ...)` on the first rows of each seed's eval stream.

    Seeds of a device and lanes run one after the other, so memory holds one forward
    pass and a lane's numbers do not depend on its companions.
    """
    measure = _evaluation(task, model, points, mesh)
    out = measure(params, keys)
    return to_host(out)
