r"""Curriculum extraction: Gupta and Karmalkar (arXiv 2503.17494).

A student's activations s match, through a trained head, projections of its teacher's h,
sum_j ((s W + b)_j - ((h - mean h) V)_j)^2, layer by layer; then the output is matched.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from sandbox.distill.losses import Answers, Objective, Taught
from sandbox.distill.methods.features import last
from sandbox.distill.targets import Known
from sandbox.errors import require
from sandbox.store.bounds import AtLeast, MoreThan, check_fields
from sandbox.types import Array, Params


@dataclass(frozen=True, kw_only=True)
class Features(Objective):
    """Projected activations.

    Attributes:
      layers: taps of both networks, e.g. `hidden_0`, in the order they are matched.
      project: `random` directions V (theirs), or leading principal `components`.
      dims: projections of each layer, scaled to variance 1; all seeds share V.
      weight: of the squared distances.
      hold: samples of each layer, then cross-entropy; 0 for all layers throughout.
    """

    layers: tuple[str, ...]
    project: Literal["random", "components"] = "random"
    dims: Annotated[int, AtLeast(1)] = 32
    weight: Annotated[float, MoreThan(0)] = 0.1
    hold: Annotated[int, AtLeast(0)] = 0

    uses_known = True

    def __post_init__(self) -> None:
        """Refuses no layer, and weights of attention, which are no features."""
        check_fields(self, "loss")
        ok = bool(self.layers) and not any("attention" in n for n in self.layers)
        require(ok, f"loss.layers must name layers of features, got {self.layers}.")

    @property
    def taps(self) -> tuple[str, ...]:
        """The layers."""
        return self.layers

    def init_aux(self, key: Any, student: Answers, teacher: Answers | None) -> Params:
        """A linear head a layer."""
        out, acts = [], student.acts or {}
        for i, name in enumerate(self.layers):
            n = ((teacher or student).acts or {})[name].shape[-1]
            require(self.dims <= n, f"loss.dims must be at most {n}, as {name} has.")
            shape = (acts[name].shape[-1], self.dims)
            w = 0.2 * jax.random.normal(jax.random.fold_in(key, i), shape)
            out.append((w, jnp.zeros(self.dims, w.dtype)))
        return out

    def statistics(self, known: Known) -> Any:
        """Projection `(width, dims)` of each layer, and minus that of its mean."""
        share, out = (known.weight / jnp.sum(known.weight))[None], []
        for i, h in enumerate((known.acts or {})[name] for name in self.layers):
            h = last(h, known.logits)
            mean = jnp.dot(share, h, precision="highest")
            cov = jnp.dot((h - mean).T * share, h - mean, precision="highest")
            v = jax.random.normal(jax.random.key(i), (len(cov), self.dims), h.dtype)
            if self.project == "components":
                v = jnp.linalg.eigh(cov)[1][:, ::-1][:, : self.dims]
            variance = jnp.sum(v * jnp.dot(cov, v, precision="highest"), 0)[None]
            v = v / jnp.sqrt(jnp.maximum(variance, 1e-6 * jnp.max(variance)))
            out.append((v, -jnp.dot(mean, v, precision="highest")[0]))
        return out

    def supervise(self, label: Array, taught: Taught | None, numbers: Any) -> Any:
        """Projections, whether each layer and the output is matched, and the target."""
        assert taught and taught.known and taught.answers.acts and taught.t is not None
        pairs = zip(self.layers, taught.known.stats, strict=True)
        g = [head(taught.answers.acts[name], label, *vm) for name, vm in pairs]
        one, stage = jnp.ones_like(taught.tau), taught.t // max(self.hold, 1)
        on = [self.weight * one * (not self.hold or stage == i) for i in range(len(g))]
        return g, on, one * (stage >= len(g)) * (self.hold > 0), taught.p

    def value(self, out: Answers, sup: Any, aux: Params) -> Array:
        """The loss of each row."""
        g, on, last, p = sup
        total = -last * jnp.sum(p * jax.nn.log_softmax(out.logits, -1), -1)
        for name, goal, share, own in zip(self.layers, g, on, aux, strict=True):
            gap = head((out.acts or {})[name], out.logits, *own) - goal
            total += share * jnp.sum(gap**2, -1)
        return total


def head(acts: Array, like: Array, w: Array, b: Array) -> Array:
    """Activations through w and b; of the last position where the label has none."""
    out = jnp.dot(last(acts, like), w, precision="highest")
    return out + jnp.broadcast_to(b, out.shape)
