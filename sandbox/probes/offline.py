"""Runs a probe over stored trajectories, and keeps what it measured beside the runs.

A measurement is addressed by its content (the run, the probe, the steps), so it is made
once. Any probe works: a frozen record with `measure(params, key) -> dict of arrays`.
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from sandbox.store.config import digest, foreign_sources, to_json
from sandbox.store.files import exclusive, read_json, write_atomic, write_json
from sandbox.store.provenance import provenance
from sandbox.store.runs import SCHEMA, RunFolder
from sandbox.train.progress import Progress, default_progress, seeds_text
from sandbox.train.run import Run
from sandbox.train.teaching import task_key
from sandbox.types import Array, Params

_VALUES = "values.safetensors"


@runtime_checkable
class Probe(Protocol):
    """A frozen record that measures parameters."""

    def measure(self, params: Params, key: Any) -> dict[str, Array]:
        """Named arrays; jittable in both arguments."""
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
    probe: Probe,
    *,
    root: Path,
    steps: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    lane: int = 0,
    progress: Progress | None = None,
) -> Measured:
    """Measures a run at its checkpoints, or opens the measurement if it was made.

    Args:
      run: a finished run with a trajectory.
      probe: what is measured.
      root: where runs are stored; measurements go to `<root>/probe/<hash>`.
      steps: checkpoints to measure; all of them by default.
      seeds: positions of seeds in the group; all of them by default.
      lane: position of the strategy that is measured.
      progress: who is told.
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
    folder = RunFolder(root / "probe" / digest(what))
    if not folder.complete:
        with exclusive(folder.path):
            if not folder.complete:
                teller = default_progress() if progress is None else progress
                _measure(run, probe, chosen, (positions, lane), folder, what, teller)
    folder.check("provenance.json")
    wall = read_json(folder.path / "provenance.json")["wall_seconds"]
    return Measured(np.asarray(chosen), _read(folder), wall)


def _measure(
    run: Run,
    probe: Probe,
    steps: Sequence[int],
    where: tuple[list[int], int],
    folder: RunFolder,
    what: dict[str, Any],
    progress: Progress,
) -> None:
    from safetensors.numpy import save

    begin = time.monotonic()
    folder.prepare()
    write_json(folder.path / "config.json", what)
    seeds = [run.spec.seeds[i] for i in where[0]]
    title = f"probe {folder.path.name[:6]}, {seeds_text(seeds)}"
    progress.start(title, len(steps), 0, "checkpoints")
    keys = jnp.stack([task_key(s) for s in seeds])
    rows: list[dict[str, np.ndarray]] = []
    with jax.enable_x64(run.spec.dtype == "float64"):
        for i, step in enumerate(steps):
            params = jax.tree.map(lambda p: p[where], run.trajectory.read(step))
            measured = _measure_seeds(probe, params, keys)
            rows.append({k: np.asarray(v) for k, v in measured.items()})
            progress.update(i + 1, f"checkpoint {step:,}")
    values = {k: np.stack([r[k] for r in rows], 1) for k in rows[0]}
    write_atomic(folder.path / _VALUES, save(values))
    wall = time.monotonic() - begin
    write_json(folder.path / "provenance.json", provenance(wall_seconds=wall))
    folder.commit({"kind": "probe"})
    progress.close("")


@partial(jax.jit, static_argnums=0)
def _measure_seeds(probe: Probe, params: Params, keys: Array) -> dict[str, Array]:
    return jax.lax.map(lambda a: probe.measure(*a), (params, keys))


def _read(folder: RunFolder) -> dict[str, np.ndarray]:
    from safetensors.numpy import load

    folder.check(_VALUES)
    return load((folder.path / _VALUES).read_bytes())
