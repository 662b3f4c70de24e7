r"""Optimizers and learning-rate schedules as records; the rules themselves are optax's.

The learning rate is a function of the samples seen before the step, t:

    eta(t) = peak * min(1, (t + 1) / warmup) * decay(t)
    decay(t) = 1, or (1 + cos(pi * clip((t - warmup) / (total - warmup), 0, 1))) / 2

Any other shape is a schedule of optax by its name (`Scheduled`), and any other rule a
frozen dataclass that subclasses `Rule`.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from sandbox.errors import ConfigError, require
from sandbox.store.bounds import (
    AtLeast,
    MoreThan,
    Within,
    check_fields,
    is_number,
    shown,
)
from sandbox.store.config import later
from sandbox.types import Array


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """A learning-rate schedule in samples.

    Attributes:
      peak: the largest rate.
      warmup: samples of linear warm-up; 0 for none.
      decay: `constant` after the warm-up, or `cosine` to zero at `total`.
      total: sample at which the cosine reaches zero; unused when constant.
    """

    peak: Annotated[float, MoreThan(0)] = 0.01
    warmup: Annotated[int, AtLeast(0)] = 0
    decay: Literal["constant", "cosine"] = "constant"
    total: Annotated[int, AtLeast(0)] = 0

    def __post_init__(self) -> None:
        """Refuses rates and horizons that cannot train."""
        check_fields(self, "lr")
        if self.decay == "cosine":
            require(
                self.total > self.warmup,
                f"lr.total must exceed lr.warmup = {self.warmup} for a cosine decay,"
                f" got {self.total}.",
            )

    def at(self, t: Array) -> Array:
        """The rate for steps that start after `t` samples."""
        t = t.astype(jnp.result_type(float))
        rate = jnp.full_like(t, self.peak)
        if self.warmup:
            rate = rate * jnp.minimum(1.0, (t + 1) / self.warmup)
        if self.decay == "cosine":
            done = jnp.clip((t - self.warmup) / (self.total - self.warmup), 0.0, 1.0)
            rate = rate * 0.5 * (1 + jnp.cos(jnp.pi * done))
        return rate


SCHEDULES = (
    *("constant_schedule", "cosine_decay_schedule", "cosine_onecycle_schedule"),
    *("exponential_decay", "linear_onecycle_schedule", "linear_schedule"),
    *("polynomial_schedule", "warmup_constant_schedule"),
    *("warmup_cosine_decay_schedule", "warmup_exponential_decay_schedule"),
)
"""Those of `optax.schedules` that numbers alone describe."""


@dataclass(frozen=True)
class Argument:
    """One argument of a schedule."""

    name: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    """A schedule of `optax.schedules`, whose steps are samples.

    Its horizons (`transition_steps`, `decay_steps`, ...) are counted in samples, and it
    is asked at the samples seen before the step.

    Attributes:
      name: e.g. `warmup_cosine_decay_schedule`, `linear_schedule`.
      arguments: its numbers by name; see `scheduled`.
    """

    name: str
    arguments: tuple[Argument, ...]

    def __post_init__(self) -> None:
        """Refuses what optax does not have, or does not take."""
        check_fields(self, "lr")
        require(
            self.name in SCHEDULES,
            f"lr.name must be one of optax.schedules, {', '.join(SCHEDULES)}, got"
            f" {self.name!r}.",
        )
        try:
            rates = self.at(2.0 ** jnp.arange(-1, 32))
        except (TypeError, ValueError) as e:
            raise ConfigError(f"lr: optax refuses these arguments ({e}).") from e
        require(
            bool((jnp.isfinite(rates) & (rates >= 0)).all()),
            f"lr: {self.name} must give rates from 0, got {shown(rates.tolist())}.",
        )

    def at(self, t: Array) -> Array:
        """The rate for steps that start after `t` samples."""
        numbers = {a.name: a.value for a in self.arguments}
        schedule = getattr(optax.schedules, self.name)(**numbers)
        return jax.vmap(schedule)(t.astype(jnp.result_type(float)))


def scheduled(name: str, **numbers: int | float) -> Scheduled:
    """`Scheduled` from keyword arguments.

    Example:
        >>> scheduled("linear_schedule", init_value=.1, end_value=.01,
        ...           transition_steps=100_000)
    """
    wrong = [n for n, v in numbers.items() if not is_number(v)]
    require(not wrong, f"lr: {', '.join(wrong)} must be numbers.")
    own = tuple(Argument(n, float(v)) for n, v in sorted(numbers.items()))
    return Scheduled(name=name, arguments=own)


@runtime_checkable
class Rule(Protocol):
    """An optimizer: a learning rate and an optax transformation without one."""

    @property
    def lr(self) -> LearningRate | Scheduled:
        """The learning rate."""
        ...

    @property
    def plain(self) -> bool:
        """Whether a step is exactly minus the rate times the gradient."""
        return False

    @abstractmethod
    def transform(self) -> optax.GradientTransformation:
        """The optax rule without its learning rate."""
        ...


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent, with heavy-ball momentum if asked.

    Attributes:
      lr: the learning rate.
      momentum: decay rate of the sum of gradients.
      weight_decay: weights shrink by lr times this in each step.
    """

    lr: LearningRate | Scheduled = field(default_factory=LearningRate)
    momentum: Annotated[float, Within(0, 1, "[)")] = 0.0
    weight_decay: Annotated[float, AtLeast(0)] = later(0.0)

    def __post_init__(self) -> None:
        """Refuses a momentum outside [0, 1)."""
        check_fields(self, "optimizer")

    @property
    def plain(self) -> bool:
        """Whether a step is exactly minus the rate times the gradient."""
        return self.momentum == 0 and self.weight_decay == 0

    def transform(self) -> optax.GradientTransformation:
        """The optax rule without its learning rate."""
        rule = optax.trace(self.momentum) if self.momentum else optax.identity()
        if not self.weight_decay:
            return rule
        return optax.chain(rule, optax.add_decayed_weights(self.weight_decay))


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam (Kingma and Ba, 2015); AdamW (Loshchilov and Hutter, 2019) with decay.

    Attributes:
      lr: the learning rate.
      b1: decay rate of the mean of gradients.
      b2: decay rate of the mean of their squares.
      eps: added to the root of the latter.
      clip: largest norm of the whole gradient, which is scaled down to it; 0 for none.
      weight_decay: weights shrink by lr times this in each step, apart from Adam.
    """

    lr: LearningRate | Scheduled = field(
        default_factory=lambda: LearningRate(peak=1e-3)
    )
    b1: Annotated[float, Within(0, 1, "[)")] = 0.9
    b2: Annotated[float, Within(0, 1, "[)")] = 0.999
    eps: Annotated[float, MoreThan(0)] = 1e-8
    clip: Annotated[float, AtLeast(0)] = later(0.0)
    weight_decay: Annotated[float, AtLeast(0)] = later(0.0)

    plain = False

    def __post_init__(self) -> None:
        """Refuses decay rates outside [0, 1)."""
        check_fields(self, "optimizer")

    def transform(self) -> optax.GradientTransformation:
        """The optax rule without its learning rate."""
        adam = optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps)
        if not self.clip and not self.weight_decay:
            return adam
        parts = [optax.clip_by_global_norm(self.clip)] if self.clip else []
        decay = [optax.add_decayed_weights(self.weight_decay)]
        return optax.chain(*parts, adam, *(decay if self.weight_decay else []))


Optimizer = SGD | Adam | Rule
