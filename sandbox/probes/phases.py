r"""The phases of a loss curve: plateau, drop, slow tail; rules, no human eye.

The *drop* is the shortest run of recorded steps that holds at least a given share of
the whole decrease of the loss (from its first record to its smallest):

    min b - a  subject to  loss_a - loss_b >= share * (loss_0 - min loss)

and the earliest of those that tie, on the running minimum of the loss, so that no spike
counts. What comes before is the plateau, what comes after the slow tail. A loss that
falls fastest at once has a drop that starts at its first record: there was no plateau.
An exponential decay and a power law are such losses. Where a network first learns how
frequent the classes are, count from `best_constant`. Pure numpy on recorded curves.

Example:
    >>> locate_drop([0, 1, 2, 3, 9], [1.0, 1.0, 0.5, 0.1, 0.0]).steepest
    2.0
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer, Real
from scipy.stats import entropy

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
      duration: its length as a share of all counted steps.
      plateau: share of them that lies before it and holds at most a tenth of the whole
        decrease, counted from the first.
    """

    start: float
    end: float
    steepest: float
    decrease: float
    duration: float
    plateau: float


def locate_drop(
    steps: Real[np.ndarray, " R"] | list,
    loss: Real[np.ndarray, " R"] | list,
    *,
    share: float = 0.5,
    least: float = 0.0,
    below: float = np.inf,
) -> Drop | None:
    """Locates the drop of a loss curve; None where the loss never decreases.

    Args:
      steps: increasing.
      loss: one per step; non-finite records are dropped.
      share: of the whole decrease that the drop must hold, in (0, 1).
      least: a loss that decreases by no more than this has not dropped.
      below: records before the first one at or below this loss do not count.
    """
    require(0 < share < 1, f"share must lie in (0, 1), got {share}.")
    t, v = np.asarray(steps, float), np.asarray(loss, float)
    keep = np.isfinite(v)
    t, v = t[keep], v[keep]
    counted = np.maximum.accumulate(v <= below)
    t, v = t[counted], v[counted]
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
    flat = np.flatnonzero(fall[0] <= 0.1 * whole * (1 + 1e-12))[-1]
    slope = (v[inner - 1] - v[inner + 1]) / (t[inner + 1] - t[inner - 1])
    return Drop(
        start=float(t[a]),
        end=float(t[b]),
        steepest=float(t[inner[np.argmax(slope)]]),
        decrease=float(fall[a, b] / whole),
        duration=float((t[b] - t[a]) / (t[-1] - t[0])),
        plateau=float((t[min(a, flat)] - t[0]) / (t[-1] - t[0])),
    )


def best_constant(
    y: Integer[np.ndarray, "*B"], weight: Real[np.ndarray, "*B"]
) -> float:
    """Loss in nats of the best prediction that is the same everywhere.

    The entropy of the labels' frequencies, which that prediction is.

    Args:
      y: labels, 0 or larger where they count.
      weight: how much each counts.
    """
    counts = np.bincount(y[weight > 0], weight[weight > 0])
    return float(entropy(counts))
