"""Gaussian targets against quadrature and closed forms, and training on them."""

from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import log, pi, sqrt
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from scipy import integrate, stats

import sandbox.study as st
from experiments.parity_mlp import ParityMLP
from sandbox.distill.strategy import Strategy
from sandbox.errors import ConfigError
from sandbox.models.mlp import MLP
from sandbox.probes.alignment import AlignmentProbe
from sandbox.probes.fourier import FourierProbe
from sandbox.store.config import from_json, to_json
from sandbox.tasks.gaussian import (
    MultiIndex,
    RandomDirections,
    hermite,
    sign_changes,
    sign_coefficients,
    single_index,
)
from sandbox.tasks.parity import ExplicitSupport, FirstSupport, RandomSupport
from sandbox.train.loop import fit
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.progress import Silent
from sandbox.train.run import BUILT_IN
from sandbox.train.spec import RunSpec, Stop
from sandbox.types import Outputs
from tests.tasks.conftest import sample

TUNED = (0.0, 3 - 2 * log(2), 0.0, sqrt(6))
"""z (z^2 - 2 ln 2): the first Hermite coefficient of its sign is exactly 0."""
SADDLE = MultiIndex(d=9, degrees=((1, 0), (1, 1)), coefficients=(0.5, 1.0))


def test_inputs_are_standard_normal(key: jax.Array) -> None:
    """Kolmogorov-Smirnov on all entries; pairs and successive rows within 5 sigma."""
    n, d = 20_000, 20
    task = single_index(d, (0.0, 1.0))
    x = np.asarray(sample(task, key, 0, n, split="train").x, float)
    assert stats.kstest(x.ravel(), "norm").pvalue > 1e-4
    pairs = (x.T @ x / n)[np.triu_indices(d, 1)]
    assert np.abs(pairs).max() < 5 / np.sqrt(n)
    assert np.abs((x[1:] * x[:-1]).mean(0)).max() < 5 / np.sqrt(n - 1)
    assert np.abs((x**2).mean(0) - 1).max() < 5 * np.sqrt(2 / n)


def test_both_precisions_see_the_same_rows(key: jax.Array) -> None:
    task = single_index(7, (0.0, 1.0))
    single = sample(task, key, 5, 50, split="eval")
    with jax.enable_x64(True):
        double = sample(task, key, 5, 50, split="eval")
        assert double.x.dtype == jnp.float64 and single.x.dtype == jnp.float32
        np.testing.assert_array_equal(double.x, np.asarray(single.x, float))
        np.testing.assert_array_equal(double.y, single.y)


# ------------------------------------------------------------------------- expansions


def gauss_hermite(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights, exact for polynomials of degree below 2n under N(0, 1)."""
    z, w = np.polynomial.hermite_e.hermegauss(n)
    return z, w / w.sum()


def test_hermite_polynomials_are_orthonormal() -> None:
    z, w = gauss_hermite(20)
    h = np.stack(hermite(z, 12))
    np.testing.assert_allclose(h * w @ h.T, np.eye(13), atol=1e-9)
    np.testing.assert_allclose(hermite(2.0, 3)[3], (8 - 6) / sqrt(6))


def test_coefficients_of_a_link_are_recovered(x64: None) -> None:
    """By a product quadrature of `link`, exact for its degree."""
    task = MultiIndex(
        d=5,
        degrees=((0, 0), (1, 0), (2, 1), (0, 3)),
        coefficients=(0.2, 1.0, -0.7, 0.4),
    )
    z, w = gauss_hermite(12)
    points = np.asarray(list(product(z, z)))
    weight = np.outer(w, w).ravel()
    f = np.asarray(task.link(jnp.asarray(points)))
    known = dict(zip(task.degrees, task.coefficients, strict=True))
    h = [hermite(points[:, i], 5) for i in (0, 1)]
    for a, b in product(range(6), repeat=2):
        c = (weight * f * h[0][a] * h[1][b]).sum()
        assert c == pytest.approx(known.get((a, b), 0.0), abs=1e-10)
    assert task.information_exponent == 1 and task.k == 2


LINKS = {
    "linear": (0.0, 1.0),
    "square": (0.0, 0.0, 1.0),
    "cube": (0.0, 0.0, 0.0, 1.0),
    "tuned": TUNED,
    "mixed": (0.3, -0.5, 0.8, 0.2, 0.1),
    "touching": (1.0, 0.0, sqrt(2), 0.0),  # z^2
}


@pytest.mark.parametrize("name", LINKS)
def test_coefficients_of_a_sign_by_adaptive_quadrature(name: str) -> None:
    """The closed form between roots against scipy's quadrature of sign f h_j g."""
    link = LINKS[name]

    def f(z: float) -> float:
        return sum(c * h for c, h in zip(link, hermite(z, len(link) - 1), strict=True))

    got = sign_coefficients(link, 6)
    roots, _ = sign_changes(link)
    borders = [-12.0, *roots, 12.0]
    for j in range(7):
        expected = sum(
            integrate.quad(
                lambda z, j=j: (
                    np.sign(f(z)) * hermite(z, max(j, 1))[j] * stats.norm.pdf(z)
                ),
                a,
                b,
                limit=200,
            )[0]
            for a, b in pairwise(borders)
        )
        assert got[j] == pytest.approx(expected, abs=1e-8)


def test_known_coefficients_of_the_sign() -> None:
    """E[sign(z) h_j]: sqrt(2/pi) times 1, -1/sqrt(6), 3/sqrt(120); sign(z^2) is 1."""
    c = sign_coefficients((0.0, 1.0), 5) / sqrt(2 / pi)
    np.testing.assert_allclose(c, [0, 1, 0, -1 / sqrt(6), 0, 3 / sqrt(120)], atol=1e-12)
    assert sign_changes(LINKS["touching"]) == ([], [1])
    np.testing.assert_allclose(sign_changes(LINKS["square"])[0], [-1, 1], rtol=1e-12)


@pytest.mark.parametrize(
    ("degrees", "coefficients", "link", "label"),
    [
        (((1,),), (1.0,), 1, 1),
        (((2,),), (1.0,), 2, 2),
        (((3,),), (1.0,), 3, 1),  # the sign of He_3 correlates with z
        (((4,),), (1.0,), 4, 2),
        (((1,), (3,)), TUNED[1::2], 1, 3),
        (((1, 1),), (1.0,), 2, 2),
        (((1, 1, 1),), (-2.0,), 3, 3),
        (((2, 1),), (1.0,), 3, 1),  # the sign of He_2 has a mean
        (((2, 2),), (1.0,), 4, 2),
        (((1, 0), (1, 1)), (0.5, 1.0), 1, None),
    ],
)
def test_information_exponents(
    degrees: tuple, coefficients: tuple, link: int, label: int | None
) -> None:
    task = MultiIndex(d=6, degrees=degrees, coefficients=coefficients)
    assert task.information_exponent == link and task.label_exponent == label
    if label is None or task.k > 2:
        return
    # No coefficient of lower degree, by sums over a fine grid that avoids the roots.
    grid = np.linspace(-8, 8, 1600)
    points = np.asarray(list(product(grid, repeat=task.k)))
    weight = stats.norm.pdf(points).prod(-1) * (grid[1] - grid[0]) ** task.k
    y = np.where(np.asarray(task.link(jnp.asarray(points))) < 0, -1, 1)
    h = [hermite(points[:, i], label) for i in range(task.k)]
    found = {}
    for a in product(range(label + 1), repeat=task.k):
        chi = np.prod([h[i][j] for i, j in enumerate(a)], 0)
        found[a] = abs((weight * y * chi).sum())
    lower = [c for a, c in found.items() if 0 < sum(a) < label]
    assert max(lower, default=0) < 5e-3
    assert max(c for a, c in found.items() if sum(a) == label) > 0.1


@pytest.mark.parametrize("link", [LINKS["square"], (0.0, 0.0, 0.0, 0.0, 1.0)])
def test_balanced_links_have_two_equal_classes(
    link: tuple[float, ...], key: jax.Array
) -> None:
    plain, task = (single_index(4, link, balanced=b) for b in (False, True))
    n = 20_000
    share, before = (
        float(np.asarray(sample(t, key, 0, n, split="train").y).mean())
        for t in (task, plain)
    )
    assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(n) < abs(before - 0.5)
    assert task.information_exponent == plain.information_exponent
    assert single_index(4, LINKS["cube"], balanced=True) == single_index(
        4, LINKS["cube"]
    )


# ------------------------------------------------------------------------- directions


@pytest.mark.parametrize(
    "support",
    [
        FirstSupport(),
        RandomSupport(),
        ExplicitSupport(indices=(7, 2)),
        RandomDirections(),
    ],
)
def test_labels_are_the_sign_of_the_link(support: object, key: jax.Array) -> None:
    task = replace(SADDLE, support=support)
    batch = sample(task, key, 3, 400, split="train")
    x = np.asarray(batch.x, float)
    (s,) = np.asarray(task.supports(key))
    if isinstance(support, RandomDirections):
        frame = np.asarray(task.frame(key), float)
        np.testing.assert_allclose(frame @ frame.T, np.eye(9), atol=1e-5)
        z = x @ frame[:2].T
    else:
        z = x[:, s]
    f = 0.5 * z[:, 0] + z[:, 0] * z[:, 1]
    clear = np.abs(f) > 1e-4
    assert clear.sum() > 390
    np.testing.assert_array_equal(np.asarray(batch.y)[clear], (f < 0)[clear])
    np.testing.assert_array_equal(task.bayes(batch), np.eye(2)[np.asarray(batch.y)])
    assert task.enumerate(key) is None
    data = to_json(task)
    assert from_json(MultiIndex, data) == task and MultiIndex in BUILT_IN


def test_random_frames_are_uniform() -> None:
    """Each entry of w_1 and w_2 has mean 0 and square 1/d, within 5 sigma."""
    task = replace(SADDLE, support=RandomDirections())
    keys = jax.random.split(jax.random.key(1), 1500)
    w = np.asarray(jax.vmap(task.frame)(keys))[:, :2]
    n, d = len(w), 9
    assert np.abs(w.mean(0)).max() < 5 / np.sqrt(d * n)
    spread = np.sqrt(3 / (d * (d + 2)) - 1 / d**2)
    assert np.abs((w**2).mean(0) - 1 / d).max() < 5 * spread / np.sqrt(n)
    with pytest.raises(ConfigError, match="pass key="):
        task.frame(None)


REFUSED = [
    (dict(degrees=((1,), (1,)), coefficients=(1.0, 1.0)), "different tuples"),
    (dict(degrees=((1, 0), (1,)), coefficients=(1.0, 1.0)), "tuples of k degrees"),
    (dict(degrees=(), coefficients=()), "tuples of k degrees"),
    (dict(degrees=((13,),), coefficients=(1.0,)), r"degrees in 0\.\.12"),
    (dict(degrees=((1, 0),), coefficients=(1.0,)), r"directions \[1\]"),
    (dict(degrees=((1,) * 5,), coefficients=(1.0,)), "k = 5 must be <= d = 4"),
    (dict(degrees=((1,),), coefficients=(0.0,)), "not 0"),
    (dict(degrees=((0,), (2,)), coefficients=(1.0, 0.5)), "less than a thousandth"),
    (
        dict(degrees=((1,),), coefficients=(1.0,), support=ExplicitSupport(indices=())),
        "task.support.indices",
    ),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED)
def test_refused(fields: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as e:
        MultiIndex(d=4, **fields)
    assert str(e.value).endswith(".") and "\n" not in str(e.value)


def test_a_link_without_a_variable_is_refused() -> None:
    with pytest.raises(ConfigError, match="link must hold"):
        single_index(4, (1.0, 0.0))


# ------------------------------------------------------------------------ measuring


@dataclass(frozen=True)
class Probit:
    """p(1 | x) = Phi(b <w, x>)."""

    n_classes: int = 2

    def init(self, key):
        return {}

    def apply(self, params, x, *, key=None, taps=()):
        p = norm.cdf(params["b"] * (x @ params["w"]))
        return Outputs(jnp.log(jnp.stack([1 - p, p], 1)), {})

    def width_axes(self, params):
        return params


@pytest.mark.parametrize("support", [RandomSupport(), RandomDirections()])
def test_degree_one_is_the_hermite_correlation(support: object, key: jax.Array) -> None:
    """E[Phi(b z) z] = b / sqrt(2 pi (1 + b^2)), on the task's own direction alone."""
    task = single_index(8, (0.0, 1.0), support=support)
    w = jax.jit(lambda k: task.rotate(jnp.eye(8), k)[:, task.supports(k)[0, 0]])(key)
    np.testing.assert_allclose(jnp.sum(w**2), 1, rtol=1e-5)
    n, b = 20_000, 0.7
    probe = FourierProbe(task, Probit(), degrees=(1, 2), points=n, batch=3000)
    out = jax.jit(probe.measure)({"w": w, "b": b}, key)
    truth = b / sqrt(2 * pi * (1 + b * b))
    c, se = out["in_support/1"][0, 0, 1], out["in_support_se/1"][0, 0, 1]
    assert abs(c - truth) < 5 * se and 0 < se < 1 / np.sqrt(n)
    off, off_se = out["off_support/1"][0, :, 1], out["off_support_se/1"][0, :, 1]
    assert (np.abs(off) < 5 * off_se).all()
    # The product of p - 1/2 and an independent z has variance E[(p - 1/2)^2].
    z = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    spread = np.sqrt(((stats.norm.cdf(b * z) - 0.5) ** 2).mean())
    np.testing.assert_allclose(off_se, spread / np.sqrt(n), rtol=0.05)


def test_alignment_is_measured_in_the_frame(key: jax.Array) -> None:
    task = replace(SADDLE, support=RandomDirections())
    frame = task.frame(key)
    kernel = jnp.stack([frame[0], frame[0] + 2 * frame[1], frame[0] + frame[5]], 1)
    out = AlignmentProbe(task).measure({"layer_0": {"kernel": kernel}}, key)
    np.testing.assert_allclose(out["alignment"], [[1, 1, 0.5]], atol=1e-5)


# ------------------------------------------------------------------------- training


@pytest.mark.slow
def test_engines_agree_on_gaussian_inputs(tmp_path: Path) -> None:
    """One step rounds at 1e-16 of O(1) numbers; 480 of them stay below 1e-11."""
    spec = RunSpec(
        kind="teacher",
        task=replace(SADDLE, support=RandomDirections()),
        model=MLP(d=9, hidden=(24,)),
        strategies=(Strategy(name="teacher"),),
        stop=Stop(max_samples=480),
        eval_every=480,
        eval_points=64,
        checkpoint_every=480,
        block=12,
        optimizer=SGD(lr=LearningRate(peak=0.05)),
        dtype="float64",
    )
    runs = [
        fit(replace(spec, engine=e), root=tmp_path, progress=Silent())
        for e in ("generic", "online_sgd")
    ]
    assert [r.spec.engine_used for r in runs] == ["generic", "online_sgd"]
    start, (a, b) = runs[0].trajectory.read(0), [r.trajectory.read(480) for r in runs]
    jax.tree.map(
        lambda u, v: np.testing.assert_allclose(u, v, rtol=0, atol=1e-11), a, b
    )
    moved = jax.tree.map(lambda u, v: np.abs(u - v).max(), start, a)
    assert min(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.slow
def test_the_parity_studies_run_on_a_single_index(tmp_path: Path) -> None:
    """Teachers learn, the probe sees their direction, students and figure come out."""
    setting = st.Setting(
        task=single_index(8, (0.0, 1.0), support=RandomDirections()),
        teacher=st.TwoLayer(32),
        student=st.TwoLayer(8),
        teacher_optimizer=SGD(lr=LearningRate(peak=0.05)),
        budget=st.UntilLearned(limit=5_120),
        rule=st.ByGap(points=2_048, degrees=(1, 2)),
        n_teachers=2,
        group=2,
        spacing=256,
        student_every=256,
    )
    study = ParityMLP(setting=setting, argmax_control=False)
    result = study.run(root=tmp_path, progress=Silent())
    assert np.isfinite(result.n90.teacher.values).all()
    (teachers,) = result.teachers
    assert (teachers.measured["inside"][:, -1] > 0.2).all()
    assert (teachers.measured["outside"][:, -1] < 0.05).all()
    assert np.isfinite(result.n90["progressive"].values).all()
    assert len(study.draw(result).axes) == 2
