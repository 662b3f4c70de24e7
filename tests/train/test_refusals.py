"""What a run is refused for, in one sentence, before anything is trained."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jaxtyping
import numpy as np
import pytest

from sandbox.distill.sources import Final, NShot, PerSeed, Progressive
from sandbox.distill.strategy import Strategy, Target
from sandbox.errors import ConfigError
from sandbox.models.mlp import MLP
from sandbox.tasks.parity import ExplicitSupport, Parity
from sandbox.train.optim import SGD, Adam, LearningRate
from sandbox.train.spec import RunSpec, Stop, TeacherRef

Make = Callable[..., RunSpec]
FINAL = Strategy(name="a", source=Final())

REFUSED = {
    "k": (lambda: dict(task=Parity(d=10, k=11)), r"task\.k must lie"),
    "support": (
        lambda: dict(task=Parity(d=10, k=2, support=ExplicitSupport(indices=(3, 10)))),
        r"task\.support\.indices",
    ),
    "width": (lambda: dict(model=MLP(d=10, hidden=(0,))), r"model\.hidden"),
    "model d": (lambda: dict(model=MLP(d=9, hidden=(4,))), r"model\.d = 9 must equal"),
    "classes": (
        lambda: dict(model=MLP(d=10, hidden=(4,), n_classes=3)),
        r"model\.n_classes = 3",
    ),
    "tau": (lambda: lanes(Strategy(name="a", target=Target(tau=-1.0))), r"target\.tau"),
    "lr": (lambda: dict(optimizer=SGD(lr=LearningRate(peak=0.0))), r"lr\.peak"),
    "warmup": (lambda: dict(optimizer=SGD(lr=LearningRate(warmup=-1))), r"lr\.warmup"),
    "cosine": (
        lambda: dict(optimizer=SGD(lr=LearningRate(decay="cosine", warmup=5, total=5))),
        r"lr\.total",
    ),
    "momentum": (lambda: dict(optimizer=SGD(momentum=1.0)), r"optimizer\.momentum"),
    "b1": (lambda: dict(optimizer=Adam(b1=1.0)), r"optimizer\.b1"),
    "eps": (lambda: dict(optimizer=Adam(eps=0.0)), r"optimizer\.eps"),
    "n_seeds": (lambda: dict(n_seeds=0), "n_seeds must be"),
    "batch": (lambda: dict(batch_size=0), "batch_size must be"),
    "points": (lambda: dict(eval_points=0), "eval_points must be"),
    "block": (lambda: dict(block=0), "block must be"),
    "first_seed": (lambda: dict(first_seed=-1), "first_seed must be"),
    "no lanes": (lambda: dict(strategies=()), "strategies must hold"),
    "twins": (lambda: lanes(FINAL, FINAL), "strategy names must differ"),
    "no teacher": (lambda: dict(teacher=None), "needs a teacher; set teacher="),
    "max": (lambda: dict(stop=Stop(max_samples=0)), r"stop\.max_samples"),
    "max is no evaluation": (
        lambda: dict(stop=Stop(max_samples=1000)),
        r"stop\.max_samples = 1000 must be a multiple of eval_every = 64",
    ),
    "level": (lambda: dict(stop=Stop(max_samples=64, accuracy=1.5)), r"stop\.accuracy"),
    "factor": (lambda: dict(stop=Stop(max_samples=64, factor=0.5)), r"stop\.factor"),
    "endless": (
        lambda: dict(stop=Stop(max_samples=64, factor=float("inf"))),
        r"stop\.factor .*finite",
    ),
    "half a cap": (lambda: dict(stop=Stop(max_samples=64.5)), r"stop\.max_samples"),
    "no cap": (
        lambda: dict(stop=Stop(max_samples=PerSeed((64, None)))),
        r"stop\.max_samples",
    ),
    "give up at no level": (
        lambda: dict(stop=Stop(max_samples=64, give_up=64)),
        r"stop\.give_up = 64 needs stop\.accuracy",
    ),
    "give up at once": (lambda: gives_up(0), r"stop\.give_up .* 1\.\.1536, got 0"),
    "give up too late": (lambda: gives_up(1537), r"stop\.give_up .*, got 1537"),
    "give up halfway": (lambda: gives_up(64.0), r"stop\.give_up must be a whole"),
    "kind": (lambda: dict(kind="pupil"), "kind must be teacher or student, got"),
    "engine": (lambda: dict(engine="fast"), "engine must be auto, .*'fast'"),
    "dtype": (lambda: dict(dtype=np.float32), "dtype must be float32 or float64"),
    "float evaluations": (
        lambda: dict(eval_every=1024.0),
        r"eval_every must be a whole number, got 1024\.0",
    ),
    "float seeds": (lambda: dict(n_seeds=2.0), "n_seeds must be a whole number"),
    "true": (lambda: dict(batch_size=True), "batch_size must be a whole number"),
    "lr inf": (
        lambda: dict(optimizer=SGD(lr=LearningRate(peak=float("inf")))),
        r"lr\.peak must be positive and finite, got inf",
    ),
    "half a warmup": (
        lambda: dict(optimizer=SGD(lr=LearningRate(warmup=0.5))),
        r"lr\.warmup",
    ),
    "eps inf": (lambda: dict(optimizer=Adam(eps=float("inf"))), r"optimizer\.eps"),
    "no ref": (lambda: dict(teacher=3), "teacher must be a TeacherRef or None, got 3"),
    "other dtype": (
        lambda: dict(dtype="float64"),
        r"teacher\.spec\.dtype = float32 must equal the students' dtype = float64",
    ),
    "eval border": (lambda: dict(eval_every=40), "eval_every = 40 must be a multiple"),
    "checkpoint border": (
        lambda: dict(checkpoint_every=120),
        "checkpoint_every = 120 must be a multiple of 16",
    ),
    "checkpoints are evaluated": (
        lambda: dict(checkpoint_every=96),
        "checkpoint_every = 96 must be a multiple of eval_every = 64",
    ),
    "hold border": (
        lambda: lanes(Strategy(name="a", source=NShot(steps=(128,), hold=100))),
        "source.hold of 'a' = 100 must be a multiple",
    ),
    "speed border": (
        lambda: lanes(Strategy(name="a", source=Progressive(every=128, speed=16.0))),
        "source.every / speed of 'a' = 8 must be a multiple",
    ),
    "step not stored": (
        lambda: lanes(Strategy(name="a", source=NShot(steps=(200,), hold=64))),
        "asks for teacher checkpoint 200, which is not in the trajectory",
    ),
    "step too late": (
        lambda: lanes(Strategy(name="a", source=NShot(steps=(2048,), hold=64))),
        "asks for teacher checkpoint 2048",
    ),
    "spacing not stored": (
        lambda: lanes(Strategy(name="a", source=Progressive(every=64))),
        "asks for teacher checkpoint 64",
    ),
    "per-seed length": (
        lambda: lanes(
            Strategy(name="a", source=NShot(steps=(128,), hold=PerSeed((64,))))
        ),
        "per-seed values must have one entry for each of n_seeds = 2",
    ),
    "blocked and batches": (
        lambda: dict(engine="online_sgd", batch_size=4),
        "online_sgd needs batch_size = 1, got 4",
    ),
    "blocked and Adam": (
        lambda: dict(engine="online_sgd", optimizer=Adam()),
        "online_sgd needs plain SGD",
    ),
    "blocked and momentum": (
        lambda: dict(engine="online_sgd", optimizer=SGD(momentum=0.5)),
        "online_sgd needs plain SGD",
    ),
    "blocked and depth": (
        lambda: dict(engine="online_sgd", model=MLP(d=10, hidden=(4, 4))),
        "online_sgd needs a two-layer ReLU network",
    ),
    "other seeds": (lambda: dict(first_seed=1), r"teacher\.spec must cover the same"),
    "other task": (lambda: dict(task=Parity(d=10, k=3)), r"teacher\.spec\.task must"),
}


def gives_up(at: Any) -> dict[str, Any]:
    return dict(stop=Stop(max_samples=1536, accuracy=0.9, give_up=at))


def lanes(*strategies: Strategy) -> dict[str, Any]:
    return dict(strategies=strategies)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_training(
    make_student: Make, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the types that only tests check, as where the library is used.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    changes, named = REFUSED[name]
    with pytest.raises(ConfigError, match=named) as e:
        make_student(**changes())
    assert str(e.value).endswith(".") and "\n" not in str(e.value)


def test_teachers_must_keep_checkpoints(
    teacher: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ConfigError, match=r"teacher\.spec\.checkpoint_every"):
        TeacherRef(spec=replace(teacher, checkpoint_every=0), final=0)
    two = (Strategy(name="a"), Strategy(name="b"))
    with pytest.raises(ConfigError, match=r"teacher\.spec must train one strategy"):
        TeacherRef(spec=replace(teacher, strategies=two), final=0)
    for final in (None, 1024.0, "1024", -1):
        with pytest.raises(ConfigError, match=r"teacher\.final must be"):
            TeacherRef(spec=teacher, final=final)  # pyright: ignore
    with pytest.raises(ConfigError, match=r"teacher\.spec must be a RunSpec"):
        TeacherRef(spec=None, final=0)  # pyright: ignore


def test_the_engine_is_chosen_by_capability(make_student: Make) -> None:
    assert make_student().engine_used == "online_sgd"
    for changes in (
        dict(optimizer=Adam()),
        dict(batch_size=2),
        dict(model=MLP(d=10, hidden=(4, 4))),
        dict(engine="generic"),
    ):
        assert make_student(**changes).engine_used == "generic"
