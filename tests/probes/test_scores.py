"""Scores of checkpoints against brute force, finite differences and closed forms."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.models.mlp import MLP
from sandbox.probes.scores import (
    Influence,
    Supervision,
    complexity,
    diswot,
    information_of_label,
    mutual_information,
    ntk,
    risk_terms,
    states,
)
from sandbox.tasks.parity import NoisyParity, Parity


def test_mutual_information_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, 200), rng.integers(0, 4, 200)
    w = rng.random(200)
    want = 0.0
    for i, j in itertools.product(range(3), range(4)):
        p = w[(a == i) & (b == j)].sum() / w.sum()
        q = w[a == i].sum() * w[b == j].sum() / w.sum() ** 2
        want += p * np.log(p / q) if p > 0 else 0.0
    assert mutual_information(a, b, w) == pytest.approx(want, abs=1e-12)
    assert mutual_information(a, 7 * a + 1) == pytest.approx(
        -sum(p * np.log(p) for p in np.bincount(a) / 200), abs=1e-12
    )
    independent = np.repeat([0, 1], 8), np.tile([0, 1], 8)
    assert mutual_information(*independent) == pytest.approx(0, abs=1e-12)
    coarse = mutual_information(a, b // 2, w)  # data processing
    assert coarse <= want + 1e-12


def test_information_of_a_noisy_label() -> None:
    """A state that tells the clean label: log 2 - H(eps); chain rule with another."""
    task = NoisyParity(d=4, k=2, eps=0.2)
    cube = task.enumerate()
    assert cube is not None
    p = np.asarray(task.bayes(cube), float)
    h = -(0.2 * np.log(0.2) + 0.8 * np.log(0.8))
    clean = np.asarray(cube.y)
    assert information_of_label(clean, p) == pytest.approx(np.log(2) - h, abs=1e-6)
    noiseless = np.eye(2)[clean]
    for other in (np.zeros(16, int), np.arange(16)):  # it then says nothing of others
        both = clean * 16 + other
        assert information_of_label(both, noiseless) == pytest.approx(np.log(2))
    found = states(np.array([[0.5, 0.5], [0.51, 0.49], [0.0, 1.0]]), bins=4)
    assert found.tolist() == [0, 0, 7]


@pytest.mark.usefixtures("x64")
def test_the_kernel_is_of_finite_differences(key: Any) -> None:
    model = MLP(d=4, hidden=(3,))
    params = model.init(key)
    x = jax.random.rademacher(key, (5, 4), float)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    columns = []
    for e in np.eye(len(flat)) * 1e-6:
        ends = [model.apply(unravel(flat + s * e), x).logits for s in (1, -1)]
        columns.append(np.asarray(ends[0] - ends[1]).ravel() / 2e-6)
    j = np.stack(columns, 1)
    kernel = ntk(model, params, x)
    np.testing.assert_allclose(kernel, j @ j.T, atol=1e-7)
    assert np.linalg.eigvalsh(kernel)[0] > -1e-12


@pytest.mark.usefixtures("x64")
def test_complexity_is_the_least_norm(key: Any) -> None:
    """y^T K^-1 y = min |w|^2 with J w = y; scales with y; sees no order."""
    j = np.asarray(jax.random.normal(key, (6, 20)))
    y = np.asarray(jax.random.normal(key, (6,)))
    w = np.linalg.lstsq(j, y, rcond=None)[0]
    k = jnp.asarray(j @ j.T)
    want = np.sqrt((w**2).sum() * np.trace(k)) / 6
    assert float(complexity(jnp.asarray(y), k, 0.0)) == pytest.approx(want, rel=1e-10)
    assert float(complexity(jnp.asarray(3 * y), k, 0.0)) == pytest.approx(3 * want)
    order = np.array([3, 1, 5, 0, 2, 4])
    other = complexity(jnp.asarray(y[order]), k[order][:, order], 0.0)
    assert float(other) == pytest.approx(want)


def test_parity_is_complex_and_a_coordinate_is_not(key: Any) -> None:
    """Of the same size at the same inputs, for a small student's kernel."""
    task, student = Parity(d=8, k=6), MLP(d=8, hidden=(60,))
    probe = Supervision(task, student, student=student, points=200, taus=(1.0,))
    x, kernel = probe.prepare(key)
    ends = [
        complexity(
            jnp.repeat(v, 2) * jnp.tile(jnp.array([0.5, -0.5]), 200), kernel, 1e-6
        )
        for v in (x[:, :6].prod(1), x[:, 0])
    ]
    assert ends[0] > 3 * ends[1]
    out = probe.measure(student.init(key), key, (x, kernel))
    assert 0 < out["complexity/1"] < ends[0]


def test_risk_of_two_rows_by_enumeration() -> None:
    """Every sample of two rows of a 3-bit cube: the variance halves, and no bias."""
    rng = np.random.default_rng(0)
    exact = rng.dirichlet([1.0, 1.0], 8)
    loss = rng.random((8, 2))
    variance, distance = risk_terms(exact, exact, loss)
    assert distance == 0
    each = (exact * loss).sum(1)
    every = np.array([each[[i, j]].mean() for i in range(8) for j in range(8)])
    assert every.mean() == pytest.approx(each.mean())
    assert every.var() == pytest.approx(variance / 2)
    # Labels vary more, by the posterior's own variance.
    hard = [(p, exact[i, y] / 8) for i in range(8) for y, p in enumerate(loss[i])]
    values, weight = map(np.asarray, zip(*hard, strict=True))
    noisy = (weight * (values - each.mean()) ** 2).sum()
    gap = (exact[:, 0] * exact[:, 1] * (loss[:, 0] - loss[:, 1]) ** 2).mean()
    assert noisy - variance == pytest.approx(gap)
    assert risk_terms(np.full((8, 2), 0.5), exact, loss)[1] > 0


def test_likeness_at_initialisation() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 30, 5))
    turn, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    assert diswot(a, a @ turn) == pytest.approx(0, abs=1e-20)
    assert diswot(a, b) < -1e-4 and diswot(a, b) == diswot(b, a)


def test_influence_of_a_parity(key: Any) -> None:
    """A sure parity of two bits depends on them alone, wholly."""
    model = MLP(d=5, hidden=(3,))
    s = np.zeros((5, 3))
    s[:2] = 1.0
    params = {  # |x_0 + x_1| is 2 where they are equal, else 0
        "layer_0": {"kernel": jnp.asarray(s * [1, -1, 0]), "bias": jnp.zeros(3)},
        "layer_1": {
            "kernel": 50 * jnp.array([[1.0, -1.0], [1.0, -1.0], [0.0, 0.0]]),
            "bias": jnp.array([-50.0, 50.0]),
        },
    }
    out = Influence(Parity(d=5, k=2), model, points=64).measure(params, key)
    np.testing.assert_allclose(out["influence"], [1, 1, 0, 0, 0], atol=1e-6)
