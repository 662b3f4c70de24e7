"""Streams of rows: a row depends on its key, split and number, on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.tasks.base import SPLITS, BooleanTask, Task, VectorTask, cube_rows
from sandbox.tasks.boolean import staircase
from sandbox.tasks.gaussian import MultiIndex, RandomDirections
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.tasks.parity import NoisyParity, Parity, RandomSupport
from tests.tasks.conftest import sample

TASKS = [
    Parity(d=33, k=3, support=RandomSupport()),
    NoisyParity(d=33, k=3, eps=0.4),
    Hierarchy(d=33, depth=3, feature_complexity=2, layout="random"),
    staircase(33, (1, 2, 1), support=RandomSupport(), p=0.3),
    MultiIndex(
        d=33, degrees=((1, 1),), coefficients=(1.0,), support=RandomDirections()
    ),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda t: type(t).__name__)
def test_rows_do_not_depend_on_the_call(task: VectorTask, key: jax.Array) -> None:
    whole = sample(task, key, 0, 12, split="train")
    parts = [sample(task, key, t, 1, split="train") for t in range(12)]
    joined = jax.tree.map(lambda *p: np.concatenate(p), *parts)
    jax.tree.map(np.testing.assert_array_equal, joined, whole)


@pytest.mark.parametrize("task", TASKS, ids=lambda t: type(t).__name__)
def test_vmap_changes_nothing(task: VectorTask) -> None:
    """That jit does not either is in the contract."""
    assert isinstance(task, Task)
    keys = jax.random.split(jax.random.key(5), 3)

    def draw(key: jax.Array, t0: jax.Array) -> object:
        return sample(task, key, t0, 20, split="distill")

    plain = [draw(k, jnp.uint32(9)) for k in keys]
    stacked = jax.tree.map(lambda *p: jnp.stack(p), *plain)
    fast = jax.jit(jax.vmap(draw, (0, None)))(keys, jnp.uint32(9))
    jax.tree.map(np.testing.assert_array_equal, fast, stacked)


def test_splits_and_keys_share_no_row(key: jax.Array) -> None:
    """Rows of 64 bits: 2,500 of them coincide by chance once in 6e12 draws."""
    task = Parity(d=64, k=3)
    rows = [
        np.asarray(sample(task, k, 0, 250, split=s).x)
        for s in SPLITS
        for k in (key, jax.random.key(1))
    ]
    everything = np.concatenate(rows)
    assert len(np.unique(everything, axis=0)) == len(everything) == 2500
    assert SPLITS == ("train", "distill", "quiz", "eval", "probe")
    with pytest.raises(ConfigError, match="split must be one of train, distill"):
        task.sample(key, 0, 1, split="test")


def test_late_rows_do_not_wrap(key: jax.Array) -> None:
    """Rows up to 2^32 - 1 are reachable and differ from the first ones."""
    task = Parity(d=64, k=3)
    last = sample(task, key, np.uint32(2**32 - 4), 4, split="train").x
    first = sample(task, key, 0, 4, split="train").x
    assert (np.asarray(last) != np.asarray(first)).any(1).all()


def test_bits_are_uniform_and_pairwise_independent(key: jax.Array) -> None:
    """Means and pair products of 40 coordinates over 20,000 rows, within 5 sigma."""
    n, d = 20_000, 40
    x = np.asarray(sample(Parity(d=d, k=1), key, 0, n, split="train").x)
    assert set(np.unique(x)) == {-1.0, 1.0}
    assert np.abs(x.mean(0)).max() < 5 / np.sqrt(n)
    pairs = (x.T @ x / n)[np.triu_indices(d, 1)]
    assert np.abs(pairs).max() < 5 / np.sqrt(n)
    np.testing.assert_allclose((pairs**2).mean() * n, 1, atol=5 * np.sqrt(2 / 780))
    neighbours = (x[1:] * x[:-1]).mean(0)  # successive rows
    assert np.abs(neighbours).max() < 5 / np.sqrt(n - 1)


@pytest.mark.parametrize("d", [1, 31, 32, 33, 64])
def test_rows_use_every_word(d: int) -> None:
    """Shorter rows are the beginning of longer ones; no two columns are equal."""
    keys = jax.random.split(jax.random.key(2), 60)
    x, longer = np.asarray(cube_rows(keys, d)), np.asarray(cube_rows(keys, 32))
    assert x.shape == (60, d)
    if d <= 32:
        np.testing.assert_array_equal(x, longer[:, :d])
    assert len(np.unique(x, axis=1).T) == d


def test_a_task_must_be_completed(key: jax.Array) -> None:
    with pytest.raises(NotImplementedError, match="supports"):
        BooleanTask(d=3).sample(key, 0, 1, split="train")
