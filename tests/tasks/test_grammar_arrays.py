"""Arrays of a grammar against its derivations, listed one by one."""

import random
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.tasks.grammar import Grammar, Rule, load_grammar
from sandbox.tasks.grammar_ambiguity import ambiguity, count_parses
from sandbox.tasks.grammar_arrays import compile_grammar


def grammar(text: str, *start: str) -> Grammar:
    """Rules as `S A B .5; A 'a' 1`."""
    rules = [line.split() for line in text.split(";")]
    return Grammar(
        "test",
        tuple(Rule(r[0], tuple(r[1:-1]), float(r[-1])) for r in rules),
        start or (rules[0][0],),
    )


LAYERED = grammar("S A B .25; S B A A .75; A 'a' 'b' .4; A 'b' .6; B 'a' .5; B 'c' .5")
SKIPPING = grammar(
    "S A T .5; S U V .5; A B T .3; A T T .7; B U U .5; B V .5;"
    "T 't' 1; U 'u' 'u' .9; U 't' .1; V 'v' 1"
)
STARTS = grammar("A B B .5; A C .5; B C C .2; B C .8; C 'x' .5; C 'y' .5", "A", "B")
CFG3 = load_grammar("cfg3f", start=("10", "11"))
SMALL = {"layered": LAYERED, "skipping": SKIPPING, "starts": STARTS, "cfg3f": CFG3}


@pytest.mark.parametrize("name", SMALL)
def test_statistics_by_listing_all_derivations(brute, name: str) -> None:
    g = SMALL[name]
    a = compile_grammar(g)
    found = brute.derivations(g)
    p = np.array([q for q, _ in found])
    trees = [t for _, t in found]
    lengths = np.array([len(brute.leaves(t)) for t in trees])
    assert p.sum() == pytest.approx(1)
    assert a.longest == a.max_nodes[-1] == lengths.max()
    share = np.bincount(lengths, p, a.longest + 1)
    np.testing.assert_allclose(a.level_length_distribution[0], share, atol=1e-14)
    assert a.expected_nodes[-1] == pytest.approx(p @ lengths)
    assert a.string_entropy == pytest.approx(-(p @ np.log(p)))
    for s in range(len(a.symbols)):  # every symbol as the start
        if s < a.n_nonterminals:
            below = brute.derivations(g.starting_from((a.symbols[s],)))
        else:
            below = [(1.0, (f"'{a.symbols[s]}'", ()))]
        q = np.array([x for x, _ in below])
        n = np.array([len(brute.leaves(t)) for _, t in below])
        assert (a.min_length[s], a.max_length[s]) == (n.min(), n.max())
        assert a.expected_length[s] == pytest.approx(q @ n)
        assert a.entropy[s] == pytest.approx(-(q @ np.log(q)), abs=1e-12)
        share = np.bincount(n, q, a.longest + 1)
        np.testing.assert_allclose(a.length_distribution[s], share, atol=1e-14)


def names_at(a, brute, tree, level: int) -> list[str]:
    """Symbols of the nodes of a level, aliases of terminals as the terminal."""
    names = []
    for node in brute.cut(tree, level):
        name = node[0]
        if name[0] != "'" and name not in a.symbols[: a.n_nonterminals]:
            name = node[1][0][0]
        names.append(name.strip("'"))
    return names


@pytest.mark.parametrize("name", SMALL)
def test_levels_by_cutting_all_derivations(brute, name: str) -> None:
    """Level sets, most nodes, mean nodes and lengths under the nodes of a level."""
    g = SMALL[name]
    a = compile_grammar(g)
    found = brute.derivations(g)
    for level in range(a.n_levels + 1):
        sizes, seen, mean = [], set(), 0.0
        share = np.zeros(a.longest + 1)
        for p, tree in found:
            nodes = brute.cut(tree, level)
            sizes.append(len(nodes))
            mean += p * len(nodes)
            seen |= set(names_at(a, brute, tree, level))
            for node in nodes:
                share[len(brute.leaves(node))] += p
        assert a.max_nodes[level] == max(sizes)
        assert a.expected_nodes[level] == pytest.approx(mean)
        assert {a.symbols[s] for s in np.flatnonzero(a.at_level[level])} == seen
        expected = share / share.sum()
        np.testing.assert_allclose(
            a.level_length_distribution[level], expected, atol=1e-14
        )
        present = np.flatnonzero(share)
        assert a.level_min_length[level] == present.min()
        assert a.level_max_length[level] == present.max()
    assert not a.at_level[-1][: a.n_nonterminals].any()
    assert a.at_level[-2][: a.n_nonterminals].any()


def test_tables_by_hand() -> None:
    a = compile_grammar(LAYERED)
    assert a.symbols == ("S", "A", "B", "a", "b", "c") and a.n_nonterminals == 3
    assert a.terminals == ("a", "b", "c") and a.n_levels == 2
    assert a.right[0].tolist() == [[1, 2, -1], [2, 1, 1]]
    assert a.right[1].tolist() == [[3, 4, -1], [4, -1, -1]]
    assert a.right_length.tolist() == [[2, 3], [2, 1], [1, 1]]
    assert a.n_rules.tolist() == [2, 2, 2]
    assert a.cumulative.tolist() == [[0.25, 1.0], [0.4, 1.0], [0.5, 1.0]]
    assert a.level_name(1) == "A B"
    assert compile_grammar(LAYERED) is a  # once
    with pytest.raises(ValueError, match="read-only"):
        a.right[0, 0, 0] = 5


def test_probabilities_are_scaled_to_one() -> None:
    a = compile_grammar(grammar("S 'a' .3333333; S 'b' .3333333; S 'c' .3333333"))
    np.testing.assert_allclose(a.probability, 1 / 3, rtol=1e-15)
    assert a.cumulative[0, -1] == 1.0
    assert a.string_entropy == pytest.approx(np.log(3), abs=1e-12)


def test_aliases_of_terminals_count_as_no_level() -> None:
    """X -> 'x' is its terminal, unless x is elsewhere or X starts a string."""
    a = compile_grammar(grammar("S X Y .5; S Y .5; X 'x' 1; Y 'y' 'y' .5; Y 'z' .5"))
    assert a.symbols == ("S", "Y", "x", "y", "z") and a.n_levels == 2
    assert a.right[0].tolist() == [[2, 1], [1, -1]]
    assert a.at_level[1].tolist() == [False, True, True, False, False]
    a = compile_grammar(grammar("S X Y 1; X 'w' 1; Y 'w' 1"))  # two parts of speech
    assert a.symbols == ("S", "X", "Y", "w") and a.n_levels == 2
    a = compile_grammar(grammar("S 'x' 1"))
    assert a.symbols == ("S", "x") and a.n_levels == 1
    a = compile_grammar(grammar("S X .5; S Y .5; X 'x' 1; Y 'y' 1"))  # a layer of them
    assert a.symbols == ("S", "x", "y") and a.n_levels == 1 and a.longest == 1


def test_cfg3b_is_as_published() -> None:
    """Six levels, 161 to 432 tokens, mean 294, sd 44 (paper, section 3)."""
    a = compile_grammar(load_grammar("cfg3b"))
    assert a.n_levels == 6 and a.terminals == ("1", "2", "3")
    assert [a.level_name(l) for l in range(7)] == [
        "22", "19 20 21", "16 17 18", "13 14 15", "10 11 12", "7 8 9", "1 2 3",
    ]  # fmt: skip
    assert a.max_nodes == (1, 2, 6, 18, 48, 144, 432)
    assert (a.level_min_length[0], a.level_max_length[0]) == (161, 432)
    n = np.arange(433)
    p = a.level_length_distribution[0]
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert p @ n == pytest.approx(294) == a.expected_nodes[-1]
    assert np.sqrt(p @ (n - 294.0) ** 2) == pytest.approx(44.34, abs=0.01)
    # Each node but those of symbol 9 halves the probability; a third of 7..9 is 9.
    nodes = a.expected_nodes[:5].sum() + a.expected_nodes[5] * 2 / 3
    assert a.string_entropy == pytest.approx(nodes * np.log(2))


DOUBLING = "; ".join(f"A{i} A{i + 1} A{i + 1} 1" for i in range(40))
CHAIN = "; ".join(f"A{i} A{i + 1} 1" for i in range(64))
WIDE = "; ".join(f"A{i} A{i + 1} A{i + 1} 1" for i in range(12))
WIDE += "".join(f"; A12 '{i}' .001" for i in range(1000))


@pytest.mark.parametrize(
    "text, part",
    [
        (DOUBLING + "; A40 'a' 1", "strings of 1,099,511,627,776 tokens"),
        (CHAIN + "; A64 'a' 'a' 1", "more than 64 levels"),
        (WIDE, "too large for padded tables"),
        ("S A 1; A B .5; A 'a' .5; B A C 1; C 'c' 1", r"recurses \(A -> B -> A\)"),
    ],
)
def test_refused(text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part) as e:
        compile_grammar(grammar(text))
    assert str(e.value).endswith(".") and "\n" not in str(e.value)


def test_one_level_less_is_compiled() -> None:
    chain = CHAIN.split("; ", 1)[1]
    assert compile_grammar(grammar(chain + "; A64 'a' 'a' 1")).n_levels == 64


def random_grammar(rng: random.Random) -> Grammar:
    """Up to three layers with a few symbols each; rules may skip layers."""
    n = rng.randint(1, 3)
    layers = [[f"L{l}{i}" for i in range(rng.randint(1, 3))] for l in range(n)]
    rules = []
    for l, layer in enumerate(layers):
        for left in layer:
            rights = set()
            for _ in range(rng.randint(1, 3)):
                below = [s for m in layers[l + 1 :] for s in m]
                if rng.random() < 0.7 and l + 1 < n:
                    below = layers[l + 1]
                pool = below or ["'a'", "'b'", "'c'"][: rng.randint(2, 3)]
                rights.add(tuple(rng.choice(pool) for _ in range(rng.randint(1, 3))))
            rules += [Rule(left, r, 1 / len(rights)) for r in sorted(rights)]
    start = layers[0][: rng.randint(1, len(layers[0]))]
    kept, size = set(start), 0
    while len(kept) > size:
        size = len(kept)
        kept |= {s for r in rules if r.left in kept for s in r.right}
    return Grammar("r", tuple(r for r in rules if r.left in kept), tuple(start))


def test_ambiguity_and_parse_counts_against_all_derivations(brute) -> None:
    """The verdict of 150 random grammars, and the trees of their strings."""
    rng, verdicts = random.Random(3), Counter()
    while sum(verdicts.values()) < 150:
        g = random_grammar(rng)
        a = compile_grammar(g)
        if a.string_entropy > 7:  # some thousand derivations
            continue
        trees = Counter(brute.leaves(t) for _, t in brute.derivations(g))
        verdict = "ambiguous" if max(trees.values()) > 1 else "unambiguous"
        assert ambiguity(g).verdict == verdict, g
        verdicts[verdict] += 1
        for string in rng.sample(sorted(trees), min(3, len(trees))):
            tokens = np.array([a.terminals.index(s[1:-1]) for s in string])
            assert count_parses(a, tokens) == trees[string]
    assert min(verdicts.values()) > 30
    nothing = np.zeros(2, int)
    assert count_parses(compile_grammar(grammar("S 'a' 1")), nothing) == 0


def test_left_recursion_ends_undecided_in_little_memory() -> None:
    """Sentential forms that grow by every step."""
    g = grammar("S S P L .4; S L .6; L 'one' .7; L 'two' .3; P '+' 1")
    tracemalloc.start()
    found = ambiguity(g, budget=40_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.verdict != "ambiguous" and peak < 100e6


@pytest.mark.long
def test_ambiguity_of_the_packaged_grammars() -> None:
    """cfg3b has one tree a string; the others share strings at various levels."""
    assert ambiguity(load_grammar("cfg3b")).verdict == "unambiguous"
    for name in ("cfg3g", "cfg3h", "cfg3i"):
        assert ambiguity(load_grammar(name)).verdict == "ambiguous"
    assert ambiguity(load_grammar("cfg3f"), budget=50).verdict == "undecided"
    # 10 -> 8 7 7 | 9 9 of cfg3i: 7 is 3 1 2 or 2 3 1, so 8 7 7 has 8 tokens, 9 9 four
    # to six; the two meet only with what follows.
    assert ambiguity(load_grammar("cfg3i", start="10")).verdict == "unambiguous"
    found = ambiguity(load_grammar("cfg3i", start="13"))
    assert found[:2] == ("ambiguous", "10")


def test_ambiguity_where_starts_or_recursion_decide() -> None:
    twins = grammar("A 'x' .5; A 'y' .5; B 'x' 1", "A", "B")
    assert ambiguity(twins)[:2] == ("ambiguous", "")
    assert ambiguity(twins.starting_from(("A",))).verdict == "unambiguous"
    squares = grammar("S S S .4; S 'a' .6")
    assert ambiguity(squares).verdict == "ambiguous"
    lists = grammar("S A S .4; S A .6; A 'a' .5; A 'b' .5")
    assert ambiguity(lists, budget=2000).verdict == "unambiguous"
