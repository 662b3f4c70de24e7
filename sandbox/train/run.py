"""A run's identity, its folder, and what can be read from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sandbox.distill.methods import METHODS
from sandbox.distill.strategy import Strategy
from sandbox.errors import ConfigError, DivergenceError, StoreError
from sandbox.models.bit_transformer import BitTransformer
from sandbox.models.dagfm import DAGFM
from sandbox.models.mlp import MLP
from sandbox.models.patches import PatchNet
from sandbox.models.towers import TwoTowers
from sandbox.models.transformer import Transformer
from sandbox.store.code import foreign_sources, why_other_now
from sandbox.store.config import digest, from_json, to_json
from sandbox.store.files import read_json
from sandbox.store.folders import SCHEMA, RunFolder
from sandbox.store.metrics import Metrics, read_metrics
from sandbox.store.trajectories import Shapes, Trajectory, flatten
from sandbox.tasks.boolean import Expansion
from sandbox.tasks.data import BUILT_IN_DATA
from sandbox.tasks.gaussian import MultiIndex
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.tasks.masking import MaskedLM
from sandbox.tasks.multi_view import MultiView, TwoViews
from sandbox.tasks.next_token import NextToken
from sandbox.tasks.parity import NoisyParity, Parity
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


def folder_of(spec: RunSpec, root: Path) -> RunFolder:
    """Where the run of a record lives."""
    return RunFolder(root / spec.kind / digest(identity(spec)))


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


def open_run(path: Path, *, extra: Iterable[type] = (), quiet: bool = False) -> Run:
    """Opens a finished run folder.

    Args:
      path: the folder.
      extra: classes of tasks, models or sources defined outside `sandbox`.
      quiet: whether a run that other code made is not told.

    Raises:
      StoreError: no finished run is there, or its config was altered.
      ConfigError: the saved record does not fit the declared classes.
    """
    folder = RunFolder(path)
    if not path.is_dir():
        raise StoreError(f"{path} does not exist; `sandbox runs` lists what there is.")
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
