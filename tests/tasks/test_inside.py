"""The span chart against the sum over all derivations, written out.

Float64; the chart adds the same products in another order, hence 1e-12 relative.
"""

from collections import defaultdict
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.tasks.grammar import Grammar, Rule, load_grammar
from sandbox.tasks.grammar_arrays import compile_grammar
from sandbox.tasks.inside import ChartPlan, inside, total


def toy(text: str, *start: str) -> Grammar:
    """`S -> A B 0.5 | 'a' 0.5` a line."""
    rules = []
    for line in text.strip().splitlines():
        left, sides = line.split("->")
        for side in sides.split("|"):
            *right, p = side.split()
            rules.append(Rule(left.strip(), tuple(right), float(p)))
    return Grammar("toy", tuple(rules), start)


GRAMMARS = [
    # Layered and ambiguous, one to three children.
    toy(
        """S -> A B 0.25 | B A A 0.75
        A -> C D 0.5 | D C 0.3 | D 0.2
        B -> D C D 0.6 | C C 0.4
        C -> 'x' 'y' 0.5 | 'x' 0.5
        D -> 'y' 0.7 | 'x' 'x' 'y' 0.3""",
        "S",
    ),
    # Children of different depth, a rule that is reached twice, several starts, a
    # nonterminal T that stands for its terminal, one called as a terminal.
    toy(
        """S -> A T A 0.5 | T S2 0.5
        S2 -> A A 0.9 | y 0.1
        A -> T 0.2 | y z 0.5 | z 0.3
        T -> 'x' 1.0
        y -> 'y' 0.6 | 'z' 0.4
        z -> 'z' 1.0""",
        "S",
        "A",
    ),
    toy("S -> 'x' 1.0", "S"),
]


def derivations(brute, grammar: Grammar) -> dict[tuple[str, ...], float]:
    """Probability of every string, summed over its derivations."""
    out: dict[tuple[str, ...], float] = defaultdict(float)
    for p, tree in brute.derivations(grammar):
        out[tuple(leaf[1:-1] for leaf in brute.leaves(tree))] += p
    return out


def weigh(arrays, string: tuple[str, ...], w: np.ndarray) -> float:
    """By the numbers that tokens have in a sample."""
    return float(
        np.prod([w[i, arrays.terminals.index(t)] for i, t in enumerate(string)])
    )


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("make", [ChartPlan.of, ChartPlan.by_level])
@pytest.mark.parametrize("grammar", GRAMMARS)
def test_total_weight_is_the_sum_over_all_strings(brute, grammar, make):
    arrays, strings = compile_grammar(grammar), derivations(brute, grammar)
    plan = make(arrays)
    assert sum(strings.values()) == pytest.approx(1.0, abs=1e-12)
    lengths = {len(s) for s in strings}
    assert plan.lengths == (min(lengths), max(lengths))
    n = plan.lengths[1] + 2
    w = np.random.default_rng(0).random((n, len(plan.terminals)))
    w[1, 0] = 0.0  # impossible evidence is a zero, not a NaN
    z = jax.jit(lambda m: total(plan, inside(plan, jnp.asarray(w)), m))
    for m in range(n + 2):
        expected = sum(
            p * weigh(arrays, s, w) for s, p in strings.items() if len(s) == m
        )
        assert float(z(jnp.asarray(m))) == pytest.approx(
            expected, rel=1e-12, abs=1e-300
        ), m


@pytest.mark.parametrize("make", [ChartPlan.of, ChartPlan.by_level])
@pytest.mark.parametrize("grammar", GRAMMARS)
def test_derivatives_are_posteriors(brute, grammar, make):
    arrays, strings = compile_grammar(grammar), derivations(brute, grammar)
    plan = make(arrays)
    n = plan.lengths[1]
    w = 0.1 + np.random.default_rng(1).random((n, len(plan.terminals)))
    gradient = jax.jit(jax.grad(lambda w, n: jnp.log(total(plan, inside(plan, w), n))))
    for m in sorted({len(s) for s in strings}):
        grad = gradient(jnp.asarray(w), jnp.asarray(m))
        mass = {s: p * weigh(arrays, s, w) for s, p in strings.items() if len(s) == m}
        posterior = np.zeros_like(w)
        for s, p in mass.items():
            for i, t in enumerate(s):
                posterior[i, arrays.terminals.index(t)] += p / sum(mass.values())
        np.testing.assert_allclose(w * grad, posterior, atol=1e-12)


def test_a_short_chart_holds_what_fits():
    """Positions beyond N change nothing that ends before them."""
    plan = ChartPlan.of(compile_grammar(GRAMMARS[0]))
    w = jnp.asarray(np.random.default_rng(2).random((plan.lengths[1], 2)))

    @jax.jit
    def z(w, m):
        return total(plan, inside(plan, w), m)

    for n in (plan.lengths[0], plan.lengths[1] - 1):
        assert float(z(w[:n], n)) == pytest.approx(float(z(w, n)), rel=1e-12)
        assert float(z(w[:n], n + 1)) == 0.0 < float(z(w, n + 1))


def test_factors_on_cells_give_posteriors_of_spans():
    arrays = compile_grammar(GRAMMARS[0])
    plan, number = ChartPlan.of(arrays), arrays.symbols.index
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
    assert float(spans[number("S")].sum()) == pytest.approx(1.0)
    # Every token lies under exactly one C or D, the last level of this grammar.
    low = dict(plan.shortest)
    cover = np.zeros(n)
    for a in map(number, ("C", "D")):
        for (row, start), p in np.ndenumerate(np.asarray(spans[a])):
            cover[start : start + low[a] + row] += p
    np.testing.assert_allclose(cover[: n - 1], 1.0, atol=1e-12)
    np.testing.assert_allclose(cover[n - 1 :], 0.0, atol=1e-12)


def test_levels_of_a_layered_grammar_cost_nothing():
    """The same bands under other numbers; elsewhere symbols appear once a level."""
    for name, start in (("cfg3b", None), ("cfg3f", ("13", "14"))):
        arrays = compile_grammar(load_grammar(name, start))
        one, other = ChartPlan.of(arrays), ChartPlan.by_level(arrays)
        assert one.cells(arrays.longest) == other.cells(arrays.longest) > 0
        assert (
            one.lengths
            == other.lengths
            == (
                arrays.min_length[arrays.start].min(),
                arrays.longest,
            )
        )
    arrays = compile_grammar(GRAMMARS[1])
    nodes = {
        (x // len(arrays.symbols), x % len(arrays.symbols))
        for x in ChartPlan.by_level(arrays).nonterminals
    }
    assert nodes == {
        (level, a)
        for level in range(arrays.n_levels)
        for a in np.flatnonzero(arrays.at_level[level])
    }


def test_charts_shorter_than_any_string_are_empty():
    plan = ChartPlan.of(compile_grammar(load_grammar("cfg3b", ("16",))))
    z = jax.jit(jax.grad(lambda w: total(plan, inside(plan, w), jnp.asarray(5))))
    np.testing.assert_array_equal(z(jnp.ones((5, 3))), 0.0)
