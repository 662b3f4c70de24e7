"""Runs probes over a trajectory: the part of `sandbox probe` that needs jax."""

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sandbox.cli.probe import Request
from sandbox.errors import StoreError
from sandbox.probes.alignment import AlignmentProbe
from sandbox.probes.fourier import FourierProbe
from sandbox.probes.ngram import NgramProbe
from sandbox.probes.nonterminals import NonterminalProbe
from sandbox.probes.offline import measure_trajectory
from sandbox.probes.spectrum import SpectrumProbe
from sandbox.store.config import to_json
from sandbox.store.files import write_atomic
from sandbox.store.provenance import versions
from sandbox.text import table

_MAX_DEGREE = 5

Arrays = dict[str, np.ndarray]


def measure(request: Request) -> None:
    """Measures every probe of a request, prints its table, exports it if asked."""
    spec = request.run.spec
    with jax.enable_x64(spec.dtype == "float64"):
        for name in request.probes:
            probe = _probe(name, request)
            measured = measure_trajectory(
                request.run,
                probe,
                root=request.root,
                steps=request.steps,
                seeds=[position for position, _ in request.seeds],
                lane=request.lane,
            )
            arrays = {k: np.swapaxes(v, 0, 1) for k, v in measured.values.items()}
            print(f"\n{name}: {_title(request)}")
            print(_TABLES[name](arrays, request))
            if request.out is not None:
                _export(request.out, name, probe, measured.values, request)
                print(f"written to {request.out}")


def _probe(name: str, request: Request) -> Any:
    spec = request.run.spec
    if name == "alignment":
        return AlignmentProbe(spec.task)
    if name == "spectrum":
        return SpectrumProbe(spec.task, spec.model)
    if name == "nonterminals":
        return NonterminalProbe(task=spec.task, model=spec.model)
    if name == "ngram":
        return NgramProbe(task=spec.task, model=spec.model)
    degrees = tuple(range(1, min(_MAX_DEGREE, spec.task.d) + 1))
    return FourierProbe(spec.task, spec.model, degrees=degrees, points=request.points)


def _export(
    path: Path, name: str, probe: Any, arrays: Arrays, request: Request
) -> None:
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


def _spectrum_table(arrays: Arrays, request: Request) -> str:
    """Exact weight of each degree: largest class, mean over seeds (in support)."""
    weight, inside = arrays["weight"], arrays["in_support"].sum(2)  # (R, S, d+1, C)
    degrees = range(min(weight.shape[2], 9))
    header = ["step", *(f"degree {j}" for j in degrees)]
    rows = []
    for r, step in enumerate(request.steps):
        mean, within = (a[r].max(-1).mean(0) for a in (weight, inside))
        cells = [f"{mean[j]:.4f} ({within[j]:.4f})" for j in degrees]
        rows.append([f"{step:,}", *cells])
    return table(header, rows, right="r" * len(header))


def _nonterminals_table(arrays: Arrays, request: Request) -> str:
    """Accuracies of each level: nonterminals, and boundaries with their classes alike.

    A column's error is over held-out strings; those of seeds are independent.
    """
    header, columns = ["step", "level"], []
    targets = {"nonterminal": "nonterminal", "boundary_balanced": "boundary"}
    for target, word in targets.items():
        for kind in ("attention", "linear"):
            columns.append(_mean_over_seeds(arrays, f"{kind}/{target}"))
            header.append(f"{word} {kind}")
        for kind in ("control", "untrained"):
            columns.append(arrays[f"{kind}/attention/{target}"].mean(1))
            header.append(kind)
        columns.append(arrays[f"majority/{target}"].mean(1))
        header.append("majority")
    rows = []
    for r, step in enumerate(request.steps):
        for level in range(columns[0].shape[1]):
            cells = (c[r, level] for c in columns)
            shown = (c if isinstance(c, str) else f"{c:.3f}" for c in cells)
            rows.append([f"{step:,}" if level == 0 else "", str(level), *shown])
    return table(header, rows, right="r" * len(header))


def _mean_over_seeds(arrays: Arrays, name: str) -> np.ndarray:
    """Texts `mean±se` from `(R, S, ...)` numbers, `(R, ...)`."""
    mean, error = arrays[name].mean(1), arrays[f"{name}_se"]
    error = np.sqrt((error**2).sum(1)) / error.shape[1]
    texts = [f"{m:.3f}±{e:.3f}" for m, e in zip(mean.flat, error.flat, strict=True)]
    return np.asarray(texts, object).reshape(mean.shape)


def _ngram_table(arrays: Arrays, request: Request) -> str:
    """Medians over strings and positions, and nats, averaged over seeds."""
    sizes = sorted({int(n.split("/")[1]) for n in arrays if n.startswith("m_robust/")})
    header = ["step", "accuracy", "exact"]
    columns = [_mean_over_seeds(arrays, "accuracy"), arrays["exact/accuracy"].mean(1)]
    for name in ("robust", "close"):
        for n in sizes:
            header.append(f"{name} {n}")
            columns.append(arrays[f"m_{name}/{n}/median"].mean(1))
    for n in (*sizes, "all"):
        header.append(f"KL {n}")
        columns.append(arrays[f"kl/{n}"].mean(1))
    rows = []
    for r, step in enumerate(request.steps):
        cells = (c[r] for c in columns)
        shown = (c if isinstance(c, str) else f"{c:.4f}" for c in cells)
        rows.append([f"{step:,}", *shown])
    return table(header, rows, right="r" * len(header))


_TABLES = {
    "fourier": _fourier_table,
    "alignment": _alignment_table,
    "spectrum": _spectrum_table,
    "nonterminals": _nonterminals_table,
    "ngram": _ngram_table,
}
