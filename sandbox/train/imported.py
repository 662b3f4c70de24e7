"""Checkpoints that another program trained, as a run that teaches and is probed.

    run = import_run(found("bert-on-cfg3b"), task)

A folder that Hugging Face transformers saved is one checkpoint, and a folder of them
(`checkpoint-500/`, `step_1000/`, `seed_0-step_20k/`) a series, which its trainer
writes. The run is called by a record like any teacher's with the hash of what was read
in `imported`; nothing trains it, and what it was trained on is not known here.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from math import gcd
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sandbox.distill.strategy import Strategy
from sandbox.errors import ConfigError, require
from sandbox.models.imports import Imported, load_transformer
from sandbox.store.code import Code
from sandbox.store.config import digest
from sandbox.store.files import sha256_file, write_atomic, write_json
from sandbox.store.folders import RunFolder, default_root
from sandbox.store.metrics import FILE, Metrics
from sandbox.store.trajectories import checkpoint_name, save_checkpoint
from sandbox.tasks.sequences import GrammarTask
from sandbox.train.arithmetic import pinned
from sandbox.train.engine import evaluate
from sandbox.train.lanes import LABELS
from sandbox.train.progress import Progress
from sandbox.train.resumable import Arrays, Work, carry_out
from sandbox.train.run import Run, folder_of, identity
from sandbox.train.signals import say
from sandbox.train.spec import RunSpec, Stop
from sandbox.train.teaching import task_key
from sandbox.types import Params

_STEP = re.compile(r"(?:.*[-_])?(?:checkpoint|step)?[-_]?(\d+)([kM]?)")
_TIMES = {"": 1, "k": 1000, "M": 1_000_000}
_WEIGHTS = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
POINTS = 512
"""Strings that every checkpoint is evaluated on."""


def found(folder: str | Path) -> dict[int, Path]:
    """Step -> folder of every checkpoint in a folder, or of the one that it is.

    A trainer's folder that holds its last model beside a series is the series.

    Raises:
      ConfigError: there is none, two have one step, or their weights are pickles.
    """
    path = Path(folder)
    require(path.is_dir(), f"{path} is not a folder.")
    names = [(_STEP.fullmatch(p.name), p) for p in sorted(path.iterdir())]
    series = [(_step(m), p) for m, p in names if m and (p / "config.json").is_file()]
    if not series and (path / "config.json").is_file():
        series = [(_step(_STEP.fullmatch(path.name)), path)]
    out: dict[int, Path] = {}
    for step, p in series:
        require(step not in out, f"{out.get(step)} and {p} are both of step {step:,}.")
        out[step] = _with_weights(p)
    require(
        bool(out),
        f"{path} holds no checkpoint: neither config.json and {_WEIGHTS} nor folders of"
        " them named by their step, such as checkpoint-500.",
    )
    return dict(sorted(out.items()))


def _step(match: re.Match[str] | None) -> int:
    return int(match[1]) * _TIMES[match[2]] if match else 0


def _with_weights(path: Path) -> Path:
    """A folder that holds weights which can be read."""
    pickles = [p.name for pattern in _PICKLES for p in sorted(path.glob(pattern))]
    if not (path / _WEIGHTS).is_file() and pickles:
        raise ConfigError(
            f"{path / pickles[0]} is a pickle, which is never opened; where it came"
            ' from, write safetensors: python -c "from transformers import'
            f" AutoModelForPreTraining as M; M.from_pretrained('{path}')"
            f".save_pretrained('{path}', safe_serialization=True)\"."
        )
    return path


def import_run(
    folders: Mapping[int, Path],
    task: GrammarTask,
    *,
    samples_per_step: int = 1,
    tokens: Sequence[int] | None = None,
    root: Path | None = None,
    progress: Progress | None = None,
) -> Run:
    """Stores checkpoints as a run of one seed, or opens it if it was stored.

    Args:
      folders: step -> folder, as `found` makes them.
      task: what the model is measured on; it fixes the vocabulary.
      samples_per_step: rows of one step of the training, by which steps become samples.
      tokens: the model's own numbers of our terminals, then BOS, EOS, PAD and MASK; by
        default they are ours.
      root: where runs are stored.
      progress: who is told.

    Raises:
      ConfigError: a model cannot be read, does not fit the task, or is another than the
        first one.
      Interrupted: a signal arrived; call again to go on.
    """
    root = default_root() if root is None else root
    require(samples_per_step >= 1, "samples_per_step must be at least 1.")
    hashes = {s: sha256_file(_file(p)) for s, p in folders.items()}
    for step, same in hashes.items():
        twins = [s for s, h in hashes.items() if h == same and s > step]
        for twin in twins[:1]:
            say(f"{folders[step]} and {folders[twin]} hold the same numbers")
    with pinned():
        read = _Reader(task, tokens)
        first = next(iter(folders))
        model = read(folders[first]).model
        samples = [s * samples_per_step for s in folders]
        last = max(*samples, 1)
        every = gcd(*samples) or 1
        spec = RunSpec(
            kind="teacher",
            task=task,
            model=model,
            strategies=(Strategy(name="teacher"),),
            stop=Stop(max_samples=last),
            eval_every=every,
            checkpoints_at=tuple(samples),
            eval_points=POINTS,
            engine="generic",
            block=1,
            imported=digest([list(hashes.items()), list(tokens or ())]),
        )
        folder = folder_of(spec, root)
        series = dict(zip(samples, folders.values(), strict=True))
        carry_out(
            folder,
            identity(spec),
            lambda: _Importing(spec, folder, series, read),
            kind=spec.kind,
            code=Code.of(import_run, spec),
            progress=progress,
        )
    return Run(folder, spec)


def _file(path: Path) -> Path:
    file = path / _WEIGHTS
    require(file.is_file(), f"{file} does not exist; save the model in one piece.")
    return file


class _Reader:
    """Reads a checkpoint as the model of a task."""

    def __init__(self, task: GrammarTask, tokens: Sequence[int] | None) -> None:
        self.task, vocabulary = task, task.vocabulary
        ours = vocabulary.mask + 1  # the rest pads the table
        words = "BOS, EOS, PAD and MASK"
        require(
            tokens is None or len(tokens) == ours,
            f"tokens must number the {task.n_classes} terminals"
            f" ({' '.join(task.arrays.terminals)}), {words}: {ours} numbers, got"
            f" {len(tokens or ())}.",
        )
        self.tokens = tokens

    def __call__(self, path: Path) -> Imported:
        """The model, its table padded to the task's, and the parameters `(...)`."""
        size = json.loads((path / "config.json").read_text()).get("vocab_size")
        need = self.task.vocabulary.mask + 1
        require(
            isinstance(size, int) and (self.tokens is not None or size >= need),
            f"vocab_size in {path / 'config.json'} must be at least {need}, the tokens"
            f" of the task, got {size!r}.",
        )
        order = self.tokens or tuple(range(need))
        model, params = load_transformer(
            path, tokens=order, n_classes=self.task.n_classes
        )
        model = replace(model, vocab=self.task.vocabulary.size)
        made = jax.eval_shape(model.init, jax.random.key(0))

        def padded(p: Any, like: Any) -> np.ndarray:
            more = [(0, b - a) for a, b in zip(p.shape, like.shape, strict=True)]
            return np.pad(np.asarray(p), more)

        return Imported(model, jax.tree.map(padded, params, made))


class _Importing(Work):
    """Stores and evaluates one checkpoint after the other."""

    unit = "checkpoints"

    def __init__(
        self,
        spec: RunSpec,
        folder: RunFolder,
        series: Mapping[int, Path],
        read: _Reader,
    ) -> None:
        self.spec, self.folder, self.series, self.read = spec, folder, series, read
        self.title, self.total = f"import {folder.path.name[:6]}", len(series)
        self.columns: dict[str, list[float]] = {}
        self.checkpoints: dict[str, str] = {}

    @property
    def at(self) -> int:
        """Checkpoints stored."""
        return len(self.checkpoints)

    @property
    def note(self) -> str:
        """Accuracy of the last one."""
        accuracy = self.columns.get("accuracy")
        return f"accuracy {accuracy[-1]:.2f}" if accuracy else ""

    @property
    def stored(self) -> Mapping[str, str]:
        """Name -> sha256 of every checkpoint stored so far."""
        return self.checkpoints

    @cached_property
    def _keys(self) -> Any:
        return jnp.stack([task_key(s) for s in self.spec.seeds])

    def step(self) -> bool:
        """Reads the next checkpoint."""
        if self.at == self.total:
            return False
        step, path = list(self.series.items())[self.at]
        model, params = self.read(path)
        require(
            model == self.spec.model,
            f"{path} holds another model ({model}) than the first checkpoint.",
        )
        one: Params = jax.tree.map(lambda p: p[None, None], params)
        spec = self.spec
        row = evaluate(spec.task, model, one, self._keys, points=spec.eval_points)
        for name, value in row.items():
            self.columns.setdefault(name, []).append(float(value[0, 0]))
        written = save_checkpoint(self.folder.path, step, one)
        self.checkpoints[checkpoint_name(step)] = written
        return True

    def saved(self) -> tuple[Arrays, dict[str, Any]]:
        """The metrics so far and the checkpoints' hashes."""
        columns = {name: np.asarray(v) for name, v in self.columns.items()}
        return columns, {"checkpoints": self.checkpoints}

    def restore(self, tensors: Arrays, meta: dict[str, Any]) -> bool:
        """Takes up an earlier sitting."""
        known = meta.get("checkpoints", {})
        wanted = [checkpoint_name(s) for s in self.series][: len(known)]
        if list(known) != wanted or any(len(v) != len(known) for v in tensors.values()):
            return False
        self.columns = {name: v.tolist() for name, v in tensors.items()}
        self.checkpoints = dict(known)
        return True

    def write(self) -> None:
        """Metrics and outcome; nobody counted what training cost."""
        steps, spec = np.asarray(list(self.series)), self.spec
        columns = {n: np.asarray(v)[None, None] for n, v in self.columns.items()}
        shape = (1, 1, len(steps))
        columns["train_loss"] = np.full(shape, np.nan)
        columns["teacher_step"] = np.full(shape, LABELS, np.int64)
        for name in ("student_forward", "student_backward"):
            columns[name] = steps[None, None].astype(np.int64)
        columns["teacher_forward"] = np.zeros(shape, np.int64)
        metrics = Metrics(steps, spec.seeds, ("teacher",), columns)
        write_atomic(self.folder.path / FILE, metrics.to_parquet())
        outcome = {"samples": int(steps[-1]), "lanes": 1, "failed": [], "absent": []}
        write_json(self.folder.path / "outcome.json", outcome)
