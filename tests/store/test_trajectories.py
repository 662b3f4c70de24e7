"""Checkpoints: each read alone, whole or one seed and lane of it, checked once."""

from pathlib import Path

import numpy as np
import pytest

from sandbox.errors import StoreError
from sandbox.store.folders import RunFolder
from sandbox.store.trajectories import (
    Trajectory,
    checkpoint_name,
    flatten,
    save_checkpoint,
    unflatten,
)


def params(step: int) -> dict:
    """Two seeds, three lanes; no two numbers are equal."""
    w = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5) + 1000 * step
    return {"layer_0": {"kernel": w, "bias": w[..., 0] + 0.5}, "scale": w[..., 0, 0]}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path)
    folder.prepare()
    for step in (0, 256, 128):
        save_checkpoint(tmp_path, step, params(step))
    folder.commit({})
    return folder


def test_round_trip(run: RunFolder) -> None:
    trajectory = Trajectory(run)
    assert trajectory.steps == (0, 128, 256)
    for step in trajectory.steps:
        whole = trajectory.read(step)
        for name, leaf in flatten(params(step)).items():
            np.testing.assert_array_equal(flatten(whole)[name], leaf)
            one = flatten(trajectory.read(step, seed=1, lane=2))[name]
            np.testing.assert_array_equal(one, leaf[1, 2])
            assert one.shape == leaf.shape[2:] and one.dtype == leaf.dtype


def test_nested_names(run: RunFolder) -> None:
    flat = flatten(params(1))
    assert set(flat) == {"layer_0/kernel", "layer_0/bias", "scale"}
    again = flatten(unflatten(flat))
    assert all((again[k] == flat[k]).all() for k in flat)


def test_a_checkpoint_is_read_without_the_others(run: RunFolder) -> None:
    for step in (0, 256):
        (run.path / checkpoint_name(step)).unlink()
    np.testing.assert_array_equal(
        Trajectory(run).read(128)["scale"], params(128)["scale"]
    )
    with pytest.raises(StoreError, match=r"step_000000000256\.safetensors is missing"):
        Trajectory(run).read(256)


def test_steps_that_are_not_there(run: RunFolder) -> None:
    message = r"step 64 is not in the trajectory .*\(3 checkpoints up to 256\)"
    with pytest.raises(StoreError, match=message):
        Trajectory(run).read(64)


@pytest.mark.parametrize("at", [3, 40, -1])
def test_an_altered_checkpoint_is_named(run: RunFolder, at: int) -> None:
    path = run.path / checkpoint_name(128)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"step_000000000128\.safetensors was altered"):
        Trajectory(run).read(128)


def test_an_unfinished_run_has_no_trajectory(tmp_path: Path) -> None:
    save_folder = RunFolder(tmp_path)
    save_folder.prepare()
    save_checkpoint(tmp_path, 0, params(0))
    with pytest.raises(StoreError, match="not a finished run"):
        Trajectory(save_folder).read(0)
