"""Products over paths: against brute force, and a parity that is exact."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.models.dagfm import DAGFM
from sandbox.tasks.parity import ExplicitSupport, Parity


@pytest.mark.usefixtures("x64")
def test_sums_over_increasing_paths(key: Any) -> None:
    """h^2_s = sum_{f <= g <= s} h_f p1_{f,g} h_g p2_{g,s} h_s, entry by entry."""
    model = DAGFM(d=4, depth=2, width=3)
    params = model.init(key)
    x = np.asarray(jax.random.rademacher(key, (5, 4), float))
    rows = model.apply(params, jnp.asarray(x), taps=("products",)).acts["products"]
    mix = np.asarray(params["mix"])
    embedding = {k: np.asarray(v) for k, v in params["embedding"].items()}
    h = embedding["constant"] + x[:, :, None] * embedding["slope"]
    want = np.zeros((5, 4))
    for f, g, s in itertools.product(range(4), repeat=3):
        if f <= g <= s:
            path = h[:, f] * mix[0, f, g] * h[:, g] * mix[1, g, s] * h[:, s]
            want[:, s] += path.sum(-1)
    np.testing.assert_allclose(rows[:, 8:], want, atol=1e-13)
    np.testing.assert_allclose(rows[:, :4], h.sum(-1), atol=1e-14)


@pytest.mark.parametrize("width", [1, 3])
def test_a_parity_is_one_path(width: int) -> None:
    support = (1, 2, 5)
    task = Parity(d=6, k=3, support=ExplicitSupport(indices=support))
    cube = task.enumerate()
    assert cube is not None
    model = DAGFM(d=6, depth=2, width=width)
    logits = model.apply(model.parity(support), cube.x).logits
    sign = 1 - 2 * np.asarray(cube.y)
    np.testing.assert_array_equal(logits, 10 * np.stack([sign, -sign], 1))
    order = np.array([5, 1, 2, 3, 4, 0])  # other fields: the path is none of theirs
    assert (model.apply(model.parity(support), cube.x[:, order]).logits != logits).any()
    for wrong in ((1, 2), (2, 1, 5), (1, 1, 5)):
        with pytest.raises(ConfigError, match="3 increasing coordinates"):
            model.parity(wrong)


def test_roles_cover_every_axis(key: Any) -> None:
    model = DAGFM(d=4, depth=1, width=2)
    params = model.init(key)
    leaves, tree = jax.tree.flatten(params)
    roles = tree.flatten_up_to(model.width_axes(params))
    assert [len(r) for r in roles] == [a.ndim for a in leaves]
    with pytest.raises(ConfigError, match=r"model\.width"):
        DAGFM(width=0)
