"""Speed and memory of the exact predictor, against NumPy and three libraries.

    python -m experiments.bench.bayes --rounds 5

Everything runs in this process, pinned to one core with every thread pool at one
thread; candidates take turns after a warm-up, and rates are strings per second of
process CPU time, medians over the rounds. Compile time is listed apart. Ours:
`probability` is one inside pass, `leave_one_out` the prediction of every token from all
others (inside and its gradient), `next_token` the distribution after every prefix,
`levels` the posteriors of nonterminals, `best_trees` and `draw_trees` trees from the
same chart, `rule_counts` gradients of rules, their counts, and the trees' entropy.
A ratio `a:b` is the time of b over that of a. Of the others, `numpy` computes the
probability by the same chart, a loop over rules and lengths with starts in vectors; on
short strings, `nltk` adds up the parses of its chart parser, and where genlm-grammar
and torch-struct are installed (`bayes_oracles`), `genlm` is the probability by Earley's
algorithm, `torch` that by a chart of binary rules, and `torch ...` its best tree, draw
and marginals of rules. Memory is what XLA reserves beside inputs and outputs, by
strings computed at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata, resources
from importlib.util import find_spec
from typing import Any

import jax
import nltk
import numpy as np
from nltk.grammar import CFG, PCFG, Nonterminal

from experiments.bench.command import Begun, Options, machine_line, run
from experiments.bench.timing import (
    RATE,
    WORDS,
    Candidate,
    say,
    take_turns,
    warm_up,
)
from sandbox.platforms import platform
from sandbox.tasks import bayes
from sandbox.tasks.bayes_context import draw_strings
from sandbox.tasks.bayes_levels import level_posteriors, predict_next
from sandbox.tasks.bayes_trees import best_trees, draw_trees, rule_counts
from sandbox.tasks.channel import observed
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.grammar_arrays import GrammarArrays, compile_grammar
from sandbox.tasks.inside import chart_plan
from sandbox.text import table

AGREE = 1e-10
"""Largest relative difference of the probabilities that all of them find."""
SHORT = 40
"""Longest strings that other libraries are tried on."""
OTHERS = {"genlm": "genlm-grammar", "torch_struct": "torch-struct"}
"""Optional modules and their packages."""
TREES = ("best_trees", "draw_trees", "rule_counts")


@dataclass(frozen=True)
class Sizes:
    """What is timed; the defaults are the real benchmark."""

    cases: tuple[tuple[str, tuple[str, ...], int], ...] = (
        ("cfg3b", ("22",), 16),
        ("cfg3b", ("16", "17", "18"), 128),
        ("cfg3b", ("13", "14", "15"), 512),
    )  # grammar, start, strings a batch
    seconds: float = 1.0  # each timing


QUICK = Sizes(cases=(("cfg3b", ("10", "11"), 4),), seconds=0.02)


@dataclass
class Row:
    """One grammar: its candidates, and the memory of ours."""

    name: str
    longest: int
    at_once: int
    memory: dict[str, int]
    candidates: dict[str, Candidate]


def ours(f: Callable[..., Any], given: tuple[Any, ...], batch: int) -> Candidate:
    """A jitted function of a whole batch."""

    def go(n: int) -> None:
        for _ in range(n):
            jax.block_until_ready(f(*given))

    return Candidate(go, batch)


def one_by_one(f: Callable[[Any], float], strings: Sequence[Any]) -> Candidate:
    """A function of one string, which takes them in turn."""
    at = 0

    def go(n: int) -> None:
        nonlocal at
        for _ in range(n):
            f(strings[at % len(strings)])
            at += 1

    return Candidate(go, 1, compiles=False)


def numpy_inside(arrays: GrammarArrays) -> Callable[[Any], float]:
    """Probability of a string by the inside algorithm in plain NumPy."""
    plan = chart_plan(arrays)
    low, high = dict(plan.shortest), dict(plan.longest)

    def probability(tokens: Any) -> float:
        n = len(tokens)
        chart = {
            a: {1: np.asarray(tokens == i, float)} for i, a in enumerate(plan.terminals)
        }
        for a, sides in zip(plan.nonterminals, plan.rules, strict=True):
            bands: dict[int, Any] = {}
            for side, p in sides:
                partial = {l: p * v for l, v in chart[side[0]].items()}
                for x in side[1:]:
                    product: dict[int, Any] = {}
                    for l, left in partial.items():
                        for m, right in chart[x].items():
                            if l + m <= n:
                                term = (
                                    left[: n - l - m + 1] * right[l:][: n - l - m + 1]
                                )
                                old = product.get(l + m)
                                product[l + m] = term if old is None else old + term
                    partial = product
                for l, v in partial.items():
                    bands[l] = bands[l] + v if l in bands else v
            chart[a] = {l: v for l, v in bands.items() if low[a] <= l <= high[a]}
        found = (chart[a][n][0] for a in plan.start if n in chart[a])
        return float(sum(found)) / len(plan.start)

    return probability


def nltk_parses(name: str, start: tuple[str, ...], arrays: GrammarArrays) -> Callable:
    """Probability of a string as the sum over the trees of nltk's chart parser."""
    file = resources.files("sandbox.tasks") / "grammars" / f"{name}.pcfg"
    rules = PCFG.fromstring(file.read_text()).productions()
    of = {(r.lhs(), r.rhs()): r.prob() for r in rules}
    parsers = [nltk.ChartParser(CFG(Nonterminal(s), rules)) for s in start]

    def weight(tree: Any) -> float:
        out = 1.0
        for r in tree.productions():
            out *= of[r.lhs(), r.rhs()]
        return out

    def probability(tokens: Any) -> float:
        words = [arrays.terminals[t] for t in tokens]
        trees = (t for parser in parsers for t in parser.parse(words))
        return sum(map(weight, trees)) / len(start)

    return probability


def make_row(name: str, start: tuple[str, ...], batch: int, oracles: Any) -> Row:
    """Everything of one grammar; all candidates agree on probabilities."""
    arrays = compile_grammar(load_grammar(name, start))
    drawn = draw_strings(arrays, jax.random.key(0), 0, batch)
    tokens, known, length = drawn.tokens, drawn.valid, drawn.length
    rows = zip(np.asarray(tokens), np.asarray(length), strict=True)
    strings = [row[:n].astype(int) for row, n in rows]
    single: dict[str, Callable[[Any], Any]] = {"numpy": numpy_inside(arrays)}
    if arrays.longest <= SHORT:
        single["nltk"] = nltk_parses(name, start, arrays)
        single |= oracles.probabilities(arrays) if oracles else {}
    with jax.enable_x64(True):
        mine = np.exp(np.asarray(bayes.log_probability(arrays, tokens, length)))
    for other, f in single.items():
        theirs = np.array([f(s) for s in strings[:4]])
        worst = np.abs(theirs / mine[:4] - 1).max()
        if not worst < AGREE:
            raise SystemExit(f"{other} and ours differ by {worst:.1e} on {name}")
    if oracles and arrays.longest <= SHORT:
        single |= oracles.trees(arrays)
    v = len(arrays.terminals)
    functions: dict[str, Callable[..., Any]] = {
        "probability": lambda t, _, n: bayes.log_probability(arrays, t, n),
        "leave_one_out": lambda *rows: bayes.predict_masked(arrays, *rows),
        "next_token": lambda t, _, n: predict_next(arrays, t, n),
        "levels": lambda t, k, n: level_posteriors(arrays, observed(t, k, v), n),
        "best_trees": lambda t, _, n: best_trees(arrays, t, n),
        "draw_trees": lambda t, _, n: draw_trees(arrays, t, n, jax.random.key(0)),
        "rule_counts": lambda t, _, n: rule_counts(arrays, t, n),
    }
    given = (tokens, known, length)
    cells = chart_plan(arrays).cells(arrays.longest)
    return Row(
        name=f"{name} from {' '.join(start)}",
        longest=arrays.longest,
        at_once=min(batch, max(platform().cells // cells, 1)),
        memory={k: reserved(f, given) for k, f in functions.items()},
        candidates={
            **{k: ours(f, given, batch) for k, f in functions.items()},
            **{k: one_by_one(f, strings) for k, f in single.items()},
        },
    )


def reserved(f: Callable[..., Any], given: tuple[Any, ...]) -> int:
    """Bytes that XLA reserves for temporaries."""
    analysis = jax.jit(f).lower(*given).compile().memory_analysis()
    return int(getattr(analysis, "temp_size_in_bytes", 0))


def row_record(row: Row) -> dict[str, Any]:
    """Rates, memory, and ratios of rates, as JSON data."""
    rates = {k: c.record() for k, c in row.candidates.items()}
    pairs = [(one, k) for one in ("probability", "leave_one_out") for k in TREES]
    pairs += [("probability", k) for k in ("numpy", "nltk", "genlm", "torch")]
    pairs += [(k, f"torch {k}") for k in TREES]
    return {
        "grammar": row.name,
        "longest": row.longest,
        "strings_at_once": row.at_once,
        "temporary_bytes": row.memory,
        "rates": rates,
        "ratios": {
            f"{one}:{k}": rates[one][RATE] / rates[k][RATE]
            for one, k in pairs
            if k in rates
        },
    }


def measure(begun: Begun[Options]) -> dict[str, Any]:
    """Everything, as JSON data."""
    sizes = QUICK if begun.options.quick else Sizes()
    missing = [package for m, package in OTHERS.items() if not find_spec(m)]
    oracles, used = None, {"nltk": nltk.__version__}
    if missing:
        say(f"{' and '.join(missing)} not installed: timed without these libraries")
    else:
        # lazily: they are optional
        from experiments.bench import bayes_oracles as oracles

        used |= {x: metadata.version(x) for x in (*OTHERS.values(), "torch")}
    rows = [make_row(*case, oracles) for case in sizes.cases]
    made = {f"{r.name} {k}": c for r in rows for k, c in r.candidates.items()}
    warm_up(made, sizes.seconds)
    take_turns(made.values(), begun.options.rounds)
    return {
        **begun.record(sizes, **used),
        "rows": [row_record(row) for row in rows],
    }


def print_table(result: dict[str, Any]) -> None:
    """Rates, one grammar a line."""
    names = ("probability", "leave_one_out", "next_token")
    names += ("levels", *TREES, "numpy", "nltk", "genlm", "torch")

    def cells(row: dict[str, Any]) -> list[str]:
        rates, memory = row["rates"], row["temporary_bytes"]
        each = [f"{rates[k][RATE]:,.1f}" if k in rates else "-" for k in names]
        used = memory["leave_one_out"] / row["strings_at_once"] / 1e6
        return [row["grammar"], str(row["longest"]), *each, f"{used:.2f}"]

    header = ("grammar", "longest", *names, "MB a string")
    print(
        f"\nstrings per second of {WORDS}, median of {result['rounds']}; memory of"
        " leave_one_out"
    )
    print(
        table(
            header,
            [cells(r) for r in result["rows"]],
            right="l" + "r" * (2 + len(names)),
        )
    )
    for row in result["rows"]:
        each = (f"{pair} {x:,.3g}" for pair, x in row["ratios"].items())
        print(f"{row['grammar']}: {', '.join(each)}")
    print(machine_line(result))


if __name__ == "__main__":
    run("bayes", __doc__, partial(Options, rounds=5), measure, print_table)
