"""Sampled strings: against a plain expansion of the same bits, and against the law."""

from collections import Counter
from functools import partial

import jax
import numpy as np
import pytest
from scipy.stats import chi2

from sandbox.errors import ConfigError
from sandbox.tasks.grammar import Grammar, Rule, load_grammar
from sandbox.tasks.grammar_arrays import GrammarArrays, compile_grammar
from sandbox.tasks.grammar_sampler import (
    Strings,
    sample_strings,
    sampler_tables,
    to_tree,
)


def grammar(text: str, *start: str) -> Grammar:
    """Rules as `S A B .5; A 'a' 1`."""
    rules = [line.split() for line in text.split(";")]
    return Grammar(
        "test",
        tuple(Rule(r[0], tuple(r[1:-1]), float(r[-1])) for r in rules),
        start or (rules[0][0],),
    )


def many_symbols(n_levels: int = 5, per_level: int = 70) -> Grammar:
    """More path bits than one word holds; two of the levels branch."""
    rng, rules = np.random.default_rng(0), []
    for l in range(n_levels):
        for i in range(per_level):
            for j, p in enumerate((0.75, 0.25)):
                right = [
                    f"L{l + 1}.{rng.integers(per_level)}" for _ in range(1 + l % 2)
                ]
                right[0] = f"L{l + 1}.{(i + j) % per_level}"  # no rule twice
                if l == n_levels - 1:
                    right = [f"'{r}'" for r in right]
                rules.append(Rule(f"L{l}.{i}", tuple(right), p))
    return Grammar("many", tuple(rules), tuple(f"L0.{i}" for i in range(per_level)))


GRAMMARS = {
    "layered": grammar("S A B .25; S B A A .75; A 'a' 'b' .4; A 'b' .6; B 'c' 1"),
    "skipping": grammar(
        "S A T .5; S U V .5; A B T .3; A T T .7; B U U .5; B V .5;"
        "T 't' 1; U 'u' 'u' .9; U 't' .1; V 'v' 1"
    ),
    "starts": grammar("A B B .5; A C .5; B C C .2; B C .8; C 'x' .5; C 'y' .5", *"AB"),
    "wide": grammar("S A A A A A 1; A 'a' .5; A 'b' 'a' 'b' 'a' 'b' 'b' 'c' .5"),
    "five rules": grammar("S 'a' .1; S 'b' .2; S 'c' 'c' .3; S 'd' .15; S 'e' .25"),
    "fine": grammar("S 'a' .0009765625; S 'b' .4990234375; S 'c' .5"),
    "one string": grammar("S A A 1; A 'a' 'b' 1"),
    "many symbols": many_symbols(),
    "cfg3b from 13": load_grammar("cfg3b", start=("13", "14", "15")),
    "cfg3f from 10": load_grammar("cfg3f", start=("10", "12")),
}  # fmt: skip
BITS = {"layered": 32, "cfg3b from 13": 8, "fine": 16, "many symbols": 8}


@pytest.fixture(scope="module")
def draw():
    """A jitted sampler for each grammar, compiled once for each number of rows."""
    made = {}

    def of(name: str):
        if name not in made:
            arrays = compile_grammar(GRAMMARS[name])
            made[name] = jax.jit(partial(sample_strings, arrays), static_argnums=2)
        return made[name]

    return of


def expand(a: GrammarArrays, words: np.ndarray) -> tuple[list[list[int]], list]:
    """Every level of one row from its random words, node by node.

    Returns the symbols of each level, and for each node of it its last token.
    """
    per = 32 // sampler_tables(a).bits
    draws = [
        int(w) >> (32 // per * i) & (2 ** (32 // per) - 1)
        for w in words[1:]
        for i in range(per)
    ]
    scale = 2.0 ** (32 // per)
    begin = int(words[0]) * len(a.start) // 2**32
    levels, parents, base = [[int(a.start[begin])]], [], 0
    for level in range(a.n_levels):
        below, parent = [], []
        for i, s in enumerate(levels[-1]):
            right = [s]
            if s < a.n_nonterminals:
                edges = np.round(a.cumulative[s, : a.n_rules[s] - 1] * scale)
                j = sum(draws[base + i] >= e for e in edges)
                right = [int(c) for c in a.right[s, j] if c >= 0]
            below += right
            parent += [i] * len(right)
        base += a.max_nodes[level]
        levels.append(below)
        parents.append(parent)
    return levels, parents


def oracle(a: GrammarArrays, words: np.ndarray, n: int) -> tuple[np.ndarray, ...]:
    """Tokens, symbols and boundaries of one row, padded to n."""
    levels, parents = expand(a, words)
    tokens = np.full(n, -1)
    symbols, ends = np.full((a.n_levels, n), -1), np.zeros((a.n_levels, n), bool)
    for i, s in enumerate(levels[-1]):
        tokens[i] = s - a.n_nonterminals
    owner = np.arange(len(levels[-1]))
    for level in reversed(range(a.n_levels)):
        owner = np.array(parents[level])[owner]  # node of this level over each token
        symbols[level, : len(owner)] = np.array(levels[level])[owner]
        ends[level, : len(owner)] = np.append(owner[1:] != owner[:-1], True)
    return tokens, symbols, ends


def same_as_oracle(a: GrammarArrays, strings: Strings, key, t0: int) -> None:
    n_words = sampler_tables(a).n_words
    for row in range(len(strings.length)):
        words = jax.random.bits(jax.random.fold_in(key, t0 + row), (n_words,))
        tokens, symbols, ends = oracle(a, np.asarray(words), a.longest)
        np.testing.assert_array_equal(strings.tokens[row], tokens)
        np.testing.assert_array_equal(strings.valid[row], tokens >= 0)
        assert strings.length[row] == (tokens >= 0).sum()
        np.testing.assert_array_equal(strings.symbols[row], symbols)
        np.testing.assert_array_equal(strings.boundaries[row], ends)


@pytest.mark.parametrize("name", GRAMMARS)
def test_rows_are_the_expansion_of_their_bits(draw, name: str) -> None:
    a = compile_grammar(GRAMMARS[name])
    strings = jax.device_get(draw(name)(jax.random.key(7), 100, 64))
    n_levels, n = a.n_levels, a.longest
    assert strings.tokens.shape == strings.valid.shape == (64, n)
    assert strings.symbols.shape == strings.boundaries.shape == (64, n_levels, n)
    dtype = np.int32 if name == "many symbols" else np.int8
    assert strings.tokens.dtype == strings.symbols.dtype == dtype
    assert strings.valid.dtype == strings.boundaries.dtype == bool
    assert sampler_tables(a).bits == BITS.get(name, sampler_tables(a).bits)
    same_as_oracle(a, strings, jax.random.key(7), 100)


def test_many_symbols_need_two_words() -> None:
    tables = sampler_tables(compile_grammar(GRAMMARS["many symbols"]))
    assert {f.word for f in tables.fields} == {0, 1}


@pytest.mark.long
def test_full_cfg3b() -> None:
    """Whole strings equal the expansion; their length moments are the exact ones."""
    a = compile_grammar(load_grammar("cfg3b"))
    key = jax.random.key(1)
    draw = jax.jit(partial(sample_strings, a), static_argnums=2)
    strings = jax.device_get(draw(key, 0, 512))
    same_as_oracle(a, Strings(*(x[:10] for x in strings)), key, 0)
    mean, sd = strings.length.mean(), strings.length.std()
    assert abs(mean - 294) < 5 * 44.34 / 512**0.5
    assert abs(sd - 44.34) < 5 * 44.34 / 1024**0.5
    nodes = strings.boundaries.sum((0, 2)) / 512
    np.testing.assert_allclose(nodes, a.expected_nodes[:-1], rtol=0.05)


@pytest.mark.parametrize("name", ["skipping", "starts", "five rules"])
def test_derivations_have_their_probabilities(brute, draw, name: str) -> None:
    """Chi-square over all derivations (told apart by all labels) at 1e-6."""
    g, n = GRAMMARS[name], 4096
    a = compile_grammar(g)
    strings = jax.device_get(draw(name)(jax.random.key(2), 0, n))
    found = Counter(
        (s.tobytes(), x.tobytes(), e.tobytes())
        for s, x, e in zip(
            strings.tokens, strings.symbols, strings.boundaries, strict=True
        )
    )
    number = {s: i for i, s in enumerate(a.symbols)}
    expected: Counter = Counter()
    for p, tree in brute.derivations(g):
        leaves = [s.strip("'") for s in brute.leaves(tree)]
        tokens = np.full(a.longest, -1, np.int8)
        tokens[: len(leaves)] = [number[s] - a.n_nonterminals for s in leaves]
        rows, ends = brute.labels(tree, a.n_levels)
        symbols = np.full((a.n_levels, a.longest), -1, np.int8)
        boundaries = np.zeros((a.n_levels, a.longest), bool)
        for l in range(a.n_levels):
            names = [
                s.strip("'") if s.strip("'") in number else leaf
                for s, leaf in zip(rows[l], leaves, strict=True)
            ]
            symbols[l, : len(leaves)] = [number[s] for s in names]
            boundaries[l, : len(leaves)] = ends[l]
        expected[tokens.tobytes(), symbols.tobytes(), boundaries.tobytes()] += p
    assert found.keys() <= expected.keys()  # no label that no tree has
    cells = [(found[k], n * p) for k, p in expected.items() if n * p >= 5]
    rare = n - sum(c for c, _ in cells), n - sum(e for _, e in cells)
    cells += [rare] if rare[1] > 1 else []
    x = sum((c - e) ** 2 / e for c, e in cells)
    assert x < chi2.isf(1e-6, max(len(cells) - 1, 1)) and len(cells) > 3


@pytest.mark.long
def test_rules_and_lengths_of_cfg3b_have_their_probabilities(draw) -> None:
    """Chi-square at 1e-6: rules of each symbol, starts, and lengths of strings."""
    name, n = "cfg3b from 13", 4096
    a = compile_grammar(GRAMMARS[name])
    strings = jax.device_get(draw(name)(jax.random.key(3), 0, n))
    cells: list[tuple[float, float]] = []
    freedom = 0
    rules: Counter = Counter()

    def count(tree) -> None:
        if tree.children:
            rules[tree.symbol, tuple(c.symbol for c in tree.children)] += 1
            for child in tree.children:
                count(child)

    for row in range(512):
        count(to_tree(a, strings, row))
    totals = Counter()
    for (left, _), c in rules.items():
        totals[left] += c
    for r in GRAMMARS[name].rules:
        right = tuple(s.strip("'") for s in r.right)
        cells.append((rules.pop((r.left, right)), totals[r.left] * r.probability))
    freedom += len(cells) - len(totals)
    assert not rules and freedom == 8
    starts = Counter(strings.symbols[:, 0, 0].tolist())
    cells += [(starts[s], n / 3) for s in a.start.tolist()]
    expected = n * a.level_length_distribution[0]
    seen = np.bincount(strings.length, minlength=a.longest + 1)
    assert (seen[expected == 0] == 0).all()
    often = expected >= 5
    assert often.sum() > 8
    cells += list(zip(seen[often].tolist(), expected[often].tolist(), strict=True))
    freedom += 2 + int(often.sum())
    x = sum((c - e) ** 2 / e for c, e in cells)
    assert x < chi2.isf(1e-6, freedom)


def as_nltk(tree) -> str:
    if not tree.children:
        return tree.symbol
    return f"({tree.symbol} {' '.join(as_nltk(c) for c in tree.children)})"


@pytest.mark.parametrize(
    "name, rows", [("cfg3b from 13", 16), ("cfg3f from 10", 40), ("skipping", 40)]
)
def test_nltk_parses_every_string_with_our_tree(draw, name: str, rows: int) -> None:
    """The labels are one of the trees of a chart parser; cfg3b has only the one."""
    from nltk.grammar import CFG, Nonterminal, Production
    from nltk.parse import ChartParser

    g = GRAMMARS[name]
    a = compile_grammar(g)
    aliases = {s for r in g.rules for s in [r.left]} - set(a.symbols)
    productions = [
        Production(
            Nonterminal(r.left),
            [
                dict(T="t", V="v")[s] if s in aliases
                else s[1:-1] if s[0] == "'" else Nonterminal(s)
                for s in r.right
            ],
        )
        for r in g.rules
        if r.left not in aliases
    ]  # fmt: skip
    strings = jax.device_get(draw(name)(jax.random.key(4), 0, 64))
    for row in range(rows):
        tree = to_tree(a, strings, row)
        parser = ChartParser(CFG(Nonterminal(tree.symbol), productions))
        tokens = strings.tokens[row, : strings.length[row]]
        words = [a.terminals[t] for t in tokens]
        trees = [
            " ".join(str(t).split()).replace("( ", "(") for t in parser.parse(words)
        ]
        assert as_nltk(tree) in trees
        assert name != "cfg3b from 13" or len(trees) == 1


@pytest.mark.parametrize("name", ["skipping", "cfg3b from 13"])
def test_rows_do_not_depend_on_the_call(draw, name: str) -> None:
    """Neither on the number of rows drawn with them nor on the first one."""
    key = jax.random.key(5)
    whole = draw(name)(key, 0, 4096)
    for t0 in (0, 57, 4000):
        part = draw(name)(key, np.uint32(t0), 64)
        expected = jax.tree.map(lambda x, t0=t0: x[t0 : t0 + 64], whole)
        jax.tree.map(np.testing.assert_array_equal, part, expected)
    other = draw(name)(jax.random.key(6), 0, 64)
    assert (np.asarray(other.tokens) != np.asarray(whole.tokens)[:64]).any()
    late = draw(name)(key, np.uint32(2**32 - 64), 64)
    assert (np.asarray(late.tokens) != np.asarray(whole.tokens)[:64]).any()


def test_vmap_and_padding_change_nothing(draw) -> None:
    name = "starts"
    a = compile_grammar(GRAMMARS[name])
    keys = jax.random.split(jax.random.key(8), 3)
    alone = [draw(name)(k, np.uint32(9), 64) for k in keys]
    stacked = jax.tree.map(lambda *x: np.stack(x), *alone)
    longer = partial(sample_strings, a, t0=np.uint32(9), n=64, length=a.longest + 3)
    fast = jax.device_get(jax.jit(jax.vmap(longer))(keys))
    assert fast.tokens.shape == (3, 64, a.longest + 3)
    np.testing.assert_array_equal(fast.length, stacked.length)
    for x, y in zip(fast, stacked, strict=True):
        if x.ndim > 2:
            assert (x[..., -3:] == (0 if x.dtype == bool else -1)).all()
            np.testing.assert_array_equal(x[..., :-3], y)


@pytest.mark.parametrize("name", GRAMMARS)
def test_strict_promotion(name: str) -> None:
    a = compile_grammar(GRAMMARS[name])
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(lambda: sample_strings(a, jax.random.key(0), 0, 2))


def test_refused_sizes() -> None:
    a = compile_grammar(GRAMMARS["layered"])
    with pytest.raises(ConfigError, match="length must be at least 5"):
        sample_strings(a, jax.random.key(0), 0, 2, length=4)
    with pytest.raises(ConfigError, match="n must lie in"):
        sample_strings(a, jax.random.key(0), 0, 0)
    with pytest.raises(ConfigError, match="n must lie in"):
        sample_strings(a, jax.random.key(0), 0, 2**30)
