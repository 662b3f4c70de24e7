"""Grammar files: what is read, what is refused and with which line."""

import json
import os
import time
import warnings
from importlib import resources

import nltk
import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.store.config import canonical, from_json, to_json
from sandbox.tasks import grammar_graph as graph
from sandbox.tasks.grammar import Grammar, Rule, load_grammar, packaged, read_rules
from sandbox.tasks.grammar_arrays import compile_grammar
from sandbox.tasks.grammar_rule import quoted

GOOD = "S -> A B [0.5] | B [0.5]\nA -> 'a' [1.0]\nB -> 'b' 'a' [0.25] | 'b' [0.75]\n"


def write(folder, text, name="my.pcfg"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path, **kwargs):
    """The message of a refusal, which is one sentence."""
    with pytest.raises(ConfigError) as e:
        load_grammar(path, **kwargs)
    text = str(e.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 420, text
    return text


def test_packaged_grammars_are_what_nltk_reads() -> None:
    from nltk.grammar import PCFG, Nonterminal

    assert packaged() == ("cfg3b", "cfg3f", "cfg3g", "cfg3h", "cfg3i")
    for name in packaged():
        file = resources.files("sandbox.tasks") / "grammars" / f"{name}.pcfg"
        theirs = PCFG.fromstring(file.read_text())
        ours = load_grammar(name)
        assert ours.name == name and ours.start == (str(theirs.start()),) == ("22",)
        expected = [
            Rule(
                str(p.lhs()),
                tuple(s.symbol() if isinstance(s, Nonterminal) else f"'{s}'"
                      for s in p.rhs()),
                p.prob(),
            )
            for p in theirs.productions()
        ]  # fmt: skip
        assert list(ours.rules) == expected
        assert not ours.recursive
    counts = [len(load_grammar(n).rules) for n in packaged()]
    assert counts == [31, 54, 48, 39, 32]


@pytest.mark.parametrize(
    "line",
    [
        "S -> A->B A- [0.5] | a^b/c [.5]",
        "S -> 'it' \"it's\" '\"' [1]",
        "S ->\t'[0.5]''|' '->'[0.25]|A<x>[0.75]",
        "/S -> \u00e9 _1 2 [00.5] | 'b  c ' [1.]",
    ],
)
def test_a_line_is_what_nltk_reads(line: str) -> None:
    from nltk.grammar import Nonterminal, read_grammar, standard_nonterm_parser

    _, theirs = read_grammar([line], standard_nonterm_parser, probabilistic=True)
    rules, lines, start = read_rules(line.encode(), "it")
    assert lines == [1] * len(rules) and start == str(theirs[0].lhs())
    for ours, p in zip(rules, theirs, strict=True):
        right = tuple(s if isinstance(s, Nonterminal) else quoted(s) for s in p.rhs())
        assert (ours.left, ours.probability) == (str(p.lhs()), p.prob())
        assert ours.right == tuple(map(str, right))


def test_truncated_starts() -> None:
    whole = load_grammar("cfg3b")
    low = load_grammar("cfg3b", start=("13", "14", "15"))
    left = {"13", "14", "15", "10", "11", "12", "7", "8", "9"}
    assert low.start == ("13", "14", "15")
    assert low.rules == tuple(r for r in whole.rules if r.left in left)
    assert low == whole.starting_from(("13", "14", "15"))
    assert load_grammar("cfg3b", start="9").rules == whole.rules[-1:]
    assert load_grammar("cfg3b", start="22") == whole


def test_syntax_that_is_read(tmp_path) -> None:
    """Comments, continuation, both quotes, a directive, CRLF and a byte order mark."""
    text = (
        "\ufeff# a comment\r\n\r\n%start S\r\nT -> S [1.0]\r\n"
        "S -> \"it's\" \\\r\n  'b c' [.5] | A [0.5]\r\n"
        "A -> 'x' [1]\r\n"
    )
    g = load_grammar(write(tmp_path, text), start="S")
    assert g == Grammar(
        "my",
        (
            Rule("S", ('"it\'s"', "'b c'"), 0.5),
            Rule("S", ("A",), 0.5),
            Rule("A", ("'x'",), 1.0),
        ),
        ("S",),
    )
    assert "line 4: T cannot be reached" in refusal(tmp_path / "my.pcfg")
    g = load_grammar(write(tmp_path, GOOD))
    assert g.start == ("S",) and len(g.rules) == 5


REFUSED = {
    "no arrow": ("S = 'a' [1.0]", 1, "there is no ->"),
    "no space": ("S-> 'a' [1.0]", 1, "no space between S and ->"),
    "two arrows": ("S -> 'a' [1.0] -> 'b'", 1, "two -> in one line"),
    "no left": ("\n-> 'a' [1.0]", 2, "no nonterminal"),
    "two left": ("S T -> 'a' [1.0]", 1, "no nonterminal"),
    "quoted left": ("'S' -> 'a' [1.0]", 1, "cannot have rules"),
    "open quote": ("S -> A [1.0]\nA -> 'a [1.0]", 2, "is not closed"),
    "open bracket": ("S -> 'a' [1.0", 1, "bracket in [1.0 is not closed"),
    "comment": ("S -> 'a' [1.0] # why", 1, "line of its own"),
    "strange": ("S -> 'a' @ [1.0]", 1, "neither a symbol nor"),
    "control": ("S -> 'a' \0 [1.0]", 1, "neither a symbol nor"),
    "directive": ("%stop S\nS -> 'a' [1.0]", 1, "%start SYMBOL"),
    "start unknown": ("\n%start R\nS -> 'a' [1.0]", 2, "start symbol R has no"),
    "no probability": ("S -> 'a' | 'b' [1.0]", 1, "S -> 'a' has no probability"),
    "zero": ("S -> 'a' [0.0] | 'b' [1.0]", 1, "it must lie in"),
    "above one": ("S -> 'a' [1.5]", 1, "divide weights by their sum"),
    "over zero": ("S -> 'a' [1/0]", 1, "more than 1"),
    "negative": ("S -> 'a' [-0.5]", 1, "a number or a fraction"),
    "two dots": ("S -> 'a' [0.5.1]", 1, "a number or a fraction"),
    "after it": ("S -> 'a' [0.5] 'b'", 1, "'b' follows the probability [0.5]"),
    "empty right": ("S -> A [1.0]\nA -> [1.0]", 2, "right side of A is empty"),
    "empty end": ("S -> 'a' [1.0] |", 1, "right side of S is empty"),
    "empty terminal": ("S -> '' [1.0]", 1, "terminal '' is empty"),
    "mixed": ("S -> 'a' A [1.0]\nA -> 'a' [1.0]", 1, "mixes terminals"),
    "sum": ("S -> A [1.0]\nA -> 'a' [0.5]\nA -> 'b' [0.4]", 3, "sum to 0.9 and not"),
    "thirds": ("S -> 'a' [.32] | 'b' [.33] | 'c' [.33]", 1, "divide each of them"),
    "weights": ("S -> A B [3] | B A [1]", 1, "such as S -> A B [0.4] | B [0.6]"),
    "bnf": ('<S> ::= <A> <B>\n<A> ::= "x"', 1, "such as S -> A B [0.4] | B [0.6]"),
    "eisner": ("# weights\n1\tROOT\tS .\n2\tS\tNP VP", 2, "syntax of nltk's PCFG"),
    "bar arrow": ("9|->8 7\n9|->7 8", 1, "syntax of nltk's PCFG"),
    "twice": ("S -> 'a' [0.5]\nS -> 'b' [0.25]\nS -> 'a' [.25]", 3, "is there twice"),
    "undefined": ("S -> A B [1.0]\nA -> 'a' [1.0]", 1, "B has no rule"),
    "misspelt": ("S -> NUON [1.0]\nNOUN -> 'a' [1.0]", 1, "did you mean NOUN?"),
    "unproductive": ("S -> 'a' [.5] | A [.5]\nA -> B [1]\nB -> A [1]", 2, "A derives"),
    "unreachable": ("S -> 'a' [1.0]\n\nA -> 'a' [1.0]", 3, "cannot be reached from S"),
    "critical": ("S -> S S [0.5] | 'a' [0.5]", 1, "spectral radius 1, "),
    "growing": (
        "S -> A [1]\nA -> B B [.6] | 'a' [.4]\nB -> A [1]", 2, "spectral radius 1.095",
    ),
    "special": ("S -> A [1.0]\nA -> 'a' 'PAD' [1.0]", 2, "called as a special token"),
    "bracketed": ("S -> '<mask>' [1.0]", 1, "called as a special token"),
    "nothing": ("# only this\n\n", None, "has no rules"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_its_line(tmp_path, case: str) -> None:
    text, line, part = REFUSED[case]
    message = refusal(write(tmp_path, text))
    assert part in message
    if line is None:
        assert "line" not in message
    else:
        assert message.startswith(f"my.pcfg, line {line}: ")


def test_near_misses_are_read(tmp_path) -> None:
    """What differs from a refused file by little is a grammar."""
    for text in (
        "S -> S S [0.49] | 'a' [0.51]",
        "S -> 'a' [.3333333] | 'b' [.3333333] | 'c' [.3333334]",
        "S -> 'mask' 'pads' '<s>' [1.0]",
        "S -> 'A' A [1.0]\nA -> 'a' [1.0]".replace("'A'", "A"),
        "S -> 'a' '[0.5]' '|' '->' '#' [1.0]",
    ):
        assert load_grammar(write(tmp_path, text)).start == ("S",)


@pytest.mark.parametrize(
    ("text", "expected", "said"),
    [
        ("S -> 'a' [1/3] | 'b' [2/3]", (1 / 3, 2 / 3), None),
        ("S -> 'a' [1e-09] | 'b' [0.999999999]", (1e-9, 0.999999999), None),
        (f"S -> 'a' [0.{'3' * 33}] | 'b' [0.{'6' * 32}7]", (1 / 3, 2 / 3), None),
        ("S -> 'a' [.33] | 'b' [.33] | 'c' [.33]", (1 / 3,) * 3, "S (0.99)"),
        ("S -> 'a' [.333333] | 'b' [.333333] | 'c' [.333333]", (1 / 3,) * 3, "(0.9999"),
        ("S -> 'a' [.5] | 'b' [.509]", (0.5 / 1.009, 0.509 / 1.009), "S (1.009)"),
    ],
)
def test_probabilities_as_people_and_nltk_write_them(tmp_path, text, expected, said):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = [r.probability for r in load_grammar(write(tmp_path, text)).rules]
    np.testing.assert_allclose(found, expected, rtol=1e-15)
    assert [said in str(w.message) for w in told] == ([True] if said else [])
    if said and ".33]" not in text:
        nltk.PCFG.fromstring(text)


def test_unreadable_files(tmp_path) -> None:
    assert "did you mean cfg3" in refusal("cfg3z")
    assert "no grammar and no file" in refusal(tmp_path / "none.pcfg")
    assert "no grammar and no file" in refusal("a\0b")
    assert "no grammar and no file" in refusal(write(tmp_path, GOOD) / "x")
    refusal("x" * 5000)
    assert "is a folder" in refusal(tmp_path)
    text = GOOD.encode() + b"# \xff\n"
    message = refusal(write(tmp_path, text))
    assert "line 4: byte 0xff is not UTF-8" in message
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in refusal(tmp_path / "pipe")
    assert "no regular file" in refusal("/dev/zero")
    assert "1,048,576 bytes" in refusal(write(tmp_path, b"#" * (2**20 + 1)))
    closed = write(tmp_path, GOOD, "closed.pcfg")
    closed.chmod(0)
    if os.geteuid() != 0:
        assert "cannot be read" in refusal(closed)


@pytest.mark.parametrize("start", [("23",), "cfg", (), ("13", "13"), ("'1'",)])
def test_refused_starts(start) -> None:
    assert "start symbol" in refusal("cfg3b", start=start)


PATHOLOGICAL = {
    "quotes": b"S -> " + b"'" * 500_000,
    "brackets": b"S -> " + b"[" * 1_000_000,
    "symbols": b"S -> " + b"A " * 500_000,
    "one name": b"S -> " + b"A" * 1_000_000 + b" [1.0]",
    "digits": b"S -> 'a' [" + b"1" * 1_000_000 + b"]",
    "bars": b"S -> " + b"|" * 1_000_000,
    "continued": b"S \\\n" * 250_000,
    "lines": b"".join(b"A%d -> 'a' [1.0]\n" % i for i in range(5001)),
    "nonterminals": b"".join(b"A%d -> A%d [1.0]\n" % (i, i + 1) for i in range(501)),
    "one sum": b"S -> " + b" | ".join(b"'%d' [0.0001]" % i for i in range(4900)),
    "spaces": b"S -> " + b" " * 1_000_000 + b"(",
    "slashes": b"S" + b"\\" * 1_000_000,
}


@pytest.mark.parametrize("case", PATHOLOGICAL)
def test_refused_quickly(tmp_path, case: str) -> None:
    begin = time.process_time()
    refusal(write(tmp_path, PATHOLOGICAL[case]))
    assert time.process_time() - begin < 8


def test_large_recursions_take_seconds(tmp_path) -> None:
    """A ring of 500 symbols, whose growth rate is known: 0.9^(1/500)."""
    n = 500
    ring = [f"A{i} -> A{(i + 1) % n} [1.0]" for i in range(1, n)]
    text = "\n".join(["A0 -> A1 [0.9] | 'a' [0.1]", *ring])
    begin = time.process_time()
    g = load_grammar(write(tmp_path, text))
    assert time.process_time() - begin < 10
    assert graph.growth_rate(g.rules)[0] == pytest.approx(0.9 ** (1 / n))
    assert len(graph.cycle(g.rules) or ()) == n + 1
    chain = [f"A{i} -> A{i + 1} [1.0]" for i in range(498)]  # deep, without recursion
    g = load_grammar(write(tmp_path, "\n".join([*chain, "A498 -> 'a' [1.0]"])))
    assert graph.growth_rate(g.rules) == (0.0, [])
    with pytest.raises(ConfigError, match="more than 64 levels"):
        compile_grammar(g)


def test_recursion_has_exact_expected_values(tmp_path) -> None:
    """S -> S S [p] | 'a' [q]: mean length q/(1-2p), entropy h(p)/(1-2p)."""
    g = load_grammar(write(tmp_path, "S -> S S [0.4] | 'a' [0.6]"))
    assert g.recursive
    assert graph.growth_rate(g.rules)[0] == pytest.approx(0.8)
    assert graph.expected_lengths(g.rules)["S"] == pytest.approx(3.0)
    h = -(0.4 * np.log(0.4) + 0.6 * np.log(0.6))
    assert graph.derivation_entropies(g.rules)["S"] == pytest.approx(h / 0.2)
    with pytest.raises(ConfigError, match=r"my recurses \(S -> S\)"):
        compile_grammar(g)


def test_growth_is_that_of_the_worst_recursion(tmp_path) -> None:
    """Two recursions, of rates 0.5 and sqrt(0.3 * 0.8) = 0.49."""
    text = (
        "S -> A B C [1.0]\nA -> A [0.5] | 'a' [0.5]\nC -> 'c' [1.0]\n"
        "B -> D [0.3] | 'b' [0.7]\nD -> B [0.8] | C C C [0.2]"
    )
    g = load_grammar(write(tmp_path, text))
    rate, where = graph.growth_rate(g.rules)
    assert rate == pytest.approx(0.5) and where == ["A"]
    path = graph.cycle(g.rules)
    assert path is not None and path[0] == path[-1]
    assert path in (["A", "A"], ["B", "D", "B"], ["D", "B", "D"])


def test_records_hold_the_rules(tmp_path) -> None:
    """JSON and back; the same rules from another folder are the same record."""
    g = load_grammar("cfg3b", start=("13", "14", "15"))
    data = json.loads(canonical(to_json(g)))
    assert data["type"] == "Grammar" and data["rules"][0]["right"] == ["11", "12"]
    back = from_json(Grammar, data)
    assert back == g and hash(back) == hash(g)
    (tmp_path / "a").mkdir()
    first, second = (write(tmp_path / d, GOOD) for d in ("", "a"))
    assert to_json(load_grammar(first)) == to_json(load_grammar(second))
    assert str(tmp_path) not in canonical(to_json(load_grammar(first)))
    changed = write(tmp_path, GOOD.replace("0.25", "0.3").replace("0.75", "0.7"))
    assert load_grammar(changed) != load_grammar(second)


A, B = Rule("A", ("'a'",), 1.0), Rule("A", ("B",), 1.0)


@pytest.mark.parametrize(
    "make, part",
    [
        (lambda: Rule("", ("'a'",), 1.0), "rule.left"),
        (lambda: Rule("'a'", ("'a'",), 1.0), "rule.left"),
        (lambda: Rule("A", (), 1.0), "1 to 1000 symbols"),
        (lambda: Rule("A", ("",), 1.0), "1 to 1000 symbols"),
        (lambda: Rule("A", ("'a'",), 0.0), "it must lie in"),
        (lambda: Rule("A", ("'a'",), float("nan")), "it must lie in"),
        (lambda: Grammar("g", (), ("A",)), "has no rules"),
        (lambda: Grammar("g", (A,), ()), "at least one start"),
        (lambda: Grammar("g", (A, A), ("A",)), r"rules\[1\]: .* twice"),
        (lambda: Grammar("g", (B,), ("A",)), r"rules\[0\]: B has no rule"),
        (lambda: Grammar("g", (A,), ("B",)), "start symbol B has no rule"),
        (lambda: Grammar("g", (Rule("A", ("'a'", "A"), 1.0),), ("A",)), "mixes"),
    ],
)
def test_refused_records(make, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        make()
