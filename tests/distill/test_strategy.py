"""The strategy record: what it refuses, and what lanes of one group share."""

import jaxtyping
import pytest

from sandbox.distill.sources import Final, Labels
from sandbox.distill.strategy import (
    Anneal,
    Loss,
    Strategy,
    Target,
    replicas,
    shared_structure,
)
from sandbox.distill.targets import ends
from sandbox.errors import ConfigError
from sandbox.store.config import from_json, to_json

CE = Strategy(name="ce")
NAN = float("nan")

REFUSED = [
    (lambda: Target(tau=-1.0), r"target\.tau"),
    (lambda: Target(tau=NAN), r"target\.tau"),
    (lambda: Target(tau=Anneal(start=1.0, end=-0.1, over=5)), r"target\.tau"),
    (lambda: Anneal(start=1.0, end=0.0, over=0), r"anneal\.over"),
    (lambda: Anneal(start=1.0, end=0.0, over=5.0), r"anneal\.over"),
    (lambda: Loss(alpha=-0.1), r"loss\.alpha"),
    (lambda: Loss(alpha=1.1), r"loss\.alpha"),
    (lambda: Loss(alpha=NAN), r"loss\.alpha"),
    (lambda: Loss(alpha=Anneal(start=0.0, end=2.0, over=5)), r"loss\.alpha"),
    (lambda: Loss(tau_student=0.0), r"loss\.tau_student"),
    (lambda: Loss(scale=0.0), r"loss\.scale"),
    (lambda: Strategy(name=""), r"strategy\.name"),
    (lambda: Strategy(name="a", loss=Loss(alpha=0.5)), "labels alone"),
    (lambda: Strategy(name="a", target=Target(tau=0.0)), "labels alone"),
    (lambda: reverse(0.0), r"reverse needs target\.tau > 0"),
    (lambda: reverse(Anneal(start=1.0, end=0.0, over=9)), r"reverse needs target\.tau"),
]


def reverse(tau: float | Anneal) -> Strategy:
    return Strategy(
        name="r", source=Final(), target=Target(tau=tau), loss=Loss(direction="reverse")
    )


@pytest.mark.parametrize("build, named", REFUSED)
def test_refused(build: object, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the types that only tests check, as where the library is used.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ConfigError, match=named) as e:
        build()
    assert str(e.value).endswith(".") and "\n" not in str(e.value)


def test_label_weight() -> None:
    assert CE.alpha == 1.0 and isinstance(CE.source, Labels)
    assert Strategy(name="a", source=Final()).alpha == 0.0
    ramp = Anneal(start=1.0, end=0.0, over=10)
    assert Strategy(name="a", source=Final(), loss=Loss(alpha=ramp)).alpha == ramp
    assert ends(ramp) == (1.0, 0.0, 10) and ends(0.5) == (0.5, 0.5, 1)


def test_records_are_hashable_and_comparable() -> None:
    assert reverse(1.0) == reverse(1.0) and hash(reverse(1.0)) == hash(reverse(1.0))
    assert reverse(1.0) != reverse(2.0)
    assert "direction='reverse'" in repr(reverse(1.0))


def test_lanes_share_what_is_compiled_in() -> None:
    soft = Strategy(name="s", source=Final())
    hard = Strategy(name="h", source=Final(), target=Target(tau=0.0))
    assert shared_structure((CE, soft, hard)) == soft
    assert shared_structure((CE, reverse(1.0))).loss.direction == "reverse"
    assert shared_structure((CE,)) == CE


@pytest.mark.parametrize(
    "loss", [Loss(direction="reverse"), Loss(tau_student=2.0), Loss(scale=4.0)]
)
def test_lanes_that_cannot_share_are_named(loss: Loss) -> None:
    soft = Strategy(name="soft", source=Final())
    other = Strategy(name="other", source=Final(), loss=loss)
    with pytest.raises(ConfigError, match="'soft' and 'other'"):
        shared_structure((CE, soft, other))


def test_replicas_name_and_number_their_initialisations():
    two = (Strategy(name="ce"), Strategy(name="final", source=Final()))
    out = replicas(two, 3)
    assert [s.name for s in out] == [
        "ce",
        "final",
        "ce#1",
        "final#1",
        "ce#2",
        "final#2",
    ]
    assert [s.init for s in out] == [0, 0, 1, 1, 2, 2]
    assert replicas(two, 1) == two
    some = (*replicas(two[:1], 2), two[1])  # of the first alone
    assert replicas(some, 1) == some


@pytest.mark.parametrize("init", [-1, True, 2**31])
@pytest.mark.usefixtures("no_shapes")
def test_init_must_be_a_whole_number(init):
    with pytest.raises(ConfigError, match=r"strategy\.init must (be|lie)"):
        Strategy(name="ce", init=init)


def test_the_first_initialisation_is_not_written():
    """Records of before the field keep their hash."""
    assert "init" not in to_json(Strategy(name="ce"))
    data = to_json(Strategy(name="ce", init=2))
    assert data["init"] == 2
    assert from_json(Strategy, data) == Strategy(name="ce", init=2)
