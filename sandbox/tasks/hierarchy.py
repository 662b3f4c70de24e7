r"""Hierarchical (tree) labels: 2^D classes decided by a parity at every tree node.

A complete binary tree of depth D has 2^D - 1 internal nodes, in heap order (node j has
children 2j+1, left, and 2j+2, right). Node j carries the parity of its own
`feature_complexity` coordinates. A leaf's score is the sum along its path of the nodes'
parities, counted + where the path goes left and - where it goes right; the label is the
leaf of largest score, leaves numbered left to right from 0. The maximum D is reached by
exactly one leaf, the one that follows the signs. D = 1 is plain parity.

Source: Panigrahi et al. (arXiv 2410.05464), appendix on hierarchical data.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from sandbox.errors import require
from sandbox.store.bounds import Within
from sandbox.tasks.base import BooleanTask
from sandbox.types import Array


@dataclass(frozen=True, kw_only=True)
class Hierarchy(BooleanTask):
    """Tree labels on {-1,+1}^d.

    Attributes:
      d: input bits.
      depth: depth D of the tree; C = 2^D classes.
      feature_complexity: coordinates in each node's parity.
      layout: `disjoint` gives node j the coordinates j*k .. j*k+k-1; `shared` slides
        the window by one, so neighbouring nodes share k-1 coordinates; `random` draws
        every node's k coordinates from the lane's task key, overlaps allowed.
    """

    depth: Annotated[int, Within(1, 10)] = 3
    feature_complexity: int = 5
    layout: Literal["disjoint", "shared", "random"] = "disjoint"

    def __post_init__(self) -> None:
        """Refuses a tree that does not fit the cube."""
        super().__post_init__()
        k = self.feature_complexity
        require(
            1 <= k <= self.d,
            f"task.feature_complexity must lie in 1..d = 1..{self.d}, got {k}.",
        )
        need = {
            "disjoint": self.n_nodes * k,
            "shared": self.n_nodes + k - 1,
            "random": k,
        }[self.layout]
        require(
            need <= self.d,
            f"task.layout = {self.layout} with {self.n_nodes} nodes of {k} coordinates"
            f" needs d >= {need}, got d = {self.d}.",
        )

    @property
    def n_nodes(self) -> int:
        """Internal nodes, 2^D - 1."""
        return 2**self.depth - 1

    @property
    def n_classes(self) -> int:
        """Leaves, 2^D."""
        return 2**self.depth

    def supports(self, key: Any) -> Int[Array, "n k"]:
        """Coordinates of every node, in heap order."""
        n, k = self.n_nodes, self.feature_complexity
        window = jnp.arange(k)[None, :]
        if self.layout == "disjoint":
            return jnp.arange(n)[:, None] * k + window
        if self.layout == "shared":
            return jnp.arange(n)[:, None] + window
        node_keys = jax.random.split(self.support_key(key), n)
        draw = jax.vmap(lambda kk: jnp.sort(jax.random.permutation(kk, self.d)[:k]))
        return draw(node_keys)

    def labels(
        self, x: Float[Array, "B d"], supports: Int[Array, "n k"]
    ) -> Int[Array, " B"]:
        """Follows the signs from the root: parity +1 goes left, -1 goes right."""
        right_Bn = (x[:, supports].prod(-1) < 0).astype(int)
        node_B = jnp.zeros(x.shape[0], int)
        for _ in range(self.depth):
            step_B = jnp.take_along_axis(right_Bn, node_B[:, None], 1)[:, 0]
            node_B = 2 * node_B + 1 + step_B
        return node_B - self.n_nodes
