"""Tree labels against the leaf of largest score, found by trying every leaf."""

from itertools import product

import jax
import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.tasks.parity import Parity
from tests.tasks.conftest import sample


def leaf_scores(x: np.ndarray, supports: np.ndarray, depth: int) -> np.ndarray:
    """Score of every leaf, left to right, from its path written as lefts and rights."""
    parity = [np.prod(x[:, s], axis=1) for s in supports]
    columns = []
    for path in product((+1, -1), repeat=depth):
        node, score = 1, np.zeros(len(x))  # nodes numbered from 1: children 2n, 2n+1
        for turn in path:
            score = score + turn * parity[node - 1]
            node = 2 * node + (turn < 0)
        columns.append(score)
    return np.stack(columns, 1)


CASES = [
    (layout, d, depth, k)
    for layout in ("disjoint", "shared", "random")
    for d, depth, k in ((7, 1, 3), (7, 2, 2), (8, 3, 1), (10, 3, 2))
    if not (layout == "disjoint" and (2**depth - 1) * k > d)
]


@pytest.mark.parametrize("layout, d, depth, k", CASES)
def test_label_is_the_best_leaf(layout: str, d: int, depth: int, k: int) -> None:
    task = Hierarchy(d=d, depth=depth, feature_complexity=k, layout=layout)
    key = jax.random.key(3)
    supports = np.asarray(task.supports(key))
    assert supports.shape == (2**depth - 1, k)
    batch = task.enumerate(key)
    scores = leaf_scores(np.asarray(batch.x), supports, depth)
    assert ((scores == depth).sum(1) == 1).all()  # one leaf only attains the maximum
    np.testing.assert_array_equal(batch.y, scores.argmax(1))
    if layout == "disjoint":
        counts = np.bincount(batch.y, minlength=2**depth)
        np.testing.assert_array_equal(counts, 2 ** (d - depth))  # equally likely


def test_supports_by_hand() -> None:
    disjoint = Hierarchy(d=6, depth=2, feature_complexity=2)
    np.testing.assert_array_equal(disjoint.supports(None), [[0, 1], [2, 3], [4, 5]])
    shared = Hierarchy(d=5, depth=2, feature_complexity=3, layout="shared")
    expected = [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    np.testing.assert_array_equal(shared.supports(None), expected)
    random = Hierarchy(d=9, depth=3, feature_complexity=4, layout="random")
    a, b = (np.asarray(random.supports(jax.random.key(i))) for i in (0, 1))
    assert (np.diff(a) > 0).all() and a.min() >= 0 and a.max() < 9
    assert (a != b).any() and len({tuple(r) for r in a.tolist()}) > 1
    with pytest.raises(ConfigError, match="key"):
        random.supports(None)


def test_depth_one_is_parity(key: jax.Array) -> None:
    tree = Hierarchy(d=12, depth=1, feature_complexity=5)
    flat = Parity(d=12, k=5)
    a, b = (sample(t, key, 3, 200, split="train") for t in (tree, flat))
    np.testing.assert_array_equal(a.x, b.x)
    np.testing.assert_array_equal(a.y, b.y)
    assert tree.n_classes == flat.n_classes == 2


def test_released_size(key: jax.Array) -> None:
    """Eight labels of complexity five on 100 bits, each near 1/8 of the rows."""
    task = Hierarchy(d=100)
    assert (task.n_classes, task.n_nodes) == (8, 7)
    y = np.asarray(sample(task, key, 0, 8000, split="train").y)
    share = np.bincount(y, minlength=8) / 8000
    assert np.abs(share - 1 / 8).max() < 5 * np.sqrt(1 / 8 * 7 / 8 / 8000)
    batch = sample(task, key, 0, 10, split="eval")
    p = np.asarray(jax.jit(task.bayes)(batch))
    np.testing.assert_array_equal(p.argmax(-1), batch.y)


@pytest.mark.parametrize(
    "fields, named",
    [
        (dict(d=10, depth=0), r"task\.depth"),
        (dict(d=10, depth=11), r"task\.depth"),
        (dict(d=10, depth=1, feature_complexity=0), r"task\.feature_complexity"),
        (dict(d=10, depth=1, feature_complexity=11), r"task\.feature_complexity"),
        (dict(d=34, depth=3, feature_complexity=5), r"needs d >= 35"),
        (dict(d=10, depth=3, feature_complexity=5, layout="shared"), r"needs d >= 11"),
    ],
)
def test_refused(fields: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Hierarchy(**fields)
