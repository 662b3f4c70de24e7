r"""Reads the text of a grammar: nltk's PCFG syntax, each mistake with its line.

    S -> A B [0.4] | B [0.6]     probabilities in brackets, right sides separated by |
    A -> 'a' 'a' [1.0]           terminals in quotes
    %start S                     optional; else the first left side
    # a comment                  on a line of its own; \ at its end continues a line

nltk parses the rules; the checks before it say where a mistake is and what to write.
"""

import re
from collections.abc import Iterator
from typing import NoReturn

from sandbox.errors import ConfigError, require
from sandbox.tasks.grammar import MAX_RULES
from sandbox.tasks.grammar_rule import (
    MAX_RIGHT,
    Rule,
    is_terminal,
    listed,
    quoted,
    shown,
)

SPECIAL_TOKENS = ("BOS", "EOS", "PAD", "MASK")
"""Tokens that tasks add; no terminal may be called so, nor `<pad>` or `[PAD]`."""
_SYMBOL = r"[\w/][\w/^<>-]*"
_TOKEN = re.compile(
    rf"""\s*(?: (?P<probability>\[[^\]\['"|]*\])
    | (?P<terminal>"[^"]*"|'[^']*')
    | (?P<bar>\|)
    | (?P<symbol>{_SYMBOL}) )""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"\[([0-9]{1,30}\.?[0-9]{0,30}|\.[0-9]{1,30})\]")


def read_rules(data: bytes, source: str) -> tuple[tuple[Rule, ...], list[int], str]:
    """The rules of a file, the number of the line of each, and its start symbol.

    Args:
      data: the bytes of the file.
      source: what messages call it.

    Raises:
      ConfigError: the file is no UTF-8, or a line is no rule.
    """
    checked: list[tuple[int, str]] = []
    start, start_line = "", 0
    n_rules = 0
    for number, line in _logical_lines(_decoded(data, source)):
        try:
            if line.startswith("%"):
                start, start_line = _directive(line), number
                continue
            n_rules += _check_line(line)
            require(
                n_rules <= MAX_RULES,
                f"this is rule {n_rules:,}; a grammar may have {MAX_RULES:,} rules.",
            )
        except ConfigError as e:
            raise ConfigError(f"{source}, line {number}: {e}") from e
        checked.append((number, line))
    require(n_rules > 0, f"{source} has no rules; write some as S -> A B [1.0].")
    rules: list[Rule] = []
    lines: list[int] = []
    for number, line in checked:
        try:
            new = _parsed(line)
        except ConfigError as e:
            raise ConfigError(f"{source}, line {number}: {e}") from e
        rules += new
        lines += [number] * len(new)
    known = {r.left: None for r in rules}
    require(
        not start or start in known,
        f"{source}, line {start_line}: the start symbol {shown(start)} has no rule; the"
        f" nonterminals are {listed(known)}.",
    )
    return tuple(rules), lines, start or rules[0].left


def _decoded(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise ConfigError(
            f"{source}, line {line}: byte {data[e.start]:#04x} is not UTF-8; save the"
            " file as UTF-8 text."
        ) from e


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that are neither empty nor comments; continued ones joined."""
    parts: list[str] = []
    first = 0
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not parts and (line.startswith("#") or not line):
            continue
        first = first if parts else number
        if line.endswith("\\"):
            parts.append(line[:-1].rstrip())
            continue
        yield first, " ".join([*parts, line]).strip()
        parts = []
    if parts:
        yield first, " ".join(parts).strip()


def _directive(line: str) -> str:
    word, _, symbol = line[1:].partition(" ")
    symbol = symbol.strip()
    if word != "start" or not re.fullmatch(_SYMBOL, symbol):
        _fail(f"{shown(line)} is no directive; the only one is %start SYMBOL.")
    return symbol


def _check_line(line: str) -> int:
    """The number of rules in a line; refuses one that is none, and says what to do."""
    head, arrow, tail = line.partition("->")
    if not arrow:
        _fail(f"there is no -> in {shown(line)!r}; write it as S -> A B [1.0].")
    left = head.strip()
    if is_terminal(left):
        _fail(f"{shown(left)} is a terminal and cannot have rules; drop its quotes.")
    if not re.fullmatch(_SYMBOL, left):
        _fail(
            f"{shown(left)!r} is no nonterminal; write one name of letters, digits and"
            " underscores before the ->."
        )
    if head == left:
        _fail(f"there is no space between {shown(left)} and ->; put one there.")
    right: list[str] = []
    probability, n_rules = "", 1
    for kind, token in _tokens(tail):
        if kind == "bar":
            _check_right(left, right, probability)
            right, probability, n_rules = [], "", n_rules + 1
        elif probability:
            _fail(
                f"{shown(token)} follows the probability {shown(probability)}; separate"
                " right sides with |."
            )
        elif kind == "probability":
            probability = token
        else:
            right.append(token)
    _check_right(left, right, probability)
    return n_rules


def _tokens(tail: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(tail):
        m = _TOKEN.match(tail, at)
        if m is None:
            rest = tail[at:].strip()
            if rest[:1] in ("'", '"'):
                _fail(f"the quote in {shown(rest)} is not closed; close it.")
            if rest.startswith("["):
                _fail(f"the bracket in {shown(rest)} is not closed; write [0.5].")
            if rest.startswith("->"):
                _fail("there are two -> in one line; write one rule a line.")
            if rest.startswith("#"):
                _fail("a comment follows a rule; give it a line of its own.")
            _fail(
                f"{shown(rest)!r} is neither a symbol nor a probability; names have"
                " letters, digits and underscores, terminals are in quotes."
            )
        at = m.end()
        kind = str(m.lastgroup)
        yield kind, m.group(kind)


def _check_right(left: str, right: list[str], probability: str) -> None:
    name = shown(left)
    if not right:
        _fail(
            f"a right side of {name} is empty; delete it, strings of length 0 cannot be"
            " used."
        )
    text = shown(" ".join(right))
    if len(right) > MAX_RIGHT:
        _fail(f"a right side of {name} has more than {MAX_RIGHT} symbols; split it.")
    if len({is_terminal(s) for s in right}) == 2:
        _fail(
            f"{name} -> {text} mixes terminals and nonterminals; give each terminal a"
            " symbol of its own, such as T -> 'a' [1.0]."
        )
    if not probability:
        _fail(f"{name} -> {text} has no probability; add one, as in {text} [0.5].")
    m = _NUMBER.fullmatch(probability)
    if m is None:
        _fail(
            f"{shown(probability)} is no probability; write a decimal number without"
            " signs or exponents, as in [0.5]."
        )
    if not 0 < float(m.group(1)) <= 1:
        _fail(
            f"{name} -> {text} has probability {shown(m.group(1))}; it must lie in"
            " (0, 1], so delete rules that are never used."
        )
    for s in right:
        if is_terminal(s):
            _check_terminal(s[1:-1])


def _check_terminal(word: str) -> None:
    if not word:
        _fail("the terminal '' is empty; delete it or give it a name.")
    bare = word.strip("<>[]|")
    if bare in SPECIAL_TOKENS or (bare != word and bare.upper() in SPECIAL_TOKENS):
        _fail(
            f"the terminal {quoted(shown(word))} is called as a special token (one of"
            f" {', '.join(SPECIAL_TOKENS)}); rename it."
        )


def _parsed(line: str) -> list[Rule]:
    """What nltk reads in one line."""
    from nltk.grammar import Nonterminal, read_grammar, standard_nonterm_parser

    try:
        _, found = read_grammar([line], standard_nonterm_parser, probabilistic=True)
    except ValueError as e:
        _fail(f"nltk cannot read {shown(line)!r} ({shown(str(e))}); rewrite the rule.")
    return [
        Rule(
            str(p.lhs()),
            tuple(str(s) if isinstance(s, Nonterminal) else quoted(s) for s in p.rhs()),
            p.prob(),
        )
        for p in found
    ]


def _fail(sentence: str) -> NoReturn:
    raise ConfigError(sentence)
