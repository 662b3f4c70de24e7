"""The span chart against the sum over all derivations, written out.

Float64; the chart adds the same products in another order, hence 1e-12 relative.
"""

import itertools
from collections import defaultdict
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.tasks.inside import ChartPlan, inside, log_total, total


@dataclass(frozen=True)
class Rule:
    left: str
    right: tuple[str, ...]
    probability: float


@dataclass(frozen=True)
class Toy:
    rules: tuple[Rule, ...]
    start: tuple[str, ...]


def toy(text: str, *start: str) -> Toy:
    """`S -> A B 0.5 | a 0.5` a line."""
    rules = []
    for line in text.strip().splitlines():
        left, sides = line.split("->")
        for side in sides.split("|"):
            *right, p = side.split()
            rules.append(Rule(left.strip(), tuple(right), float(p)))
    return Toy(tuple(rules), start)


GRAMMARS = [
    # Layered and ambiguous, two and three children.
    toy(
        """S -> A B 0.25 | B A A 0.75
        A -> C D 0.5 | D C 0.3 | D 0.2
        B -> D C D 0.6 | C C 0.4
        C -> x y 0.5 | x 0.5
        D -> y 0.7 | x x y 0.3""",
        "S",
    ),
    # Children of different depth, a rule that is reached twice, several starts.
    toy(
        """S -> A x A 0.5 | x S2 0.5
        S2 -> A A 0.9 | y 0.1
        A -> x 0.2 | y z 0.5 | z 0.3""",
        "S",
        "A",
    ),
    toy("S -> x 1.0", "S"),
]


def derivations(grammar: Toy) -> dict[tuple[str, ...], float]:
    """Probability of every string, summed over its derivations."""

    def of(symbol: str) -> dict[tuple[str, ...], float]:
        mine = [r for r in grammar.rules if r.left == symbol]
        if not mine:
            return {(symbol,): 1.0}
        out: dict[tuple[str, ...], float] = defaultdict(float)
        for r in mine:
            parts = [of(x).items() for x in r.right]
            for combination in itertools.product(*parts):
                string = tuple(t for s, _ in combination for t in s)
                out[string] += r.probability * np.prod([p for _, p in combination])
        return out

    all_strings: dict[tuple[str, ...], float] = defaultdict(float)
    for a in grammar.start:
        for string, p in of(a).items():
            all_strings[string] += p / len(grammar.start)
    return all_strings


def weigh(plan: ChartPlan, string: tuple[str, ...], w: np.ndarray) -> float:
    return float(np.prod([w[i, plan.terminals.index(t)] for i, t in enumerate(string)]))


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_total_weight_is_the_sum_over_all_strings(grammar):
    plan, strings = ChartPlan.of(grammar), derivations(grammar)
    assert sum(strings.values()) == pytest.approx(1.0, abs=1e-12)
    lengths = {len(s) for s in strings}
    assert plan.lengths == (min(lengths), max(lengths))
    n = plan.lengths[1] + 2
    w = np.random.default_rng(0).random((n, len(plan.terminals)))
    w[1, 0] = 0.0  # impossible evidence is a zero, not a NaN
    z = jax.jit(lambda m: total(plan, inside(plan, jnp.asarray(w)), m))
    for m in range(n + 2):
        expected = sum(p * weigh(plan, s, w) for s, p in strings.items() if len(s) == m)
        assert float(z(jnp.asarray(m))) == pytest.approx(
            expected, rel=1e-12, abs=1e-300
        ), m


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_derivatives_are_posteriors(grammar):
    plan, strings = ChartPlan.of(grammar), derivations(grammar)
    n = plan.lengths[1]
    w = 0.1 + np.random.default_rng(1).random((n, len(plan.terminals)))
    gradient = jax.jit(jax.grad(partial(log_total, plan)))
    for m in sorted({len(s) for s in strings}):
        grad = gradient(jnp.asarray(w), jnp.asarray(m))
        mass = {s: p * weigh(plan, s, w) for s, p in strings.items() if len(s) == m}
        posterior = np.zeros_like(w)
        for s, p in mass.items():
            for i, t in enumerate(s):
                posterior[i, plan.terminals.index(t)] += p / sum(mass.values())
        np.testing.assert_allclose(w * grad, posterior, atol=1e-12)


def test_a_short_chart_holds_what_fits():
    """Positions beyond N change nothing that ends before them."""
    plan = ChartPlan.of(GRAMMARS[0])
    w = jnp.asarray(np.random.default_rng(2).random((plan.lengths[1], 2)))

    @jax.jit
    def z(w, m):
        return total(plan, inside(plan, w), m)

    for n in (plan.lengths[0], plan.lengths[1] - 1):
        assert float(z(w[:n], n)) == pytest.approx(float(z(w, n)), rel=1e-12)
        assert float(z(w[:n], n + 1)) == 0.0 < float(z(w, n + 1))


def test_factors_on_cells_give_posteriors_of_spans():
    grammar = GRAMMARS[0]
    plan = ChartPlan.of(grammar)
    n = plan.lengths[1]
    w = jnp.asarray(np.random.default_rng(3).random((n, 2)))
    bands = jax.eval_shape(partial(inside, plan), w)
    shapes = {a: band.cells.shape for a, band in bands.items()}
    ones = {a: jnp.ones(shapes[a]) for a in plan.nonterminals}

    @jax.jit
    @jax.grad
    def posterior(factors):
        return jnp.log(total(plan, inside(plan, w, factors), jnp.asarray(n - 1)))

    spans = posterior(ones)
    assert float(spans["S"].sum()) == pytest.approx(1.0)
    # Every token lies under exactly one C or D, the last level of this grammar.
    low = dict(plan.shortest)
    cover = np.zeros(n)
    for a in ("C", "D"):
        for (row, start), p in np.ndenumerate(np.asarray(spans[a])):
            cover[start : start + low[a] + row] += p
    np.testing.assert_allclose(cover[: n - 1], 1.0, atol=1e-12)
    np.testing.assert_allclose(cover[n - 1 :], 0.0, atol=1e-12)


def test_recursion_is_refused():
    with pytest.raises(ConfigError, match="S can contain itself"):
        ChartPlan.of(toy("S -> S S 0.3 | x 0.7", "S"))
