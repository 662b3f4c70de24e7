"""A grammar without recursion as arrays, with its exact length distributions.

Levels. The level of a node is its depth in the derivation tree: level 0 is the start
symbol, level l + 1 what the rules make of level l. Where a rule skips levels, a
terminal comes early; it is then carried through: at each later level it stands for
itself, up to level L, which holds the tokens. So each of the L levels covers the whole
string, whatever the grammar, and in a layered one each level has symbols of its own.

A nonterminal says nothing that its token does not if its only rule is X -> 'x' and 'x'
is in no other rule. Such an X is taken for its terminal and counts as no level (the
start symbols always stay). Other rules with one symbol on the right, such as two parts
of speech of one word, count as a level.

Symbols are numbered: nonterminals in the order of their first rule, then terminals in
the order of their names. A token is its terminal's place among the terminals.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from sandbox.errors import ConfigError, require
from sandbox.tasks import grammar_graph
from sandbox.tasks.grammar import Grammar
from sandbox.tasks.grammar_rule import Rule, is_terminal, shown

MAX_LENGTH, MAX_LEVELS, MAX_SYMBOLS = 8192, 64, 2000
"""Longest string, most levels, and most symbols."""
MAX_CELLS, MAX_WORK = 4e6, 4e9
"""Largest table, and most multiplications for the length distributions."""


@dataclass(frozen=True, eq=False)
class GrammarArrays:
    """What samplers, predictors and probes need; s symbols, r rules of one symbol.

    Arrays are read-only and compared by identity, so a value can be a static argument
    of jit. `N` is the length of the longest string, `L` the number of levels.

    Attributes:
      grammar: where it comes from.
      symbols: names, nonterminals first; terminals without quotes.
      n_nonterminals: how many of the symbols are nonterminals.
      n_levels: L; level L holds the tokens.
      start: symbols to start from, each equally likely.
      right: right sides, `right[a, r, k]`; -1 after the last symbol.
      right_length: symbols on the right side; 0 after the last rule of a symbol.
      n_rules: rules of each nonterminal.
      probability: of each rule among those of its symbol; sums to 1, 0 after the last.
      cumulative: running sums of it, 1 from the last rule on.
      at_level: `at_level[l, a]`: symbol a occurs at level l (carried terminals too).
      max_nodes: most nodes a tree has at each level 0 .. L; the last is N.
      min_length: fewest tokens under each symbol.
      max_length: most tokens under each symbol.
      level_min_length: fewest tokens under a node of each level.
      level_max_length: most tokens under a node of each level.
      expected_nodes: mean number of nodes at each level; the last is the mean length.
      expected_length: mean number of tokens under each symbol.
      length_distribution: `[a, n]`, probability of n tokens under symbol a.
      level_length_distribution: `[l, n]`, of n tokens under a node of level l, nodes
        counted as often as they occur; level 0 is the distribution of whole strings.
      entropy: of the derivation under each symbol, in nats.
      string_entropy: of a whole derivation, the choice of the start symbol included;
        that of the string where the grammar is unambiguous.
    """

    grammar: Grammar
    symbols: tuple[str, ...]
    n_nonterminals: int
    n_levels: int
    start: Int[np.ndarray, " starts"]
    right: Int[np.ndarray, "a r k"]
    right_length: Int[np.ndarray, "a r"]
    n_rules: Int[np.ndarray, " a"]
    probability: Float[np.ndarray, "a r"]
    cumulative: Float[np.ndarray, "a r"]
    at_level: Bool[np.ndarray, "levels s"]
    max_nodes: tuple[int, ...]
    min_length: Int[np.ndarray, " s"]
    max_length: Int[np.ndarray, " s"]
    level_min_length: Int[np.ndarray, " levels"]
    level_max_length: Int[np.ndarray, " levels"]
    expected_nodes: Float[np.ndarray, " levels"]
    expected_length: Float[np.ndarray, " s"]
    length_distribution: Float[np.ndarray, "s n"]
    level_length_distribution: Float[np.ndarray, "levels n"]
    entropy: Float[np.ndarray, " s"]
    string_entropy: float

    @property
    def terminals(self) -> tuple[str, ...]:
        """Names of the tokens 0, 1, ..."""
        return self.symbols[self.n_nonterminals :]

    @property
    def longest(self) -> int:
        """N, the length of the longest string."""
        return self.max_nodes[-1]

    def level_name(self, level: int) -> str:
        """The symbols of a level, as `13 14 15`."""
        names = (self.symbols[a] for a in np.flatnonzero(self.at_level[level]))
        return " ".join(names)


@lru_cache(maxsize=32)
def compile_grammar(grammar: Grammar) -> GrammarArrays:
    """Arrays of a grammar; the same object for equal grammars.

    Raises:
      ConfigError: the grammar recurses, or is too large to be sampled exactly (more
        than 8192 tokens or 64 levels).
    """
    loop = grammar_graph.cycle(grammar.rules)
    if loop is not None:
        raise ConfigError(
            f"grammar {shown(grammar.name)} recurses ({' -> '.join(map(shown, loop))})"
            " and has no longest string; take it given at most so many tokens, as in"
            " grammar.at_most(16) or --at-most 16."
        )
    rules = _without_aliases(grammar)
    names = grammar_graph.nonterminals(rules)
    words = sorted({s for r in rules for s in r.right if is_terminal(s)})
    place = {s: i for i, s in enumerate((*names, *words))}
    bottom_up = [part[0] for part in grammar_graph.components(rules)]
    by_left: dict[str, list[Rule]] = {s: [] for s in bottom_up}
    for r in rules:
        by_left[r.left].append(r)
    widest = max(len(r.right) for r in rules)
    most = max(len(same_left) for same_left in by_left.values())
    shortest, longest = _bounds(bottom_up, by_left, words)
    length = max(longest[s] for s in grammar.start)
    require(
        length <= MAX_LENGTH,
        f"grammar {shown(grammar.name)} has strings of {_whole(length)} tokens, the"
        f" longest that can be used is {MAX_LENGTH}; start from a lower symbol.",
    )
    require(
        len(place) <= MAX_SYMBOLS
        and len(place) * (length + 1) <= MAX_CELLS
        and len(names) * most * widest <= MAX_CELLS,
        f"grammar {shown(grammar.name)} is too large for padded tables ({len(place):,}"
        f" symbols, {most:,} rules of one symbol, {widest:,} symbols in one rule,"
        f" strings of {length:,} tokens); start from a lower symbol.",
    )
    at_level = _levels(grammar, place, by_left)
    n_levels = len(at_level) - 1
    table = _rule_tables(names, by_left, place, (most, widest))
    probability = table["probability"]
    order = [place[s] for s in bottom_up]
    low, high = ([bound[s] for s in place] for bound in (shortest, longest))
    lengths = _length_distributions(order, table, low, high, grammar.name)
    start = np.array([place[s] for s in grammar.start])
    occurs = _occurrences(table, start, n_levels, len(place))
    nodes = occurs.sum(1)
    expected = grammar_graph.expected_lengths(rules)
    entropy = grammar_graph.derivation_entropies(rules)
    expected_length = np.array([expected.get(s, 1.0) for s in place])
    entropies = np.array([entropy.get(s, 0.0) for s in place])
    arrays = GrammarArrays(
        grammar=grammar,
        symbols=tuple(s[1:-1] if is_terminal(s) else s for s in place),
        n_nonterminals=len(names),
        n_levels=n_levels,
        start=start,
        right=table["right"],
        right_length=table["right_length"],
        n_rules=(probability > 0).sum(1),
        probability=probability,
        cumulative=table["cumulative"],
        at_level=at_level,
        max_nodes=_max_nodes(n_levels, grammar.start, bottom_up, by_left),
        min_length=np.array(low),
        max_length=np.array(high),
        level_min_length=np.array([np.array(low)[a].min() for a in at_level]),
        level_max_length=np.array([np.array(high)[a].max() for a in at_level]),
        expected_nodes=nodes,
        expected_length=expected_length,
        length_distribution=lengths,
        level_length_distribution=occurs @ lengths / nodes[:, None],
        entropy=entropies,
        string_entropy=float(entropies[start].mean() + np.log(len(start))),
    )
    for value in vars(arrays).values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    return arrays


def _without_aliases(grammar: Grammar) -> tuple[Rule, ...]:
    """The rules with X written as 'x' where they say the same (module docstring)."""
    uses: dict[str, int] = {}
    count: dict[str, int] = {}
    for r in grammar.rules:
        count[r.left] = count.get(r.left, 0) + 1
        for s in set(r.right):
            uses[s] = uses.get(s, 0) + 1
    same = {
        r.left: r.right[0]
        for r in grammar.rules
        if len(r.right) == 1
        and is_terminal(r.right[0])
        and count[r.left] == 1
        and uses[r.right[0]] == 1
        and r.left not in grammar.start
    }
    return tuple(
        Rule(r.left, tuple(same.get(s, s) for s in r.right), r.probability)
        for r in grammar.rules
        if r.left not in same
    )


def _bounds(
    bottom_up: list[str], by_left: dict[str, list[Rule]], words: list[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """Fewest and most tokens under each symbol, in whole numbers of any size."""
    low, high = dict.fromkeys(words, 1), dict.fromkeys(words, 1)
    for s in bottom_up:
        low[s] = min(sum(low[c] for c in r.right) for r in by_left[s])
        high[s] = max(sum(high[c] for c in r.right) for r in by_left[s])
    return low, high


def _levels(
    grammar: Grammar, place: dict[str, int], by_left: dict[str, list[Rule]]
) -> Bool[np.ndarray, "levels s"]:
    """Which symbols occur at each level 0 .. L."""
    sets = [set(grammar.start)]
    while any(s in by_left for s in sets[-1]):
        require(
            len(sets) <= MAX_LEVELS,
            f"grammar {shown(grammar.name)} has more than {MAX_LEVELS} levels; start"
            " from a lower symbol.",
        )
        down: set[str] = set()
        for s in sets[-1]:
            if s in by_left:
                down.update(c for r in by_left[s] for c in r.right)
            else:
                down.add(s)
        sets.append(down)
    return np.array([[s in level for s in place] for level in sets])


def _rule_tables(
    names: tuple[str, ...],
    by_left: dict[str, list[Rule]],
    place: dict[str, int],
    most: tuple[int, int],
) -> dict[str, np.ndarray]:
    """Rules by their left side, padded to the most rules and the longest right side."""
    right = np.full((len(names), *most), -1, np.int32)
    probability = np.zeros((len(names), most[0]))
    for s in names:
        for j, r in enumerate(by_left[s]):
            right[place[s], j, : len(r.right)] = [place[c] for c in r.right]
            probability[place[s], j] = r.probability
    probability /= probability.sum(1, keepdims=True)
    cumulative = np.minimum(probability.cumsum(1), 1.0)
    for s in names:
        cumulative[place[s], len(by_left[s]) - 1 :] = 1.0
    return {
        "right": right,
        "right_length": (right >= 0).sum(2),
        "probability": probability,
        "cumulative": cumulative,
    }


def _length_distributions(
    order: list[int],
    table: dict[str, np.ndarray],
    low: list[int],
    high: list[int],
    name: str,
) -> Float[np.ndarray, "s n"]:
    """Probability of each length under each symbol, from the bottom up.

    A rule's distribution is the convolution of those of its symbols, a symbol's the
    mixture of its rules'; all terms are positive, so nothing cancels.
    """
    out = np.zeros((len(low), max(high) + 1))
    out[len(table["right"]) :, 1] = 1.0
    work = 0
    for a in order:
        for j, p in enumerate(table["probability"][a]):
            right = table["right"][a, j]
            right = right[right >= 0].tolist()
            if not right:
                continue
            product, first = np.ones(1), 0
            for c in right:
                piece = out[c, low[c] : high[c] + 1]
                work += len(product) * len(piece)
                require(
                    work <= MAX_WORK,
                    f"grammar {shown(name)} is too large for exact length"
                    " distributions; start from a lower symbol.",
                )
                product, first = np.convolve(product, piece), first + low[c]
            out[a, first : first + len(product)] += p * product
    return out


def _occurrences(
    table: dict[str, np.ndarray], start: np.ndarray, n_levels: int, n_symbols: int
) -> Float[np.ndarray, "levels s"]:
    """Mean number of nodes of each symbol at each level."""
    step = np.zeros((n_symbols, n_symbols))
    n = len(table["right"])
    for a in range(n):
        for j, p in enumerate(table["probability"][a]):
            right = table["right"][a, j]
            np.add.at(step[a], right[right >= 0], p)
    step[range(n, n_symbols), range(n, n_symbols)] = 1.0
    out = np.zeros((n_levels + 1, n_symbols))
    out[0, start] = 1 / len(start)
    for upper, lower in pairwise(out):
        lower[:] = upper @ step
    return out


def _max_nodes(
    n_levels: int,
    start: tuple[str, ...],
    bottom_up: list[str],
    by_left: dict[str, list[Rule]],
) -> tuple[int, ...]:
    """Most nodes of a tree at each level."""
    most = dict.fromkeys(bottom_up, 1)
    out = [1]
    for _ in range(n_levels):
        most = {
            s: max(sum(most.get(c, 1) for c in r.right) for r in by_left[s])
            for s in bottom_up
        }
        out.append(max(most[s] for s in start))
    return tuple(out)


def _whole(n: int) -> str:
    """A number of any size, short."""
    return f"{n:,}" if n < 10**15 else f"about 2^{n.bit_length() - 1}"
