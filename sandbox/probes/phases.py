r"""The phases of a loss curve: plateau, drop, slow tail; rules, no human eye.

The *drop* is the shortest run of recorded steps that holds at least a given share of
the whole decrease of the loss (from its first record to its smallest):

    min b - a  subject to  loss_a - loss_b >= share * (loss_0 - min loss)

and the earliest of those that tie, on the running minimum of the loss, so that no spike
counts. What comes before is the plateau, what comes after the slow tail. A loss that
falls fastest at once has a drop that starts at its first record: there was no plateau.
Pure numpy on recorded curves.

Example:
    >>> locate_drop([0, 1, 2, 3, 9], [1.0, 1.0, 0.5, 0.1, 0.0]).steepest
    2.0
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Real

from sandbox.errors import require


@dataclass(frozen=True)
class Drop:
    """Where a loss drops, in the unit of the steps.

    Attributes:
      start: last record of the plateau; the first record of all where there is none.
      end: first record of the slow tail.
      steepest: record within the drop at which the loss falls fastest (central
        difference).
      decrease: share of the whole decrease that falls into it.
      duration: its length as a share of all recorded steps.
    """

    start: float
    end: float
    steepest: float
    decrease: float
    duration: float


def locate_drop(
    steps: Real[np.ndarray, " R"] | list,
    loss: Real[np.ndarray, " R"] | list,
    *,
    share: float = 0.5,
    least: float = 0.0,
) -> Drop | None:
    """Locates the drop of a loss curve; None where the loss never decreases.

    Args:
      steps: increasing.
      loss: one per step; non-finite records are dropped.
      share: of the whole decrease that the drop must hold, in (0, 1).
      least: a loss that decreases by no more than this has not dropped.
    """
    require(0 < share < 1, f"share must lie in (0, 1), got {share}.")
    t, v = np.asarray(steps, float), np.asarray(loss, float)
    keep = np.isfinite(v)
    t, v = t[keep], v[keep]
    if len(v) < 3 or v[0] - v.min() <= least:
        return None
    v = np.minimum.accumulate(v)
    whole = v[0] - v.min()
    fall = v[:, None] - v[None, :]
    long_enough = fall >= share * whole * (1 - 1e-12)
    length = np.where(long_enough, t[None, :] - t[:, None], np.inf)
    length[np.tril_indices(len(t))] = np.inf
    a, b = np.unravel_index(np.argmin(length), length.shape)
    inner = np.arange(max(a, 1), min(b, len(t) - 2) + 1)
    slope = (v[inner - 1] - v[inner + 1]) / (t[inner + 1] - t[inner - 1])
    return Drop(
        start=float(t[a]),
        end=float(t[b]),
        steepest=float(t[inner[np.argmax(slope)]]),
        decrease=float(fall[a, b] / whole),
        duration=float((t[b] - t[a]) / (t[-1] - t[0])),
    )
