r"""The `Strategy` record: one distillation method, stated by what it changes.

Per example, with student logits z, teacher logits z_T and label y:

    alpha * CE(y, softmax(z))
      + (1 - alpha) * scale * D(softmax(z_T / tau), softmax(z / tau_student))

D is the cross-entropy to the teacher (`forward`, the gradient of the forward KL) or
KL(student || teacher) (`reverse`). tau = 0 is the exact argmax teacher. The paper's
runs have alpha = 0, tau_student = scale = 1; the convention of Hinton et al. (2015) is
tau = tau_student = T with scale = T^2.

Example:
    >>> Strategy(name="one-shot", source=Final(), target=Target(tau=0.0))
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from sandbox.distill.sources import BuiltInSource, Labels, Source
from sandbox.distill.updates import Joint
from sandbox.distill.views import Identity
from sandbox.errors import require
from sandbox.store.bounds import AtLeast, MoreThan, Within, check_fields
from sandbox.store.config import later


@dataclass(frozen=True, kw_only=True)
class Anneal:
    """A number that moves linearly from `start` to `end` in `over` samples."""

    start: float
    end: float
    over: Annotated[int, AtLeast(1)]

    def __post_init__(self) -> None:
        """Refuses an empty ramp and ends that are no numbers."""
        check_fields(self, "anneal")

    @property
    def numbers(self) -> tuple[float, float]:
        """What the bounds of an annealed field hold for."""
        return self.start, self.end


def ends(value: float | Anneal) -> tuple[float, float, int]:
    """(start, end, over) of a constant or an annealed number."""
    if isinstance(value, Anneal):
        return value.start, value.end, value.over
    return value, value, 1


@dataclass(frozen=True, kw_only=True)
class Target:
    """What of the teacher is matched.

    Attributes:
      tau: teacher temperature; 0 is the exact argmax (ties go to the lowest class).
    """

    tau: Annotated[float | Anneal, AtLeast(0)] = 1.0

    def __post_init__(self) -> None:
        """Refuses negative temperatures."""
        check_fields(self, "target")


@dataclass(frozen=True, kw_only=True)
class Loss:
    """How the student is scored against label and teacher.

    Attributes:
      alpha: weight of the label's cross-entropy.
      direction: `forward` or `reverse` KL.
      tau_student: temperature on the student's logits in the teacher term.
      scale: factor on the teacher term.
    """

    alpha: Annotated[float | Anneal, Within(0, 1)] = 0.0
    direction: Literal["forward", "reverse"] = "forward"
    tau_student: Annotated[float, MoreThan(0)] = 1.0
    scale: Annotated[float, MoreThan(0)] = 1.0

    def __post_init__(self) -> None:
        """Refuses weights outside [0, 1] and temperatures at or below 0."""
        check_fields(self, "loss")


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """One way to train a student.

    Attributes:
      name: how the lane is called in metrics, tables and legends.
      source: who teaches; a schedule of `sandbox.distill.sources` or one's own.
      target: what of the teacher is matched.
      loss: how the student is scored.
      view: how student and teacher parameters relate.
      update: what one optimizer step moves.
      init: which of its seed's initialisations the lane starts from; lanes with the
        same number start from the same weights.
    """

    name: str
    source: BuiltInSource | Source = field(default_factory=Labels)
    target: Target = field(default_factory=Target)
    loss: Loss = field(default_factory=Loss)
    view: Identity = field(default_factory=Identity)
    update: Joint = field(default_factory=Joint)
    init: Annotated[int, Within(0, 2**31 - 1)] = later(0)

    def __post_init__(self) -> None:
        """Refuses combinations that mean nothing."""
        check_fields(self, "strategy")
        require(
            bool(self.name) and self.name.isprintable(),
            "strategy.name must be a text that is not empty and can be printed, got"
            f" {self.name!r:.60}.",
        )
        require(
            isinstance(self.source, Source) and not isinstance(self.source, type),
            f"strategy {self.name!r}: source must be a schedule of who teaches (see"
            f" sandbox.distill.sources.Source), got {self.source!r}.",
        )
        if not self.source.needs_teacher:
            require(
                self.target == Target() and self.loss == Loss(),
                f"strategy {self.name!r} learns from labels alone, so target and loss"
                " must keep their defaults; choose a teacher source to use them.",
            )
        if self.loss.direction == "reverse":
            require(
                min(ends(self.target.tau)[:2]) > 0,
                f"strategy {self.name!r}: loss.direction = reverse needs target.tau >"
                " 0, because the reverse KL to an argmax teacher is infinite.",
            )

    @property
    def alpha(self) -> float | Anneal:
        """Weight of the label term: 1 where labels teach."""
        return self.loss.alpha if self.source.needs_teacher else 1.0

    @property
    def structure(self) -> tuple[str, float, float, Identity, Joint]:
        """What lanes of one group must share, because it is compiled in."""
        loss = self.loss
        return (loss.direction, loss.tau_student, loss.scale, self.view, self.update)


def replicas(strategies: tuple[Strategy, ...], n: int) -> tuple[Strategy, ...]:
    """Each strategy from n initialisations: `ce`, `ce#1`, ... `ce#n-1` in turn.

    All lanes of a seed share its samples and its teacher's pass, so further
    initialisations cost little where the teacher is much larger than its students.
    """
    return tuple(
        replace(s, name=replica_name(s.name, i), init=i)
        for i in range(n)
        for s in strategies
    )


def replica_name(name: str, init: int) -> str:
    """What `replicas` calls the lane of a strategy from initialisation `init`."""
    return f"{name}#{init}" if init else name


def shared_structure(strategies: tuple[Strategy, ...]) -> Strategy:
    """The strategy whose compiled structure serves every lane of a group.

    Lanes that learn from labels fit any loss (their teacher term has weight 0).

    Raises:
      ConfigError: two lanes differ in what is compiled in.
    """
    taught = [s for s in strategies if s.source.needs_teacher]
    for s in taught[1:]:
        require(
            s.structure == taught[0].structure,
            f"strategies {taught[0].name!r} and {s.name!r} differ in loss.direction,"
            " loss.tau_student, loss.scale, view or update; lanes of one group share"
            " these, so train them in separate runs.",
        )
    return taught[0] if taught else strategies[0]
