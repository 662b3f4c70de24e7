"""Fixed sets of monomials, chosen on the host (numpy, no jax)."""

from collections.abc import Sequence
from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Int


def in_support_subsets(
    support: Sequence[int] | Int[np.ndarray, " k"], degree: int
) -> Int[np.ndarray, "M a"]:
    """All subsets of the support of size `degree`, one a row, in lexical order."""
    rows = list(combinations((int(i) for i in support), degree))
    return np.asarray(rows, dtype=int).reshape(len(rows), degree)


def off_support_subsets(
    d: int,
    support: Sequence[int] | Int[np.ndarray, " k"],
    degree: int,
    *,
    count: int,
    seed: int,
) -> Int[np.ndarray, "M a"]:
    """Distinct random `degree`-subsets of 0 .. d-1 that are not inside the support.

    Args:
      d: number of coordinates.
      support: distinct coordinates. Subsets that mix it with others are allowed.
      degree: size of every subset.
      count: how many to draw; where no more than `count` exist, all of them.
      seed: of numpy's PCG64 generator; the same arguments give the same rows.

    Returns:
      Rows in increasing order within, `M = min(count, number that exist)`.
    """
    inside = {int(i) for i in support}
    exist = comb(d, degree) - comb(len(inside), degree)
    if exist == 0:
        rows = []
    elif exist <= count:
        rows = [a for a in combinations(range(d), degree) if not inside.issuperset(a)]
    else:
        rng = np.random.Generator(np.random.PCG64(seed))
        drawn: dict[tuple[int, ...], None] = {}
        while len(drawn) < count:
            draw = rng.choice(d, degree, replace=False)
            a = tuple(sorted(int(i) for i in draw))
            if not inside.issuperset(a):
                drawn[a] = None
        rows = list(drawn)
    return np.asarray(rows, dtype=int).reshape(len(rows), degree)
