"""Rows with one view or two: counts, labels from either, and what one view is worth."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.tasks.multi_view import OTHERS, WEAK, MultiView, TwoViews

N = 4000


def test_views_of_patches(key: Any) -> None:
    task = MultiView(n_classes=4, dims=10, mu=0.3, noise=0.0)
    batch = task.sample(key, 0, N, split="train")
    x = np.asarray(batch.x).reshape(N, task.patches, task.dims)
    y, view = np.asarray(batch.y), np.asarray(batch.aux["view"])
    single = view >= 0
    assert abs(single.mean() - 0.3) < 5 * (0.3 * 0.7 / N) ** 0.5
    assert abs((view[single] == 0).mean() - 0.5) < 5 * (0.25 / single.sum()) ** 0.5
    weight = x.sum(1)[:, :8].reshape(N, 4, 2)  # total of every feature
    own = weight[np.arange(N), y]
    rest = np.array([np.delete(w, c, 0) for w, c in zip(weight, y, strict=True)])
    assert (own[~single] >= 0.99).all() and (own <= 2.01).all()
    strong, weak = (own[single, v] for v in (view[single], 1 - view[single]))
    assert (strong >= 0.99).all() and (np.abs(weak - WEAK) < 1e-5).all()
    assert 0 <= rest.min() and rest.max() <= OTHERS and (rest > 0).mean() < 0.15
    assert (x[..., 8:] == 0).all() and ((x != 0).sum(1)[:, :8] <= 2).all()
    assert ((x != 0).sum(2) <= 1).all()  # no two features in a patch
    # Whoever adds up both views is right. One view fails if another class has more.
    assert (weight.sum(2).argmax(1) == y).all()
    wrong = (weight[..., 0].argmax(1) != y)[single & (view == 1)].mean()
    p = 1 - (1 - 0.1 * (1 - WEAK / OTHERS)) ** 3
    assert abs(wrong - p) < 5 * (p * (1 - p) / (single & (view == 1)).sum()) ** 0.5
    assert (weight[..., 0].argmax(1) == y)[~single].all()
    out = task.metrics(jnp.asarray(weight[..., 0]), batch)
    hits, total = out["accuracy_view_1"]
    assert hits / total == pytest.approx(1 - wrong, abs=1e-6)
    # Noise is where no feature is; where patches run out, own views come first.
    noisy = dataclasses.replace(task, noise=0.1).sample(key, 0, N, split="train")
    x_noisy = np.asarray(noisy.x).reshape(x.shape)
    there = (x != 0).any(2)
    np.testing.assert_array_equal(x_noisy[there], x[there])
    assert abs(x_noisy[~there].std() - 0.1) < 1e-3
    few = dataclasses.replace(task, patches=4, sparse=1.0)
    scarce = few.sample(key, 0, N, split="train")
    own = np.asarray(scarce.x).reshape(N, 4, 10).sum(1)[:, :8].reshape(N, 4, 2)
    assert ((own > 0).sum((1, 2)) == 2).all()
    assert (own[np.arange(N), np.asarray(scarce.y)] > 0).all()
    with pytest.raises(ConfigError, match=r"task\.dims must be at least"):
        MultiView(n_classes=10, dims=16)


def test_two_parities_that_agree(key: Any) -> None:
    task = TwoViews(d=10, k=3, mu=0.4)
    batch = task.sample(key, 0, N, split="train")
    x, y = np.asarray(batch.x), np.asarray(batch.y)
    first, second = x[:, :3].prod(1), x[:, 3:6].prod(1)
    both = (first != 0) & (second != 0)
    assert abs((~both).mean() - 0.4) < 5 * (0.24 / N) ** 0.5
    assert (first[both] == second[both]).all() and (x[:, 6:] != 0).all()
    assert ((first != 0) | (second != 0)).all()
    np.testing.assert_array_equal(y, np.where(first != 0, first, second) < 0)
    np.testing.assert_array_equal(task.bayes(batch).argmax(-1), y)
    assert abs(y.mean() - 0.5) < 5 * (0.25 / N) ** 0.5
    correlation = (x * (1 - 2 * y)[:, None]).mean(0)
    assert np.abs(correlation).max() < 5 / N**0.5
    part = task.sample(key, 100, 50, split="train")
    np.testing.assert_array_equal(part.x, x[100:150])
    assert jax.tree.map(jnp.shape, task.supports(None)) == (2, 3)
