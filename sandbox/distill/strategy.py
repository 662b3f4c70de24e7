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

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from sandbox.distill.cost import Cost
from sandbox.distill.losses import Loss, Objective, Sum
from sandbox.distill.sources import BuiltInSource, Labels, LiveSource, Source
from sandbox.distill.targets import Anneal, Target
from sandbox.distill.updates import Joint, Update
from sandbox.distill.views import Identity, View
from sandbox.errors import require
from sandbox.store.bounds import Within, check_fields
from sandbox.store.config import later


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
    loss: Loss | Sum | Objective = field(default_factory=Loss)
    view: Identity | View = field(default_factory=Identity)
    update: Joint | Update = field(default_factory=Joint)
    init: Annotated[int, Within(0, 2**31 - 1)] = later(0)

    def __post_init__(self) -> None:
        """Refuses combinations that mean nothing."""
        require(
            isinstance(self.source, Source) and not isinstance(self.source, type),
            f"strategy {self.name!r:.60}: source must be a schedule of who teaches (see"
            f" sandbox.distill.sources.Source), got {self.source!r}.",
        )
        check_fields(self, "strategy")
        require(
            bool(self.name) and self.name.isprintable(),
            "strategy.name must be a text that is not empty and can be printed, got"
            f" {self.name!r:.60}.",
        )
        require(
            type(self.loss) is Loss or not isinstance(self.loss, Loss),
            f"strategy {self.name!r}: a loss of your own subclasses Objective and not"
            " Loss, whose gradient is written out.",
        )
        live = isinstance(self.source, LiveSource)
        require(
            live or self.source.stored or not self.source.needs_teacher,
            f"strategy {self.name!r}: a source that reads no stored run and has a"
            " teacher must be a LiveSource.",
        )
        if not self.source.needs_teacher:
            require(
                self.target == Target() and self.loss == Loss(),
                f"strategy {self.name!r} learns from labels alone, so target and loss"
                " must keep their defaults; choose a teacher source to use them.",
            )
        why = self.loss.refuses(self.target) if self.source.needs_teacher else ""
        require(not why, f"strategy {self.name!r}: {why}")

    @property
    def alpha(self) -> float | Anneal:
        """Weight of the paper's label term: 1 where labels teach."""
        (alpha,) = self.ramps
        return alpha

    @property
    def ramps(self) -> tuple[float | Anneal, ...]:
        """Numbers of the loss that lanes of one group may differ in."""
        return self.loss.ramps if self.source.needs_teacher else (1.0,)

    @property
    def structure(self) -> tuple[Any, ...]:
        """What lanes of one group must share, because it is compiled in.

        Its parts are those of a strategy from the source on.
        """
        live = self.source if isinstance(self.source, LiveSource) else None
        transforms = self.target.transforms
        return (live, transforms, self.loss.compiled, self.view, self.update)

    @property
    def uses_known(self) -> bool:
        """Whether any part needs the teacher's answers on held-out rows."""
        return self.loss.uses_known or any(t.uses_known for t in self.target.transforms)

    def needs(self) -> tuple[str, ...]:
        """Parts that only the generic engine has, in words; empty for the blocked."""
        return tuple(self._needs())

    def _needs(self) -> Iterator[str]:
        loss = self.loss
        for there, words in (
            (not loss.on_logits, "a loss of more than the logits"),
            (not loss.shift_free, "a loss that a shift of all logits changes"),
            (loss.copies > 0, "a loss on further rows"),
            (loss.has_aux, "a loss with parameters of its own"),
            (self.view != Identity(), "a view"),
            (self.update != Joint(), "an update"),
            (isinstance(self.source, LiveSource), "a teacher that is trained"),
        ):
            if there:
                yield words

    @property
    def cost(self) -> Cost:
        """Passes a sample."""
        taught = self.source.n_members if self.source.needs_teacher else 0
        loss = self.loss.cost
        loss = loss._replace(teacher_forward=taught * loss.teacher_forward)
        own = Cost(student_forward=1, student_backward=1, teacher_forward=taught)
        return own.plus(loss).plus(self.source.cost).plus(self.update.cost)


def replicas(strategies: tuple[Strategy, ...], n: int) -> tuple[Strategy, ...]:
    """Each strategy from n initialisations: `ce`, `ce#1`, ... `ce#n-1` in turn.

    All lanes of a seed share its samples and its teacher's pass, so further
    initialisations cost little where the teacher is much larger than its students. A
    strategy that is a further initialisation already stays as it is.
    """
    return tuple(
        replace(s, name=replica_name(s.name, i), init=i) if s.init == 0 else s
        for i in range(n)
        for s in strategies
        if i == 0 or s.init == 0
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
            f"strategies {taught[0].name!r} and {s.name!r} differ in what is compiled"
            " in: target.transforms, loss (but for alpha and other annealed numbers),"
            " view, update or a live source; lanes of one group share these, so train"
            " them in separate runs.",
        )
    first = taught[0] if taught else strategies[0]
    for s in strategies:
        require(
            fits(s, first),
            f"strategies {first.name!r} and {s.name!r} cannot share a run: labels alone"
            " fit only the paper's loss and target, without a view, an update or a live"
            " source.",
        )
    return first


def fits(strategy: Strategy, shared: Strategy) -> bool:
    """Whether a strategy can be a lane of a group with that compiled structure."""
    if strategy.source.needs_teacher:
        return strategy.structure == shared.structure
    live, transforms, *_ = shared.structure
    plain = isinstance(shared.loss, Loss) and live is None and not transforms
    return plain and strategy.structure[3:] == shared.structure[3:]
