"""A tiny trained teacher, and records of students that learn from it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.distill.sources import (
    Final,
    NShot,
    PerSeed,
    Progressive,
    UntilSaturation,
)
from sandbox.distill.strategy import Strategy, Target
from sandbox.models.mlp import MLP
from sandbox.tasks.parity import Parity
from sandbox.train.loop import fit
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.progress import Silent
from sandbox.train.spec import RunSpec, Stop, TeacherRef

BASE: dict[str, Any] = dict(
    task=Parity(d=10, k=2),
    model=MLP(d=10, hidden=(16,)),
    n_seeds=2,
    eval_every=64,
    eval_points=256,
    block=16,
    optimizer=SGD(lr=LearningRate(peak=0.1)),
)
TEACHER = RunSpec(
    **BASE,
    kind="teacher",
    strategies=(Strategy(name="teacher"),),
    checkpoint_every=128,
    stop=Stop(max_samples=1024),
)
HARD = Target(tau=0.0)
LANES = (
    Strategy(name="ce"),
    Strategy(name="one-shot", source=Final(), target=HARD),
    Strategy(name="progressive", source=Progressive(every=128), target=HARD),
    Strategy(name="2-shot", source=NShot(steps=(256,), hold=PerSeed((192, None)))),
    Strategy(name="saturation", source=UntilSaturation(every=128, limit=192, window=1)),
)


@pytest.fixture(scope="session")
def teacher() -> RunSpec:
    return TEACHER


@pytest.fixture(scope="session")
def make_student() -> Callable[..., RunSpec]:
    """Builds a record of five lanes on two seeds, with changes."""

    def make(**changes: Any) -> RunSpec:
        fields: dict[str, Any] = BASE | dict(
            kind="student",
            strategies=LANES,
            checkpoint_every=256,
            stop=Stop(max_samples=1536),
            teacher=TeacherRef(spec=TEACHER, final=1024),
        )
        return RunSpec(**(fields | changes))

    return make


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    fit(TEACHER, root=root, progress=Silent())
    return root


@pytest.fixture
def new_root(_trained: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes store roots that hold a copy of the finished teacher."""

    def make(name: str) -> Path:
        shutil.copytree(_trained, tmp_path / name)
        return tmp_path / name

    return make
