"""Probabilistic context-free grammars as plain records, and where they come from.

A `Grammar` holds its rules, so the identity of a run that uses one is the rules and
not the name of a file. Five grammars come with the package (`packaged()`); others are
files in the syntax of nltk's `PCFG`. What is computed from a grammar lies in
`grammar_graph` (any grammar) and `grammar_arrays` (those without recursion).

A symbol in quotes is a terminal, in rules as in files: `"13"` is a nonterminal and
`"'3'"` the terminal 3.

Example:
    >>> load_grammar("cfg3b", start=("13", "14", "15")).start
    ('13', '14', '15')
"""

import difflib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from sandbox.errors import ConfigError, require
from sandbox.tasks import grammar_graph
from sandbox.tasks.grammar_rule import Rule, is_terminal, listed, shown

__all__ = ["Grammar", "Rule", "RuleError", "load_grammar", "packaged"]

SUM_TOLERANCE = 1e-6
"""How far from 1 the probabilities of one symbol may sum; they are then scaled."""
MAX_BYTES, MAX_NONTERMINALS, MAX_RULES = 2**20, 500, 5000
"""Largest file, and number of nonterminals and of rules."""
_LONGEST = 40


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

    @property
    def recursive(self) -> bool:
        """Whether a nonterminal can derive itself."""
        return grammar_graph.cycle(self.rules) is not None


def _check_rules(rules: tuple[Rule, ...]) -> None:
    """Duplicates, symbols without rules, sums, and symbols without strings."""
    first: dict[tuple[str, tuple[str, ...]], int] = {}
    sums: dict[str, float] = {}
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
        sums[r.left] = sums.get(r.left, 0.0) + r.probability
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
    """`; did you mean NAME` with the known name nearest to a word, if one is near."""
    short = [k for k in known if len(k) <= _LONGEST]
    word = word[:_LONGEST]
    close = difflib.get_close_matches(word, short, n=1)
    if not close:  # cfg3z is near all of the others, 23 near none
        return ""
    return f" (did you mean {close[0]}?)"


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
    from sandbox.tasks.grammar_text import read_rules

    source, name, data = _read(name_or_path)
    rules, lines, first = read_rules(data, source)
    wanted = (start,) if isinstance(start, str) else start
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
