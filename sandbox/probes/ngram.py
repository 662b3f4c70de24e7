r"""How far a masked-token predictor leans on the n-gram around a position.

At a position i of a string, let p be the prediction with only i masked and W the n-gram
window around i (`sandbox.tasks.windows`). Then

    M_robust(n) = TV(p, prediction with W masked as well)
    M_close(n)  = TV(p, prediction with everything outside W masked)
    KL(n)       = KL(b_n || p),  KL(all) = KL(b || p)

with TV(p, q) = 1/2 sum_a |p(a) - q(a)|, b_n the exact Bayes prediction from the tokens
of W, the length of the string and the position i alone, and b the one from all tokens
but i. A predictor that used just these, optimally, would have KL(n) = 0; an optimal one
KL(all) = 0. Numbers are taken over a fixed sample of strings, at positions spread
evenly over each string, every window inside it; BOS stays in sight. Where the task
hides its selected positions from attention, masked ones are hidden here too.

Source: Panigrahi et al. (arXiv 2410.05464), section 4. Their code reports the L1 norm,
which is twice the total variation, masks BOS in M_close, and has i = 30, 60, ..., 420.

Example:
    >>> probe = NgramProbe(task=MaskedLM(), model=model)
    >>> measure_trajectory(run, probe, root=root).values["m_robust/3/median"]
"""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from sandbox.errors import require
from sandbox.models.base import Model
from sandbox.store.bounds import AtLeast, Within, check_fields
from sandbox.tasks.bayes_context import (
    predict_alone,
    predict_from_window,
    predict_without_window,
    total_variation,
)
from sandbox.tasks.masking import MaskedLM
from sandbox.tasks.windows import window_mask
from sandbox.train.buckets import in_parts
from sandbox.types import Array, Params, Tokens

ROWS = 64
"""Sequences of one forward pass."""
_TINY = 1e-30


class Questions(NamedTuple):
    """The sample that a probe asks about, and the exact answers.

    Attributes:
      tokens: clean terminals by number, -1 after the end; no BOS.
      length: tokens of each string.
      at: the positions i.
      exact: b, the exact prediction with only i masked.
      from_window: b_n for every n.
      without_window: exact predictions with the window masked as well.
    """

    tokens: Int[Array, "B N"]
    length: Int[Array, " B"]
    at: Int[Array, "B K"]
    exact: Float[Array, "B K C"]
    from_window: Float[Array, "W B K C"]
    without_window: Float[Array, "W B K C"]


@dataclass(frozen=True, kw_only=True)
class NgramProbe:
    """M_robust, M_close and distances to the exact n-gram predictors.

    Attributes:
      task: whose strings; its probe stream.
      model: the network.
      windows: the sizes n.
      strings: how many strings.
      places: positions of each string, evenly spread over it.
    """

    task: MaskedLM
    model: Model
    windows: tuple[Annotated[int, AtLeast(1)], ...] = (2, 3, 4, 5)
    strings: Annotated[int, Within(1, 2**20)] = 256
    places: Annotated[int, Within(1, 2**20)] = 4

    def __post_init__(self) -> None:
        """Refuses samples that hold nothing."""
        check_fields(self, "probe")
        require(len(self.windows) > 0, "probe.windows must name at least one size.")

    def positions(self, length: Int[Array, " B"]) -> Int[Array, "B K"]:
        """The positions i, counted in tokens from 0.

        As far from the ends as the widest window reaches, where the string allows it.
        """
        left, right = max(self.windows) // 2, (max(self.windows) - 1) // 2
        span = jnp.maximum(length - left - right, 1)
        share = (jnp.arange(self.places) + 0.5) / self.places
        at = left + (share[None] * span[:, None]).astype(jnp.int32)
        return jnp.clip(at, 0, length[:, None] - 1).astype(jnp.int32)

    def prepare(self, key: Any) -> Questions:
        """The sample of a seed's probe stream and the exact predictions on it."""
        arrays = self.task.arrays
        rows = self.task.rows(key, jnp.uint32(0), self.strings, split="probe")
        length = rows.inner.sum(1)
        tokens = jnp.where(rows.inner, rows.clean, -1)[:, 1:]
        at = self.positions(length)
        common = (arrays, tokens, length, at)
        return Questions(
            tokens,
            length,
            at,
            predict_alone(*common),
            jnp.stack([predict_from_window(*common, n) for n in self.windows]),
            jnp.stack([predict_without_window(*common, n) for n in self.windows]),
        )

    def measure(
        self, params: Params, key: Any, prepared: Questions
    ) -> dict[str, Array]:
        """Quartiles and means of everything, and the exact predictor's own.

        Args:
          params: of the model.
          key: unused; the sample was drawn from it by `prepare`.
          prepared: of `prepare`.

        Returns:
          `m_robust/{n}/{median,q25,q75,mean,se}`, the same for `m_close`, the means
          `kl/{n}`, `kl/all` in nats with `_se` and `_median`,
          `exact/m_robust/{n}/...` and `exact/m_close/{n}/...` of the Bayes predictor;
          `accuracy` and `exact/accuracy` with only i masked. Standard errors count
          strings, whose positions are not independent.
        """
        p = self._predictions(params, prepared)
        out: dict[str, Array] = {}
        for w, n in enumerate(self.windows):
            for prefix, base, less, only in (
                ("", p[0], p[1 + 2 * w], p[2 + 2 * w]),
                (
                    "exact/",
                    prepared.exact,
                    prepared.without_window[w],
                    prepared.from_window[w],
                ),
            ):
                for name, q in (("m_robust", less), ("m_close", only)):
                    out |= _summary(f"{prefix}{name}/{n}", total_variation(base, q))
        exact = (*prepared.from_window, prepared.exact)
        for n, b in zip((*self.windows, "all"), exact, strict=True):
            kl = _kl(b, p[0])
            out |= _mean(f"kl/{n}", kl) | {f"kl/{n}_median": jnp.median(kl)}
        true = jnp.take_along_axis(prepared.tokens, prepared.at, 1)
        for prefix, q in (("", p[0]), ("exact/", prepared.exact)):
            hit = (jnp.argmax(q, -1) == true).astype(q.dtype)
            out |= _mean(f"{prefix}accuracy", hit)
        return out

    def _predictions(self, params: Params, asked: Questions) -> Float[Array, "Q B K C"]:
        """The model's predictions at i: with i masked, then without and from each W."""
        n_tokens = asked.tokens.shape[1]
        inner = jnp.arange(n_tokens)[None, :] < asked.length[:, None]

        def at_place(i: Array) -> Array:
            alone = window_mask(i, 1, n_tokens)
            masked = [alone]
            for n in self.windows:
                window = window_mask(i, n, n_tokens)
                masked += [window, ~window | alone]
            return jax.lax.map(
                lambda m: self._at(params, asked.tokens, inner, m, i), jnp.stack(masked)
            )

        p = jax.lax.map(at_place, asked.at.T)
        return jnp.transpose(p, (1, 2, 0, 3))

    def _at(
        self,
        params: Params,
        tokens: Int[Array, "B N"],
        inner: Bool[Array, "B N"],
        masked: Bool[Array, "B N"],
        i: Int[Array, " B"],
    ) -> Float[Array, "B C"]:
        """Predictions at token i of every string, with some positions masked."""
        words = self.task.vocabulary

        def some(rows: tuple[Array, ...]) -> Array:
            clean, valid, hide, at = rows
            ids = jnp.where(hide & valid, words.mask, clean)
            ids = jnp.where(valid, ids, words.pad)
            seen = valid & ~hide if self.task.hidden else valid
            first = jnp.ones((clean.shape[0], 1), bool)
            x = Tokens(
                jnp.concatenate([jnp.full_like(ids[:, :1], words.bos), ids], 1),
                jnp.concatenate([first, valid], 1),
                jnp.concatenate([first, seen], 1),
            )
            logits = self.model.apply(params, x).logits
            here = jnp.take_along_axis(logits, at[:, None, None] + 1, 1)[:, 0]
            return jax.nn.softmax(here, -1)

        return in_parts(some, (tokens, inner, masked, i), ROWS)


def _kl(p: Float[Array, "*B C"], q: Float[Array, "*B C"]) -> Float[Array, "*B"]:
    """KL(p || q) in nats; 0 log 0 = 0."""
    ratio = jnp.log(jnp.maximum(p, _TINY)) - jnp.log(jnp.maximum(q, _TINY))
    return jnp.sum(jnp.where(p > 0, p * ratio, 0), -1)


def _mean(name: str, v: Float[Array, "B K"]) -> dict[str, Array]:
    """Mean over everything and its standard error over strings."""
    strings = v.mean(1)
    se = jnp.std(strings, ddof=1) / jnp.sqrt(strings.shape[0])
    return {name: strings.mean(), f"{name}_se": se}


def _summary(name: str, v: Float[Array, "B K"]) -> dict[str, Array]:
    low, median, high = jnp.quantile(v, jnp.asarray([0.25, 0.5, 0.75]))
    mean, se = _mean(name, v).values()
    parts = {"median": median, "q25": low, "q75": high, "mean": mean, "se": se}
    return {f"{name}/{k}": a for k, a in parts.items()}
