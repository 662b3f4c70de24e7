"""What follows from the rules of any grammar, recursive or not.

Reachable and productive symbols, cycles, the growth rate of the recursion, expected
lengths and entropies. With M the matrix of the mean number of nonterminals B that one
rule of A makes, the expected values are finite where the spectral radius of M is below
1, and they solve x = b + M x: b is the mean number of terminals for lengths, and the
entropy of the choice of a rule for derivations (Chi, Computational Linguistics 25,
1999).
"""

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from sandbox.tasks.grammar_rule import Rule, is_terminal


def nonterminals(rules: Sequence[Rule]) -> tuple[str, ...]:
    """Left sides in the order of their first rules."""
    return tuple(dict.fromkeys(r.left for r in rules))


def reachable(rules: Sequence[Rule], start: Iterable[str]) -> set[str]:
    """Nonterminals that occur in a derivation from one of `start`."""
    children = _children(rules)
    found, todo = set(start), list(start)
    while todo:
        for s in children.get(todo.pop(), ()):
            if s not in found:
                found.add(s)
                todo.append(s)
    return found


def productive(rules: Sequence[Rule]) -> set[str]:
    """Nonterminals that derive at least one string of terminals."""
    waits: dict[str, list[int]] = {}
    missing: list[int] = []
    found: set[str] = set()
    todo: list[str] = []
    for i, r in enumerate(rules):
        needed = {s for s in r.right if not is_terminal(s)}
        missing.append(len(needed))
        for s in needed:
            waits.setdefault(s, []).append(i)
        if not needed and r.left not in found:
            found.add(r.left)
            todo.append(r.left)
    while todo:
        for i in waits.get(todo.pop(), ()):
            missing[i] -= 1
            left = rules[i].left
            if not missing[i] and left not in found:
                found.add(left)
                todo.append(left)
    return found


def _children(rules: Sequence[Rule]) -> dict[str, list[str]]:
    """Nonterminals that the rules of each one make, each once."""
    out: dict[str, dict[str, None]] = {}
    for r in rules:
        known = out.setdefault(r.left, {})
        known.update((s, None) for s in r.right if not is_terminal(s))
    return {left: list(known) for left, known in out.items()}


def components(rules: Sequence[Rule]) -> list[list[str]]:
    """Sets of nonterminals that derive each other, those that use others last.

    For a grammar without recursion, its nonterminals from the bottom up (R. Tarjan,
    SIAM Journal on Computing 1, 1972; without Python's recursion).
    """
    children = _children(rules)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    out: list[list[str]] = []
    for root in children:
        if root in index:
            continue
        work = [(root, iter(children[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, rest = work[-1]
            child = next((c for c in rest if c not in index or c in on_stack), None)
            if child is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    cut = stack.index(node)
                    out.append(stack[cut:])
                    on_stack.difference_update(stack[cut:])
                    del stack[cut:]
            elif child in index:
                low[node] = min(low[node], index[child])
            else:
                index[child] = low[child] = len(index)
                stack.append(child)
                on_stack.add(child)
                work.append((child, iter(children.get(child, ()))))
    return out


def cycle(rules: Sequence[Rule]) -> list[str] | None:
    """A shortest cycle A, ..., A through some symbol, or None without recursion."""
    children = _children(rules)
    for part in components(rules):
        first = part[0]
        if len(part) == 1 and first not in children[first]:
            continue
        inside, came = set(part), {}
        todo = deque([first])
        while todo:
            node = todo.popleft()
            for c in children[node]:
                if c == first:
                    path = [node]
                    while path[-1] != first:
                        path.append(came[path[-1]])
                    return [*reversed(path), first]
                if c in inside and c not in came:
                    came[c] = node
                    todo.append(c)
    return None


def totals(rules: Sequence[Rule]) -> dict[str, float]:
    """Sum of the probabilities of each nonterminal; rules are divided by it."""
    out: dict[str, float] = {}
    for r in rules:
        out[r.left] = out.get(r.left, 0.0) + r.probability
    return out


def mean_children(
    rules: Sequence[Rule], order: Sequence[str]
) -> Float[np.ndarray, "n n"]:
    """M[a, b] = mean number of nonterminals b that one rule of a makes."""
    place, total = {s: i for i, s in enumerate(order)}, totals(rules)
    mean = np.zeros((len(order), len(order)))
    for r in rules:
        if r.left in place:
            for s in r.right:
                if s in place:
                    mean[place[r.left], place[s]] += r.probability / total[r.left]
    return mean


def growth_rate(rules: Sequence[Rule]) -> tuple[float, list[str]]:
    """Spectral radius of the mean matrix, and the symbols that it comes from.

    0 without recursion; below 1 exactly where the expected length is finite (every
    symbol being productive). Costs the cube of the largest set of symbols that derive
    each other.
    """
    children = _children(rules)
    worst: tuple[float, list[str]] = (0.0, [])
    for part in components(rules):
        if len(part) > 1 or part[0] in children[part[0]]:
            values = np.linalg.eigvals(mean_children(rules, part))
            worst = max(worst, (float(np.abs(values).max()), part))
    return worst


def expected_lengths(rules: Sequence[Rule]) -> dict[str, float]:
    """Expected number of terminals under each nonterminal."""
    total = totals(rules)
    words = [sum(map(is_terminal, r.right)) for r in rules]
    return _solved(
        rules,
        [n * r.probability / total[r.left] for n, r in zip(words, rules, strict=True)],
    )


def derivation_entropies(rules: Sequence[Rule]) -> dict[str, float]:
    """Entropy in nats of the derivation under each nonterminal.

    H(A) = H(rule of A) + sum over B of M[A, B] H(B). It is the entropy of the string
    where the grammar is unambiguous, and above it otherwise.
    """
    total = totals(rules)
    p = [r.probability / total[r.left] for r in rules]
    return _solved(rules, [-(v * np.log(v)) for v in p])


def length_masses(rules: Sequence[Rule], n: int) -> dict[str, np.ndarray]:
    """Symbol -> probability of each length 0 .. n, also of grammars that recurse.

    A length needs shorter ones only, but for rules with one symbol on the right, which
    must not run in a circle.
    """
    single = [r for r in rules if len(r.right) == 1 and not is_terminal(r.right[0])]
    names = nonterminals(rules)
    order = [part[0] for part in components(single)] if single else []
    order += [s for s in names if s not in set(order)]
    one = np.zeros(n + 1)
    one[1:2] = 1.0
    out = {s: one for r in rules for s in r.right if is_terminal(s)}
    out |= {s: np.zeros(n + 1) for s in names}
    by_left: dict[str, list[Rule]] = {s: [] for s in names}
    for r in rules:
        by_left[r.left].append(r)
    for length in range(1, n + 1):
        for s in order:
            total = 0.0
            for r in by_left[s]:
                product = np.ones(1)
                for c in r.right:
                    product = np.convolve(product, out[c][: length + 1])[: length + 1]
                total += r.probability * float(product[length])
            out[s][length] = total
    return out


def _solved(rules: Sequence[Rule], own: Sequence[float]) -> dict[str, float]:
    """X = b + M x, b[a] the sum of what is each rule of a's own."""
    order = nonterminals(rules)
    place = {s: i for i, s in enumerate(order)}
    b = np.zeros(len(order))
    for r, value in zip(rules, own, strict=True):
        b[place[r.left]] += value
    x = np.linalg.solve(np.eye(len(order)) - mean_children(rules, order), b)
    return dict(zip(order, x.tolist(), strict=True))
