"""Our grammars in genlm-grammar and in torch-struct.

Imported only where both are installed, as by

    pip install genlm-grammar==0.2.0 torch-struct==0.5 torch
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from genlm.grammar.cfg import CFG  # pyright: ignore[reportMissingImports]
from genlm.grammar.parse.earley import Earley  # pyright: ignore[reportMissingImports]
from genlm.grammar.semiring import Float  # pyright: ignore[reportMissingImports]
from torch_struct import SampledSemiring, SentCFG  # pyright: ignore[reportMissingImports]

from sandbox.tasks.grammar_arrays import GrammarArrays
from sandbox.tasks.inside import chart_plan

# torch-struct does not say what torch would check.
torch.distributions.Distribution.set_default_validate_args(False)
_NEVER = -1e9
"""Log weight of what is no rule; torch-struct has no gradient at -inf."""


def genlm_grammar(arrays: GrammarArrays) -> Any:
    """A CFG of genlm-grammar; symbols are our numbers, start is -1."""
    plan = chart_plan(arrays)
    cfg = CFG(R=Float, S=-1, V=set(plan.terminals))
    for a in plan.start:
        cfg.add(1 / len(plan.start), -1, a)
    for a, sides in zip(plan.nonterminals, plan.rules, strict=True):
        for side, p in sides:
            cfg.add(p, a, *side)
    return cfg


def torch_sentences(arrays: GrammarArrays) -> Callable[[np.ndarray], Any]:
    """Strings of one length, `(B, N)`, -> their trees as a SentCFG.

    Its nonterminals are ours, by number, then the beginnings of longer right sides,
    which makes all rules binary; a rule whose right side is one symbol has no place.
    """
    plan, n_words = chart_plan(arrays), len(arrays.terminals)
    rules = [
        (a, side, p)
        for a, sides in zip(plan.nonterminals, plan.rules, strict=True)
        for side, p in sides
    ]
    own = arrays.n_nonterminals
    parts = sorted({x[:k] for _, x, _ in rules for k in range(2, len(x))})
    number: dict[Any, int] = {part: own + i for i, part in enumerate(parts)}
    size = own + len(parts)
    number |= {(a,): a for a in plan.nonterminals}
    number |= {(a,): size + i for i, a in enumerate(plan.terminals)}
    table = np.full((size, size + n_words, size + n_words), _NEVER)
    for left, side, p in [*rules, *((number[x], x, 1.0) for x in parts)]:
        table[left, number[side[:-1]], number[side[-1:]]] = np.log(p)
    roots = np.full(size, _NEVER)
    roots[list(plan.start)] = -np.log(len(plan.start))

    def sentences(tokens: np.ndarray) -> Any:
        seen = tokens[..., None] == np.arange(n_words)
        each = (np.broadcast_to(a, (len(tokens), *a.shape)) for a in (table, roots))
        scores = (np.where(seen, 0.0, _NEVER), *each)
        return SentCFG(tuple(torch.tensor(a) for a in scores))

    return sentences


def probabilities(arrays: GrammarArrays) -> dict[str, Callable[[Any], float]]:
    """Of a string, by Earley's algorithm and by the chart."""
    earley, sentences = Earley(genlm_grammar(arrays)), torch_sentences(arrays)

    def genlm(tokens: Any) -> float:
        earley.clear_cache()
        return earley(tuple((arrays.n_nonterminals + tokens).tolist()))

    return {
        "genlm": genlm,
        "torch": lambda tokens: sentences(tokens[None]).partition.exp().item(),
    }


def trees(arrays: GrammarArrays) -> dict[str, Callable[[Any], Any]]:
    """torch-struct's best tree, draw and rule marginals (without entropy)."""
    sentences = torch_sentences(arrays)
    return {
        "torch best_trees": lambda tokens: sentences(tokens[None]).argmax,
        "torch draw_trees": lambda tokens: draws(sentences(tokens[None])),
        "torch rule_counts": lambda tokens: sentences(tokens[None]).marginals,
    }


def draws(dist: Any) -> Any:
    """A tree of each string; `SentCFG.sample` fails on its tuple of scores."""
    return dist.struct(SampledSemiring).marginals(dist.log_potentials)
