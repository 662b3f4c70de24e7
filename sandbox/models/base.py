"""The `Model` protocol: pure functions on parameter pytrees."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Protocol, runtime_checkable

from sandbox.store.bounds import AtLeast, AtMost
from sandbox.types import Outputs, Params

Size = Annotated[int, AtLeast(1), AtMost(2**31 - 1)]


@runtime_checkable
class Model(Protocol):
    """A frozen, hashable record; parameters are plain nested dicts of arrays."""

    @property
    def n_classes(self) -> int:
        """Number of logits C."""
        ...

    def init(self, key: Any) -> Params:
        """Fresh parameters."""
        ...

    def apply(
        self,
        params: Params,
        x: Any,
        *,
        key: Any | None = None,
        taps: Sequence[str] = (),
    ) -> Outputs:
        """Logits and the named activations asked for; `key` only for dropout."""
        ...

    def width_axes(self, params: Params) -> Params:
        """A tree like `params` whose leaves name the role of every axis."""
        ...


def widened(model: Any, r: int) -> Any:
    """The model with r times its hidden units, or its heads."""
    if hasattr(model, "network"):
        return replace(model, network=widened(model.network, r))
    if hasattr(model, "hidden"):
        return replace(model, hidden=tuple(r * m for m in model.hidden))
    return replace(model, heads=r * model.heads, inner=r * model.inner)
