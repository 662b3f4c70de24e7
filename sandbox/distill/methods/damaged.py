"""A damaged final teacher first, then the whole; each seed's damage is its own."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import numpy as np

from sandbox.distill.sources import Lane, Member, Source
from sandbox.errors import require
from sandbox.store.bounds import AtLeast, MoreThan, check_fields
from sandbox.types import Params


@runtime_checkable
class Damage(Protocol):
    """Changes a network's parameters."""

    @abstractmethod
    def apply(self, params: Params, rng: np.random.Generator) -> Params:
        """Changed numpy parameters; the given ones stay as they are."""
        ...


@dataclass(frozen=True, kw_only=True)
class WeightNoise(Damage):
    """Noise on the first layer's kernel.

    Attributes:
      scale: its standard deviation, in those of the kernel's entries.
    """

    scale: Annotated[float, MoreThan(0)]

    def __post_init__(self) -> None:
        """Refuses no noise."""
        check_fields(self, "damage")

    def apply(self, params: Params, rng: np.random.Generator) -> Params:
        """Another first kernel."""
        require("kernel" in params["layer_0"], "WeightNoise changes MLPs alone.")
        w = params["layer_0"]["kernel"]
        noise = self.scale * w.std() * rng.standard_normal(w.shape)
        kernel = (w + noise).astype(w.dtype)
        return {**params, "layer_0": {**params["layer_0"], "kernel": kernel}}


@dataclass(frozen=True)
class OtherSupport(Damage):
    """Inputs of an MLP in another order: a teacher of another support, a control."""

    def apply(self, params: Params, rng: np.random.Generator) -> Params:
        """The first kernel with its rows permuted."""
        require("kernel" in params["layer_0"], "OtherSupport changes MLPs alone.")
        w = params["layer_0"]["kernel"]
        kernel = w[rng.permutation(w.shape[0])]
        return {**params, "layer_0": {**params["layer_0"], "kernel": kernel}}


@dataclass(frozen=True, kw_only=True)
class Damaged(Source):
    """The final checkpoint, damaged for `hold` samples and then whole.

    Attributes:
      damage: what is done to it.
      hold: samples that the damaged one teaches.
    """

    damage: Damage
    hold: Annotated[int, AtLeast(1)]

    def __post_init__(self) -> None:
        """Refuses an empty first stage."""
        check_fields(self, "source")

    def checkpoint_at(self, t: int, lane: Lane) -> int | None:
        """The final checkpoint, damaged or not."""
        return lane.final

    def members_at(self, t: int, lane: Lane) -> tuple[Member, ...]:
        """The damaged one below `hold`."""
        return (Member(lane.final, variant=int(t < self.hold)),)

    def prepare(self, params: Params, variant: int, seed: int) -> Params:
        """The damage, drawn from the seed's number."""
        return self.damage.apply(params, np.random.default_rng(seed))

    def next_switch(self, t: int, lane: Lane) -> int | None:
        """The end of the first stage."""
        return self.hold if t < self.hold else None

    def checkpoints(self, lane: Lane) -> tuple[int, ...]:
        """The final one alone."""
        return (lane.final,)

    def borders(self, n_seeds: int) -> list[tuple[str, int]]:
        """The samples that the damaged one teaches."""
        return [("source.hold", self.hold)]
