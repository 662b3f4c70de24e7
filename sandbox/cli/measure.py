"""Runs probes over a trajectory: the part of `sandbox probe` that needs jax."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from sandbox.errors import require
from sandbox.probes.alignment import AlignmentProbe
from sandbox.probes.fourier import FourierProbe
from sandbox.probes.ngram import NgramProbe
from sandbox.probes.nonterminals import NonterminalProbe
from sandbox.probes.offline import measure_trajectory
from sandbox.probes.spectrum import SpectrumProbe
from sandbox.store.config import to_json
from sandbox.store.files import make_folder, write_atomic
from sandbox.store.provenance import versions
from sandbox.text import table
from sandbox.train.run import Run

_MAX_DEGREE = 5

Arrays = dict[str, np.ndarray]
Columns = Iterator[tuple[str, Sequence[str]]]
"""A name, and a cell for every step, or for every level of every step."""


def measure(
    args: Any, run: Run, lane: int, seeds: Sequence[int], steps: Sequence[int]
) -> None:
    """Measures what was asked for of a run, prints the tables, exports it if asked."""
    spec, folder = run.spec, run.folder.path
    strategy = spec.strategies[lane].name
    which = f"seed {seeds[0]}" if len(seeds) == 1 else f"mean over {len(seeds)} seeds"
    for name in dict.fromkeys(args.probes):
        make, columns = _PROBES[name]
        probe = make(spec, args.points)
        values = measure_trajectory(
            run,
            probe,
            root=folder.resolve().parent.parent,
            steps=steps,
            seeds=[spec.seeds.index(s) for s in seeds],
            lane=lane,
        ).values
        title = f"{folder.parent.name} {folder.name}, strategy {strategy}, {which}"
        print(f"\n{name}: {title}", _table(steps, columns(values)), sep="\n")
        if args.out is None:
            continue
        parts = {part: to_json(getattr(spec, part)) for part in ("task", "model")}
        settings = {k: v for k, v in asdict(probe).items() if k not in parts}
        about = {"run": str(folder), "strategy": strategy, "versions": versions()}
        about |= {"probe": {"name": name, **settings}, **parts}
        sink = io.BytesIO()
        np.savez_compressed(
            sink,
            steps=np.asarray(steps, np.int64),
            seeds=np.asarray(seeds, np.int64),
            about=np.asarray(json.dumps(about, sort_keys=True)),
            **values,  # pyright: ignore[reportArgumentType]
        )
        make_folder(args.out.parent)
        write_atomic(args.out, sink.getvalue())
        print(f"written to {args.out}")


def mean_size(c: np.ndarray, se: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean |c| over seeds, nodes and monomials, and its Monte-Carlo standard error.

    |c| is that of class 1 where C = 2 and the largest over classes where C > 2. Errors
    of different monomials are nearly uncorrelated, because their products average out.

    Args:
      c: correlations `(S, R, n, M, C)`.
      se: their standard errors.
    """
    size = np.abs(c)
    two = c.shape[-1] == 2
    top = np.ones((*c.shape[:-1], 1), int) if two else size.argmax(-1, keepdims=True)
    size, error = (_by_step(np.take_along_axis(a, top, -1)) for a in (size, se))
    return size.mean(1), np.sqrt((error**2).sum(1)) / error.shape[1]


def _by_step(values: np.ndarray) -> np.ndarray:
    """`(S, R, ...)` as one row a step."""
    return np.swapaxes(values, 0, 1).reshape(values.shape[1], -1)


def _table(steps: Sequence[int], columns: Columns) -> str:
    header, cells = zip(*columns, strict=True)
    more = [""] * (len(cells[0]) // len(steps) - 1)
    first = [cell for step in steps for cell in (f"{step:,}", *more)]
    rows = list(zip(first, *cells, strict=True))
    return table(("step", *header), rows, right="r" * len(rows[0]))


def _with_error(mean: np.ndarray, error: np.ndarray, digits: int) -> list[str]:
    pairs = zip(mean.flat, error.flat, strict=True)
    return [f"{m:.{digits}f}±{e:.{digits}f}" for m, e in pairs]


def _mean(arrays: Arrays, name: str, digits: int, *, se: bool = False) -> list[str]:
    """Means over the seeds of `(S, R, ...)`; seeds are independent."""
    mean = arrays[name].mean(0)
    if not se:
        return [f"{m:.{digits}f}" for m in mean.flat]
    error = arrays[f"{name}_se"]
    return _with_error(mean, np.sqrt((error**2).sum(0)) / len(error), digits)


def _fourier(arrays: Arrays) -> Columns:
    names = [n for n in arrays if n.startswith(("in_support/", "off_support/"))]
    for name in sorted(names, key=lambda n: (int(n.partition("/")[2]), n)):
        group, _, degree = name.partition("/")
        if arrays[name].shape[3]:  # else there are no monomials of this degree
            found = mean_size(arrays[name], arrays[f"{group}_se/{degree}"])
            yield f"{group.removesuffix('_support')} {degree}", _with_error(*found, 5)


def _alignment(arrays: Arrays) -> Columns:
    """Share of squared weights on the support, over neurons, nodes and seeds."""
    share = _by_step(arrays["alignment"])
    marks = np.quantile(share, (0.5, 0.9, 0.99, 1.0), axis=1)
    chance = _by_step(arrays["chance"]).mean(1)
    names = ("mean", "median", "90%", "99%", "largest", "chance")
    for name, values in zip(names, (share.mean(1), *marks, chance), strict=True):
        yield name, [f"{v:.4f}" for v in values]


def _spectrum(arrays: Arrays) -> Columns:
    """Exact weight of each degree, mean over seeds (in some node's support).

    That of class 1 where C = 2 and the largest over the classes where C > 2.
    """
    require(
        "in_any" in arrays,
        "this spectrum was measured by an earlier version, which counted monomials of"
        " several supports several times; delete its folder to measure it again.",
    )
    both = (arrays["weight"], arrays["in_any"])  # (S, R, d+1, C)
    two = both[0].shape[-1] == 2
    weight, inside = ((a[..., 1] if two else a.max(-1)).mean(0).T for a in both)
    for j, pair in enumerate(zip(weight[:9], inside[:9], strict=True)):
        pairs = zip(*pair, strict=True)
        yield f"degree {j}", [f"{w:.4f} ({within:.4f})" for w, within in pairs]


def _nonterminals(arrays: Arrays) -> Columns:
    """Accuracies of each level: nonterminals, and boundaries with their classes alike.

    A column's error is over held-out strings.
    """
    _, n_steps, n_levels = arrays["majority/nonterminal"].shape
    yield "level", [str(level) for level in range(n_levels)] * n_steps
    for target in ("nonterminal", "boundary_balanced"):
        word = target.removesuffix("_balanced")
        for kind in ("attention", "linear"):
            yield f"{word} {kind}", _mean(arrays, f"{kind}/{target}", 3, se=True)
        for kind in ("control/attention", "untrained/attention", "majority"):
            yield kind.partition("/")[0], _mean(arrays, f"{kind}/{target}", 3)


def _ngram(arrays: Arrays) -> Columns:
    """Medians over strings and positions, and nats, averaged over seeds."""
    sizes = sorted({int(n.split("/")[1]) for n in arrays if n.startswith("m_robust/")})
    yield "accuracy", _mean(arrays, "accuracy", 3, se=True)
    yield "exact", _mean(arrays, "exact/accuracy", 4)
    for name in ("robust", "close"):
        for n in sizes:
            yield f"{name} {n}", _mean(arrays, f"m_{name}/{n}/median", 4)
    for n in (*sizes, "all"):
        yield f"KL {n}", _mean(arrays, f"kl/{n}", 4)


def _fourier_probe(spec: Any, points: int) -> FourierProbe:
    degrees = tuple(range(1, min(_MAX_DEGREE, spec.task.d) + 1))
    return FourierProbe(spec.task, spec.model, degrees=degrees, points=points)


_PROBES: dict[str, tuple[Callable[[Any, int], Any], Callable[[Arrays], Columns]]] = {
    "fourier": (_fourier_probe, _fourier),
    "alignment": (lambda spec, _: AlignmentProbe(spec.task), _alignment),
    "spectrum": (lambda spec, _: SpectrumProbe(spec.task, spec.model), _spectrum),
    "nonterminals": (
        lambda spec, _: NonterminalProbe(task=spec.task, model=spec.model),
        _nonterminals,
    ),
    "ngram": (lambda spec, _: NgramProbe(task=spec.task, model=spec.model), _ngram),
}
"""Makes the probe of a run's record and a number of points; its columns."""
