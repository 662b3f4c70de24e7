"""What is in a grammar: sizes, exact lengths, entropy, ambiguity, and sample strings.

    python -m experiments.grammar cfg3b
    python -m experiments.grammar cfg3b --start 13 14 15 --samples 5
    python -m experiments.grammar my.pcfg --figure lengths.png

All numbers are exact unless they are said to be estimates. Levels are depths in the
derivation tree (`sandbox.tasks.grammar_arrays`). A grammar that recurses has neither
levels nor samples; its expected length and entropy are printed.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from experiments.command import guarded
from sandbox.errors import ConfigError, require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sandbox.tasks.grammar import Grammar
    from sandbox.tasks.grammar_arrays import GrammarArrays

BINS, BAR = 12, 40
"""Most rows of a histogram, and characters of its longest bar."""
TREE_LINES = 60
"""Lines of a printed tree; more are cut."""
PARSED = 20
"""Strings whose trees are counted where ambiguity is estimated."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for every other mistake."""
        raise ConfigError(f"{message} (see `{self.prog} --help`)")


def sizes(grammar: "Grammar") -> str:
    """Name, start, and how many of everything."""
    from sandbox.tasks.grammar_graph import nonterminals
    from sandbox.tasks.grammar_rule import is_terminal, listed

    words = sorted({s for r in grammar.rules for s in r.right if is_terminal(s)})
    longest = max(len(r.right) for r in grammar.rules)
    return (
        f"{grammar.name} from {listed(grammar.start)}: {len(grammar.rules)} rules of"
        f" {len(nonterminals(grammar.rules))} nonterminals, at most {longest} symbols"
        f" on a right side; {len(words)} terminals ({listed(words)})"
    )


def recursion(grammar: "Grammar") -> str:
    """What is known of a grammar that recurses."""
    import math

    from sandbox.tasks import grammar_graph as graph
    from sandbox.tasks.grammar_rule import listed

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


def levels(arrays: "GrammarArrays") -> str:
    """One row a level: its symbols, nodes, and the tokens under a node."""
    import numpy as np

    from sandbox.cli.listing import table

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


def histogram(arrays: "GrammarArrays", level: int) -> Iterator[str]:
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


def about_ambiguity(grammar: "Grammar", arrays: "GrammarArrays | None") -> str:
    """The verdict, and how it was reached."""
    from sandbox.tasks.grammar_ambiguity import ambiguity

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


def _draw(arrays: "GrammarArrays", n: int, seed: int) -> Any:
    from functools import partial

    import jax

    from sandbox.tasks.grammar_sampler import sample_strings

    draw = jax.jit(partial(sample_strings, arrays), static_argnums=2)
    return jax.device_get(draw(jax.random.key(seed), 0, n))


def _tree_counts(arrays: "GrammarArrays") -> Iterator[int]:
    from sandbox.tasks.grammar_ambiguity import count_parses

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


def samples(arrays: "GrammarArrays", n: int, seed: int) -> Iterator[str]:
    """Strings and their trees."""
    from sandbox.tasks.grammar_sampler import to_tree

    strings = _draw(arrays, n, seed)
    for row in range(n):
        tokens = strings.tokens[row, : strings.length[row]]
        words = " ".join(arrays.terminals[t] for t in tokens)
        yield f"\nsample {row + 1}, {len(tokens)} tokens: {words}"
        lines = list(tree_lines(to_tree(arrays, strings, row)))
        yield from lines[:TREE_LINES]
        if len(lines) > TREE_LINES:
            yield f"... {len(lines) - TREE_LINES} more lines"


def draw_lengths(arrays: "GrammarArrays") -> "Figure":
    """The exact distribution of the tokens under a node, one panel a level."""
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    from sandbox.plotting.style import WIDE, color_of, styled

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


def report(args: argparse.Namespace) -> None:
    """Prints everything that was asked for."""
    require(args.samples >= 0, f"--samples must be at least 0, got {args.samples}.")
    require(
        args.seed in range(2**31), f"--seed must lie in 0..2^31-1, got {args.seed}."
    )
    require(
        args.figure is None or args.figure.suffix == ".png",
        f"--figure must end in .png, got {args.figure}.",
    )
    from sandbox.tasks.grammar import load_grammar

    grammar = load_grammar(args.grammar, tuple(args.start) if args.start else None)
    if grammar.recursive:
        require(args.figure is None, "--figure needs a grammar without recursion.")
        print(sizes(grammar), recursion(grammar), sep="\n")
        print(about_ambiguity(grammar, None))
        return
    from sandbox.tasks.grammar_arrays import compile_grammar

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
    if args.figure is not None:
        from sandbox.plotting.style import save

        png, _ = save(draw_lengths(arrays), args.figure.with_suffix(""))
        print(f"\nfigure: {png}")
    if args.samples:
        print("\n".join(samples(arrays, args.samples, args.seed)))


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line and prints."""
    parser = _Parser(
        prog="python -m experiments.grammar",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    arg = parser.add_argument
    arg(
        "grammar", metavar="FILE_OR_NAME", help="a file in nltk's PCFG syntax, or cfg3b"
    )
    arg("--start", nargs="+", metavar="SYMBOL", help="start from these symbols instead")
    arg("--samples", type=int, default=3, help="strings to print (default 3)")
    arg("--seed", type=int, default=0, help="of the strings (default 0)")
    arg("--figure", type=Path, metavar="PATH", help="draw the lengths: .png, and .svg")
    try:
        guarded(lambda: report(parser.parse_args(argv)))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
