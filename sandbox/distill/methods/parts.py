"""Parts of the final teacher: some units of an MLP, some heads of a transformer."""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import numpy as np

from sandbox.distill.methods.damaged import Damage
from sandbox.errors import require
from sandbox.store.bounds import Within, check_fields
from sandbox.types import Params

_PROBED = 8192  # random rows behind the median of a sub-network's logits


@dataclass(frozen=True, kw_only=True)
class SubNetwork(Damage):
    """Units of an MLP's last hidden layer, scaled up by as many as are cut off.

    The remaining sum has a large mean, so each logit is moved by its median on uniform
    random bits, in place of the bias (also if all units stay).

    Attributes:
      share: of the units that stay.
    """

    share: Annotated[float, Within(0, 1, "(]")]

    def __post_init__(self) -> None:
        """Refuses what is no share."""
        check_fields(self, "damage")

    def apply(self, params: Params, rng: np.random.Generator) -> Params:
        """The last kernel with rows of zeros, and another bias."""
        n = len(params)
        require("kernel" in params["layer_0"], "SubNetwork changes MLPs alone.")
        last = params[f"layer_{n - 1}"]
        width = last["kernel"].shape[0]
        kept = np.zeros((width, 1), last["kernel"].dtype)
        kept[rng.permutation(width)[: max(round(self.share * width), 1)]] = 1
        kernel = last["kernel"] * kept / kept.mean()
        d = params["layer_0"]["kernel"].shape[0]
        h = rng.choice(np.asarray([-1, 1], kernel.dtype), (_PROBED, d))
        for i in range(n - 1):
            own = params[f"layer_{i}"]
            h = np.maximum(h @ own["kernel"] + own["bias"], 0)
        z = h @ kernel
        bias = -np.median(z - z.mean(-1, keepdims=True), 0)
        new = {"kernel": kernel, "bias": bias.astype(kernel.dtype)}
        return {**params, f"layer_{n - 1}": new}


@dataclass(frozen=True, kw_only=True)
class DroppedHeads(Damage):
    """Heads of a transformer whose output projection is set to zero.

    Attributes:
      share: of each layer's heads that are cut off.
    """

    share: Annotated[float, Within(0, 1)]

    def __post_init__(self) -> None:
        """Refuses what is no share."""
        check_fields(self, "damage")

    def apply(self, params: Params, rng: np.random.Generator) -> Params:
        """Output projections with zeros."""
        found = []

        def cut(path: Any, a: np.ndarray) -> np.ndarray:
            if jax.tree_util.keystr(path[-3:]) != "['attention']['out']['kernel']":
                return a
            n = round(self.share * (heads := a.shape[-3]))
            gone = rng.permutation(heads)[:n]
            found.append(n)
            out = a.copy()
            out[..., gone, :, :] = 0
            return out

        changed = jax.tree.map_with_path(cut, params)
        require(
            bool(found) and (min(found) > 0 or self.share == 0),
            f"damage.share = {self.share} cuts off no head of this network.",
        )
        return changed
