r"""When a recorded curve changes, and which checkpoints to use: rules, no human eye.

Pure numpy on recorded curves; steps are samples seen. `locate` finds a phase,
`choose_checkpoints` applies the rules that were fixed before the runs, `half_rise` and
`blind_choice` pick a checkpoint without labels, from the output's spread and from its
degree-1 Fourier curve.

Example:
    >>> locate(np.arange(5), np.array([0.5, 0.5, 0.6, 0.9, 1.0]))
    Phase(start=1.0, middle=2.5, end=4.0)
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Real

from sandbox.errors import require

BLIND_WINDOW = 3
BLIND_FLOOR = 0.01
BLIND_RATIO = 1.5


@dataclass(frozen=True)
class Phase:
    """Where a transition starts, is half done and ends, in samples.

    Attributes:
      start: last record before the curve leaves its baseline for good.
      middle: first crossing of half of the change, interpolated between records.
      end: first record from the middle on that has made most of the change.
    """

    start: float
    middle: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Checkpoints by rule, each as its step; None where no checkpoint satisfies it.

    Attributes:
      final: the teacher of the last stage.
      after: first with accuracy > .999, strictly before `final`.
      middle: largest in-minus-out degree-1 gap during the transition.
      before: nearest to half of n53; never step 0.
      before_last: last one before n53 (the paper scale's second `before`).
      blind: the label-free choice, see `blind_choice`.
      half_rise: another one, see `half_rise`.
    """

    final: int | None
    after: int | None
    middle: int | None
    before: int | None
    before_last: int | None
    blind: int | None
    half_rise: int | None


def _finite(
    steps: Real[np.ndarray, " R"], values: Real[np.ndarray, " R"]
) -> tuple[np.ndarray, np.ndarray]:
    """Records with a finite value, as floats."""
    steps, values = np.asarray(steps, float), np.asarray(values, float)
    keep = np.isfinite(values)
    return steps[keep], values[keep]


def locate(
    steps: Real[np.ndarray, " R"],
    values: Real[np.ndarray, " R"],
    *,
    low: float = 0.05,
    high: float = 0.95,
    min_change: float = 0.1,
) -> Phase | None:
    """Locates the largest change of a rising or falling curve.

    The baseline is the value of the first record, the plateau the later value farthest
    from it, and u = (value - baseline) / (plateau - baseline).

        middle  first crossing of u = 1/2, linear between records
        start   last record before the middle with u <= low
        end     first record from the middle on with u >= high

    For a curve that rises and falls back, the phase is its rise. Non-finite records are
    dropped.

    Args:
      steps: increasing.
      values: one per step, in any unit.
      low: band around the baseline, as a share of the change.
      high: share of the change that counts as done, in (1/2, 1].
      min_change: smallest |plateau - baseline| that counts, in the unit of `values`.

    Returns:
      The phase, or None where the curve changes by less than `min_change`.
    """
    require(
        0 <= low < 0.5 < high <= 1,
        f"low and high must satisfy 0 <= low < 1/2 < high <= 1, got {low} and {high}.",
    )
    t, v = _finite(steps, values)
    if len(v) < 2:
        return None
    change = v[np.argmax(np.abs(v - v[0]))] - v[0]
    if change == 0 or abs(change) < min_change:
        return None
    u = (v - v[0]) / change
    j = int(np.argmax(u >= 0.5))
    start = t[:j][u[:j] <= low][-1]
    middle = t[j - 1] + (t[j] - t[j - 1]) * (0.5 - u[j - 1]) / (u[j] - u[j - 1])
    end = t[j:][u[j:] >= high][0]
    return Phase(float(start), float(middle), float(end))


def first_reach(
    steps: Real[np.ndarray, " R"], values: Real[np.ndarray, " R"], level: float
) -> float:
    """First step whose value is at least `level`; infinity if none is.

    A NaN never reaches anything. n90 is `first_reach(steps, accuracy, 0.9)`.
    """
    hit = np.flatnonzero(np.asarray(values, float) >= level)
    return float(steps[hit[0]]) if len(hit) else float("inf")


def blind_score(
    degree1: Float[np.ndarray, "R d"], se: Float[np.ndarray, "R d"]
) -> Float[np.ndarray, " R"]:
    """Degree-1 Fourier energy of the output, without labels or support.

    score = max(0, sum_i c_i^2 - sum_i se_i^2); the second sum is what sampling noise
    adds to the first on average.

    Args:
      degree1: centred correlations of class 1 with every coordinate.
      se: their standard errors.
    """
    return np.maximum((degree1**2).sum(1) - (se**2).sum(1), 0)


def blind_choice(
    steps: Real[np.ndarray, " R"],
    score: Real[np.ndarray, " R"],
    *,
    window: int = BLIND_WINDOW,
    min_ratio: float = BLIND_RATIO,
) -> int | None:
    """Picks the curriculum checkpoint without labels: the maximum after the trough.

    Batch-1 noise makes the score large early on; it then sinks, rises again while the
    network learns, and collapses at convergence. With s the running median of the score
    (`window` records, cut at the ends), the trough is the record r with the deepest
    valley,

        depth_r = min(max_{q<r} s_q, max_{q>r} s_q) / (s_r + 0.01 max s),

    and the choice is the first maximum of s after it. The added 1% of the maximum keeps
    dips of the converged score, which is near zero, from counting as valleys.

    Measured at d=32, k=6, m=1000, lr=.01, spacing about n90/30, 16,384 points: all 32
    teachers chosen at .82-1.00 x n90, accuracy .57-.94, depth 2.2 or more. It needs the
    noise to have faded before the transition and a quick transition: at lr=.005 it was
    late in 2 and early in 1 of 6 teachers, at k=5 it mostly answers None and at k=4 it
    can be wrong. It is ours, not the paper's.

    Args:
      steps: increasing.
      score: from `blind_score`. Non-finite records are dropped.
      window: odd number of records in the running median.
      min_ratio: least depth that counts as a trough.

    Returns:
      The step of the chosen checkpoint, or None where there is no trough.
    """
    require(
        window >= 1 and window % 2 == 1,
        f"window must be odd and positive, got {window}.",
    )
    t, v = _finite(steps, score)
    if len(v) < 3:
        return None
    half = window // 2
    s = np.array([np.median(v[max(0, r - half) : r + half + 1]) for r in range(len(v))])
    if s.max() <= 0:
        return None
    left = np.maximum.accumulate(s)[:-2]
    right = np.maximum.accumulate(s[::-1])[::-1][2:]
    depth = np.minimum(left, right) / (s[1:-1] + BLIND_FLOOR * s.max())
    trough = 1 + int(np.argmax(depth))
    if depth[trough - 1] < min_ratio:
        return None
    return int(t[trough + 1 + int(np.argmax(s[trough + 1 :]))])


def output_variance(
    degree1: Float[np.ndarray, "R d"], se: Float[np.ndarray, "R d"], points: int
) -> Float[np.ndarray, " R"]:
    """Var p(1 | x) over inputs of signs, from what the Fourier probe stores.

    A coordinate's standard error is that of p times a sign, so that

        Var p = (points - 1) se_i^2 + c_i^2   for every i, up to rounding; their mean.

    Args:
      degree1: centred correlations of class 1 with every coordinate.
      se: their standard errors.
      points: probe inputs.
    """
    return ((points - 1) * se**2 + degree1**2).mean(1)


def half_rise(
    steps: Real[np.ndarray, " R"], variance: Real[np.ndarray, " R"]
) -> int | None:
    """Picks the curriculum checkpoint without labels: halfway to sure answers.

    The standard deviation of p(1 | x) goes from 0, where the network answers alike
    everywhere, to 1/2, where it is sure of either class. The choice is the first record
    after the last one at which it was below half of its maximum. Being the last time,
    it is not misled by the swings of early training at batch size 1; a network that is
    calibrated has accuracy .75 where p is .25 on one half and .75 on the other.

    Unlike `blind_choice` it reads no correlation, which shrinks as d grows. Designed on
    five teachers at d=32, k=6, m=1000, lr=.01, spacing about n90/80, 16,384 points: at
    .88-.93 x n90, where the checkpoint of the largest gap is (.89-.92). It is ours, not
    the paper's.

    Args:
      steps: increasing.
      variance: from `output_variance`. Non-finite records are dropped.

    Returns:
      The step of the chosen checkpoint, or None where the last record is below half of
      the maximum, or none ever was.
    """
    t, v = _finite(steps, variance)
    low = np.flatnonzero(4 * v < v.max(initial=0))
    if not len(low) or low[-1] == len(v) - 1:
        return None
    return int(t[low[-1] + 1])


def choose_checkpoints(
    steps: Real[np.ndarray, " R"],
    accuracy: Real[np.ndarray, " R"],
    gap: Real[np.ndarray, " R"],
    blind_score: Real[np.ndarray, " R"],
    variance: Real[np.ndarray, " R"],
    *,
    n_classes: int,
    scale_rule: Literal["cpu", "paper"],
) -> Candidates:
    """Chooses a teacher's checkpoints from its recorded curves by the fixed rules.

    With n90 the first step of accuracy >= .90 and n53 that of accuracy >= 1/C + .03:

        final        cpu: first at or after 3 n90
                     paper: first at or after 1.3 n90 with accuracy > .999
        after        first with accuracy > .999, strictly before final
        middle       largest gap among accuracies in [1/C + .03, .92] before final
        before       nearest to n53 / 2 (the earlier of two), not step 0, before n53
        before_last  last one before n53, not step 0
        blind        `blind_choice(steps, blind_score)`
        half_rise    `half_rise(steps, variance)`

    Without a final checkpoint there is neither an `after` nor a `middle`.

    Args:
      steps: increasing; one record per checkpoint, the first at step 0.
      accuracy: of the teacher on held-out rows.
      gap: mean |degree-1 correlation| in the support minus outside.
      blind_score: from `blind_score`.
      variance: from `output_variance`.
      n_classes: number of classes C.
      scale_rule: which rule for `final`.
    """
    require(
        scale_rule in ("cpu", "paper"),
        f"scale_rule must be cpu or paper, got {scale_rule!r}.",
    )
    acc, chance = np.asarray(accuracy, float), 1 / n_classes + 0.03
    n90, n53 = first_reach(steps, acc, 0.9), first_reach(steps, acc, chance)
    if scale_rule == "cpu":
        final = _first(steps, steps >= 3 * n90)
    else:
        final = _first(steps, (acc > 0.999) & (steps >= 1.3 * n90))
    earlier = steps < (-np.inf if final is None else final)
    learning = earlier & (acc >= chance) & (acc <= 0.92) & np.isfinite(gap)
    early = steps[(steps > steps[0]) & (steps < n53)] if n53 < np.inf else steps[:0]
    return Candidates(
        final=final,
        after=_first(steps, earlier & (acc > 0.999)),
        middle=_best(steps[learning], np.asarray(gap, float)[learning]),
        before=_best(early, -np.abs(early - n53 / 2)),
        before_last=int(early[-1]) if len(early) else None,
        blind=blind_choice(steps, blind_score),
        half_rise=half_rise(steps, variance),
    )


def _first(steps: np.ndarray, mask: np.ndarray) -> int | None:
    """First step where the mask is set."""
    return int(steps[mask][0]) if mask.any() else None


def _best(steps: np.ndarray, merit: np.ndarray) -> int | None:
    """First step of largest merit."""
    return int(steps[np.argmax(merit)]) if len(steps) else None
