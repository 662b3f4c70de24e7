"""Rows of a task, compiled; derivation trees by brute force, for tests of grammars."""

from functools import partial
from itertools import product

import jax
import pytest

from sandbox.types import Batch


@partial(jax.jit, static_argnames=("task", "n", "split"))
def sample(task, key, t0, n, *, split) -> Batch:
    """As `task.sample`; one program instead of one for every operation."""
    return task.sample(key, t0, n, split=split)


class Brute:
    """A tree is `(symbol, children)`; terminals are in quotes and have no children."""

    @staticmethod
    def derivations(grammar):
        """Every derivation of a small grammar with its probability."""
        out = []

        def under(symbol):
            if symbol[0] in "'\"":
                return [(1.0, (symbol, ()))]
            found = []
            for r in grammar.rules:
                if r.left == symbol:
                    for parts in product(*(under(s) for s in r.right)):
                        p = r.probability
                        for q, _ in parts:
                            p *= q
                        found.append((p, (symbol, tuple(t for _, t in parts))))
            return found

        for s in grammar.start:
            out += [(p / len(grammar.start), tree) for p, tree in under(s)]
        return out

    @staticmethod
    def leaves(tree):
        """The string of a tree."""
        symbol, children = tree
        if not children:
            return (symbol,)
        return tuple(leaf for child in children for leaf in Brute.leaves(child))

    @staticmethod
    def cut(tree, level):
        """The nodes at a depth, or leaves that end above it, from the left."""
        if level == 0 or not tree[1]:
            return [tree]
        return [node for child in tree[1] for node in Brute.cut(child, level - 1)]

    @staticmethod
    def labels(tree, n_levels):
        """Symbol and boundary of each level over each token."""
        symbols, ends = [], []
        for level in range(n_levels):
            symbols.append([])
            ends.append([])
            for node in Brute.cut(tree, level):
                n = len(Brute.leaves(node))
                symbols[-1] += [node[0]] * n
                ends[-1] += [False] * (n - 1) + [True]
        return symbols, ends


@pytest.fixture(scope="session")
def brute():
    return Brute
