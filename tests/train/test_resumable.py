"""What a study computes without training: once, in pieces, to the same bits."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sandbox.errors import Interrupted, StoreError
from sandbox.train.progress import Silent
from sandbox.train.resumable import Computed, compute


@dataclass(frozen=True)
class Law:
    """What decides the arrays."""

    degree: int = 3


class Table:
    """Pieces of every rank and type, and how often each was made."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def pieces(self) -> dict[str, Callable[[], dict[str, Any]]]:
        rng = np.random.default_rng(0)
        arrays = {
            "d/8": {"a/b": rng.normal(size=(3, 2)), "n": np.int64(2**60 + 1)},
            "100% é": {"whole": rng.normal(size=(2, 3)).T, "x%2F": np.array(0.1)},
            "last": {"few": np.arange(3, dtype=np.float32), "yes": np.array([True])},
        }

        def make(name: str) -> Callable[[], dict[str, Any]]:
            return lambda: self.made.append(name) or arrays[name]

        return {name: make(name) for name in arrays}

    def compute(self, root: Path, progress: Any = None) -> Computed:
        return compute(Law(), self.pieces(), root=root, progress=progress or Silent())


class Ending(Silent):
    """Sends a signal after so many pieces."""

    def __init__(self, at: int) -> None:
        self.at = at

    def update(self, done: int, note: str) -> None:
        if done == self.at:
            os.kill(os.getpid(), signal.SIGUSR1)


def same(a: Computed, b: Computed) -> None:
    assert list(a.values) == list(b.values) and a.values.keys() == b.values.keys()
    for name, arrays in a.values.items():
        assert arrays.keys() == b.values[name].keys()
        for key, v in arrays.items():
            w = b.values[name][key]
            assert (v.dtype, v.shape) == (w.dtype, w.shape)
            np.testing.assert_array_equal(v, w)


def test_arrays_come_back_exactly_and_are_made_once(tmp_path: Path) -> None:
    table = Table()
    first = table.compute(tmp_path)
    for name, make in Table().pieces().items():
        assert first.values[name].keys() == make().keys()
        for key, v in make().items():
            found = first.values[name][key]
            assert found.dtype == v.dtype and found.shape == np.shape(v)
            np.testing.assert_array_equal(found, v)
    same(table.compute(tmp_path), first)
    assert table.made == list(first.values) == list(table.pieces())
    assert first.folder.path.parent == tmp_path / "computed"
    assert first.folder.problems() == [] and first.wall_seconds >= 0
    assert compute(Law(4), Table().pieces(), root=tmp_path).folder != first.folder


def test_an_interrupted_computation_skips_what_it_has(tmp_path: Path) -> None:
    whole = Table().compute(tmp_path / "whole")
    table, root = Table(), tmp_path / "hurt"
    for at in (1, 2):
        with pytest.raises(Interrupted, match=f"at piece {at} by signal SIGUSR1"):
            table.compute(root, Ending(at))
    found = table.compute(root)
    same(found, whole)
    assert table.made == list(whole.values)
    files, expected = found.folder.manifest(), whole.folder.manifest()
    for name in ("config.json", "values.safetensors"):
        assert files[name] == expected[name]


def test_damage_and_other_pieces_are_named(tmp_path: Path) -> None:
    found = Table().compute(tmp_path)
    others = {name + "?": make for name, make in Table().pieces().items()}
    with pytest.raises(StoreError, match=r"holds the pieces .*, where d/8\?, 100%"):
        compute(Law(), others, root=tmp_path)
    path = found.folder.path / "values.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"values\.safetensors was cut or grown"):
        Table().compute(tmp_path)
