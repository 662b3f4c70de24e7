"""Runs a probe over stored trajectories, and keeps what it measured beside the runs.

A measurement is addressed by its content (the run, the probe, the steps), so it is made
once. Any probe works: a frozen record with `measure(params, key) -> dict of arrays`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sandbox.errors import Interrupted, StoreError
from sandbox.store.config import digest, foreign_sources, to_json
from sandbox.store.files import exclusive, read_json, write_atomic, write_json
from sandbox.store.provenance import provenance
from sandbox.store.runs import SCHEMA, RunFolder
from sandbox.train.progress import Progress, default_progress, seeds_text
from sandbox.train.run import Run
from sandbox.train.signals import collected_signals, join_sittings, say
from sandbox.train.teaching import task_key
from sandbox.types import Array, Params

SAVE_SECONDS = 10.0
_VALUES = "values.safetensors"


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
    folder = RunFolder(root / "probe" / digest(what))
    if not folder.complete:
        with exclusive(folder.path):
            if not folder.complete:
                teller = default_progress() if progress is None else progress
                _measure(run, probe, chosen, (positions, lane), folder, what, teller)
    folder.check("provenance.json")
    about = read_json(folder.path / "provenance.json")
    wall = about.get("wall_seconds", 0.0) if isinstance(about, dict) else 0.0
    values = _read(folder)
    if any(v.shape[:2] != (len(positions), len(chosen)) for v in values.values()):
        raise StoreError(f"{folder.path / _VALUES} is no measurement of these seeds.")
    return Measured(np.asarray(chosen), values, wall)


def _measure(
    run: Run,
    probe: Probe | Prepared,
    steps: Sequence[int],
    where: tuple[list[int], int],
    folder: RunFolder,
    what: dict[str, Any],
    progress: Progress,
) -> None:
    folder.prepare()
    write_json(folder.path / "config.json", what)
    state = _restore(folder, len(steps))
    seeds = [run.spec.seeds[i] for i in where[0]]
    title = f"probe {folder.path.name[:6]}, {seeds_text(seeds)}"
    keys = jnp.stack([task_key(s) for s in seeds])

    ready: list[Any] = []

    def one(step: int) -> dict[str, np.ndarray]:
        if not ready:
            ready.append(_prepare(probe, keys))
        params = jax.tree.map(lambda p: p[where], run.trajectory.read(step))
        measured = _measure_seeds(probe, params, keys, ready[0])
        return {k: np.asarray(v) for k, v in measured.items()}

    finished = False
    progress.start(title, len(steps), len(state.rows), "checkpoints")
    try:
        with jax.enable_x64(run.spec.dtype == "float64"):
            _measure_rows(one, steps, state, folder, progress)
        _finish(state, folder)
        finished = True
    finally:
        note = "" if finished else f"at checkpoint {len(state.rows)} of {len(steps)}"
        progress.close(note, finished=finished)


@dataclass
class _State:
    """Rows measured so far, seconds spent on them, and the sittings it took."""

    rows: list[dict[str, np.ndarray]]
    wall: float
    sittings: list[dict[str, str]]


def _measure_rows(
    one: Callable[[int], dict[str, np.ndarray]],
    steps: Sequence[int],
    state: _State,
    folder: RunFolder,
    progress: Progress,
) -> None:
    """Measures the steps that are missing, or saves and raises at a signal."""
    saved = time.monotonic()
    clock = saved - state.wall
    with collected_signals() as stop:
        while not stop and len(state.rows) < len(steps):
            step = steps[len(state.rows)]
            state.rows.append(one(step))
            state.wall = time.monotonic() - clock
            progress.update(len(state.rows), f"checkpoint {step:,}")
            if time.monotonic() - saved > SAVE_SECONDS:
                _save(state, folder)
                saved = time.monotonic()
        if stop:
            _save(state, folder)
            raise Interrupted(
                f"stopped after {len(state.rows)} of {len(steps)} checkpoints by signal"
                f" {stop[0]}; what was measured is saved in {folder.path}, run the same"
                " command to go on."
            )


def _save(state: _State, folder: RunFolder) -> None:
    names = list(state.rows[0]) if state.rows else []
    tensors = {f"value/{k}": np.stack([r[k] for r in state.rows]) for k in names}
    meta = {
        "rows": len(state.rows),
        "wall": state.wall,
        "names": names,
        "sittings": state.sittings,
    }
    folder.save_resume(len(state.rows), tensors, meta)


def _restore(folder: RunFolder, most: int) -> _State:
    """What an earlier sitting measured, or nothing."""
    found = folder.load_resume()
    if found is None:
        return _State([], 0.0, join_sittings([]))
    tensors, meta = found
    n = meta.get("rows", -1)
    sound = 0 <= n <= most and {"wall", "names", "sittings"} <= meta.keys()
    if not sound or any(
        f"value/{k}" not in tensors or len(tensors[f"value/{k}"]) != n
        for k in meta["names"]
    ):
        say(f"{folder.path}: the saved state does not fit; starting over")
        return _State([], 0.0, join_sittings([]))
    rows = [{k: tensors[f"value/{k}"][i] for k in meta["names"]} for i in range(n)]
    return _State(rows, meta["wall"], join_sittings(meta["sittings"]))


def _finish(state: _State, folder: RunFolder) -> None:
    rows = state.rows
    values = {k: np.stack([r[k] for r in rows], 1) for k in rows[0]}
    write_atomic(folder.path / _VALUES, save(values))
    source = {**provenance(wall_seconds=state.wall), "sittings": state.sittings}
    write_json(folder.path / "provenance.json", source)
    folder.commit({"kind": "probe"})


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


def _read(folder: RunFolder) -> dict[str, np.ndarray]:
    folder.check(_VALUES)
    try:
        return load((folder.path / _VALUES).read_bytes())
    except (SafetensorError, KeyError, TypeError, ValueError) as e:
        raise StoreError(
            f"{folder.path / _VALUES} is no measurement ({e!s:.200})."
        ) from e
