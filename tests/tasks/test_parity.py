"""Parity labels, supports and label noise, by brute force."""

from itertools import product
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.tasks.parity import (
    ExplicitSupport,
    FirstSupport,
    NoisyParity,
    Parity,
    RandomSupport,
)
from tests.tasks.conftest import sample


def by_hand(x: np.ndarray, support: list[int]) -> list[int]:
    """Class 0 where the product is +1."""
    return [0 if prod(row[i] for i in support) > 0 else 1 for row in x.tolist()]


@pytest.mark.parametrize(
    "support, indices",
    [(FirstSupport(), [0, 1, 2]), (ExplicitSupport(indices=(4, 0, 3)), [0, 3, 4])],
)
def test_labels_of_the_whole_cube(support: object, indices: list[int]) -> None:
    task = Parity(d=6, k=3, support=support)
    np.testing.assert_array_equal(task.supports(None), [indices])
    batch = task.enumerate()
    np.testing.assert_array_equal(batch.y, by_hand(np.asarray(batch.x), indices))
    assert np.asarray(batch.y).sum() == 32  # a parity is balanced


def test_label_conventions_of_one_coordinate() -> None:
    y = Parity(d=2, k=1).labels(jnp.array([[1.0, -1.0], [-1.0, 1.0]]), jnp.array([[0]]))
    np.testing.assert_array_equal(y, [0, 1])


@pytest.mark.parametrize("split", ["train", "distill"])
def test_sampled_labels(key: jax.Array, split: str) -> None:
    task = Parity(d=40, k=4, support=RandomSupport())
    batch = sample(task, key, 5, 300, split=split)
    support = np.asarray(task.supports(key))[0].tolist()
    np.testing.assert_array_equal(batch.y, by_hand(np.asarray(batch.x), support))
    np.testing.assert_array_equal(batch.aux["clean"], batch.y)
    np.testing.assert_array_equal(batch.weight, 1)
    assert batch.x.dtype == jnp.float32 and jnp.issubdtype(batch.y.dtype, jnp.integer)


def test_random_supports_are_subsets_that_differ() -> None:
    """Also uniform: each of the 8 coordinates within 5 sigma of its share."""
    task = Parity(d=8, k=3, support=RandomSupport())
    keys = jax.random.split(jax.random.key(1), 800)
    s = np.asarray(jax.jit(jax.vmap(task.supports))(keys))[:, 0]
    assert s.min() == 0 and s.max() == 7
    assert (np.diff(s, axis=1) > 0).all()  # sorted and distinct
    assert len({tuple(r) for r in s.tolist()}) == 56  # all of C(8, 3)
    share = np.bincount(s.reshape(-1), minlength=8) / 800
    assert np.abs(share - 3 / 8).max() < 5 * np.sqrt(3 / 8 * 5 / 8 / 800)
    np.testing.assert_array_equal(task.supports(keys[0]), task.supports(keys[0]))
    with pytest.raises(ConfigError, match="key"):
        task.supports(None)


def test_noise_rate_and_rows(key: jax.Array) -> None:
    """Flips within 5 binomial sigma; inputs and clean labels stay as they were."""
    n, eps = 20_000, 0.2
    noisy, clean = NoisyParity(d=12, k=2, eps=eps), Parity(d=12, k=2)
    a = sample(noisy, key, 0, n, split="train")
    b = sample(clean, key, 0, n, split="train")
    np.testing.assert_array_equal(a.x, b.x)
    np.testing.assert_array_equal(a.aux["clean"], b.y)
    flip = np.asarray(a.y != b.y)
    assert abs(flip.mean() - eps) < 5 * np.sqrt(eps * (1 - eps) / n)
    # Independent of the label and of the first bit.
    for mask in (np.asarray(b.y) == 1, np.asarray(b.x)[:, 0] > 0):
        sigma = np.sqrt(eps * (1 - eps) / mask.sum())
        assert abs(flip[mask].mean() - eps) < 5 * sigma
    again = sample(noisy, key, 7, 5, split="train")
    np.testing.assert_array_equal(again.y, a.y[7:12])


def test_noise_of_zero_is_none(key: jax.Array) -> None:
    batch = sample(NoisyParity(d=12, k=2, eps=0.0), key, 0, 500, split="eval")
    np.testing.assert_array_equal(batch.y, batch.aux["clean"])


def test_posteriors_are_exact(x64: None, key: jax.Array) -> None:
    noisy = NoisyParity(d=12, k=2, eps=0.3)
    batch = sample(noisy, key, 0, 50, split="train")
    expected = np.where(np.eye(2)[np.asarray(batch.aux["clean"])] == 1, 0.7, 0.3)
    np.testing.assert_allclose(noisy.bayes(batch), expected, atol=1e-15)
    batch = sample(Parity(d=12, k=2), key, 0, 50, split="train")
    np.testing.assert_array_equal(
        Parity(d=12, k=2).bayes(batch), np.eye(2)[np.asarray(batch.y)]
    )


def test_accuracy_is_against_the_clean_label(key: jax.Array) -> None:
    """The exact function scores 1 under noise, its negative 0; loss in nats."""
    task = NoisyParity(d=12, k=2, eps=0.3)
    batch = sample(task, key, 0, 100, split="eval")
    logits = 2.0 * jax.nn.one_hot(batch.aux["clean"], 2)
    score = jax.jit(task.metrics)
    right, wrong = score(logits, batch), score(-logits, batch)
    assert right["accuracy"] == (100, 100) and wrong["accuracy"] == (0, 100)
    np.testing.assert_allclose(right["loss"][0] / 100, np.log1p(np.exp(-2)), rtol=1e-5)
    half = batch._replace(weight=jnp.where(jnp.arange(100) < 30, 1.0, 0.0))
    mixed = jnp.where(jnp.arange(100)[:, None] < 10, logits, -logits)
    total, weight = score(mixed, half)["accuracy"]
    assert (total, weight) == (10, 30)


REFUSED = [
    (dict(d=0, k=1), "task.d"),
    (dict(d=4, k=0), "task.k"),
    (dict(d=4, k=5), "task.k"),
    (dict(d=4, k=2, support=ExplicitSupport(indices=(1,))), "task.support.indices"),
    (dict(d=4, k=2, support=ExplicitSupport(indices=(1, 1))), "task.support.indices"),
    (dict(d=4, k=2, support=ExplicitSupport(indices=(1, 4))), "task.support.indices"),
    (dict(d=4, k=2, support=ExplicitSupport(indices=(-1, 2))), "task.support.indices"),
]


@pytest.mark.parametrize("fields, named", REFUSED)
def test_refused(fields: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as e:
        Parity(**fields)
    assert str(e.value).endswith(".") and "\n" not in str(e.value)


@pytest.mark.parametrize("eps", [-0.1, 0.5, float("nan")])
def test_refused_noise(eps: float) -> None:
    with pytest.raises(ConfigError, match=r"task\.eps"):
        NoisyParity(d=4, k=2, eps=eps)


def test_the_cube_is_enumerated_once(x64: None) -> None:
    """Row r has coordinate i at -1 exactly where bit i of r is set."""
    batch = Parity(d=3, k=2).enumerate()
    expected = [[-1.0 if r >> i & 1 else 1.0 for i in range(3)] for r in range(8)]
    np.testing.assert_array_equal(batch.x, expected)
    assert {tuple(r) for r in expected} == set(product((-1.0, 1.0), repeat=3))
    assert Parity(d=21, k=2).enumerate() is None
    assert Parity(d=20, k=2).enumerate().x.shape == (2**20, 20)
