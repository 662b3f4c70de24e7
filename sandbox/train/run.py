"""A run's identity, its folder, and what can be read from it.

Example:
    >>> run = open_run("3f9a")  # the beginning of a hash that `sandbox runs` lists
    >>> run.curves("progressive")  # accuracy (S, R) at run.steps
    >>> run.plot()
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from sandbox.distill.methods import METHODS
from sandbox.distill.strategy import Strategy
from sandbox.errors import ConfigError, DivergenceError
from sandbox.models.bit_transformer import BitTransformer
from sandbox.models.dagfm import DAGFM
from sandbox.models.mlp import MLP
from sandbox.models.patches import PatchNet
from sandbox.models.towers import TwoTowers
from sandbox.models.transformer import Transformer
from sandbox.plotting.curves import band, short, spread
from sandbox.plotting.style import WIDE, Shown, apart, name_of, styled
from sandbox.store.code import foreign_sources, why_other_now
from sandbox.store.config import digest, from_json, to_json
from sandbox.store.files import read_json
from sandbox.store.find import resolve
from sandbox.store.folders import SCHEMA, RunFolder, default_root
from sandbox.store.metrics import Metrics, read_metrics, to_pandas
from sandbox.store.trajectories import Shapes, Trajectory, flatten
from sandbox.tasks.base import is_sequence_task
from sandbox.tasks.boolean import Expansion
from sandbox.tasks.data import BUILT_IN_DATA
from sandbox.tasks.gaussian import MultiIndex
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.tasks.masking import MaskedLM
from sandbox.tasks.multi_view import MultiView, TwoViews
from sandbox.tasks.next_token import NextToken
from sandbox.tasks.parity import NoisyParity, Parity
from sandbox.train.progress import seeds_text
from sandbox.train.signals import say_once
from sandbox.train.spec import RunSpec

BUILT_IN: tuple[type, ...] = (
    *METHODS,
    *BUILT_IN_DATA,
    *(Parity, NoisyParity, Hierarchy, Expansion, MultiIndex, MaskedLM, NextToken),
    *(MultiView, TwoViews),
    *(MLP, Transformer, BitTransformer, DAGFM, PatchNet, TwoTowers),
)
"""Parts a saved record may hold where its field is typed by a protocol."""


def identity(spec: RunSpec) -> dict[str, Any]:
    """Everything a run's hash is made of."""
    return {
        "schema": SCHEMA,
        "spec": to_json(spec),
        "engine": spec.engine_used,
        "segment": spec.segment,
        "platform": jax.default_backend(),
        "foreign": foreign_sources(spec),
    }


def folder_of(spec: RunSpec, root: Path, **then: Any) -> RunFolder:
    """Where the run of a record lives; `then` is of its identity what it was there."""
    return RunFolder(root / spec.kind / digest(identity(spec) | then))


def checkpoint_shapes(spec: RunSpec) -> Shapes:
    """Shapes `(S, L, ...)` of the parameters that a run of a record stores."""
    made = jax.eval_shape(spec.model.init, jax.random.key(0))
    flat = flatten(jax.tree.map(lambda leaf: np.asarray(leaf.shape, int), made))
    lanes = (spec.n_seeds, len(spec.strategies))
    return {name: (*lanes, *shape.tolist()) for name, shape in flat.items()}


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      folder: its files.
      spec: its record.
      lanes: names of the strategies that are asked for; all of them if empty.
    """

    folder: RunFolder
    spec: RunSpec
    lanes: tuple[str, ...] = ()

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        """Those that are asked for."""
        wanted = self.lanes or {s.name for s in self.spec.strategies}
        return tuple(s for s in self.spec.strategies if s.name in wanted)

    def lost(self, kind: str) -> list[dict[str, Any]]:
        """Lanes that are asked for and `failed`, or are `absent`, with their seeds."""
        names = {s.name for s in self.strategies}
        return [lane for lane in self.outcome[kind] if lane["strategy"] in names]

    @property
    def root(self) -> Path:
        """The folder of runs that it is in."""
        return self.folder.path.resolve().parent.parent

    @cached_property
    def teacher(self) -> "Run | None":
        """The run of its teacher; None where its record has none.

        Raises:
          StoreError: that run is not in the same store, or unfinished.
        """
        if self.spec.teacher is None:
            return None
        self.folder.check("config.json")
        mine, spec = read_json(self.folder.path / "config.json"), self.spec.teacher.spec
        now = foreign_sources(spec)  # of one's own classes, edited since or not
        foreign = {
            tag: mine.get("foreign", {}).get(tag, text) for tag, text in now.items()
        }
        then = {"platform": mine["platform"], "foreign": foreign}
        found = Run(folder_of(spec, self.root, **then), spec)
        found.folder.check("config.json")
        return found

    @property
    def steps(self) -> np.ndarray:
        """Samples seen at each evaluation, `(R,)`."""
        return self.metrics.steps

    def curves(self, lane: str, metric: str = "accuracy") -> np.ndarray:
        """One metric of one strategy, `(S, R)`; NaN where a seed of it has no result.

        Raises:
          StoreError: the run has no such strategy or metric.
        """
        return self.metrics.curves(lane, metric)

    def table(self) -> pa.Table:
        """All that was recorded, as rows `step, seed, strategy, ...metrics`."""
        rows, names = self.metrics.table(), {s.name for s in self.strategies}
        return rows.filter(pa.array(s in names for s in rows["strategy"].to_pylist()))

    def to_pandas(self) -> Any:
        """The table as a `pandas.DataFrame`.

        Raises:
          SandboxError: pandas is not installed.
        """
        return to_pandas(self.table())

    def plot(self) -> Figure:
        """Accuracy of every lane against samples.

        Lines are medians over seeds (and initialisations), bands their quartiles, or
        their range below ten; dotted is chance, where classes are drawn alike.
        """
        found: dict[str, list[np.ndarray]] = {}
        for s in self.strategies:
            found.setdefault(s.name.partition("#")[0], []).append(self.curves(s.name))
        rows = {name: np.concatenate(ys) for name, ys in found.items()}
        n = max(map(len, rows.values()))
        with styled():
            fig = Shown(figsize=(0.62 * WIDE, 2.6), layout="constrained")
            ax = fig.subplots()
            for name, style in apart(list(rows)).items():
                y = rows[name]
                x = np.broadcast_to(self.steps, y.shape)
                band(ax, x, y, label=name_of(name), **style)
            if not is_sequence_task(self.spec.task):
                ax.axhline(1 / self.spec.task.n_classes, color="0.6", ls=":", lw=1.0)
            ax.xaxis.set_major_formatter(short)
            ax.set(xlabel="samples", ylabel="accuracy")
            ax.set_title("one run" if n == 1 else f"medians, {spread(n)} of {n} runs")
            fig.legend(loc="outside upper left", ncols=4)
        return fig

    def __repr__(self) -> str:
        """What it is and how it ended, in a few lines."""
        spec, path = self.spec, self.folder.path
        ended, told = "not finished", ""
        with suppress(Exception):  # whatever is wrong with its files, it can be shown
            ended = f"{self.outcome['samples']:,} samples"
            last = {s.name: self.curves(s.name)[:, -1] for s in self.strategies}
            alive = {n: a[~np.isnan(a)] for n, a in last.items()}
            told = "\n  accuracy at the end: " + ", ".join(
                f"{n} {np.median(a):.3g}" if len(a) else f"{n} -"
                for n, a in alive.items()
            )
        who = ", ".join(s.name for s in self.strategies)
        return (
            f"<{spec.kind} {path.name[:8]}: {who}; {seeds_text(spec.seeds)}; {ended}"
            f"\n  {_brief(spec.task)}, {_brief(spec.model)}{told}>"
        )

    @cached_property
    def metrics(self) -> Metrics:
        """The recorded curves."""
        return read_metrics(self.folder)

    @cached_property
    def trajectory(self) -> Trajectory:
        """The stored checkpoints; those that are not of this record are refused."""
        found = Trajectory(self.folder)
        found.expect(checkpoint_shapes(self.spec))
        return found

    @cached_property
    def outcome(self) -> dict[str, Any]:
        """Samples trained, failed and absent lanes."""
        self.folder.check("outcome.json")
        return read_json(self.folder.path / "outcome.json")

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Versions, hardware and wall time."""
        self.folder.check("provenance.json")
        return read_json(self.folder.path / "provenance.json")

    def raise_if_diverged(self) -> "Run":
        """Returns the run, unless no lane survived.

        Raises:
          DivergenceError: every lane that had a teacher became non-finite.
        """
        failed, lanes = self.outcome["failed"], self.outcome["lanes"]
        if failed and len(failed) == lanes - len(self.outcome["absent"]):
            first = min(failed, key=lambda f: f["sample"])
            raise DivergenceError(
                f"every lane of {self.folder.path} became non-finite, first seed"
                f" {first['seed']} / {first['strategy']} at sample {first['sample']};"
                " the last finite parameters were kept. A smaller learning rate"
                " (optimizer.lr.peak) is the usual fix."
            )
        return self


def _brief(record: Any) -> str:
    """A record by its class and the fields that its JSON has."""
    with suppress(Exception):  # it can be shown whatever it is
        names = [n for n in to_json(record) if n != "type"]
        words = ", ".join(f"{n}={getattr(record, n)!r:.40}" for n in names)
        return f"{type(record).__name__}({words})"
    return type(record).__name__


def open_run(
    name: str | Path,
    *,
    root: Path | str | None = None,
    extra: Iterable[type] = (),
    quiet: bool = False,
) -> Run:
    """Opens a finished run.

    Args:
      name: its folder, or the beginning of its hash, `kind/` before that or not.
      root: where runs are stored; `$SANDBOX_RUNS` or `runs` by default.
      extra: classes of tasks, models or sources defined outside `sandbox`.
      quiet: whether a run that other code made is not told.

    Raises:
      StoreError: no finished run or more than one is called so, or its config was
        altered.
      ConfigError: the saved record does not fit the declared classes.
    """
    folder = resolve(str(name), default_root() if root is None else Path(root))
    path = folder.path
    folder.check("config.json")
    why = "" if quiet else why_other_now(folder.made_by() or {})
    if why:
        say_once(f"{path} {why}; it is used as it is.")
    data = read_json(path / "config.json")
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ConfigError(
            f"{path / 'config.json'}: this version reads schema {SCHEMA} only."
        )
    classes = (*BUILT_IN, *extra)
    return Run(
        folder, from_json(RunSpec, data.get("spec"), extra=classes, path="$.spec")
    )
