"""Schedules, their answers worked out by hand."""

import jaxtyping
import pytest

from sandbox.distill.sources import (
    Adaptive,
    Final,
    Labels,
    Lane,
    NShot,
    PerSeed,
    Progressive,
    Source,
    UntilSaturation,
)
from sandbox.errors import ConfigError

LANE = Lane(seed=0, final=1000)


def first_multiple(every: int, at_least: float, final: int) -> int:
    """The definition: the first checkpoint at or after a number, else the final one."""
    return next((c for c in range(every, final, every) if c >= at_least), final)


@pytest.mark.parametrize(
    "every, speed", [(100, 1.0), (100, 2.0), (100, 0.5), (300, 1.5)]
)
@pytest.mark.parametrize("final", [1000, 950, 100])
def test_progressive_is_ahead(every: int, speed: float, final: int) -> None:
    source = Progressive(every=every, speed=speed)
    lane = Lane(0, final)
    answers = [source.checkpoint_at(t, lane) for t in range(2500)]
    expected = [first_multiple(every, speed * (t + 1), final) for t in range(2500)]
    assert answers == expected
    t, switches = 0, []
    while (nxt := source.next_switch(t, lane)) is not None:
        assert answers[nxt - 1] != answers[nxt] and nxt > t
        switches.append(nxt)
        t = nxt
    changes = [t for t in range(1, 2500) if answers[t] != answers[t - 1]]
    assert switches == changes
    assert set(answers) <= set(source.checkpoints(lane))


def test_progressive_by_hand() -> None:
    source = Progressive(every=100, speed=2.0)
    at = {0: 100, 49: 100, 50: 200, 99: 200, 449: 900, 450: 1000, 10**7: 1000}
    assert {t: source.checkpoint_at(t, LANE) for t in at} == at
    assert source.next_switch(0, LANE) == 50
    assert source.next_switch(50, LANE) == 100
    assert source.next_switch(450, LANE) is None
    assert source.checkpoints(Lane(0, 250)) == (100, 200, 250)


def test_labels_and_final() -> None:
    assert Labels().checkpoint_at(5, LANE) is None and Labels().checkpoints(LANE) == ()
    assert Labels().next_switch(5, LANE) is Final().next_switch(5, LANE) is None
    assert Final().checkpoint_at(5, LANE) == 1000
    assert Final().checkpoints(LANE) == (1000,)
    assert (Labels().needs_teacher, Final().needs_teacher) == (False, True)


def test_n_shot_by_hand() -> None:
    source = NShot(steps=(300, 200), hold=50)  # the order given, not sorted
    at = {0: 300, 49: 300, 50: 200, 99: 200, 100: 1000, 10**6: 1000}
    assert {t: source.checkpoint_at(t, LANE) for t in at} == at
    assert [source.next_switch(t, LANE) for t in (0, 49, 50, 99)] == [50, 50, 100, 100]
    assert source.next_switch(100, LANE) is None
    assert source.checkpoints(LANE) == (300, 200, 1000)


def test_n_shot_per_seed() -> None:
    source = NShot(steps=(PerSeed((300, None, 500)),), hold=PerSeed((50, 60, None)))
    assert source.checkpoint_at(49, Lane(0, 1000)) == 300
    assert source.checkpoint_at(50, Lane(0, 1000)) == 1000
    for seed in (1, 2):  # no step, or no hold: the lane is absent
        lane = Lane(seed, 1000)
        assert source.checkpoint_at(0, lane) is None
        assert source.next_switch(0, lane) is None
        assert source.checkpoints(lane) == ()


def test_saturation_position() -> None:
    source = UntilSaturation(every=100, limit=500)
    positions = [
        source.checkpoint_at(7, LANE._replace(position=p)) for p in (0, 1, 8, 9)
    ]
    assert positions == [100, 200, 900, 1000]
    assert source.checkpoint_at(7, Lane(0, 950, position=9)) == 950
    assert source.next_switch(7, LANE) is None
    assert source.checkpoints(Lane(0, 250)) == (100, 200, 250)


def test_what_the_loop_asks_of_every_source() -> None:
    hold = PerSeed((64, None, 32))
    asked = {
        Labels(): [],
        Final(): [],
        Progressive(every=100, speed=0.5): [("source.every / speed", 200)],
        NShot(steps=(5,), hold=hold): [("source.hold", 64), ("source.hold", 32)],
        NShot(steps=(5,), hold=8): [("source.hold", 8)] * 3,
        UntilSaturation(every=100, limit=500): [],
    }
    for source, borders in asked.items():
        assert isinstance(source, Source) and source.borders(3) == borders
        assert isinstance(source, Adaptive) == isinstance(source, UntilSaturation)
    assert NShot(steps=(5, hold), hold=hold).per_seed() == (hold, hold)
    assert Final().per_seed() == ()

    class Half(Source):
        def checkpoint_at(self, t: int, lane: Lane) -> int | None:
            return 0

    with pytest.raises(TypeError, match="checkpoints"):
        Half()  # pyright: ignore[reportAbstractUsage]


STALLED = [0.50, 0.60, 0.70, 0.70, 0.70]


@pytest.mark.parametrize(
    "t, history, expected",
    [
        (90, STALLED, True),  # gained 0.2 since the switch, 0 over the last two
        (90, [0.50, 0.60, 0.70, 0.70], False),  # 0.10 over the last two
        (90, [0.50, 0.50, 0.50, 0.50, 0.50], False),  # nothing learnt yet
        (90, [0.7, 0.7], False),  # too short to judge
        (90, [0.50, 0.60, 0.62, 0.58, 0.55], True),  # falling counts as stalled
        (90, [0.500, 0.505, 0.509, 0.509], False),  # less than 0.01 since the switch
        (90, [0.500, 0.520, 0.529, 0.529], True),
        (499, [0.5] * 9, False),
        (500, [0.5] * 9, True),  # the limit
    ],
)
def test_saturation_advances(t: int, history: list[float], expected: bool) -> None:
    source = UntilSaturation(every=100, limit=500, window=2, min_gain=0.01)
    assert source.advances(t, LANE, history) is expected
    later = LANE._replace(switched_at=1000, position=3)
    assert source.advances(1000 + t, later, history) is expected
    last = LANE._replace(position=9)  # already on the final checkpoint
    assert source.advances(t, last, history) is False


REFUSED = [
    (lambda: Progressive(every=0), r"source\.every"),
    (lambda: Progressive(every=10, speed=0.0), r"source\.speed"),
    (lambda: Progressive(every=10, speed=-1.0), r"source\.speed"),
    (lambda: Progressive(every=10, speed=3.0), r"source\.every / source\.speed"),
    (lambda: NShot(steps=(), hold=5), r"source\.steps"),
    (lambda: NShot(steps=(-5,), hold=5), r"source\.steps"),
    (lambda: NShot(steps=(5,), hold=0), r"source\.hold"),
    (lambda: NShot(steps=(5,), hold=PerSeed((5, 0))), r"source\.hold"),
    (lambda: PerSeed((1, -1)), r"per-seed values"),
    (lambda: PerSeed((1, 2.0)), r"per-seed values"),
    (lambda: Progressive(every=10.0), r"source\.every"),
    (lambda: Progressive(every=10, speed=float("inf")), r"source\.speed"),
    (lambda: NShot(steps=(5.0,), hold=5), r"source\.steps"),
    (lambda: NShot(steps=(5,), hold=5.0), r"source\.hold"),
    (lambda: UntilSaturation(every=5, limit=5.0), r"source\.limit"),
    (lambda: UntilSaturation(every=0, limit=5), r"source\.every"),
    (lambda: UntilSaturation(every=5, limit=0), r"source\.limit"),
    (lambda: UntilSaturation(every=5, limit=5, window=0), r"source\.window"),
    (lambda: UntilSaturation(every=5, limit=5, min_gain=0.0), r"source\.min_gain"),
]


@pytest.mark.parametrize("build, named", REFUSED)
def test_refused(build: object, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the types that only tests check, as where the library is used.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ConfigError, match=named) as e:
        build()
    assert str(e.value).endswith(".") and "\n" not in str(e.value)
