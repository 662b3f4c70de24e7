"""Trees, their entropy and counts of rules against all derivations, and nltk."""

from collections import Counter, defaultdict
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.tasks.bayes import log_probability
from sandbox.tasks.bayes_trees import best_trees, draw_trees, rule_counts
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.grammar_arrays import compile_grammar
from sandbox.tasks.grammar_sampler import sample_strings
from tests.tasks.test_bayes import TEXTS, World, without_alias

TIGHT = {"rtol": 0, "atol": 1e-10}


@pytest.fixture(scope="module", params=sorted(TEXTS))
def world(request, brute):
    return World(brute, request.param)


@pytest.fixture(autouse=True)
def _double(x64):
    """Everything here is exact."""


def labels(world, brute, tree):
    """What `Trees` holds of a derivation, as tuples."""
    names = [name.strip("'") for name in world.arrays.symbols]
    over, ends = brute.labels(without_alias(tree), world.arrays.n_levels)
    return (
        tuple(tuple(names.index(a.strip("'")) for a in row) for row in over),
        tuple(tuple(row) for row in ends),
    )


def shown(trees, b, n):
    return tuple(
        tuple(map(tuple, np.asarray(a[b, :, :n]).tolist()))
        for a in (trees.symbols, trees.boundaries)
    )


def derivations(world, brute, string):
    """Joint probability of a string and each of its trees; equal labels together."""
    out = defaultdict(float)
    for p, s, tree in zip(world.p, world.strings, world.trees, strict=True):
        if s == string:
            out[labels(world, brute, tree)] += p
    return out


def test_the_likeliest_tree(world, brute):
    strings = world.some(12)
    tokens, length = world.batch(strings)
    trees, log_p = best_trees(world.arrays, tokens, length)
    for b, string in enumerate(strings):
        alone = [
            (p, labels(world, brute, tree))
            for p, s, tree in zip(world.p, world.strings, world.trees, strict=True)
            if s == string
        ]
        most = max(p for p, _ in alone)
        np.testing.assert_allclose(log_p[b], np.log(most), **TIGHT)
        likeliest = {found for p, found in alone if p > most * (1 - 1e-12)}
        assert shown(trees, b, len(string)) in likeliest
        assert (np.asarray(trees.symbols[b, :, len(string) :]) == -1).all()


def test_trees_are_drawn_from_the_posterior(world, brute, key):
    string = max(world.some(40), key=lambda s: len(derivations(world, brute, s)))
    expected = derivations(world, brute, string)
    n = 4000
    tokens, length = world.batch([string] * n)
    with jax.enable_x64(False):  # as a caller in single precision
        draw = jax.jit(partial(draw_trees, world.arrays))
        trees = draw(
            jnp.asarray(tokens, jnp.int32), jnp.asarray(length, jnp.int32), key
        )
    found = Counter(shown(trees, b, len(string)) for b in range(n))
    assert set(found) <= set(expected) and len(expected) > 1
    total = sum(expected.values())
    for tree, p in expected.items():
        q = p / total
        assert abs(found[tree] / n - q) < 5 * (q * (1 - q) / n) ** 0.5 + 1e-12


def test_entropy_of_trees_and_counts_of_rules(world):
    strings = world.some(8)
    tokens, length = world.batch(strings)
    found = rule_counts(world.arrays, tokens, length)
    for b, string in enumerate(strings):
        pairs = zip(world.p, world.strings, world.trees, strict=True)
        own = [(p, tree) for p, s, tree in pairs if s == string]
        q = np.array([p for p, _ in own]) / sum(p for p, _ in own)
        entropy = -(q * np.log(q)).sum()
        np.testing.assert_allclose(found.entropy[b], entropy, **TIGHT)
        if any(len(r.right) == 1 for r in world.arrays.grammar.rules if r.left == "T"):
            continue  # an alias has no number of its own
        counts = np.zeros(world.arrays.probability.shape)
        for share, (_, tree) in zip(q, own, strict=True):
            for place in used(world.arrays, tree):
                counts[place] += share
        np.testing.assert_allclose(found.expected[b], counts, **TIGHT)
        p = np.where(counts > 0, world.arrays.probability, 1)
        np.testing.assert_allclose(
            found.gradient[b] * (counts > 0), counts / p, **TIGHT
        )


def used(arrays, tree):
    """Places in `arrays.probability` of the rules of a derivation."""
    symbol, children = tree
    if children:
        a = arrays.symbols.index(symbol)
        names = [name.strip("'") for name in arrays.symbols]
        right = [names.index(c[0].strip("'")) for c in children]
        sides = arrays.right[a, :, : len(right)].tolist()
        sizes = arrays.right_length[a].tolist()
        pairs = zip(sides, sizes, strict=True)
        yield a, [s == right and n == len(right) for s, n in pairs].index(True)
        for child in children:
            yield from used(arrays, child)


def test_the_tree_of_nltk(x64):
    """Viterbi's parse by another library, where no string has two trees alike."""
    nltk = pytest.importorskip("nltk")
    grammar = load_grammar("cfg3b", start=("10", "11", "12"))
    arrays = compile_grammar(grammar)
    drawn = sample_strings(arrays, jax.random.key(1), 0, 5)
    trees, log_p = best_trees(arrays, drawn.tokens, drawn.length)
    lines = [f"S -> {a} [{1 / len(grammar.start)}]" for a in map(named, grammar.start)]
    lines += [
        f"{named(r.left)} -> {' '.join(map(named, r.right))} [{r.probability}]"
        for r in grammar.rules
        if reached(grammar, r.left)
    ]
    parser = nltk.ViterbiParser(nltk.PCFG.fromstring("\n".join(lines)))
    for b in range(2):
        n = int(drawn.length[b])
        words = [arrays.terminals[i].strip("'") for i in drawn.tokens[b, :n].tolist()]
        (parse,) = parser.parse(words)
        np.testing.assert_allclose(log_p[b], np.log(parse.prob()), rtol=1e-10)
    # A drawn string of cfg3b has the tree that it was drawn by, mostly.
    same = np.asarray(trees.symbols) == np.asarray(drawn.symbols)
    assert same.mean() > 0.9


def named(symbol):
    return symbol if symbol.startswith("'") else f"N{symbol}"


def reached(grammar, symbol):
    seen = set(grammar.start)
    for _ in range(20):
        seen |= {x for r in grammar.rules if r.left in seen for x in r.right}
    return symbol in seen


def test_what_is_no_string_has_no_tree(world):
    tokens = jnp.zeros((1, world.n), jnp.int32)
    length = jnp.asarray([world.n])
    with jax.enable_x64(False):
        best = jax.jit(partial(best_trees, world.arrays))
        trees, log_p = best(tokens, jnp.asarray(length, jnp.int32))
    assert np.isneginf(log_probability(world.arrays, tokens, length)).all()
    assert np.isneginf(log_p).all() and (np.asarray(trees.symbols) == -1).all()
    assert not np.asarray(trees.boundaries).any()
