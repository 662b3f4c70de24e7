"""Trajectories: many checkpoints, each readable without the others.

One safetensors file a checkpoint, every seed and lane of the group stacked on the two
leading axes `(S, L, ...)`. Only parameters are stored, no optimizer state. A file is
checked against the run's manifest before its first use, and what its header claims
against what a checkpoint may hold before anything is allocated: a file that was made to
fill memory is an error that names it.
"""

import json
import re
from collections.abc import Iterator
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sandbox.errors import StoreError
from sandbox.store.files import sha256, write_atomic
from sandbox.store.folders import RunFolder
from sandbox.types import Params

_FOLDER = "ckpt"
_NAME = re.compile(_FOLDER + r"/step_([0-9]{12,18})\.safetensors")
_BYTES = {"F32": 4, "F64": 8}
"""Stored dtypes, as a header names them, and their size."""
_MOST_HEADER = 10**6
"""Bytes of a header that are read at most; a real one has about 100 a tensor."""

Shapes = dict[str, tuple[int, ...]]
"""Name -> shape of every tensor of a checkpoint."""


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


def save_checkpoint(folder: Path, step: int, params: Params) -> str:
    """Writes parameters `(S, L, ...)` atomically; returns the sha256 of the file."""
    flat = {k: np.ascontiguousarray(v) for k, v in flatten(params).items()}
    data = save(flat)
    write_atomic(folder / checkpoint_name(step), data)
    return sha256(data)


def read_header(path: Path) -> Shapes:
    """Shapes of a checkpoint's tensors, without reading them.

    Raises:
      StoreError: it is no checkpoint: floats `(S, L, ...)`, each named once.
    """
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        size = path.stat().st_size
        with open(path, "rb") as f:
            length = int.from_bytes(f.read(8), "little")
            if length > min(size, _MOST_HEADER):
                raise ValueError(f"its header claims {length} bytes")
            header = json.loads(f.read(length), object_pairs_hook=_once)
        if not isinstance(header, dict):
            raise ValueError("its header is not an object")
        header.pop("__metadata__", None)
        shapes = {name: _shape(name, claim, size) for name, claim in header.items()}
        if len({shape[:2] for shape in shapes.values()}) != 1:
            raise ValueError("its tensors do not share the axes of seeds and lanes")
        parents = {n[:i] for n in shapes for i, c in enumerate(n) if c == "/"}
        if parents & shapes.keys():
            raise ValueError("a tensor is named like a group of others")
    except (OSError, ValueError, RecursionError) as e:
        raise StoreError(f"{path} is no checkpoint ({e!s:.200}).") from e
    return shapes


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names differ."""
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("its header names something twice")
    return dict(pairs)


def _shape(name: str, claim: Any, size: int) -> tuple[int, ...]:
    """The shape that a header claims for a tensor, if a file of `size` can hold it."""
    claim = claim if isinstance(claim, dict) else {}
    shape, width = claim.get("shape"), _BYTES.get(str(claim.get("dtype")))
    if width is None:
        raise ValueError(f"{name!r:.60} is not of float32 or float64")
    sound = isinstance(shape, list) and all(type(n) is int and n >= 1 for n in shape)
    if not sound or not 2 <= len(shape) <= 16:
        raise ValueError(f"{name!r:.60} is not of shape (seeds, lanes, ...)")
    if prod(shape) * width > size:
        raise ValueError(f"{name!r:.60} claims more than the file holds")
    return tuple(shape)


def _difference(found: Shapes, expected: Shapes) -> str:
    """The first tensor in which two sets of parameters differ."""
    name = min(n for n in found | expected if found.get(n) != expected.get(n))
    return f"{name!r:.60} is {found.get(name)}, expected {expected.get(name)}"


class Trajectory:
    """The checkpoints of a finished run: `trajectory[step]` reads one of its `steps`.

    `for step in trajectory` goes through them in training order.
    """

    def __init__(self, run: RunFolder) -> None:
        """Lists the checkpoints of `run`."""
        self.run = run
        self._checked: set[int] = set()
        self._expected: Shapes | None = None

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """Samples seen at each checkpoint, in training order."""
        found = [_NAME.fullmatch(n) for n in self.run.manifest()]
        return tuple(sorted(int(m[1]) for m in found if m))

    def __len__(self) -> int:
        """Checkpoints there are."""
        return len(self.steps)

    def __iter__(self) -> Iterator[int]:
        """Their steps."""
        return iter(self.steps)

    def __getitem__(self, step: int) -> Params:
        """Parameters `(S, L, ...)` at a step, as `read` gives them."""
        return self.read(step)

    def expect(self, shapes: Shapes) -> None:
        """Says what every checkpoint must hold; `read` then refuses any other."""
        self._expected = shapes

    def _sound(self, step: int) -> Path:
        """The file of a checkpoint, compared with the manifest once."""
        if step not in self.steps:
            raise StoreError(
                f"checkpoint step {step} is not in the trajectory of {self.run.path}"
                f" ({len(self.steps)} checkpoints up to {max(self.steps, default=0)})."
            )
        name = checkpoint_name(step)
        if step not in self._checked:
            self.run.check(name)
            self._checked.add(step)
        return self.run.path / name

    def read(self, step: int, *, seed: int | None = None, lane: int = 0) -> Params:
        """Parameters at a checkpoint.

        Args:
          step: one of `steps`.
          seed: position of a seed in its group: its parameters alone, of lane `lane`;
            None for the whole stack `(S, L, ...)`.
          lane: position of the strategy, used with `seed`.

        Raises:
          StoreError: the step is not in the trajectory, or its file was altered or is
            no checkpoint.
        """
        path = self._sound(step)
        shapes = read_header(path)
        if self._expected is not None and shapes != self._expected:
            raise StoreError(
                f"{path} does not hold the parameters of the run's model:"
                f" {_difference(shapes, self._expected)}."
            )
        try:
            with safe_open(path, framework="numpy") as f:
                if seed is None:
                    return unflatten({k: f.get_tensor(k) for k in shapes})
                here = (slice(seed, seed + 1), slice(lane, lane + 1))
                return unflatten({k: f.get_slice(k)[here][0, 0] for k in shapes})
        except SafetensorError as e:
            raise StoreError(f"{path} is no checkpoint ({e!s:.200}).") from e
