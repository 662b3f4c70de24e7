"""Speed of the grammar sampler: ours under jit against recursion over nltk's rules.

    python -m experiments.bench.grammar --rounds 5

Everything runs in this process, pinned to one core with every thread pool at one
thread; samplers take turns after a warm-up, and rates are strings per second of process
CPU time, medians over the rounds. Compile time is listed apart. Ours is timed with the
symbols and boundaries of every level, and with tokens alone. The two recursive ones
make tokens only: `numpy_choice` looks up the productions of a symbol and draws one by
`numpy.random.choice`, as in the usual samplers (the goal is against it);
`python_choices` has its rules in a table and draws by `random.choices`, which is about
as fast as plain Python gets.
"""

import random
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
import nltk
import numpy as np
from nltk.grammar import PCFG, Nonterminal

from experiments.bench.command import Begun, Options, machine_line, run
from experiments.bench.timing import RATE, WORDS, Candidate, ratio, take_turns, warm_up
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.grammar_arrays import GrammarArrays, compile_grammar
from sandbox.tasks.grammar_sampler import sample_strings
from sandbox.text import table

GOAL = 100.0
"""Strings per second of ours, with labels, to those of `numpy_choice`."""


@dataclass(frozen=True)
class Sizes:
    """What is timed; the defaults are the real benchmark."""

    grammars: tuple[str, ...] = ("cfg3b", "cfg3f")
    start: tuple[str, ...] = ()
    batch: int = 512
    seconds: float = 1.0  # each timing


QUICK = Sizes(grammars=("cfg3b",), start=("13",), batch=16, seconds=0.02)


def ours(arrays: GrammarArrays, batch: int, *, labels: bool) -> Candidate:
    """The library's sampler, one batch a piece."""
    key = jax.random.key(0)

    @jax.jit
    def draw(t0: Any) -> Any:
        strings = sample_strings(arrays, key, t0, batch)
        return strings if labels else strings[:3]

    at = 0

    def go(n: int) -> None:
        nonlocal at
        for _ in range(n):
            jax.block_until_ready(draw(jnp.uint32(at)))
            at += batch

    return Candidate(go, batch)


def numpy_choice(grammar: Any, start: tuple[str, ...]) -> Candidate:
    """Recursion over the productions of an `nltk.PCFG`."""
    rng = np.random.default_rng(0)
    starts = [Nonterminal(s) for s in start]

    def expand(symbol: Any) -> list[str]:
        if not isinstance(symbol, Nonterminal):
            return [symbol]
        rules = grammar.productions(lhs=symbol)
        rule = rules[rng.choice(len(rules), p=[r.prob() for r in rules])]
        return [word for s in rule.rhs() for word in expand(s)]

    def go(n: int) -> None:
        for _ in range(n):
            expand(starts[rng.choice(len(starts))])

    return Candidate(go, 1, compiles=False)


def python_choices(grammar: Any, start: tuple[str, ...]) -> Candidate:
    """The same with a table of rules, one list of words and Python's generator."""
    rng = random.Random(0)
    starts = [Nonterminal(s) for s in start]
    rules: dict[Any, tuple[list, list]] = {}
    for r in grammar.productions():
        rights, weights = rules.setdefault(r.lhs(), ([], []))
        rights.append(r.rhs())
        weights.append(r.prob())

    def expand(symbol: Any, out: list[str]) -> None:
        rights, weights = rules[symbol]
        for s in rng.choices(rights, weights)[0]:
            if isinstance(s, Nonterminal):
                expand(s, out)
            else:
                out.append(s)

    def go(n: int) -> None:
        for _ in range(n):
            expand(rng.choice(starts), [])

    return Candidate(go, 1, compiles=False)


def make_rows(sizes: Sizes) -> dict[str, dict[str, Candidate]]:
    """Grammar -> sampler -> what is timed."""
    rows = {}
    for name in sizes.grammars:
        grammar = load_grammar(name, sizes.start or None)
        arrays = compile_grammar(grammar)
        file = resources.files("sandbox.tasks") / "grammars" / f"{name}.pcfg"
        theirs = PCFG.fromstring(file.read_text())
        rows[name] = {
            "labels": ours(arrays, sizes.batch, labels=True),
            "tokens": ours(arrays, sizes.batch, labels=False),
            "numpy_choice": numpy_choice(theirs, grammar.start),
            "python_choices": python_choices(theirs, grammar.start),
        }
    return rows


def row_record(name: str, row: dict[str, Candidate]) -> dict[str, Any]:
    """Rates, and the ratio of ours with labels to each other one, as JSON data."""
    rates = {sampler: c.record() for sampler, c in row.items()}
    mine = rates["labels"]
    ratios = {f"labels:{k}": ratio(mine, r) for k, r in rates.items() if r is not mine}
    against = ratios["labels:numpy_choice"]
    against |= {"goal": GOAL, "met": against["obtained"] >= GOAL}
    return {"grammar": name, "rates": rates, "ratios": ratios}


def measure(begun: Begun[Options]) -> dict[str, Any]:
    """Everything, as JSON data."""
    sizes = QUICK if begun.options.quick else Sizes()
    rows = make_rows(sizes)
    made = {f"{name} {k}": c for name, row in rows.items() for k, c in row.items()}
    warm_up(made, sizes.seconds)
    take_turns(made.values(), begun.options.rounds)
    return {
        **begun.record(sizes, nltk=nltk.__version__),
        "rows": [row_record(name, row) for name, row in rows.items()],
    }


def print_table(result: dict[str, Any]) -> None:
    """Rates and ratios, one grammar a line."""

    def cells(row: dict[str, Any]) -> list[str]:
        rates, ratios = row["rates"], row["ratios"]
        against = ratios["labels:numpy_choice"]
        return [
            row["grammar"],
            *(f"{r[RATE]:,.0f}" for r in rates.values()),
            f"{against['obtained']:,.0f}x",
            "yes" if against["met"] else "NO",
            f"{ratios['labels:python_choices']['obtained']:,.0f}x",
            f"{rates['labels']['compile_seconds']:.1f}",
        ]

    header = (
        "grammar", "with labels", "tokens only", "numpy.choice", "random.choices",
        ":numpy", f">= {GOAL:g}", ":random", "compile s",
    )  # fmt: skip
    rows = [cells(row) for row in result["rows"]]
    print(
        f"\nstrings per second of {WORDS}, median of {result['rounds']};"
        f" batches of {result['sizes']['batch']}"
    )
    print(table(header, rows, right="l" + "r" * (len(header) - 1)))
    print(machine_line(result))


if __name__ == "__main__":
    run("grammar", __doc__, partial(Options, rounds=5), measure, print_table)
