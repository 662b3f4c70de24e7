"""Closed forms of the analysed setting against enumeration of the cube, in float64."""

from itertools import product
from math import comb

import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.theory import parity_bounds as bounds
from sandbox.theory.parity_checkpoint import (
    first_step,
    sign_sum,
    taught_gradient,
    taught_noise,
)

EXACT = 1e-10
BIASES = (0.0, 0.4, -0.7, 1.5, -3.0, 2.0, 40.0, -40.0)


def cube(d):
    return np.asarray(list(product([1.0, -1.0], repeat=d)))


def network(d, n, seed, spread=1.0):
    rng = np.random.default_rng(seed)
    return rng.choice([-1.0, 1.0], (n, d)), rng.uniform(-spread, spread, n)


@pytest.mark.parametrize("d", range(1, 13))
def test_threshold_coefficients(d):
    x = cube(d)
    for bias in BIASES:
        on = x.sum(1) + bias > 0
        for r in range(d + 1):
            wanted = np.mean(on * x[:, :r].prod(1))
            got = bounds.threshold_coefficient(d, r, bias)
            assert got == pytest.approx(wanted, abs=EXACT), (r, bias)


@pytest.mark.parametrize("d", [3, 11, 101, 1001])
def test_the_textbook_majority(d):
    """O'Donnell, theorem 5.19; far beyond what can be enumerated."""
    h = (d - 1) // 2
    for r in range(1, min(d, 12) + 1):
        j = (r - 1) // 2
        maj = (-1) ** j * 2 * comb(h, j) * comb(d - 1, h) / comb(d - 1, r - 1) / 2**d
        got = bounds.threshold_coefficient(d, r)
        assert got == pytest.approx(maj / 2 if r % 2 else 0.0, rel=1e-12, abs=0)


@pytest.mark.parametrize(("d", "k"), [(d, k) for d in range(2, 13) for k in (1, 2, 3)])
def test_label_gradient_and_its_noise(d, k):
    k = min(k, d)
    x, support = cube(d), list(range(d - k, d))
    y = x[:, support].prod(1)
    for spread in (0.9, 4.0):
        w, bias = network(d, 6, d, spread)
        on = (x @ w.T + bias[None] > 0).astype(float)
        each = y[:, None, None] * x[:, None, :] * on[:, :, None]
        got = bounds.label_gradient(w, support, bias)
        np.testing.assert_allclose(got, each.mean(0), atol=EXACT)
        noise = bounds.label_noise(got, bias)
        np.testing.assert_allclose(noise, each.var(0), atol=EXACT)


@pytest.mark.parametrize(("d", "k"), [(11, 2), (11, 4), (12, 3), (12, 4), (9, 9)])
def test_coefficient_pair(d, k):
    x = cube(d)
    on = x.sum(1) > 0
    inside = np.mean(on * x[:, : k - 1].prod(1))
    outside = np.mean(on * x[:, : k + 1].prod(1)) if k < d else 0
    assert bounds.coefficient_pair(d, k) == pytest.approx((inside, outside), abs=EXACT)


def test_odd_degrees_of_support_have_no_gradient_without_ties():
    """Zero for odd k at odd d; ties at an even d, or a bias, bring it back."""
    for k in (3, 5):
        assert bounds.coefficient_pair(33, k) == (0, 0)
        assert bounds.coefficient_pair(33, k, 0.9) == (0, 0)
        assert bounds.coefficient_pair(34, k)[0] != 0
        assert bounds.coefficient_pair(33, k, 1.5)[0] != 0
        assert np.isinf(bounds.label_batch(33, k))
        w, bias = network(33, 4, 0)
        with pytest.raises(ConfigError, match="has no gradient at d = 33"):
            first_step(w, bias, range(k))


@pytest.mark.parametrize(
    ("d", "k"),
    [(d, k) for d in range(5, 13) for k in (1, 2, 3, 4) if k % 2 == 0 or d % 2 == 0],
)
def test_checkpoint_against_the_step_itself(d, k):
    """Both neurons of a pair take the enumerated step; f_1 is their network."""
    x, support = cube(d), list(range(1, k + 1))
    y = x[:, support].prod(1)
    w, bias = network(d, 5, d)
    on = (x @ w.T + bias[None] > 0).astype(float)
    gradient = np.einsum("B,Bm,Bd->md", y, on, x) / len(x)
    scale = np.abs(gradient[:, support]).max() * k
    rows = gradient / scale
    up = np.maximum(x @ rows.T + bias[None], 0)
    down = np.maximum(-x @ rows.T + bias[None], 0)
    f = (up - down).mean(1)
    made = first_step(w, bias, support)
    np.testing.assert_allclose(made.rows, rows, atol=EXACT)
    np.testing.assert_allclose(made(x), f, atol=EXACT)
    np.testing.assert_allclose(made.degree1, (f[:, None] * x).mean(0), atol=EXACT)
    size = np.abs((f[:, None] * x).mean(0))
    rest = np.delete(size, support)
    assert made.separates == (size[support].min() > rest.max())


@pytest.mark.parametrize(("d", "k"), [(5, 2), (7, 4), (9, 2), (11, 4), (11, 6)])
def test_what_a_student_sees_of_the_checkpoint(d, k):
    x = cube(d)
    made = first_step(*network(d, 7, 1), range(k))
    f = made(x)
    assert np.mean(f * x[:, :k].prod(1)) == pytest.approx(0, abs=EXACT)
    v, bias = network(d, 5, 2, spread=0.99)
    on = (x @ v.T + bias[None] > 0).astype(float)
    each = f[:, None, None] * x[:, None, :] * on[:, :, None]
    for j in range(len(v)):
        got = taught_gradient(made.degree1)
        np.testing.assert_allclose(got, each[:, j].mean(0), atol=EXACT)
        noise = taught_noise(made.degree1, float(np.mean(f**2)))
        np.testing.assert_allclose(noise, each[:, j].var(0), atol=EXACT)


def test_students_need_an_odd_dimension():
    with pytest.raises(ConfigError, match="odd d, got 4"):
        taught_gradient(np.ones(4))


def test_sign_sum_is_binomial():
    for n in (0, 1, 12, 400):
        values, mass = sign_sum(n)
        wanted = [comb(n, s) / 2**n for s in range(n + 1)]
        np.testing.assert_allclose(mass, wanted, rtol=1e-9)
        assert values.tolist() == [n - 2 * s for s in range(n + 1)]


@pytest.mark.parametrize(("d", "k"), [(21, 2), (41, 4)])
def test_expected_share_and_its_half_way_batch(d, k):
    """Squared batch gradients of simulated samples, and the definition of 1/2."""
    rng, w = np.random.default_rng(0), np.ones((1, d))
    gradient = bounds.label_gradient(w, range(k), np.zeros(1))
    noise = bounds.label_noise(gradient, np.zeros(1))
    half = bounds.aligned_batch(gradient[0], noise[0], range(k))
    assert half == pytest.approx(bounds.label_batch(d, k))
    share = bounds.expected_share(gradient[0], noise[0], range(k), half)
    assert share == pytest.approx(0.5)
    batch, square = 200, np.zeros(d)
    for _ in range(400):
        x = rng.choice([-1.0, 1.0], (batch, d))
        y = x[:, :k].prod(1) * (x.sum(1) > 0)
        square += (y @ x / batch) ** 2
    wanted = square[:k].sum() / square.sum()
    got = bounds.expected_share(gradient[0], noise[0], range(k), batch)
    assert got == pytest.approx(wanted, rel=4 * np.sqrt(2 / (400 * k)))


def test_batches_grow_with_the_theorems_exponents():
    d = (401, 801, 1601)
    for k in (2, 4):
        aligned = np.log([bounds.label_batch(v, k) for v in d])
        assert np.diff(aligned) / np.log(2) == pytest.approx([k, k], abs=0.06)
        pairs = [bounds.coefficient_pair(v, k)[0] for v in d]
        squares = -2 * np.log(np.abs(pairs))
        assert np.diff(squares) / np.log(2) == pytest.approx([k - 1] * 2, abs=0.03)


def test_separated_batch_is_where_the_support_comes_out():
    rng, d, k = np.random.default_rng(0), 33, 4
    gradient = bounds.label_gradient(np.ones((1, d)), range(k), np.zeros(1))
    noise = bounds.label_noise(gradient, np.zeros(1))
    scale = bounds.separated_batch(gradient[0], noise[0], range(k))

    def found(batch):
        g = gradient + np.sqrt(noise / batch) * rng.normal(size=(4000, d))
        size = np.abs(g)
        return np.mean(size[:, :k].min(1) > size[:, k:].max(1))

    assert found(4 * scale) > 0.95 and found(scale / 16) < 0.05
    assert np.isinf(bounds.separated_batch(gradient[0], noise[0], range(5)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bounds.threshold_coefficient(0, 0), "d must be at least 1"),
        (lambda: bounds.threshold_coefficient(5, 6), r"r must lie in 0..d = 0..5"),
        (lambda: bounds.coefficient_pair(5, 0), r"k must lie in 1..d = 1..5"),
    ],
)
def test_impossible_arguments_are_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
