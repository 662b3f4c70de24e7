"""Whether some string of a grammar has two derivations.

`ambiguity` decides it without enumerating strings. Two derivations of one string first
differ where one nonterminal A takes two rules, so a grammar is ambiguous where, for a
pair of right sides u, v of some A and some continuation c of A, u c and v c derive a
common string. The search runs the two sides against each other, terminal by terminal,
with c left open; where one side ends and the other has d left, it goes on with c
against d c in every place where A occurs (the overhang of A. Sardinas and
G. Patterson's test for codes, 1953, carried up the rules). Both sides equal means
ambiguous; nothing left to search means unambiguous. Every answer is exact; a grammar
that exhausts the budget stays undecided, and `count_parses` gives an estimate.
"""

import heapq
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from sandbox.tasks.grammar import Grammar
from sandbox.tasks.grammar_arrays import GrammarArrays
from sandbox.tasks.grammar_rule import is_terminal

_Form = tuple[str, ...]
_State = tuple[_Form, _Form, str]
_ROOT = ""
"""Above the start symbols, between which a derivation chooses first."""


class Ambiguity(NamedTuple):
    """The answer of `ambiguity`.

    Attributes:
      verdict: exact, or "undecided".
      symbol: where the two derivations differ first, if ambiguous; "" where they
        differ in the start symbol.
      states: pairs of sentential forms that were compared.
    """

    verdict: Literal["ambiguous", "unambiguous", "undecided"]
    symbol: str | None
    states: int


@lru_cache(maxsize=32)
def ambiguity(grammar: Grammar, *, budget: int = 400_000) -> Ambiguity:
    """Decides whether a string of the grammar has two derivations.

    Args:
      grammar: any grammar; for recursive ones the search may never end by itself.
      budget: pairs of sentential forms to compare at most, with up to fifty symbols
        each on average; a million take some five seconds and a gigabyte.
    """
    return _Search(grammar).run(budget)


class _Search:
    def __init__(self, grammar: Grammar) -> None:
        self.right: dict[str, list[_Form]] = {}
        for r in grammar.rules:
            self.right.setdefault(r.left, []).append(r.right)
        self.first = self._first_sets()
        self.right[_ROOT] = [(s,) for s in grammar.start]
        self.places: dict[str, set[tuple[str, _Form]]] = {}
        for left, rights in self.right.items():
            for right in rights:
                for i, s in enumerate(right):
                    self.places.setdefault(s, set()).add((left, right[i + 1 :]))
        self.todo: list[tuple[int, _State, str]] = []
        self.seen: set[_State] = set()
        self.symbols = 0

    def _first_sets(self) -> dict[str, set[str]]:
        """The terminals that strings of each symbol begin with."""
        first: dict[str, set[str]] = {a: set() for a in self.right}
        users: dict[str, set[str]] = {}
        todo: list[str] = []
        for a, rights in self.right.items():
            for right in rights:
                if is_terminal(right[0]):
                    first[a].add(right[0])
                    todo.append(a)
                else:
                    users.setdefault(right[0], set()).add(a)
        while todo:
            b = todo.pop()
            for a in users.get(b, ()):
                if not first[b] <= first[a]:
                    first[a] |= first[b]
                    todo.append(a)
        return first

    def _add(self, u: _Form, v: _Form, at: str, origin: str) -> None:
        state = (u, v, at) if u <= v else (v, u, at)
        if state not in self.seen:
            self.seen.add(state)
            self.symbols += len(u) + len(v)
            heapq.heappush(self.todo, (len(u) + len(v), state, origin))

    def run(self, budget: int) -> Ambiguity:
        """The search, the shortest pairs first."""
        for a, rights in self.right.items():
            for i, u in enumerate(rights):
                for v in rights[:i]:
                    self._add(u, v, a, a)
                    if self._spent(budget):
                        return Ambiguity("undecided", None, len(self.seen))
        while self.todo:
            _, (u, v, at), origin = heapq.heappop(self.todo)
            if u == v:
                return Ambiguity("ambiguous", origin, len(self.seen))
            if self._spent(budget):
                return Ambiguity("undecided", None, len(self.seen))
            self._step(u, v, at, origin)
        return Ambiguity("unambiguous", None, len(self.seen))

    def _spent(self, budget: int) -> bool:
        return len(self.seen) > budget or self.symbols > 50 * budget

    def _step(self, u: _Form, v: _Form, at: str, origin: str) -> None:
        """Successors of u c = v c, for every continuation c of the symbol `at`."""
        if not u:  # u <= v, so only u can be the empty one
            for left, rest in self.places.get(at, ()):
                self._add(rest, v + rest, left, origin)
            return
        x, y = u[0], v[0]
        if x == y and is_terminal(x):
            self._add(u[1:], v[1:], at, origin)
        elif not is_terminal(x):
            for right in self._meeting(x, y):
                self._add(right + u[1:], v, at, origin)
        elif not is_terminal(y):
            for right in self._meeting(y, x):
                self._add(u, right + v[1:], at, origin)

    def _starts(self, symbol: str) -> set[str]:
        return {symbol} if is_terminal(symbol) else self.first[symbol]

    def _meeting(self, x: str, y: str) -> list[_Form]:
        """Right sides of x that can begin as y does."""
        wanted = self._starts(y)
        return [r for r in self.right[x] if not wanted.isdisjoint(self._starts(r[0]))]


def count_parses(arrays: GrammarArrays, tokens: Int[np.ndarray, " n"]) -> int:
    """Number of derivations of a string, from every start symbol.

    Plain Python, about a millisecond a token; a check and not a parser.

    Args:
      arrays: the grammar.
      tokens: terminals by number, without padding.
    """
    string = [int(t) + arrays.n_nonterminals for t in tokens]
    rights = [
        [right[right >= 0].tolist() for right, n in zip(*pair, strict=True) if n > 0]
        for pair in zip(arrays.right, arrays.right_length, strict=True)
    ]
    low = arrays.min_length.tolist()
    known: dict[tuple[int, int], dict[int, int]] = {}

    def ends(symbol: int, begin: int) -> dict[int, int]:
        """End -> number of derivations of string[begin:end] from a symbol."""
        if symbol >= arrays.n_nonterminals:
            hit = begin < len(string) and string[begin] == symbol
            return {begin + 1: 1} if hit else {}
        if (symbol, begin) not in known:
            total: dict[int, int] = {}
            for right in rights[symbol]:
                if begin + sum(low[s] for s in right) > len(string):
                    continue
                for end, n in chain(right, begin).items():
                    total[end] = total.get(end, 0) + n
            known[symbol, begin] = total
        return known[symbol, begin]

    def chain(right: list[int], begin: int) -> dict[int, int]:
        reached = {begin: 1}
        for s in right:
            after: dict[int, int] = {}
            for middle, n in reached.items():
                for end, m in ends(s, middle).items():
                    after[end] = after.get(end, 0) + n * m
            reached = after
        return reached

    starts = arrays.start.tolist()
    return sum(ends(s, 0).get(len(string), 0) for s in starts)
