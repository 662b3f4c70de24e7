r"""How a student is scored: the `Objective` protocol, and the loss of the paper.

With e_y the one-hot label, p the teacher's target, q = softmax(z / tau_s):

    forward  L = -alpha log softmax(z)_y - (1 - alpha) scale sum_c p_c log q_c
             dL/dz = alpha (softmax(z) - e_y) + (1 - alpha) (scale / tau_s) (q - p)
    reverse  D = sum_c q_c (log q_c - log p_c)
             dD/dz = (scale / tau_s) q (log q - log p - D)

For tau_s = scale = 1 the forward loss is the cross-entropy to one mixed target
alpha e_y + (1 - alpha) p; that case keeps only the mixture.

To add a loss, write a frozen dataclass that subclasses `Objective` with `supervise`,
which runs once a row before the student is touched, and `value`; its gradient follows.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import reduce
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Protocol,
    runtime_checkable,
)

import jax
import jax.numpy as jnp
from jaxtyping import Float

from sandbox.distill.cost import Cost
from sandbox.distill.targets import (
    Anneal,
    Known,
    Target,
    ends,
    log_soften,
    soften,
)
from sandbox.errors import require
from sandbox.store.bounds import AtLeast, MoreThan, Within, check_fields
from sandbox.types import Array, Params


class Answers(NamedTuple):
    """What a network says of rows `*n`.

    Attributes:
      logits: `(*n, C)`.
      acts: the named activations that were asked for.
      extra: logits of the rows that the loss made of each row, `(*n, copies, C)`.
    """

    logits: Array
    acts: dict[str, Array] | None = None
    extra: Array | None = None


@dataclass(frozen=True)
class Taught:
    """What a lane's teacher says of rows `*n`, before the student is touched.

    Attributes:
      answers: the teacher's.
      label: one-hot, `(*n, C)`.
      tau: temperature of the target, `(*n,)`.
      t: number of the sample, `(*n,)`; not there for the paper's own loss.
      target: what of the teacher is matched.
      known: the teacher on held-out rows; None unless a part uses it.
    """

    answers: Answers
    label: Array
    tau: Array
    t: Array | None
    target: Target
    known: Known | None = None

    @property
    def p(self) -> Array:
        """The target's probabilities, `(*n, C)`."""
        return self.transformed[0]

    @property
    def transformed(self) -> tuple[Array, Array | None]:
        """The target's probabilities, and the weight of each row; None for 1."""
        logits = self.answers.logits
        return self.target.transformed(logits, self.tau, self.label, self.known)


@runtime_checkable
class Objective(Protocol):
    """A loss of the student on rows, in nats, and what it needs to be computed.

    It is written for one lane, for any leading axes `*n`, and is a function of its
    arguments alone. Where `copies` is positive, `inputs` makes as many further rows of
    each row, and teacher and student answer them as well (`Answers.extra`).

    Attributes:
      on_logits: whether `value` depends on the student through `out.logits` alone.
      shift_free: whether a shift of all logits of a row leaves `value` as it is.
      uses_known: whether `supervise` needs the teacher's answers on held-out rows.
      taps: activations of the student that `value` reads.
      teacher_taps: activations of the teacher that `supervise` reads.
      copies: rows made of each row.
    """

    on_logits: ClassVar[bool] = False
    shift_free: ClassVar[bool] = False
    uses_known: ClassVar[bool] = False

    @property
    def taps(self) -> tuple[str, ...]:
        """Activations of the student that `value` reads."""
        return ()

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        """Activations of the teacher that `supervise` reads; by default the same."""
        return self.taps

    @property
    def copies(self) -> int:
        """Rows made of each row."""
        return 0

    @property
    def ramps(self) -> tuple[float | Anneal, ...]:
        """Numbers that lanes of one compiled program may differ in."""
        return ()

    @property
    def compiled(self) -> "Objective":
        """The record without them."""
        return self

    @property
    def cost(self) -> Cost:
        """Passes a sample, beside one through each network; of one teacher."""
        n = self.copies
        return Cost(student_forward=n, student_backward=n, teacher_forward=n)

    def refuses(self, target: Target) -> str:
        """Why the loss cannot be computed for a target; empty if it can.

        By default one with transforms, where rows are made that have no labels.
        """
        name = type(self).__name__.lower()
        bad = self.copies > 0 and len(target.transforms) > 0
        return f"{name} take no target.transforms." if bad else ""

    def inputs(self, key: Any, x: Any) -> Any:
        """The `copies` rows that are made of a row, on a first axis.

        Args:
          key: of this row.
          x: the row.
        """
        return x

    @property
    def has_aux(self) -> bool:
        """Whether `init_aux` makes any parameters."""
        return type(self).init_aux is not Objective.init_aux

    def init_aux(self, key: Any, student: Answers, teacher: Answers | None) -> Params:
        """Parameters of the loss itself, trained with the student; None for none.

        Args:
          key: of the lane's initialisation.
          student: shapes of its answers to one row.
          teacher: shapes of a stored teacher's.
        """
        return None

    def statistics(self, known: Known) -> Any:
        """What `supervise` needs of held-out rows, computed once for each checkpoint.

        It is given back as `taught.known.stats`; asked for only if `uses_known`.
        """
        return None

    @abstractmethod
    def supervise(self, label: Array, taught: Taught | None, numbers: Any) -> Any:
        """What `value` needs of each row beside the student: arrays `(*n, ...)`.

        Args:
          label: one-hot, `(*n, C)`.
          taught: the teacher's side; None where nothing but labels teaches.
          numbers: `ramps` at each row, `(*n,)` each.
        """
        ...

    @abstractmethod
    def value(self, out: Answers, sup: Any, aux: Params) -> Array:
        """The loss of each row, `(*n,)`.

        Args:
          out: the student's answers.
          sup: what `supervise` returned.
          aux: the loss's own parameters.
        """
        ...

    def delta(self, logits: Array, sup: Any) -> Array:
        """Gradient of `value` with respect to the logits, if they are all it reads."""
        return jax.grad(lambda z: jnp.sum(self.value(Answers(z), sup, None)))(logits)


@dataclass(frozen=True, kw_only=True)
class Loss(Objective):
    """The paper's loss: labels and a teacher's target, mixed.

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

    on_logits = True
    shift_free = True

    def __post_init__(self) -> None:
        """Refuses weights outside [0, 1] and temperatures at or below 0."""
        check_fields(self, "loss")

    @property
    def ramps(self) -> tuple[float | Anneal, ...]:
        """The label's weight."""
        return (self.alpha,)

    @property
    def compiled(self) -> "Loss":
        """The record without it."""
        return replace(self, alpha=0.0)

    def refuses(self, target: Target) -> str:
        """The reverse KL to an argmax is infinite."""
        if self.direction == "forward" or min(ends(target.tau)[:2]) > 0:
            return ""
        return (
            "loss.direction = reverse needs target.tau > 0, because the reverse KL to"
            " an argmax teacher is infinite."
        )

    def supervise(self, label: Array, taught: Taught | None, numbers: Any) -> Any:
        """The mixed target, or its two parts."""
        (alpha,) = numbers
        if taught is None:
            return supervise(self, label, None, alpha, alpha)
        p = taught.p if taught.target.transforms else None
        return supervise(self, label, taught.answers.logits, taught.tau, alpha, p)

    def value(self, out: Answers, sup: Any, aux: Params) -> Array:
        """Loss of each example, in nats."""
        return value(self, out.logits, sup)

    def delta(self, logits: Array, sup: Any) -> Array:
        """Its gradient, in closed form."""
        return delta(self, logits, sup)


@dataclass(frozen=True, kw_only=True)
class Sum(Objective):
    """A weighted sum of losses.

    Attributes:
      losses: its terms.
      weights: one each, constant or annealed.
    """

    losses: tuple[Loss | Objective, ...]
    weights: tuple[Annotated[float | Anneal, AtLeast(0)], ...]

    def __post_init__(self) -> None:
        """Refuses terms without weights, and several that make rows."""
        check_fields(self, "loss")
        require(
            len(self.losses) == len(self.weights) > 0,
            f"loss.weights must have one entry for each of the {len(self.losses)}"
            f" losses, got {len(self.weights)}.",
        )
        require(
            sum(term.copies > 0 for term in self.losses) <= 1,
            "loss.losses may have one term that makes further rows.",
        )

    @property
    def on_logits(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether every term is."""
        return all(term.on_logits for term in self.losses)

    @property
    def shift_free(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether every term is."""
        return all(term.shift_free for term in self.losses)

    @property
    def uses_known(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether any term does."""
        return any(term.uses_known for term in self.losses)

    @property
    def taps(self) -> tuple[str, ...]:
        """Those of all terms."""
        return tuple(dict.fromkeys(t for term in self.losses for t in term.taps))

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        """Those of all terms."""
        found = (t for term in self.losses for t in term.teacher_taps)
        return tuple(dict.fromkeys(found))

    @property
    def copies(self) -> int:
        """Those of the term that makes any."""
        return sum(term.copies for term in self.losses)

    @property
    def ramps(self) -> tuple[float | Anneal, ...]:
        """The weights, then those of the terms."""
        return self.weights + tuple(r for term in self.losses for r in term.ramps)

    @property
    def compiled(self) -> "Sum":
        """The record without them."""
        zero = (0.0,) * len(self.weights)
        return Sum(losses=tuple(t.compiled for t in self.losses), weights=zero)

    @property
    def has_aux(self) -> bool:
        """Whether any term has."""
        return any(term.has_aux for term in self.losses)

    @property
    def cost(self) -> Cost:
        """Passes of all terms."""
        return reduce(Cost.plus, (term.cost for term in self.losses))

    def refuses(self, target: Target) -> str:
        """What the first term says that refuses it."""
        return next(filter(None, (term.refuses(target) for term in self.losses)), "")

    def inputs(self, key: Any, x: Any) -> Any:
        """The rows of the term that makes any."""
        (term,) = (term for term in self.losses if term.copies)
        return term.inputs(key, x)

    def init_aux(self, key: Any, student: Answers, teacher: Answers | None) -> Params:
        """A tuple with the parameters of each term; None for none."""
        if not self.has_aux:
            return None
        keys = jax.random.split(key, len(self.losses))
        terms = zip(self.losses, keys, strict=True)
        return tuple(term.init_aux(k, student, teacher) for term, k in terms)

    def statistics(self, known: Known) -> Any:
        """A tuple with those of each term."""
        terms = self.losses
        return tuple(t.statistics(known) if t.uses_known else None for t in terms)

    def supervise(self, label: Array, taught: Taught | None, numbers: Any) -> Any:
        """The weights, and what each term needs."""
        n, out = len(self.losses), []
        weights, rest = numbers[:n], numbers[n:]
        for i, term in enumerate(self.losses):
            own, rest = rest[: len(term.ramps)], rest[len(term.ramps) :]
            said = taught
            if taught is not None and taught.known is not None and self.uses_known:
                known = taught.known._replace(stats=taught.known.stats[i])
                said = replace(taught, known=known)
            out.append(term.supervise(label, said, own))
        return tuple(weights), tuple(out)

    def value(self, out: Answers, sup: Any, aux: Params) -> Array:
        """The weighted sum."""
        weights, sups = sup
        own = aux or (None,) * len(self.losses)
        terms = zip(self.losses, weights, sups, own, strict=True)
        return sum(w * term.value(out, s, a) for term, w, s, a in terms)  # pyright: ignore


class Supervision(NamedTuple):
    """What a loss needs about each example, computed before the student is touched.

    Attributes:
      mixed: the mixed target where the loss is a plain cross-entropy to it, else the
        one-hot label.
      teacher: target probabilities (forward) or log-probabilities (reverse); None for a
        plain cross-entropy.
      alpha: label weight; None for a plain cross-entropy.
    """

    mixed: Array
    teacher: Array | None
    alpha: Array | None


def is_plain(loss: Loss) -> bool:
    """Whether the loss is a cross-entropy to one mixed target."""
    return loss.direction == "forward" and loss.tau_student == 1 and loss.scale == 1


def supervise(
    loss: Loss,
    label: Float[Array, "*n C"],
    teacher_logits: Float[Array, "*n C"] | None,
    tau: Float[Array, "*n"],
    alpha: Float[Array, "*n"],
    p: Float[Array, "*n C"] | None = None,
) -> Supervision:
    """Prepares labels and teacher logits for `value` and `delta`.

    Where alpha is 1 the mixture is the label exactly, whatever the teacher says.

    Args:
      loss: the compiled-in structure of the loss.
      label: one-hot labels.
      teacher_logits: None where no lane has a teacher.
      tau: teacher temperature.
      alpha: label weight.
      p: the teacher's target where it is not softmax(teacher_logits / tau).
    """
    if teacher_logits is None:
        return Supervision(label, None, None)
    a = alpha[..., None]
    if is_plain(loss):
        p = soften(teacher_logits, tau) if p is None else p
        return Supervision(
            jnp.where(a == 1, label, a * label + (1 - a) * p), None, None
        )
    if loss.direction == "forward":
        p = soften(teacher_logits, tau) if p is None else p
        return Supervision(label, p, alpha)
    if p is not None:  # transformed
        log_p = jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))
        return Supervision(label, log_p, alpha)
    return Supervision(label, log_soften(teacher_logits, tau), alpha)


def value(
    loss: Loss, logits: Float[Array, "*n C"], sup: Supervision
) -> Float[Array, "*n"]:
    """Loss of each example, in nats."""
    ce = -jnp.sum(sup.mixed * jax.nn.log_softmax(logits, -1), -1)
    if sup.teacher is None or sup.alpha is None:
        return ce
    log_q = jax.nn.log_softmax(logits / loss.tau_student, -1)
    if loss.direction == "forward":
        term = -jnp.sum(sup.teacher * log_q, -1)
    else:
        term = jnp.sum(jnp.exp(log_q) * (log_q - sup.teacher), -1)
    return sup.alpha * ce + (1 - sup.alpha) * loss.scale * term


def delta(
    loss: Loss, logits: Float[Array, "*n C"], sup: Supervision
) -> Float[Array, "*n C"]:
    """Gradient of `value` with respect to the logits, in closed form."""
    ce = jax.nn.softmax(logits, -1) - sup.mixed
    if sup.teacher is None or sup.alpha is None:
        return ce
    log_q = jax.nn.log_softmax(logits / loss.tau_student, -1)
    q = jnp.exp(log_q)
    if loss.direction == "forward":
        term = q - sup.teacher
    else:
        gap = log_q - sup.teacher
        term = q * (gap - jnp.sum(q * gap, -1, keepdims=True))
    a = sup.alpha[..., None]
    return a * ce + (1 - a) * (loss.scale / loss.tau_student) * term
