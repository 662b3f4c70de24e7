r"""Node by node: what a classifier of tree labels knows, and which supports it leaks.

Internal node v of a tree (`sandbox.tasks.hierarchy`) is decided by comparing the leaves
on its two sides, so its share of the output is

    q_v(x) = (P(leaf left of v | x) - P(leaf right of v | x)) / 2,

the rest of the leaves left out. Its degree-1 correlations E[(q_v - E q_v) x_i] are
largest in size, on the node's own support, while the node is being learned. At depth 1
|E[q x_i]| is |E[p(1|x) x_i]|, the scale of the claims on plain parity. The largest over
classes, which needs no tree, mixes a node with all those above it.

A node's accuracy is how often q_v has the sign of the node's parity among the inputs
whose label lies below v; chance is 1/2 at every node.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from sandbox.models.base import Model
from sandbox.probes.fourier import monomial_correlation
from sandbox.probes.transitions import Phase, locate
from sandbox.store.bounds import AtLeast, check_fields
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.types import Array, Params

FLOOR, CEILING = 0.53, 0.92
"""Accuracies between which a node counts as being learned, as for plain parity."""


@dataclass(frozen=True)
class NodeProbe:
    """Accuracy and degree-1 correlations of every internal node, in heap order.

    Attributes:
      task: tree labels.
      model: the network whose softmax is probed.
      points: number of Monte-Carlo inputs, the first rows of the `probe` split.
    """

    task: Hierarchy
    model: Model
    _: KW_ONLY
    points: Annotated[int, AtLeast(2)] = 16_384

    def __post_init__(self) -> None:
        """Refuses counts that cannot be measured."""
        check_fields(self, "probe")

    def measure(self, params: Params, key: Any) -> dict[str, Array]:
        """Pure and jittable.

        Args:
          params: parameters of `model`.
          key: the lane's task key; it fixes supports and probe inputs.

        Returns:
          `accuracy` `(n,)`; `degree1` and `degree1_se` `(n, d)`: signed correlations of
          q_v with every coordinate, and their Monte-Carlo standard errors.
        """
        rows = self.task.sample(key, jnp.uint32(0), self.points, split="probe")
        p_BC = jax.nn.softmax(self.model.apply(params, rows.x).logits, -1)
        sides_Cn = jnp.asarray(leaf_sides(self.task.depth), p_BC.dtype)
        q_Bn = jnp.dot(p_BC, sides_Cn, precision="highest")
        truth_Bn = sides_Cn[rows.aux["clean"]]
        below_Bn = truth_Bn != 0
        right_Bn = below_Bn & (q_Bn * truth_Bn > 0)
        singles = jnp.arange(self.task.d)[:, None]
        c_dn, se_dn = monomial_correlation(q_Bn, rows.x, singles)
        return {
            "accuracy": right_Bn.sum(0) / jnp.maximum(below_Bn.sum(0), 1),
            "degree1": c_dn.T,
            "degree1_se": se_dn.T,
        }


def leaf_sides(depth: int) -> np.ndarray:
    """+1/2 where a leaf is left of a node, -1/2 right of it, 0 elsewhere; `(C, n)`."""
    sides = np.zeros((2**depth, 2**depth - 1))
    for node, level in enumerate(levels(depth)):
        size = 2 ** (depth - level)  # leaves below the node
        first = (node + 1 - 2**level) * size
        sides[first : first + size // 2, node] = 0.5
        sides[first + size // 2 : first + size, node] = -0.5
    return sides


def levels(depth: int) -> list[int]:
    """Level of every internal node in heap order, the root's being 0."""
    return [level for level in range(depth) for _ in range(2**level)]


def groups_of(depth: int) -> dict[str, list[list[int]]]:
    """The nodes that share a chosen checkpoint in the two longer schedules."""
    level = levels(depth)
    nodes = range(len(level))
    return {
        "by_level": [[v for v in nodes if level[v] == at] for at in range(depth)],
        "by_node": [[v] for v in nodes],
    }


def inside_outside(
    degree1: np.ndarray, supports: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean |correlation| of every node on its own support and off all supports.

    Args:
      degree1: `(R, n, d)`.
      supports: `(n, k)`.

    Returns:
      Two arrays `(R, n)`; the second is 0 where every coordinate is in some support.
    """
    size = np.abs(degree1)
    inside = np.stack([size[:, v, s].mean(-1) for v, s in enumerate(supports)], 1)
    off = np.setdiff1d(np.arange(size.shape[-1]), supports)
    outside = size[:, :, off].mean(-1) if len(off) else np.zeros_like(inside)
    return inside, outside


@dataclass(frozen=True)
class Nodes:
    """One group's nodes along the trajectories of its teachers.

    Attributes:
      depth: of the tree.
      steps: samples seen at each checkpoint, `(R,)`.
      accuracy: of every node, `(S, R, n)`; chance is 1/2.
      inside: mean |degree-1 correlation| on the node's own support, `(S, R, n)`.
      outside: the same off all supports.
    """

    depth: int
    steps: np.ndarray
    accuracy: np.ndarray
    inside: np.ndarray
    outside: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """How much more a node leaks of its own support than of no support."""
        return self.inside - self.outside

    def phases(self, seed: int) -> list[Phase | None]:
        """Every node's transition, by the rule of `locate` on its accuracy."""
        return [locate(self.steps, y) for y in self.accuracy[seed].T]

    @property
    def times(self) -> np.ndarray:
        """Middle of every node's transition, `(S, n)`; infinite where there is none."""
        found = [self.phases(s) for s in range(len(self.accuracy))]
        return np.asarray([[p.middle if p else np.inf for p in row] for row in found])

    @property
    def in_order(self) -> np.ndarray:
        """The nodes of each level sorted by their time, level by level, `(S, n)`."""
        level = np.asarray(levels(self.depth))
        return np.stack([np.lexsort((row, level)) for row in self.times])

    def middles(
        self, seed: int, groups: list[list[int]], final: int | None
    ) -> list[int | None]:
        """For every group of nodes, the checkpoint at which their supports leak most.

        The rule of `choose_checkpoints` for the middle one, asked of these nodes alone:
        largest mean gap while their mean accuracy is in [.53, .92], before `final`.

        Args:
          seed: position of the seed.
          groups: nodes that share a checkpoint.
          final: the seed's final checkpoint; None gives none for any group.
        """
        out: list[int | None] = []
        for g in groups:
            known = self.accuracy[seed][:, g].mean(-1)
            gap = self.gap[seed][:, g].mean(-1)
            learning = (known >= FLOOR) & (known <= CEILING)
            learning &= self.steps < (-1 if final is None else final)
            steps = self.steps[learning]
            out.append(int(steps[np.argmax(gap[learning])]) if len(steps) else None)
        return out
