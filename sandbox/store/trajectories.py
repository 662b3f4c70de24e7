"""Trajectories: many checkpoints, each readable without the others.

One safetensors file a checkpoint, every seed and lane of the group stacked on the two
leading axes `(S, L, ...)`. Only parameters are stored, no optimizer state. A file is
checked against the run's manifest before its first use.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sandbox.errors import StoreError
from sandbox.store.files import write_atomic
from sandbox.store.runs import RunFolder
from sandbox.types import Params

_FOLDER = "ckpt"


def flatten(params: Params, prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dicts of arrays to `{"layer_0/kernel": array}`."""
    out: dict[str, np.ndarray] = {}
    for name, value in params.items():
        if isinstance(value, dict):
            out.update(flatten(value, f"{prefix}{name}/"))
        else:
            out[prefix + name] = np.asarray(value)
    return out


def unflatten(flat: dict[str, Any]) -> Params:
    """Inverse of `flatten`."""
    out: Params = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = out
        for p in parents:
            node = node.setdefault(p, {})
        node[leaf] = value
    return out


def checkpoint_name(step: int) -> str:
    """File name of a checkpoint, relative to the run folder."""
    return f"{_FOLDER}/step_{step:012d}.safetensors"


def save_checkpoint(folder: Path, step: int, params: Params) -> None:
    """Writes parameters `(S, L, ...)` atomically."""
    from safetensors.numpy import save

    flat = {k: np.ascontiguousarray(v) for k, v in flatten(params).items()}
    write_atomic(folder / checkpoint_name(step), save(flat))


class Trajectory:
    """The checkpoints of a finished run."""

    def __init__(self, run: RunFolder) -> None:
        """Lists the checkpoints of `run`."""
        self.run = run
        self._checked: set[int] = set()

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """Samples seen at each checkpoint, in training order."""
        names = [n for n in self.run.manifest() if n.startswith(f"{_FOLDER}/step_")]
        return tuple(sorted(int(Path(n).stem.removeprefix("step_")) for n in names))

    def read(self, step: int, *, seed: int | None = None, lane: int = 0) -> Params:
        """Parameters at a checkpoint.

        Args:
          step: one of `steps`.
          seed: position of a seed in its group: its parameters alone, of lane `lane`;
            None for the whole stack `(S, L, ...)`.
          lane: position of the strategy, used with `seed`.

        Raises:
          StoreError: the step is not in the trajectory, or its file was altered.
        """
        from safetensors import safe_open

        if step not in self.steps:
            raise StoreError(
                f"checkpoint step {step} is not in the trajectory of {self.run.path}"
                f" ({len(self.steps)} checkpoints up to {max(self.steps, default=0)})."
            )
        name = checkpoint_name(step)
        if step not in self._checked:
            self.run.check(name)
            self._checked.add(step)
        with safe_open(self.run.path / name, framework="numpy") as f:
            keys = list(f.keys())
            if seed is None:
                return unflatten({k: f.get_tensor(k) for k in keys})
            return unflatten(
                {
                    k: f.get_slice(k)[seed : seed + 1, lane : lane + 1][0, 0]
                    for k in keys
                }
            )
