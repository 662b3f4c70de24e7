"""Probabilities, next tokens, trees and their entropy by two other libraries.

On demand, in an environment that has them and which no lock file knows:

    pip install genlm-grammar==0.2.0 torch-struct==0.5 torch
    python -m pytest tests/tasks/test_bayes_oracles.py -m slow

torch-struct takes binary rules alone, so that longer right sides get their beginnings
as symbols (`experiments.bench.bayes_oracles`). Float64 on both sides.
"""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.tasks.bayes import log_probability
from sandbox.tasks.bayes_levels import predict_next
from sandbox.tasks.bayes_trees import best_trees, draw_trees, rule_counts
from sandbox.tasks.grammar import Grammar, load_grammar, read_rules
from sandbox.tasks.grammar_arrays import compile_grammar
from sandbox.tasks.grammar_sampler import sample_strings

# No two trees of a string use the same rules equally often: no likeliest one is tied.
TEXT = """S -> A B [0.35] | B A [0.25] | A B E [0.4]
A -> C D [0.5] | D C [0.29] | 'x' 'y' [0.21]
B -> C C [0.57] | D D [0.43]
C -> 'x' 'y' [0.52] | 'x' 'x' [0.48]
D -> 'y' 'x' [0.67] | 'x' 'y' [0.33]
E -> D C [0.61] | 'x' 'y' [0.39]"""
CASES = {
    "ambiguous": Grammar("ambiguous", read_rules(TEXT.encode(), "text")[0], ("S",)),
    "cfg3b": load_grammar("cfg3b", ("10", "11", "12")),
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def oracles():
    return pytest.importorskip("experiments.bench.bayes_oracles", exc_type=ImportError)


@pytest.fixture(params=sorted(CASES))
def drawn(request, x64):
    """The arrays of a grammar, some strings, and their lengths."""
    arrays = compile_grammar(CASES[request.param])
    drawn = sample_strings(arrays, jax.random.key(0), 0, 12)
    return arrays, drawn.tokens, drawn.length


def strings(tokens, length):
    rows = zip(np.asarray(tokens), np.asarray(length), strict=True)
    return [row[:n] for row, n in rows]


def test_string_and_next_token_by_genlm(oracles, drawn):
    earley = pytest.importorskip("genlm.grammar.parse.earley")
    arrays, tokens, length = drawn
    log_p = log_probability(arrays, tokens, length)
    p_next = predict_next(arrays, tokens, length)
    cfg = oracles.genlm_grammar(arrays)
    whole, prefix = earley.Earley(cfg), earley.EarleyLM(cfg)
    number = arrays.n_nonterminals
    for b, string in enumerate(strings(tokens, length)):
        words = tuple((number + string).tolist())
        assert whole(words) == pytest.approx(np.exp(log_p[b]), rel=1e-10)
        for t in range(len(words) + 1) if b < 4 else ():
            theirs = prefix.p_next(words[:t])
            rows = [theirs[number + i] for i in range(len(arrays.terminals))]
            rows.append(theirs[prefix.eos])
            np.testing.assert_allclose(p_next[b, t], rows, rtol=0, atol=1e-10)


def test_sum_entropy_counts_and_best_tree_by_torch_struct(oracles, drawn):
    arrays, tokens, length = drawn
    log_p = log_probability(arrays, tokens, length)
    found = rule_counts(arrays, tokens, length)
    trees, best = best_trees(arrays, tokens, length)
    sentences = oracles.torch_sentences(arrays)
    for b, string in enumerate(strings(tokens, length)):
        theirs = sentences(string[None])
        assert theirs.partition.item() == pytest.approx(float(log_p[b]), abs=1e-10)
        assert theirs.max.item() == pytest.approx(float(best[b]), abs=1e-10)
        assert theirs.entropy.item() == pytest.approx(
            float(found.entropy[b]), abs=1e-10
        )
        rules = theirs.marginals[1][0].detach().numpy()  # summed by their left sides
        np.testing.assert_allclose(
            rules[: arrays.n_nonterminals].sum((1, 2)),
            found.expected[b].sum(1),
            atol=1e-10,
        )
        assert spans_of(theirs.argmax[-1][0], arrays) == spans(trees, b, arrays)


def test_draws_of_torch_struct_have_the_same_frequencies(oracles, x64, key):
    torch = pytest.importorskip("torch")
    arrays, n = compile_grammar(CASES["ambiguous"]), 2000
    many = sample_strings(arrays, jax.random.key(0), 0, 60)
    entropy = rule_counts(arrays, many.tokens, many.length).entropy
    b = int(jnp.argmax(entropy))
    ours = draw_trees(
        arrays, many.tokens[b][None].repeat(n, 0), many.length[b][None].repeat(n), key
    )
    string = np.asarray(many.tokens[b, : int(many.length[b])])
    torch.manual_seed(0)
    drawn = oracles.draws(oracles.torch_sentences(arrays)(string[None].repeat(n, 0)))
    theirs = Counter(spans_of(x, arrays) for x in drawn[-1])
    mine = Counter(spans(ours, i, arrays) for i in range(n))
    assert len(mine) > 1
    for tree in mine.keys() | theirs.keys():
        q = (mine[tree] + theirs[tree]) / (2 * n)
        difference = abs(mine[tree] - theirs[tree]) / n
        assert difference < 5 * (2 * q * (1 - q) / n) ** 0.5


def spans(trees, b, arrays):
    """(First token, tokens, nonterminal) of the nodes of our tree."""
    out = set()
    for symbols, ends in zip(trees.symbols[b], trees.boundaries[b], strict=True):
        first = 0
        for end in np.flatnonzero(ends).tolist():
            out.add((first, end + 1 - first, int(symbols[end])))
            first = end + 1
    return frozenset(x for x in out if x[2] < arrays.n_nonterminals)


def spans_of(marks, arrays):
    """The same of theirs: row w of marks holds spans of w + 2 tokens."""
    places = np.argwhere(marks.detach().numpy() > 0.5).tolist()
    return frozenset((i, w + 2, a) for w, i, a in places if a < arrays.n_nonterminals)
