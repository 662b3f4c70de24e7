r"""Probabilistic context-free grammars as plain records, and where they come from.

A `Grammar` holds its rules, so the identity of a run that uses one is the rules and
not the name of a file. Five grammars come with the package (`packaged()`); others are
files in the syntax of nltk's `PCFG`, each mistake answered with its line:

    S -> A B [0.4] | B [0.6]     probabilities in brackets, right sides separated by |
    A -> 'a' 'a' [1.0]           terminals in quotes
    %start S                     optional; else the first left side
    # a comment                  on a line of its own; \ at its end continues a line

A symbol in quotes is a terminal, in rules as in files: `"13"` is a nonterminal and
`"'3'"` the terminal 3. What is computed from a grammar lies in `grammar_graph` (any
grammar) and `grammar_arrays` (those without recursion).

Example:
    >>> load_grammar("cfg3b", start=("13", "14", "15")).start
    ('13', '14', '15')
"""

import os
import re
import stat
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from math import inf, prod
from pathlib import Path
from typing import Any

from sandbox.errors import ConfigError, require
from sandbox.tasks import grammar_graph
from sandbox.tasks.grammar_rule import (
    MAX_RIGHT,
    Rule,
    is_terminal,
    listed,
    quoted,
    shown,
)
from sandbox.text import nearest

__all__ = ["Grammar", "Rule", "RuleError", "load_grammar", "packaged"]

SUM_TOLERANCE, FILE_TOLERANCE = 1e-6, 0.01 + 1e-9
"""How far from 1 the probabilities of one symbol may sum; they are then scaled. In a
file as far as nltk reads it, and .33 three times, because people round.
"""
SYNTAX = (
    "Files are read in the syntax of nltk's PCFG, such as S -> A B [0.4] | B [0.6] and"
    " A -> 'a' [1.0]."
)
MAX_BYTES, MAX_NONTERMINALS, MAX_RULES = 2**20, 500, 5000
"""Largest file, and number of nonterminals and of rules."""
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
_DECIMAL = r"(?:[0-9]{1,400}\.?[0-9]{0,400}|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,3})?"
_NUMBER = re.compile(rf"\[\s*({_DECIMAL})\s*(?:/\s*({_DECIMAL})\s*)?\]")


class RuleError(ConfigError):
    """A grammar is impossible, and one of its rules shows why.

    Attributes:
      sentence: what is wrong and what to do.
      rule: index of the rule.
    """

    def __init__(self, sentence: str, rule: int) -> None:
        """Keeps the parts of the message."""
        super().__init__(f"grammar.rules[{rule}]: {sentence}")
        self.sentence, self.rule = sentence, rule


@dataclass(frozen=True)
class Grammar:
    """A grammar whose strings have finite expected length.

    Attributes:
      name: for titles and messages.
      rules: in the order of the file.
      start: nonterminals; a string starts from one of them, uniformly drawn.
    """

    name: str
    rules: tuple[Rule, ...]
    start: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuses grammars that cannot be used; a `RuleError` names a rule."""
        require(len(self.rules) > 0, f"grammar {shown(self.name)} has no rules.")
        require(
            len(self.rules) <= MAX_RULES,
            f"a grammar may have {MAX_RULES} rules, got {len(self.rules)}.",
        )
        _check_rules(self.rules)
        _check_start(self.rules, self.start)
        _check_reachable(self.rules, self.start)
        _check_growth(self.rules)

    def starting_from(self, start: tuple[str, ...]) -> "Grammar":
        """The same grammar from other symbols, without what they do not reach.

        Raises:
          ConfigError: a start symbol is unknown or named twice.
        """
        return replace(self, rules=_cut(self.rules, start), start=start)

    def at_most(self, n: int) -> "Grammar":
        """The same distribution of trees, given that a string has at most n tokens.

        A symbol A becomes A^1 .. A^n, one for each number of tokens, and a rule one for
        each way to share them out, with probability

            p prod_j Z(X_j, l_j) / Z(A, l),    Z(A, l) that of l tokens under A,

        so that nothing recurses and whatever takes a grammar takes this one.

        Args:
          n: most tokens.

        Raises:
          ConfigError: no string is as short, rules of one symbol run in a circle, or
            there are too many rules for so many tokens.
        """
        require(n >= 1, f"at_most needs at least one token, got {n}.")
        single = [r for r in self.rules if len(r.right) == 1]
        loop = grammar_graph.cycle(single)
        require(
            loop is None,
            f"grammar {shown(self.name)}: {' -> '.join(map(shown, loop or ()))} goes in"
            " a circle without adding a token; leave one of these rules out.",
        )
        mass = grammar_graph.length_masses(self.rules, n)
        top, name = f"up-to-{n}", shown(self.name)
        many = f"grammar {name} has too many rules for strings of up to {n} tokens;"
        many += " ask for fewer."
        rules: list[tuple[str, tuple[str, ...], float]] = [
            (top, (f"{s}^{length}",), float(mass[s][length]))
            for s in self.start
            for length in range(1, n + 1)
        ]
        for r in self.rules:
            for lengths in _shares(r.right, n, mass):
                left = f"{r.left}^{sum(lengths)}"
                pairs = list(zip(r.right, lengths, strict=True))
                right = tuple(s if is_terminal(s) else f"{s}^{k}" for s, k in pairs)
                p = r.probability * prod(float(mass[s][k]) for s, k in pairs)
                rules.append((left, right, p))
                require(len(rules) <= 2 * MAX_RULES, many)
        sums: dict[str, float] = {}
        for left, _, p in rules:
            sums[left] = sums.get(left, 0.0) + p
        require(
            sums[top] > 0,
            f"grammar {name} has no string of at most {n} tokens.",
        )
        made = tuple(
            Rule(left, right, min(p / sums[left], 1.0))
            for left, right, p in rules
            if p > 0
        )
        kept = _cut(made, (top,))
        few = len(kept) <= MAX_RULES and len(_sums(kept)) <= MAX_NONTERMINALS
        require(few, many)
        return Grammar(f"{self.name}-{top}", kept, (top,))

    @property
    def recursive(self) -> bool:
        """Whether a nonterminal can derive itself."""
        return grammar_graph.cycle(self.rules) is not None


def _shares(
    right: tuple[str, ...], n: int, mass: Mapping[str, Any]
) -> Iterator[tuple[int, ...]]:
    """Every way to give the symbols of a right side lengths that they can have."""
    if not right:
        yield ()
        return
    rest = sum(int((mass[s] > 0).argmax()) for s in right[1:])
    for k in range(1, n - rest + 1):
        if mass[right[0]][k] > 0:
            yield from ((k, *rest) for rest in _shares(right[1:], n - k, mass))


def _sums(rules: tuple[Rule, ...]) -> dict[str, float]:
    """The sum of the probabilities of every symbol that has rules."""
    sums: dict[str, float] = {}
    for r in rules:
        sums[r.left] = sums.get(r.left, 0.0) + r.probability
    return sums


def _check_rules(rules: tuple[Rule, ...]) -> None:
    """Duplicates, symbols without rules, sums, and symbols without strings."""
    first: dict[tuple[str, tuple[str, ...]], int] = {}
    sums = _sums(rules)
    last: dict[str, int] = {}
    for i, r in enumerate(rules):
        if first.setdefault((r.left, r.right), i) != i:
            raise RuleError(
                f"the rule {_text(r)} is there twice; merge the two and add their"
                " probabilities.",
                i,
            )
        if len({is_terminal(s) for s in r.right}) == 2:
            raise RuleError(
                f"{_text(r)} mixes terminals and nonterminals; give each terminal a"
                " symbol of its own, such as T -> 'a' [1.0].",
                i,
            )
        last[r.left] = i
    require(
        len(sums) <= MAX_NONTERMINALS,
        f"a grammar may have {MAX_NONTERMINALS} nonterminals, got {len(sums)}.",
    )
    for i, r in enumerate(rules):
        for s in r.right:
            if not is_terminal(s) and s not in sums:
                raise RuleError(
                    f"{shown(s)} has no rule{_meant(s, sums)}; write '{shown(s)}' in"
                    " quotes if it is a terminal.",
                    i,
                )
    for left, total in sums.items():
        if abs(total - 1) > SUM_TOLERANCE:
            raise RuleError(
                f"the probabilities of {shown(left)} sum to {total:.6g} and not to 1"
                f" (within {SUM_TOLERANCE:g}); divide each of them by {total:.6g}.",
                last[left],
            )
    endless = sums.keys() - grammar_graph.productive(rules)
    for i, r in enumerate(rules):
        if r.left in endless:
            raise RuleError(
                f"{shown(r.left)} derives no string, because each of its rules leads"
                " back to such a symbol; give it a rule that ends.",
                i,
            )


def _check_start(rules: tuple[Rule, ...], start: tuple[str, ...]) -> None:
    known = {r.left: None for r in rules}
    require(
        isinstance(start, tuple) and len(start) > 0,
        "a grammar needs at least one start symbol, such as start=('S',).",
    )
    for s in start:
        require(
            isinstance(s, str) and s in known,
            f"the start symbol {shown(str(s))} has no rule{_meant(str(s), known)}; the"
            f" nonterminals are {listed(known)}.",
        )
    require(
        len(set(start)) == len(start),
        f"start symbols must be distinct, got {listed(start)}.",
    )


def _check_reachable(rules: tuple[Rule, ...], start: tuple[str, ...]) -> None:
    found = grammar_graph.reachable(rules, start)
    for i, r in enumerate(rules):
        if r.left not in found:
            raise RuleError(
                f"{shown(r.left)} cannot be reached from {listed(start)}; delete its"
                f" rules, use it, or start from it (start={shown(r.left)}).",
                i,
            )


def _check_growth(rules: tuple[Rule, ...]) -> None:
    rate, where = grammar_graph.growth_rate(rules)
    if rate >= 1 - 1e-9:
        i = next(i for i, r in enumerate(rules) if r.left in where)
        raise RuleError(
            f"the recursion through {listed(where)} makes strings of infinite expected"
            f" length (spectral radius {rate:.6g}, must be below 1); make the rules"
            " that end it more likely.",
            i,
        )


def _cut(rules: tuple[Rule, ...], start: tuple[str, ...]) -> tuple[Rule, ...]:
    _check_start(rules, start)
    found = grammar_graph.reachable(rules, start)
    return tuple(r for r in rules if r.left in found)


def _text(rule: Rule) -> str:
    return shown(f"{rule.left} -> {' '.join(rule.right)}")


def _meant(word: str, known: Iterable[str]) -> str:
    """The known name nearest to a word, if one is near."""
    name = nearest(word, known)
    return f" (did you mean {name}?)" if name else ""


def packaged() -> tuple[str, ...]:
    """Names of the grammars that come with the package."""
    folder = resources.files("sandbox.tasks") / "grammars"
    names = (f.name for f in folder.iterdir())
    return tuple(sorted(n[:-5] for n in names if n.endswith(".pcfg")))


def load_grammar(
    name_or_path: str | Path, start: str | tuple[str, ...] | None = None
) -> Grammar:
    """Reads a grammar that comes with the package, or a file in nltk's PCFG syntax.

    Args:
      name_or_path: `"cfg3b"`, or the path of a file; a file that is called as a
        packaged grammar is reached by a path with a folder (`./cfg3b`).
      start: symbols to start from, each equally likely; the default is the start
        symbol of the file (`%start`, else the left side of its first rule). Rules
        that `start` does not reach are dropped, which gives the truncated versions.

    Raises:
      ConfigError: the file cannot be read or is no usable grammar; one sentence with
        the number of the line.
    """
    source, name, data = _read(name_or_path)
    rules, lines, first = read_rules(data, source)
    wanted = (start,) if isinstance(start, str) else start
    rules = _summing_to_one(rules, source)
    try:
        _check_rules(rules)
        if wanted is not None:
            kept = _cut(rules, tuple(wanted))
            whole = set(kept)
            lines = [n for n, r in zip(lines, rules, strict=True) if r in whole]
            rules = kept
        return Grammar(name, rules, (first,) if wanted is None else tuple(wanted))
    except RuleError as e:
        raise ConfigError(f"{source}, line {lines[e.rule]}: {e.sentence}") from e


def _summing_to_one(rules: tuple[Rule, ...], source: str) -> tuple[Rule, ...]:
    """Rules whose rounded probabilities are divided by their sum, and a word of it."""
    sums = _sums(rules).items()
    off = {s: v for s, v in sums if SUM_TOLERANCE < abs(v - 1) < FILE_TOLERANCE}
    if not off:
        return rules
    words = listed(f"{shown(s)} ({v:.9g})" for s, v in off.items())
    text = f"{source}: probabilities that do not sum to 1 were divided by their sum"
    warnings.warn(f"{text}: {words}.", stacklevel=3)
    return tuple(
        replace(r, probability=r.probability / off.get(r.left, 1.0)) for r in rules
    )


def _read(name_or_path: str | Path) -> tuple[str, str, bytes]:
    """How messages call the grammar, its name, and the bytes of its file."""
    text = str(name_or_path)
    if text in packaged():
        file = resources.files("sandbox.tasks") / "grammars" / f"{text}.pcfg"
        return f"{text}.pcfg", text, file.read_bytes()
    path = Path(text)
    source = shown(path.name)
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(file, "rb") as f:
            regular = stat.S_ISREG(os.fstat(file).st_mode)
            data = f.read(MAX_BYTES + 1) if regular else b""
    except (FileNotFoundError, NotADirectoryError, ValueError) as e:
        names = packaged()
        raise ConfigError(
            f"there is no grammar and no file {shown(text)!r}{_meant(text, names)}; the"
            f" grammars that come with the package are {listed(names)}."
        ) from e
    except IsADirectoryError as e:
        raise ConfigError(f"{source} is a folder; name a file in it.") from e
    except OSError as e:
        raise ConfigError(
            f"{source} cannot be read ({e.strerror or e}); name a file that can."
        ) from e
    require(regular, f"{source} is no regular file; copy the grammar into one.")
    require(
        len(data) <= MAX_BYTES,
        f"{source} has more than {MAX_BYTES:,} bytes; a grammar file may have that"
        " many, so name another file or split it.",
    )
    return source, path.stem, data


def read_rules(data: bytes, source: str) -> tuple[tuple[Rule, ...], list[int], str]:
    """The rules of a file, the number of the line of each, and its start symbol.

    Args:
      data: the bytes of the file.
      source: what messages call it.

    Raises:
      ConfigError: the file is no UTF-8, or a line is no rule.
    """
    start, start_line = "", 0
    rules: list[Rule] = []
    lines: list[int] = []
    for number, line in _logical_lines(_decoded(data, source)):
        try:
            if line.startswith("%"):
                start, start_line = _directive(line), number
                continue
            rules += _rules_of(line)
            require(
                len(rules) <= MAX_RULES,
                f"this is rule {len(rules):,}; a grammar may have {MAX_RULES:,} rules.",
            )
        except ConfigError as e:
            other = "" if rules else f" {SYNTAX}"  # perhaps another one throughout
            raise ConfigError(f"{source}, line {number}: {e}{other}") from e
        lines += [number] * (len(rules) - len(lines))
    require(len(rules) > 0, f"{source} has no rules; write some as S -> A B [1.0].")
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
    require(
        word == "start" and re.fullmatch(_SYMBOL, symbol) is not None,
        f"{shown(line)} is no directive; the only one is %start SYMBOL.",
    )
    return symbol


def _rules_of(line: str) -> list[Rule]:
    """The rules in a line; where it holds none, says what to write."""
    head, arrow, tail = line.partition("->")
    require(
        arrow != "",
        f"there is no -> in {shown(line)!r}; write it as S -> A B [1.0].",
    )
    left = head.strip()
    require(
        not is_terminal(left),
        f"{shown(left)} is a terminal and cannot have rules; drop its quotes.",
    )
    require(
        re.fullmatch(_SYMBOL, left) is not None,
        f"{shown(left)!r} is no nonterminal; write one name of letters, digits and"
        " underscores before the ->.",
    )
    require(
        head != left,
        f"there is no space between {shown(left)} and ->; put one there.",
    )
    rules: list[Rule] = []
    right: list[str] = []
    probability = ""
    for kind, token in _tokens(tail):
        if kind == "bar":
            rules.append(_rule(left, right, probability))
            right, probability = [], ""
        elif probability:
            raise ConfigError(
                f"{shown(token)} follows the probability {shown(probability)}; separate"
                " right sides with |."
            )
        elif kind == "probability":
            probability = token
        else:
            right.append(quoted(token[1:-1]) if kind == "terminal" else token)
            if len(right) > MAX_RIGHT:
                raise ConfigError(
                    f"a right side of {shown(left)} has more than {MAX_RIGHT} symbols;"
                    " split it."
                )
    return [*rules, _rule(left, right, probability)]


def _tokens(tail: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(tail):
        m = _TOKEN.match(tail, at)
        if m is None:
            rest = tail[at:].strip()
            said = shown(rest)
            raise ConfigError(
                {
                    "'": f"the quote in {said} is not closed; close it.",
                    '"': f"the quote in {said} is not closed; close it.",
                    "[": f"the bracket in {said} is not closed; write [0.5].",
                    "-": "there are two -> in one line; write one rule a line.",
                    "#": "a comment follows a rule; give it a line of its own.",
                }.get(
                    rest[:1],
                    f"{said!r} is neither a symbol nor a probability; names have"
                    " letters, digits and underscores, terminals are in quotes.",
                )
            )
        at = m.end()
        kind = str(m.lastgroup)
        yield kind, m.group(kind)


def _rule(left: str, right: list[str], probability: str) -> Rule:
    name, text = shown(left), shown(" ".join(right))
    require(
        len(right) > 0,
        f"a right side of {name} is empty; delete it, strings of length 0 cannot be"
        " used.",
    )
    require(
        probability != "",
        f"{name} -> {text} has no probability; add one, as in {text} [0.5].",
    )
    m = _NUMBER.fullmatch(probability)
    if m is None:
        raise ConfigError(
            f"{shown(probability)} is no probability; write a number or a fraction"
            " without signs, as in [0.5] or [1/3]."
        )
    top, bottom = float(m.group(1)), float(m.group(2) or 1)
    p = top / bottom if bottom else inf
    require(
        p <= 1,
        f"{name} -> {text} has probability {shown(probability[1:-1])}, which is more"
        " than 1; divide weights by their sum, symbol by symbol.",
    )
    require(
        p > 0,
        f"{name} -> {text} has probability {shown(probability[1:-1])}; it must lie in"
        " (0, 1], so delete rules that are never used.",
    )
    for word in (s[1:-1] for s in right if is_terminal(s)):
        require(word != "", "the terminal '' is empty; delete it or give it a name.")
        bare = word.strip("<>[]|")
        require(
            bare not in SPECIAL_TOKENS
            and (bare == word or bare.upper() not in SPECIAL_TOKENS),
            f"the terminal {quoted(shown(word))} is called as a special token (one of"
            f" {', '.join(SPECIAL_TOKENS)}); rename it.",
        )
    return Rule(left, tuple(right), p)
