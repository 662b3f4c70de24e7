"""Runs probes over a trajectory: the part of `sandbox probe` that needs jax."""

import io
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sandbox.cli.listing import table
from sandbox.cli.probe import Request
from sandbox.errors import StoreError
from sandbox.probes.alignment import AlignmentProbe
from sandbox.probes.fourier import FourierProbe
from sandbox.store.config import to_json
from sandbox.store.files import write_atomic
from sandbox.store.provenance import versions
from sandbox.train.teaching import task_key

_NOTE_SECONDS = 5.0
_MAX_DEGREE = 5

Arrays = dict[str, np.ndarray]


def measure(request: Request) -> None:
    """Measures every probe of a request, prints its table and stores its arrays."""
    spec = request.run.spec
    with jax.enable_x64(spec.dtype == "float64"):
        for name in request.probes:
            probe = _probe(name, request)
            arrays = _over_trajectory(name, probe, request)
            _store(request.out[name], name, probe, arrays, request)
            print(f"\n{name}: {_title(request)}")
            print(_TABLES[name](arrays, request))
            print(f"written to {request.out[name]}")


def _probe(name: str, request: Request) -> Any:
    spec = request.run.spec
    if name == "alignment":
        return AlignmentProbe(spec.task)
    degrees = tuple(range(1, min(_MAX_DEGREE, spec.task.d) + 1))
    return FourierProbe(spec.task, spec.model, degrees=degrees, points=request.points)


def _over_trajectory(name: str, probe: Any, request: Request) -> Arrays:
    """Every array of the probe, stacked to (R, S, ...)."""
    run_probe = jax.jit(probe.measure)
    trajectory = request.run.trajectory
    keys = {seed: task_key(seed) for _, seed in request.seeds}
    total = len(request.steps) * len(request.seeds)
    done, last = 0, time.monotonic()
    rows: list[list[Arrays]] = []
    for step in request.steps:
        row = []
        for position, seed in request.seeds:
            params = trajectory.read(step, seed=position, lane=request.lane)
            out = run_probe(params, keys[seed])
            row.append({k: np.asarray(v) for k, v in out.items()})
            done += 1
            if time.monotonic() - last > _NOTE_SECONDS:
                last = time.monotonic()
                text = f"{name}: {done} of {total} checkpoints, at step {step:,}"
                print(text, file=sys.stderr, flush=True)
        rows.append(row)
    return {
        k: np.stack([np.stack([s[k] for s in row]) for row in rows]) for k in rows[0][0]
    }


def _store(path: Path, name: str, probe: Any, arrays: Arrays, request: Request) -> None:
    about = {
        "probe": {"name": name, **_settings(probe)},
        "run": str(request.run.folder.path),
        "strategy": request.strategy,
        "task": to_json(request.run.spec.task),
        "model": to_json(request.run.spec.model),
        "versions": versions(),
    }
    sink = io.BytesIO()
    np.savez_compressed(
        sink,
        steps=np.asarray(request.steps, np.int64),
        seeds=np.asarray([s for _, s in request.seeds], np.int64),
        about=np.asarray(json.dumps(about, sort_keys=True)),
        **arrays,  # pyright: ignore[reportArgumentType]
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StoreError(f"cannot make {path.parent}: {e.strerror or e}.") from e
    write_atomic(path, sink.getvalue())


def _settings(probe: Any) -> dict[str, Any]:
    return {k: v for k, v in asdict(probe).items() if k not in ("task", "model")}


def _title(request: Request) -> str:
    folder = request.run.folder.path
    seeds = [str(s) for _, s in request.seeds]
    which = f"seed {seeds[0]}" if len(seeds) == 1 else f"mean over {len(seeds)} seeds"
    return f"{folder.parent.name} {folder.name}, strategy {request.strategy}, {which}"


def mean_size(c: np.ndarray, se: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean |c| over seeds, nodes and monomials, and its Monte-Carlo standard error.

    |c| is that of class 1 where C = 2 and the largest over classes where C > 2. Errors
    of different monomials are nearly uncorrelated, because their products average out.

    Args:
      c: correlations `(R, S, n, M, C)`.
      se: their standard errors.
    """
    size = np.abs(c)
    if c.shape[-1] == 2:
        size, error = size[..., 1], se[..., 1]
    else:
        top = size.argmax(-1)[..., None]
        size = np.take_along_axis(size, top, -1)[..., 0]
        error = np.take_along_axis(se, top, -1)[..., 0]
    size, error = size.reshape(len(c), -1), error.reshape(len(c), -1)
    return size.mean(1), np.sqrt((error**2).sum(1)) / error.shape[1]


def _fourier_table(arrays: Arrays, request: Request) -> str:
    header, columns = ["step"], [[f"{s:,}" for s in request.steps]]
    names = [n for n in arrays if n.startswith(("in_support/", "off_support/"))]
    for name in sorted(names, key=lambda n: (int(n.partition("/")[2]), n)):
        group, _, degree = name.partition("/")
        if not arrays[name].shape[3]:  # no monomials of this degree
            continue
        mean, error = mean_size(arrays[name], arrays[f"{group}_se/{degree}"])
        header.append(f"{group.removesuffix('_support')} {degree}")
        columns.append([f"{m:.5f}±{e:.5f}" for m, e in zip(mean, error, strict=True)])
    rows = list(zip(*columns, strict=True))
    return table(header, rows, right="r" * len(header))


def _alignment_table(arrays: Arrays, request: Request) -> str:
    """Share of squared weights on the support, over neurons, nodes and seeds."""
    header = ["step", "mean", "median", "90%", "99%", "largest", "chance"]
    rows = []
    for r, step in enumerate(request.steps):
        share = arrays["alignment"][r]
        marks = np.quantile(share, (0.5, 0.9, 0.99, 1.0))
        values = (share.mean(), *marks, arrays["chance"][r].mean())
        rows.append([f"{step:,}", *(f"{v:.4f}" for v in values)])
    return table(header, rows, right="r" * len(header))


_TABLES = {"fourier": _fourier_table, "alignment": _alignment_table}
