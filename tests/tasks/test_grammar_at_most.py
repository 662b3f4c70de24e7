"""Grammars that recurse, given the number of tokens, against nltk's parses."""

from collections import Counter
from itertools import product
from pathlib import Path

import jax
import numpy as np
import pytest
from nltk import ChartParser
from nltk.grammar import PCFG

from sandbox.cli import main
from sandbox.errors import ConfigError
from sandbox.tasks import bayes
from sandbox.tasks.bayes_context import draw_strings
from sandbox.tasks.grammar import Grammar, load_grammar
from sandbox.tasks.grammar_arrays import compile_grammar
from sandbox.tasks.grammar_graph import length_masses

TEXTS = {
    "both sides": "S -> S S [0.3] | A [0.5] | B A S [0.2]\n"
    "A -> 'a' [0.25] | 'b' [0.75]\nB -> 'b' 'a' [1.0]\n",
    "phrases": "S -> NP VP [1.0]\nNP -> NP PP [0.3] | N [0.7]\n"
    "N -> 'cat' [0.5] | 'roof' [0.5]\nVP -> VP PP [0.1] | V NP [0.7] | V [0.2]\n"
    "V -> 'met' [0.4] | 'cat' [0.6]\nPP -> P NP [1.0]\nP -> 'on' [1.0]\n",
}
N = 5


def grammar(folder: Path, text: str) -> Grammar:
    (folder / "g.pcfg").write_text(text)
    return load_grammar(folder / "g.pcfg")


def by_nltk(text: str, words: list[str]) -> dict[tuple[str, ...], float]:
    """Every string of at most N tokens with the sum over its parses."""
    theirs = PCFG.fromstring(text)
    rule = {(p.lhs(), p.rhs()): p.prob() for p in theirs.productions()}
    parser = ChartParser(theirs)
    found = {}
    for n in range(1, N + 1):
        for string in product(words, repeat=n):
            trees = parser.parse(list(string))
            each = [
                np.prod([rule[p.lhs(), p.rhs()] for p in t.productions()])
                for t in trees
            ]
            if each:
                found[string] = float(sum(each))
    return found


@pytest.mark.parametrize("name", TEXTS)
def test_strings_have_their_probability_given_the_length(
    tmp_path: Path, x64: None, name: str
) -> None:
    whole = grammar(tmp_path, TEXTS[name])
    assert whole.recursive and not whole.at_most(N).recursive
    with pytest.raises(ConfigError, match=r"recurses.*--at-most 16"):
        compile_grammar(whole)
    arrays = compile_grammar(whole.at_most(N))
    assert arrays.longest == N
    want = by_nltk(TEXTS[name], list(arrays.terminals))
    total = sum(want.values())
    masses = length_masses(whole.rules, N)[whole.start[0]]
    for n in range(1, N + 1):
        assert masses[n] == pytest.approx(
            sum(p for s, p in want.items() if len(s) == n)
        )
    tokens = np.zeros((len(want), N), np.int32)
    for row, string in zip(tokens, want, strict=True):
        row[: len(string)] = [arrays.terminals.index(s) for s in string]
    lengths = np.asarray([len(s) for s in want])
    logs = bayes.log_probability(arrays, tokens, lengths)
    given = np.asarray(list(want.values())) / total
    np.testing.assert_allclose(np.exp(logs), given, rtol=1e-10)
    drawn = draw_strings(arrays, jax.random.key(0), 0, 4096)
    seen = Counter(
        tuple(arrays.terminals[t] for t in row[:n])
        for row, n in zip(np.asarray(drawn.tokens), drawn.length.tolist(), strict=True)
    )
    assert set(seen) <= set(want)
    counts = np.asarray([seen[s] for s in want])
    z = (counts - 4096 * given) / np.sqrt(4096 * given * (1 - given))
    assert np.abs(z).max() < 5 and np.mean(z**2) < 1.6


def test_several_starts_keep_their_shares() -> None:
    """Cut where it can be, a grammar without recursion is conditioned as well."""
    whole = load_grammar("cfg3b", start=("7", "8"))
    short = whole.at_most(2)
    masses = length_masses(whole.rules, 3)
    a, b = (masses[s][2] for s in ("7", "8"))
    first = {r.right[0]: r.probability for r in short.rules if r.left == "up-to-2"}
    assert first.get("7^2", 0) == pytest.approx(a / (a + b))
    assert compile_grammar(whole.at_most(9)).longest == 3


def test_what_cannot_be_conditioned_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    round_ = grammar(tmp_path, "S -> A [1.0]\nA -> S [0.5] | B [0.5]\nB -> 'x' [1.0]\n")
    with pytest.raises(ConfigError, match=r"goes in a circle without adding a token"):
        round_.at_most(3)
    long = grammar(tmp_path, "S -> 'a' 'b' 'c' [1.0]\n")
    with pytest.raises(ConfigError, match="no string of at most 2 tokens"):
        long.at_most(2)
    with pytest.raises(ConfigError, match="at least one token"):
        long.at_most(0)
    many = grammar(tmp_path, TEXTS["both sides"])
    with pytest.raises(ConfigError, match="too many rules for strings of up to 120"):
        many.at_most(120)
    words = ["grammar", str(tmp_path / "g.pcfg"), "--at-most", "6"]
    assert main(words) == 0
    assert "g-up-to-6 from up-to-6" in capsys.readouterr().out
