"""Losses on some classes, and smoothed ReLUs: closed forms and enumeration."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.distill.losses import Answers
from sandbox.distill.methods.sampled import Sampled
from sandbox.distill.methods.truncated import Truncated
from sandbox.models.patches import PatchNet, smoothed_relu
from tests.distill.test_methods import N, drawn, said


@pytest.mark.usefixtures("x64")
def test_truncated_gradients_only_push_up() -> None:
    z, t, label = drawn(4)
    loss = Truncated(tau=2.0, most=1.0)
    sup = loss.supervise(label, said(t, label), ())
    p, q = (np.exp(np.minimum(v, 1.0) / 2) for v in (np.asarray(t), np.asarray(z)))
    p, q = (v / v.sum(1, keepdims=True) for v in (p, q))
    want = np.minimum(q - p, 0) * (np.asarray(z) < 1.0)
    np.testing.assert_allclose(loss.delta(z, sup), want, atol=1e-12)
    assert (want < 0).any() and (np.asarray(z) > 1.0).any()
    same = loss.supervise(label, said(z, label), ())
    np.testing.assert_array_equal(loss.delta(z, same), 0)


@pytest.mark.usefixtures("x64")
def test_sampled_classes() -> None:
    """All of them are the whole loss; of draws the first sum is unbiased."""
    z, t, label = drawn(5)
    p = jax.nn.softmax(t)
    whole = Sampled()
    got = whole.value(Answers(z), whole.supervise(label, said(t, label), ()), None)
    want = -jnp.sum(p * jax.nn.log_softmax(z), -1)
    np.testing.assert_allclose(got, want, atol=1e-12)
    loss = Sampled(n=2, uniform=0.3)
    r = np.asarray(loss.law(p, jax.nn.softmax(z)))
    np.testing.assert_allclose(r.sum(1), 1, atol=1e-9)
    row = 0
    mean = first = 0.0
    for i, j in itertools.product(range(5), repeat=2):
        ends = np.cumsum(r[row])
        draws = jnp.asarray([[ends[i] - 1e-9, ends[j] - 1e-9]])  # draw i, then j
        one = loss.value(Answers(z[:1]), (p[:1], draws), None)[0]
        zs, ps, rs = (np.asarray(a[row])[[i, j]] for a in (z, p, r))
        own = np.log((np.exp(zs) / (2 * rs)).sum()) - (ps * zs / (2 * rs)).sum()
        assert float(one) == pytest.approx(own, abs=1e-9)
        mean += rs.prod() * own
        first += rs.prod() * (ps * zs / (2 * rs)).sum()
    assert first == pytest.approx(float(jnp.sum(p[row] * z[row])), abs=1e-9)
    assert mean != pytest.approx(float(want[row]), abs=1e-3)  # the logarithm is biased
    sup = loss.supervise(label, said(t, label), ())
    assert sup[1].shape == (N, 2) and (sup[1] == sup[1][:1]).all()  # by the sample


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("power", [2, 4])
def test_smoothed_relus(power: int) -> None:
    v = 0.5

    def s(z: Any) -> Any:
        return smoothed_relu(jnp.asarray(z), power, v)

    at = np.array([-1.0, 0.0, 0.25, v, 2.0])
    by_hand = [0, 0, 0.25**power / (power * v ** (power - 1)), v / power]
    np.testing.assert_allclose(s(at), [*by_hand, 2 - (1 - 1 / power) * v], atol=1e-15)
    slope = jax.vmap(jax.grad(lambda z: s(z)))(jnp.asarray([-0.1, v - 1e-9, v + 1e-9]))
    np.testing.assert_allclose(slope, [0, 1, 1], atol=1e-7)


def test_patches_are_summed(key: Any) -> None:
    model = PatchNet(patches=3, dims=4, hidden=2, n_classes=3, power=2)
    params = model.init(key)
    x = jax.random.normal(key, (5, 12))
    out = model.apply(params, x, taps=("responses",))
    w, rows = np.asarray(params["kernel"]), np.asarray(x).reshape(5, 3, 4)
    want = np.zeros((5, 3))
    for c, r, p in itertools.product(range(3), range(2), range(3)):
        want[:, c] += np.asarray(
            smoothed_relu(jnp.asarray(rows[:, p] @ w[c, r]), 2, 0.5)
        )
    np.testing.assert_allclose(out.logits, want, atol=1e-6)
    assert out.acts["responses"].shape == (5, 6)
    moved = model.apply(params, jnp.asarray(rows[:, [2, 0, 1]].reshape(5, 12))).logits
    np.testing.assert_allclose(moved, want, atol=1e-6)
