"""The node probe of tree labels against closed forms, and its rules by hand."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.models.base import Model
from sandbox.models.mlp import MLP
from sandbox.probes.fourier import FourierProbe, exact_spectrum
from sandbox.probes.nodes import (
    NodeProbe,
    Nodes,
    groups_of,
    inside_outside,
    leaf_sides,
    levels,
)
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.types import Outputs


@dataclass(frozen=True)
class Known(Model):
    """Leaf probabilities (1 + a s x_0)/2 (1 + b t x_1)/2, s and t the leaf's sides."""

    a: float
    b: float
    n_classes: int = 4

    def apply(self, params, x, *, key=None, taps=()):
        del params, key, taps
        up = jnp.stack([1 + self.a * x[:, 0], 1 - self.a * x[:, 0]], 1) / 2
        down = jnp.stack([1 + self.b * x[:, 1], 1 - self.b * x[:, 1]], 1) / 2
        p = up[:, :, None] * down[:, None, :]
        return Outputs(jnp.log(p.reshape(-1, 4)), {})


def test_sides_by_hand():
    np.testing.assert_array_equal(leaf_sides(1), [[0.5], [-0.5]])
    want = [[1, 1, 0], [1, -1, 0], [-1, 0, 1], [-1, 0, -1]]
    np.testing.assert_array_equal(2 * leaf_sides(2), want)
    assert levels(3) == [0, 1, 1, 2, 2, 2, 2]
    assert groups_of(2) == {"by_level": [[0], [1, 2]], "by_node": [[0], [1], [2]]}


def test_sides_follow_the_labels_of_every_input():
    task = Hierarchy(d=8, depth=3, feature_complexity=1)
    cube = task.enumerate()
    assert cube is not None
    x, side = np.asarray(cube.x), 2 * leaf_sides(3)[np.asarray(cube.y)]
    assert (np.abs(side).sum(1) == 3).all()  # a leaf has one node a level above it
    for v, (support,) in enumerate(np.asarray(task.supports(None)).tolist()):
        below = side[:, v] != 0
        np.testing.assert_array_equal(side[below, v], x[below, support])
        assert below.mean() == 2.0 ** -levels(3)[v]


def test_probe_of_a_known_classifier(key):
    task = Hierarchy(d=6, depth=2, feature_complexity=1)  # nodes: x_0, x_1, x_2
    a, b = 0.4, 0.3
    out = jax.jit(NodeProbe(task, Known(a, b), points=20_000).measure)({}, key)
    want = np.zeros((3, 6))
    want[0, 0] = a / 2
    want[1:, 1] = b / 4  # q = (1 + s a x_0)/2 . b x_1/2
    error, se = np.asarray(out["degree1"]) - want, np.asarray(out["degree1_se"])
    # q_0 x_0 = a/2 in every row: no sampling error but that of centring, a/2 mean(x)^2.
    assert se[0, 0] < 1e-5 and abs(error[0, 0]) < 4.5**2 * a / 2 / 20_000
    z = (error / np.maximum(se, 1e-9)).ravel()[1:]
    assert np.abs(z).max() < 4.5 and 0.5 < np.sqrt((z**2).mean()) < 1.6
    left, right, other = out["accuracy"]
    assert (left, right) == (1, 1)  # both read the coordinate of their own node
    assert other == pytest.approx(0.5, abs=4 / np.sqrt(4 * 10_000))


def test_depth_one_has_the_scale_of_plain_parity(key):
    task, model = Hierarchy(d=8, depth=1, feature_complexity=3), MLP(d=8, hidden=(20,))
    params = model.init(key)
    probe = FourierProbe(task, model, degrees=(1,), points=3000)
    ours = jax.jit(NodeProbe(task, model, points=3000).measure)(params, key)
    theirs = jax.jit(probe.measure)(params, key)
    want, se = theirs["degree1"][:, 1], theirs["degree1_se"][:, 1]
    np.testing.assert_allclose(np.abs(ours["degree1"][0]), np.abs(want), atol=1e-6)
    np.testing.assert_allclose(ours["degree1_se"][0], se, rtol=1e-3)


@pytest.mark.slow
def test_probe_against_the_exact_spectrum(key):
    task = Hierarchy(d=7, depth=2, feature_complexity=2)
    model = MLP(d=7, hidden=(12,), n_classes=4)
    params = jax.tree.map(lambda p: 2 * p, model.init(key))
    found = jax.jit(NodeProbe(task, model, points=8192).measure)(params, key)
    spectrum = np.asarray(exact_spectrum(task, model, params)) @ leaf_sides(2)
    exact = spectrum[2 ** np.arange(7)].T
    z = (np.asarray(found["degree1"]) - exact) / np.asarray(found["degree1_se"])
    assert np.abs(z).max() < 4.5 and 0.5 < np.sqrt((z**2).mean()) < 1.6


def test_inside_and_outside_by_hand():
    c = np.arange(12.0).reshape(1, 2, 6) * np.asarray([1, -1] * 3)
    inside, outside = inside_outside(c, np.asarray([[0, 1], [3, 4]]))
    np.testing.assert_allclose(inside, [[0.5, 9.5]])
    np.testing.assert_allclose(outside, [[3.5, 9.5]])  # of 2, 5 and of 8, 11
    whole = inside_outside(c, np.asarray([[0, 1, 2], [3, 4, 5]]))[1]
    np.testing.assert_array_equal(whole, np.zeros((1, 2)))


def made(accuracy, gap):
    """Nodes of one seed from curves `(R, 3)`, a record every 10 samples."""
    accuracy, gap = np.asarray(accuracy, float)[None], np.asarray(gap, float)[None]
    steps = 10 * np.arange(accuracy.shape[1])
    return Nodes(2, steps, accuracy, gap, np.zeros_like(gap))


def test_middles_by_the_rule():
    accuracy = np.asarray(
        [[0.5, 0.5, 0.5], [0.6, 0.5, 0.5], [0.9, 0.7, 0.5], [1, 0.8, 0.5], [1, 1, 0.5]]
    )
    gap = np.asarray([[9, 9, 9], [2, 9, 1], [3, 1, 1], [9, 2, 1], [9, 9, 1]])
    nodes = made(accuracy, gap)
    alone = groups_of(2)["by_node"]
    assert nodes.middles(0, alone, 40) == [20, 30, None]  # .53 to .92 only
    assert nodes.middles(0, alone, 30) == [20, 20, None]  # strictly before final
    assert nodes.middles(0, alone, None) == [None] * 3
    # Together: mean accuracy .6, .65 and .75, mean gap 1, 1.5 and 5.
    assert nodes.middles(0, [[1, 2]], 50) == [40]


def test_nodes_are_ordered_within_their_level():
    ramp = np.linspace(0.5, 1, 6)
    flat = np.full(6, 0.5)
    late = np.concatenate([flat[:3], [0.75, 1, 1]])
    nodes = made(np.stack([late, flat, ramp], 1), np.zeros((6, 3)))
    np.testing.assert_allclose(nodes.times, [[30, np.inf, 25]])
    np.testing.assert_array_equal(nodes.in_order, [[0, 2, 1]])


def test_too_few_points_are_refused():
    task = Hierarchy(d=8, depth=2, feature_complexity=2)
    with pytest.raises(ConfigError, match=r"probe\.points"):
        NodeProbe(task, MLP(d=8, n_classes=4), points=1)
