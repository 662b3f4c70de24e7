"""Runs a probe over stored trajectories, and keeps what it measured beside the runs.

A measurement is addressed by its content (the run, the probe, the steps), so it is made
once. Any probe works: a frozen record with `measure(params, key) -> dict of arrays`.
"""

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from sandbox.errors import StoreError
from sandbox.store.code import Code, foreign_sources
from sandbox.store.config import digest, to_json
from sandbox.store.folders import SCHEMA, RunFolder
from sandbox.train.arithmetic import pinned
from sandbox.train.progress import Progress, seeds_text
from sandbox.train.resumable import VALUES, Arrays, Pieces, carry_out, read_values
from sandbox.train.run import Run
from sandbox.train.teaching import task_key
from sandbox.types import Array, Params


@runtime_checkable
class Probe(Protocol):
    """A frozen record that measures parameters."""

    def measure(self, params: Params, key: Any) -> dict[str, Array]:
        """Named arrays; jittable in both arguments."""
        ...


@runtime_checkable
class Prepared(Protocol):
    """A frozen record whose sample is drawn, and worked on, once for all steps."""

    def prepare(self, key: Any) -> Any:
        """A pytree of arrays, computed on the host and not under jit."""
        ...

    def measure(self, params: Params, key: Any, prepared: Any) -> dict[str, Array]:
        """Named arrays; jittable in all arguments."""
        ...


class Measured(NamedTuple):
    """What a probe found along a trajectory.

    Attributes:
      steps: samples seen at each measured checkpoint, `(R,)`.
      values: every array of the probe, stacked to `(S, R, ...)`.
      wall_seconds: what measuring took when it was done.
    """

    steps: np.ndarray
    values: dict[str, np.ndarray]
    wall_seconds: float


def measure_trajectory(
    run: Run,
    probe: Probe | Prepared,
    *,
    root: Path | None = None,
    steps: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    lane: int = 0,
    progress: Progress | None = None,
) -> Measured:
    """Measures a run at its checkpoints, or opens the measurement if it was made.

    Args:
      run: a finished run with a trajectory.
      probe: what is measured.
      root: where runs are stored, by default with this one; measurements go to
        `<root>/probe/<hash>`.
      steps: checkpoints to measure; all of them by default.
      seeds: positions of seeds in the group; all of them by default.
      lane: position of the strategy that is measured.
      progress: who is told.

    Raises:
      Interrupted: SIGINT, SIGTERM or SIGUSR1 arrived; call again to go on.
      StoreError: the folder is held by another process, or a file was altered.
    """
    chosen = run.trajectory.steps if steps is None else tuple(int(s) for s in steps)
    positions = list(range(run.spec.n_seeds) if seeds is None else seeds)
    what = {
        "schema": SCHEMA,
        "run": run.folder.path.name,
        "probe": to_json(probe),
        "foreign": foreign_sources(probe),
        "steps": list(chosen),
        "seeds": positions,
        "lane": lane,
        "platform": jax.default_backend(),
    }
    folder = RunFolder((root or run.root) / "probe" / digest(what))
    inputs = {run.folder.path.name: run.folder.trajectory_hash}
    names = {step: f"checkpoint {step:,}" for step in chosen}

    def work() -> Pieces:
        own = [run.spec.seeds[i] for i in positions]
        keys = jnp.stack([task_key(s) for s in own])
        ready = cache(lambda: _prepare(probe, keys))

        def one(step: int) -> dict[str, Array]:
            read = run.trajectory.read(step)
            params = jax.tree.map(lambda p: p[positions, lane], read)
            return _measure_seeds(probe, params, keys, ready())

        def stacked(rows: dict[str, Arrays]) -> Arrays:
            every = [rows[names[step]] for step in chosen]
            return {k: np.stack([r[k] for r in every], 1) for k in every[0]}

        return Pieces(
            folder,
            f"probe {folder.path.name[:6]}, {seeds_text(own)}",
            {name: partial(one, step) for step, name in names.items()},
            unit="checkpoints",
            join=stacked,
        )

    with pinned(x64=run.spec.dtype == "float64"):
        code = Code.of(measure_trajectory, probe, inputs=inputs)
        carry_out(folder, what, work, kind="probe", code=code, progress=progress)
    values, wall = read_values(folder)
    if any(v.shape[:2] != (len(positions), len(chosen)) for v in values.values()):
        raise StoreError(f"{folder.path / VALUES} is no measurement of these seeds.")
    return Measured(np.asarray(chosen), values, wall)


def _prepare(probe: Probe | Prepared, keys: Array) -> tuple[Any, ...]:
    """What a probe computes ahead, stacked over seeds; nothing for most probes."""
    if not isinstance(probe, Prepared):
        return ()
    seeds = [probe.prepare(key) for key in keys]
    return (jax.tree.map(lambda *a: jnp.stack(a), *seeds),)


@partial(jax.jit, static_argnums=0)
def _measure_seeds(
    probe: Any, params: Params, keys: Array, ready: tuple[Any, ...]
) -> dict[str, Array]:
    return jax.lax.map(lambda a: probe.measure(*a), (params, keys, *ready))
