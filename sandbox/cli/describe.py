"""What `sandbox grammar` prints: the part that needs jax.

All numbers are exact unless they are said to be estimates. Levels are depths in the
derivation tree (`sandbox.tasks.grammar_arrays`). A grammar that recurses has neither
levels nor samples; its expected length and entropy are printed.
"""

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
from sandbox.text import table

BINS, BAR = 12, 40
"""Most rows of a histogram, and characters of its longest bar."""
TREE_LINES = 60
"""Lines of a printed tree; more are cut."""
PARSED = 20
"""Strings whose trees are counted where ambiguity is estimated."""


def sizes(grammar: Grammar) -> str:
    """Name, start, and how many of everything."""
    words = sorted({s for r in grammar.rules for s in r.right if is_terminal(s)})
    longest = max(len(r.right) for r in grammar.rules)
    n = len(graph.nonterminals(grammar.rules))
    return (
        f"{grammar.name} from {listed(grammar.start)}: {len(grammar.rules)} rules of"
        f" {n} nonterminals, at most {longest} symbols"
        f" on a right side; {len(words)} terminals ({listed(words)})"
    )


def recursion(grammar: Grammar) -> str:
    """What is known of a grammar that recurses."""
    rate, where = graph.growth_rate(grammar.rules)
    lengths = graph.expected_lengths(grammar.rules)
    entropies = graph.derivation_entropies(grammar.rules)
    n = len(grammar.start)
    length = sum(lengths[s] for s in grammar.start) / n
    nats = sum(entropies[s] for s in grammar.start) / n + math.log(n)
    return (
        f"recursion: through {listed(where)}, spectral radius {rate:.6g}; no fixed"
        " levels, no longest string; training tasks refuse such a grammar\n"
        f"expected length: {length:.6g} tokens\n{_entropy(nats, length)}"
    )


def _entropy(nats: float, length: float) -> str:
    return (
        f"entropy of the derivation: {nats:.6g} nats, {nats / length:.6g} nats by"
        f" expected token"
    )


def levels(arrays: GrammarArrays) -> str:
    """One row a level: its symbols, nodes, and the tokens under a node."""
    n = np.arange(arrays.longest + 1)
    rows = []
    for level in range(arrays.n_levels):
        p = arrays.level_length_distribution[level]
        mean = float(p @ n)
        names = arrays.level_name(level)
        rows.append(
            [
                str(level),
                names if len(names) <= 30 else names[:27] + "...",
                f"{arrays.expected_nodes[level]:.6g}",
                str(arrays.max_nodes[level]),
                str(arrays.level_min_length[level]),
                f"{mean:.6g}",
                f"{float(p @ (n - mean) ** 2) ** 0.5:.4g}",
                str(arrays.level_max_length[level]),
            ]
        )
    header = ("level", "symbols", "nodes", "most", "shortest", "mean", "sd", "longest")
    return table(header, rows, right="rlrrrrrr")


def histogram(arrays: GrammarArrays, level: int) -> Iterator[str]:
    """The distribution of the tokens under a node of a level, as lines of text."""
    p = arrays.level_length_distribution[level]
    low = int(arrays.level_min_length[level])
    high = int(arrays.level_max_length[level])
    step = -(-(high - low + 1) // BINS)
    edges = range(low, high + 1, step)
    shares = [float(p[a : a + step].sum()) for a in edges]
    width = len(str(high))
    for a, share in zip(edges, shares, strict=True):
        b = min(a + step - 1, high)
        span = f"{a:>{width}}" + (f" to {b:>{width}}" if step > 1 else "")
        bar = "#" * round(BAR * share / max(shares))
        yield f"  {span}  {share:7.4f} {bar}".rstrip()


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
        figure, axes = plt.subplots(
            n_rows, columns, figsize=(WIDE, 1.6 * n_rows + 0.4), squeeze=False
        )
        for level, ax in enumerate(axes.flat):
            if level >= arrays.n_levels:
                ax.set_axis_off()
                continue
            low = int(arrays.level_min_length[level])
            high = int(arrays.level_max_length[level])
            p = arrays.level_length_distribution[level, low : high + 1]
            ax.bar(np.arange(low, high + 1), p, width=1.0, color=color_of("lengths"))
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
    if grammar.recursive:
        print(sizes(grammar), recursion(grammar), sep="\n")
        print(about_ambiguity(grammar, None))
        return
    arrays = compile_grammar(grammar)
    low, high = arrays.level_min_length[0], arrays.level_max_length[0]
    length = float(arrays.expected_nodes[-1])
    print(sizes(grammar))
    print(f"expected length: {length:.6g} tokens, {low} to {high}")
    print(_entropy(arrays.string_entropy, length))
    print(about_ambiguity(grammar, arrays))
    print(f"\n{arrays.n_levels} levels; nodes in a tree, and tokens under a node:")
    print(levels(arrays))
    for level in range(arrays.n_levels):
        print(f"\ntokens under a node of level {level} ({arrays.level_name(level)}):")
        print("\n".join(histogram(arrays, level)))
    if figure is not None:
        png, _ = save(draw_lengths(arrays), figure.with_suffix(""))
        print(f"\nfigure: {png}")
    if n_samples:
        print("\n".join(samples(arrays, n_samples, seed)))
