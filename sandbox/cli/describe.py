"""What `sandbox grammar` prints: the part that needs jax."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sandbox.plotting.style import WIDE, color_of, save, styled
from sandbox.tasks import grammar_graph as graph
from sandbox.tasks.grammar import Grammar
from sandbox.tasks.grammar_ambiguity import ambiguity, count_parses
from sandbox.tasks.grammar_arrays import GrammarArrays, compile_grammar
from sandbox.tasks.grammar_rule import is_terminal, listed
from sandbox.tasks.grammar_sampler import sample_strings, to_tree
from sandbox.text import printable, table

BINS, BAR = 12, 40
"""Most rows of a histogram, and characters of its longest bar."""
TREE_LINES = 60
"""Lines of a printed tree; more are cut."""
PARSED = 20
"""Strings whose trees are counted where ambiguity is estimated."""


def levels(arrays: GrammarArrays) -> str:
    """One row a level: its symbols, nodes, and the tokens under a node."""
    n = np.arange(arrays.longest + 1)
    rows = []
    for level in range(arrays.n_levels):
        p = arrays.level_length_distribution[level]
        mean = p @ n
        nodes = (arrays.expected_nodes[level], arrays.max_nodes[level])
        tokens = (arrays.level_min_length[level], mean)
        cells = [str(level), printable(arrays.level_name(level), 30)]
        cells += [f"{v:.6g}" for v in (*nodes, *tokens)]
        cells += [f"{(p @ (n - mean) ** 2) ** 0.5:.4g}"]
        rows.append([*cells, str(arrays.level_max_length[level])])
    header = ("level", "symbols", "nodes", "most", "shortest", "mean", "sd", "longest")
    return table(header, rows, right="rlrrrrrr")


def histogram(arrays: GrammarArrays, level: int) -> Iterator[str]:
    """The distribution of the tokens under a node of a level, as lines of text."""
    p = arrays.level_length_distribution[level]
    low, high = arrays.level_min_length[level], arrays.level_max_length[level]
    step = -(-(high - low + 1) // BINS)
    shares = {a: float(p[a : a + step].sum()) for a in range(low, high + 1, step)}
    width = len(str(high))
    for a, share in shares.items():
        to = f" to {min(a + step - 1, high):>{width}}" if step > 1 else ""
        bar = "#" * round(BAR * share / max(shares.values()))
        yield f"  {a:>{width}}{to}  {share:7.4f} {bar}".rstrip()


def about_ambiguity(grammar: Grammar, arrays: GrammarArrays | None) -> str:
    """The verdict, and how it was reached."""
    found = ambiguity(grammar)
    if found.verdict == "unambiguous":
        return "unambiguous (exact): the entropy of the strings is that of derivations"
    if found.verdict == "ambiguous":
        where = f"of two rules of {found.symbol}" if found.symbol else "of two starts"
        return f"ambiguous (exact): continuations {where} give a common string"
    text = f"ambiguity undecided after {found.states:,} comparisons"
    if arrays is None:
        return text
    many = sum(n > 1 for n in _tree_counts(arrays))
    return f"{text}; estimate: {many} of {PARSED} sampled strings have several trees"


def _draw(arrays: GrammarArrays, n: int, seed: int) -> Any:
    draw = jax.jit(partial(sample_strings, arrays), static_argnums=2)
    return jax.device_get(draw(jax.random.key(seed), 0, n))


def _tree_counts(arrays: GrammarArrays) -> Iterator[int]:
    strings = _draw(arrays, PARSED, 1)
    for tokens, n in zip(strings.tokens, strings.length, strict=True):
        yield count_parses(arrays, tokens[:n])


def tree_lines(tree: Any, depth: int = 0) -> Iterator[str]:
    """A derivation tree, indented; what ends in terminals on one line."""
    if all(not c.children for c in tree.children):
        words = " ".join(c.symbol for c in tree.children)
        yield "  " * depth + (f"{tree.symbol} -> {words}" if words else tree.symbol)
        return
    yield "  " * depth + tree.symbol
    for child in tree.children:
        yield from tree_lines(child, depth + 1)


def samples(arrays: GrammarArrays, n: int, seed: int) -> Iterator[str]:
    """Strings and their trees."""
    strings = _draw(arrays, n, seed)
    for row in range(n):
        tokens = strings.tokens[row, : strings.length[row]]
        words = " ".join(arrays.terminals[t] for t in tokens)
        yield f"\nsample {row + 1}, {len(tokens)} tokens: {words}"
        lines = list(tree_lines(to_tree(arrays, strings, row)))
        yield from lines[:TREE_LINES]
        if len(lines) > TREE_LINES:
            yield f"... {len(lines) - TREE_LINES} more lines"


def draw_lengths(arrays: GrammarArrays) -> Figure:
    """The exact distribution of the tokens under a node, one panel a level."""
    columns = min(3, arrays.n_levels)
    n_rows = -(-arrays.n_levels // columns)
    with styled():
        figure = plt.figure(figsize=(WIDE, 1.6 * n_rows + 0.4))
        for level in range(arrays.n_levels):
            ax = figure.add_subplot(n_rows, columns, level + 1)
            low, high = arrays.level_min_length[level], arrays.level_max_length[level]
            n = np.arange(low, high + 1)
            p = arrays.level_length_distribution[level, n]
            ax.bar(n, p, width=1.0, color=color_of("lengths"))
            name = arrays.level_name(level)
            ax.set_title(name if len(name) <= 24 else f"level {level}")
            ax.set_xlabel("tokens")
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            ax.set_ylabel("probability" if level % columns == 0 else "")
    plt.close(figure)
    return figure


def describe(
    grammar: Grammar, *, n_samples: int, seed: int, figure: Path | None
) -> None:
    """Prints everything that was asked for."""
    arrays = None if grammar.recursive else compile_grammar(grammar)
    words = sorted({s for r in grammar.rules for s in r.right if is_terminal(s)})
    print(
        f"{grammar.name} from {listed(grammar.start)}: {len(grammar.rules)} rules of"
        f" {len(graph.nonterminals(grammar.rules))} nonterminals, at most"
        f" {max(len(r.right) for r in grammar.rules)} symbols on a right side;"
        f" {len(words)} terminals ({listed(words)})"
    )
    lengths = graph.expected_lengths(grammar.rules)
    entropies = graph.derivation_entropies(grammar.rules)
    n = len(grammar.start)
    tokens = sum(lengths[s] for s in grammar.start) / n
    nats = sum(entropies[s] for s in grammar.start) / n + math.log(n)
    span = f", {arrays.level_min_length[0]} to {arrays.longest}" if arrays else ""
    if arrays is None:
        rate, where = graph.growth_rate(grammar.rules)
        print(
            f"recursion: through {listed(where)}, spectral radius {rate:.6g}; no fixed"
            " levels, no longest string; --at-most 16 makes strings of up to 16 tokens"
        )
    print(f"expected length: {tokens:.6g} tokens{span}")
    by_token = f"{nats / tokens:.6g} nats by expected token"
    print(f"entropy of the derivation: {nats:.6g} nats, {by_token}")
    print(about_ambiguity(grammar, arrays))
    if arrays is None:
        return
    print(f"\n{arrays.n_levels} levels; nodes in a tree, and tokens under a node:")
    print(levels(arrays))
    for level in range(arrays.n_levels):
        print(f"\ntokens under a node of level {level} ({arrays.level_name(level)}):")
        print(*histogram(arrays, level), sep="\n")
    if figure is not None:
        png, *_ = save(draw_lengths(arrays), figure.with_suffix(""))
        print(f"\nfigure: {png}")
    if n_samples:
        print(*samples(arrays, n_samples, seed), sep="\n")
