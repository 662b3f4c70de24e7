"""Fourier-expansion targets by enumeration, and biased cubes against exact moments."""

from dataclasses import dataclass, replace
from itertools import permutations, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import hadamard

from experiments import template
from sandbox.errors import ConfigError
from sandbox.models.mlp import MLP
from sandbox.probes.fourier import FourierProbe, exact_spectrum, fwht
from sandbox.probes.spectrum import SpectrumProbe
from sandbox.store.config import from_json, to_json
from sandbox.tasks.base import BooleanTask, cube_rows
from sandbox.tasks.boolean import (
    Expansion,
    expansion_values,
    junta,
    leap,
    majority_of_parities,
    merged_staircase,
    staircase,
    walsh_hadamard,
)
from sandbox.tasks.gaussian import single_index
from sandbox.tasks.parity import ExplicitSupport, Parity, RandomSupport
from sandbox.train.run import BUILT_IN
from sandbox.types import Batch, Outputs
from tests.tasks.conftest import sample


def random_expansion(d: int, seed: int) -> Expansion:
    """Up to ten random monomials on d bits, redrawn until it is a valid target."""
    rng = np.random.default_rng(seed)
    for _ in range(100):
        masks = rng.choice(2**d, min(10, 2**d - 1), replace=False).tolist()
        sets = tuple(tuple(i for i in range(d) if m >> i & 1) for m in masks)
        try:
            return Expansion(
                d=d, sets=sets, coefficients=tuple(rng.normal(size=len(sets)).tolist())
            )
        except ConfigError:
            continue
    raise AssertionError("no valid target found")


def cube_of(task: BooleanTask) -> Batch:
    """The whole cube, in one compilation."""
    return jax.tree.map(np.asarray, jax.jit(task.enumerate)())


def by_hand(task: Expansion, x: np.ndarray) -> np.ndarray:
    """f at rows of the support's coordinates."""
    terms = zip(task.sets, task.coefficients, strict=True)
    return sum(c * x[:, list(s)].prod(-1) for s, c in terms)


@pytest.mark.parametrize("d", range(1, 11))
def test_coefficients_are_recovered_by_enumeration(d: int) -> None:
    """Against scipy's Hadamard matrix: those of f, and those of its sign."""
    task = random_expansion(d, seed=d)
    cube = cube_of(task)
    x = np.asarray(cube.x, float)
    f = by_hand(task, x)
    np.testing.assert_array_equal(cube.y, f < 0)
    np.testing.assert_allclose(
        expansion_values(task.sets, task.coefficients, d), f, atol=1e-12
    )
    matrix = hadamard(2**d)
    found = matrix @ f / 2**d
    expected = np.zeros(2**d)
    expected[[sum(1 << i for i in s) for s in task.sets]] = task.coefficients
    np.testing.assert_allclose(found, expected, atol=1e-12)
    label = matrix @ (1 - 2 * np.asarray(cube.y)) / 2**d  # dyadic, hence exact
    terms = {sum(1 << i for i in s): c for s, c in task.label_terms()}
    np.testing.assert_array_equal([terms.get(m, 0) for m in range(2**d)], label)
    if d == 5:
        onehot = jax.nn.one_hot(cube.y, 2)
        np.testing.assert_array_equal(fwht(onehot)[1:, 1], -label[1:] / 2)
    np.testing.assert_array_equal(walsh_hadamard(label * 2**d), 2**d * (matrix @ label))


@pytest.mark.long
def test_every_junta_of_three_bits_is_its_truth_table() -> None:
    """All 256, every tenth by its cube; those that ignore a bit are refused."""
    rows = np.arange(8)
    kept = 0
    for table in product((0, 1), repeat=8):
        y = np.asarray(table)
        if any((y == y[rows ^ (1 << i)]).all() for i in range(3)):
            with pytest.raises(ConfigError, match=r"does not depend|both classes"):
                junta(5, table)
            continue
        kept += 1
        task = junta(5, table)
        if kept % 10 == 0:
            np.testing.assert_array_equal(cube_of(task).y, np.tile(y, 4))
        assert sum(c**2 for _, c in task.label_terms()) == 1  # Parseval
    assert kept == 218


@pytest.mark.parametrize(
    "support", [RandomSupport(), ExplicitSupport(indices=(8, 3, 5))]
)
def test_a_support_is_followed(support: object, key: jax.Array) -> None:
    task = junta(9, (0, 1, 1, 0, 1, 0, 0, 0), support=support)
    (s,) = np.asarray(task.supports(key))
    assert (np.diff(s) > 0).all()
    batch = sample(task, key, 0, 300, split="train")
    bits = np.asarray(batch.x)[:, s] < 0
    table = np.asarray((0, 1, 1, 0, 1, 0, 0, 0))
    np.testing.assert_array_equal(batch.y, table[bits @ [1, 2, 4]])
    np.testing.assert_array_equal(task.bayes(batch), np.eye(2)[np.asarray(batch.y)])


# ---------------------------------------------------------------------------- families


@pytest.mark.parametrize(
    "steps", [(1,), (4,), (1, 1, 1), (1,) * 6, (2, 2, 2), (1, 1, 3), (3, 1, 1, 2)]
)
def test_staircases(steps: tuple[int, ...]) -> None:
    """The majority of nested parities, balanced, of leap max(steps)."""
    task = staircase(8, steps)
    cube = cube_of(task)
    x = np.asarray(cube.x)
    nested = [x[:, :n].prod(-1) for n in np.cumsum(steps)]
    vote = np.sum(nested, 0)
    tie = vote == 0
    assert tie.any() == (len(steps) % 2 == 0)
    expected = np.where(tie, nested[0] < 0, vote < 0)
    np.testing.assert_array_equal(cube.y, expected)
    assert np.asarray(cube.y).sum() == 128
    assert task.leap == leap(task.sets) == max(steps)


@pytest.mark.long
def test_a_staircase_of_one_step_is_parity(key: jax.Array) -> None:
    a = staircase(30, (5,), support=RandomSupport())
    b = Parity(d=30, k=5, support=RandomSupport())
    x, y = (sample(t, key, 3, 400, split="distill") for t in (a, b))
    jax.tree.map(np.testing.assert_array_equal, x, y)
    np.testing.assert_array_equal(a.supports(key), b.supports(key))


@pytest.mark.parametrize("step", [1, 2, 6])
def test_the_target_of_the_template_is_a_staircase(step: int) -> None:
    """Written by hand there, by expansion here."""
    ours = staircase(7, (step,) * (6 // step))
    theirs = template.Staircase(d=7, step=step)
    np.testing.assert_array_equal(cube_of(theirs).y, cube_of(ours).y)
    np.testing.assert_array_equal(theirs.supports(None), ours.supports(None))
    assert ours.leap == step


@pytest.mark.parametrize(("n", "size"), [(1, 3), (3, 2), (5, 1), (3, 3)])
def test_majority_of_parities(n: int, size: int) -> None:
    task = majority_of_parities(10, n, size)
    cube = cube_of(task)
    parts = np.asarray(cube.x)[:, : n * size].reshape(-1, n, size).prod(-1)
    np.testing.assert_array_equal(cube.y, parts.sum(-1) < 0)
    assert task.leap == size


def one(*sets: str) -> list[tuple[int, ...]]:
    """Sets written as in the papers: `12` is z_1 z_2."""
    return [tuple(int(i) - 1 for i in s) for s in sets]


LEAPS = [  # the examples of arXiv 2302.11055, section 1, and of 2202.08658
    (one("1", "12", "123", "1234"), 1),
    (one("1", "2", "234"), 2),
    (one("1", "123", "234567"), 4),
    (one("123", "234"), 3),
    (one("1", "2", "3", "123"), 1),
    (one("12", "123"), 2),
    (one("1", "123"), 2),
    (one("123456"), 6),
    ([(), (0,)], 1),
    ([()], 0),
]


@pytest.mark.parametrize(("sets", "expected"), LEAPS)
def test_leap_of_known_examples(sets: list[tuple[int, ...]], expected: int) -> None:
    assert leap(sets) == expected


def test_leap_is_the_best_order() -> None:
    """Against all orders of 60 random families of up to six sets on seven bits."""
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        masks = rng.choice(128, rng.integers(1, 6), replace=False).tolist()
        best = 99
        for order in permutations(masks):
            covered, worst = 0, 0
            for m in order:
                worst = max(worst, (m & ~covered).bit_count())
                covered |= m
            best = min(best, worst)
        sets = [tuple(i for i in range(7) if m >> i & 1) for m in masks]
        assert leap(sets) == best
        seen.add(best)
    assert len(seen) >= 4


def test_merged_staircases_need_not_be_staircases() -> None:
    flat = tuple(one("1", "2", "123"))
    assert leap(flat) == 1
    assert merged_staircase(6, flat).sets == flat
    with pytest.raises(ConfigError, match=r"merged staircase.*is 2"):
        merged_staircase(6, tuple(one("1", "123")))


def test_the_leap_of_a_label_is_that_of_the_sign() -> None:
    """It can be lower than that of f: a majority of s, t, u has s t u as well."""
    with pytest.raises(ConfigError, match=r"does not depend on positions \[0\]"):
        Expansion(d=4, sets=tuple(one("1", "23")), coefficients=(1.0, 2.0))
    f = Expansion(d=6, sets=tuple(one("12", "13", "23")), coefficients=(1.0, 1.0, -1.0))
    assert leap(f.sets) == 2 and f.leap == 2
    g = Expansion(d=6, sets=tuple(one("1", "234", "235")), coefficients=(1.0, 1.0, 1.0))
    assert leap(g.sets) == 3 and g.leap == 2  # through z_1 and z_1 z_4 z_5


REFUSED = [
    (dict(sets=((0,), (0, 1)), coefficients=(1.0, 1.0)), "f = 0 at 2 of 4 points"),
    (dict(sets=((0,), (0,)), coefficients=(1.0, 1.0)), "must differ"),
    (dict(sets=((1,),), coefficients=(1.0,)), r"every position in 0\.\.1"),
    (dict(sets=((1, 0),), coefficients=(1.0,)), "increasing tuples"),
    (dict(sets=((),), coefficients=(1.0,)), "1 to 8 positions"),
    (dict(sets=((0,),), coefficients=(0.0,)), "not 0 for each of 1 sets"),
    (dict(sets=((0,),), coefficients=(1.0, 2.0)), "each of 1 sets"),
    (dict(sets=((0,),), coefficients=(float("nan"),)), "finite"),
    (dict(sets=(tuple(range(9)),), coefficients=(1.0,)), "1 to 8 positions"),
    (dict(sets=((), (0,)), coefficients=(2.0, 1.0)), r"positions \[0\]"),
    (
        dict(sets=((0,),), coefficients=(1.0,), support=ExplicitSupport(indices=(8,))),
        "task.support.indices",
    ),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED)
def test_refused(fields: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as e:
        Expansion(d=8, **fields)
    assert str(e.value).endswith(".") and "\n" not in str(e.value)


def test_refused_families() -> None:
    with pytest.raises(ConfigError, match="1 to 16 positions"):
        staircase(30, (17,))
    with pytest.raises(ConfigError, match="steps"):
        staircase(30, (1, 0))
    with pytest.raises(ConfigError, match="n must be odd"):
        majority_of_parities(30, 2, 2)
    for table in ((0, 1, 1), (0, 2), (0,)):
        with pytest.raises(ConfigError, match="table must hold"):
            junta(4, table)


def test_records_are_stored_and_read_back() -> None:
    task = staircase(10, (1, 1, 1), support=RandomSupport(), p=0.3)
    data = to_json(task)
    again = from_json(Expansion, data)
    assert again == task and hash(again) == hash(task) and data["p"] == 0.3
    assert Expansion in BUILT_IN
    assert "p" not in to_json(replace(task, p=0.5)) and "p" not in to_json(Parity(k=2))


# ------------------------------------------------------------------------ exact probes


@dataclass(frozen=True)
class Lookup:
    """p(1 | x) = 1/2 - 0.3 (1 - 2 y) for the label y of a task."""

    task: Expansion
    n_classes: int = 2

    def init(self, key):
        return {}

    def apply(self, params, x, *, key=None, taps=()):
        y = self.task.labels(x, params["supports"])
        p = 0.5 - 0.3 * (1.0 - 2.0 * y)
        return Outputs(jnp.log(jnp.stack([1 - p, p], 1)), {})

    def width_axes(self, params):
        return params


def test_the_probe_finds_the_terms_of_the_label(key: jax.Array) -> None:
    task = staircase(8, (1, 1, 1, 1), support=RandomSupport())
    model, supports = Lookup(task), task.supports(key)
    params = {"supports": supports}
    exact = jax.jit(lambda p, k: exact_spectrum(task, model, p, k))
    c = np.asarray(exact(params, key))[:, 1]
    expected = np.zeros(256)
    expected[0] = 0.5
    for s, value in task.label_terms():
        mask = int(sum(1 << supports[0, i] for i in s))
        expected[mask] -= 0.3 * value
    np.testing.assert_allclose(c, expected, atol=1e-6)
    out = jax.jit(FourierProbe(task, model, degrees=(1, 2), points=4000).measure)(
        params, key
    )
    by_degree1 = expected[1 << np.arange(8)]
    np.testing.assert_allclose(
        out["degree1"][:, 1], by_degree1, atol=5 * 0.3 / np.sqrt(4000)
    )


# ------------------------------------------------------------------------ biased cubes


@pytest.mark.parametrize("p", [0.1, 0.3, 0.75])
def test_biased_bits_have_their_exact_moments(p: float, key: jax.Array) -> None:
    """Mean, variance, pairs, successive rows: all within 5 sigma of independence."""
    n, d = 20_000, 40
    task = Parity(d=d, k=2, p=p)
    x = np.asarray(sample(task, key, 0, n, split="train").x, float)
    assert set(np.unique(x)) == {-1.0, 1.0}
    mu, var = 1 - 2 * p, 4 * p * (1 - p)
    z = (x - mu) / np.sqrt(var)
    assert np.abs(x.mean(0) - mu).max() < 5 * np.sqrt(var / n)
    pairs = (z.T @ z / n)[np.triu_indices(d, 1)]
    assert np.abs(pairs).max() < 5 / np.sqrt(n)
    assert np.abs((z[1:] * z[:-1]).mean(0)).max() < 5 / np.sqrt(n - 1)
    np.testing.assert_allclose(task.standardise(jnp.asarray(x)), z, atol=1e-5)


def test_the_uniform_stream_is_untouched() -> None:
    keys = jax.random.split(jax.random.key(2), 9)
    words = jax.vmap(lambda k: jax.random.bits(k, (2,), jnp.uint32))(keys)
    bits = (np.asarray(words)[:, :, None] >> np.arange(32)) & 1
    expected = 1.0 - 2.0 * bits.reshape(9, 64)[:, :40]
    np.testing.assert_array_equal(cube_rows(keys, 40), expected)
    np.testing.assert_array_equal(cube_rows(keys, 40, 0.5), expected)
    assert (np.asarray(cube_rows(keys, 40, 1e-12)) == 1).all()
    assert (np.asarray(cube_rows(keys, 40, 1 - 1e-12)) == -1).all()


def test_biased_monomials_are_orthonormal_and_expand_parity(x64: None) -> None:
    """Exactly, by enumeration: parity has mu^(k - |A|) sigma^|A| on every A inside."""
    p, d, k = 0.3, 6, 3
    task = Parity(d=d, k=k, p=p)
    cube = cube_of(task)
    chance = np.asarray(cube.weight) / 2**d
    below = (np.asarray(cube.x) < 0).sum(1)
    np.testing.assert_allclose(chance, p**below * (1 - p) ** (d - below), rtol=1e-12)
    z = np.asarray(task.standardise(cube.x))
    member = (np.arange(2**d)[:, None] >> np.arange(d)) & 1
    phi = np.prod(np.where(member[:, None, :] == 1, z[None], 1.0), -1)
    np.testing.assert_allclose(phi * chance @ phi.T, np.eye(2**d), atol=1e-12)
    y = 1 - 2 * np.asarray(cube.y)
    mu, sigma = 1 - 2 * p, 2 * np.sqrt(p * (1 - p))
    size = member.sum(1)
    inside = member[:, k:].sum(1) == 0
    expected = np.where(inside, mu ** np.clip(k - size, 0, k) * sigma**size, 0)
    np.testing.assert_allclose(phi * chance @ y, expected, atol=1e-12)


def test_the_probe_on_a_biased_cube(key: jax.Array) -> None:
    """Estimates within 5 of their own standard errors, which 100 keys confirm."""
    p, points, n_keys = 0.3, 400, 100
    task = staircase(7, (3,), p=p)
    probe = FourierProbe(task, Lookup(task), degrees=(1, 3), off_count=5, points=points)
    params = {"supports": task.supports(None)}
    keys = jax.random.split(key, n_keys)
    out = jax.jit(jax.vmap(probe.measure, (None, 0)))(params, keys)
    out = {name: np.asarray(v) for name, v in out.items()}
    mu, sigma = 1 - 2 * p, 2 * np.sqrt(p * (1 - p))
    for a in (1, 3):
        c, se = (
            out[f"in_support/{a}"][:, 0, :, 1],
            out[f"in_support_se/{a}"][:, 0, :, 1],
        )
        truth = -0.3 * mu ** (3 - a) * sigma**a
        assert (np.abs(c.mean(0) - truth) < 5 * c.std(0) / np.sqrt(n_keys) + 1e-3).all()
        np.testing.assert_allclose(se.mean(0), c.std(0), rtol=0.25)
        off = out[f"off_support/{a}"][:, 0, :, 1]
        assert np.abs(off.mean(0)).max() < 5 * off.std() / np.sqrt(n_keys) + 1e-3


@pytest.mark.long
def test_the_standard_error_is_that_of_the_summand(x64: None, key: jax.Array) -> None:
    """Streaming sums where chi^2 is not 1, against numpy on the same rows."""
    task, model = Parity(d=6, k=3, p=0.2), MLP(d=6, hidden=(5,))
    params = jax.jit(model.init)(key)
    probe = FourierProbe(task, model, degrees=(2,), off_count=4, points=300, batch=64)
    out = jax.jit(probe.measure)(params, key)
    x = sample(task, key, 0, 300, split="probe").x
    p = np.asarray(jax.jit(lambda x: jax.nn.softmax(model.apply(params, x).logits))(x))
    z = np.asarray(task.standardise(x))
    for name, subsets in jax.jit(probe.subsets)(key).items():
        chi = z[:, np.asarray(subsets)[0]].prod(-1)
        summand = (p - p.mean(0))[:, None, :] * chi[:, :, None]
        kind, degree = name.split("/")
        np.testing.assert_allclose(out[name][0], summand.mean(0), atol=1e-14)
        np.testing.assert_allclose(
            out[f"{kind}_se/{degree}"][0],
            summand.std(0, ddof=1) / np.sqrt(300),
            rtol=1e-10,
        )


def test_exact_spectra_are_for_uniform_cubes() -> None:
    for task in (Parity(d=6, k=2, p=0.3), single_index(6, (0.0, 1.0))):
        with pytest.raises(ConfigError, match=r"uniform on the cube.*FourierProbe"):
            exact_spectrum(task, MLP(d=6), {})
        with pytest.raises(ConfigError, match="uniform on the cube"):
            SpectrumProbe(task, MLP(d=6))


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, float("nan")])
def test_refused_bias(p: float) -> None:
    with pytest.raises(ConfigError, match=r"task\.p"):
        Parity(d=4, k=2, p=p)
