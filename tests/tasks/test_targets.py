"""Targets of a user's own that are none: refused in one sentence before training."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sandbox.study as st
from sandbox.distill.strategy import Strategy
from sandbox.errors import ConfigError
from sandbox.models.mlp import MLP
from sandbox.probes.fourier import FourierProbe
from sandbox.tasks.base import BooleanTask, check_target
from sandbox.tasks.parity import Parity
from sandbox.train.loop import fit
from sandbox.train.spec import RunSpec, Stop


@dataclass(frozen=True, kw_only=True)
class Sound(BooleanTask):
    k: int = 3

    def supports(self, key):
        return jnp.arange(self.k)[None]

    def labels(self, x, supports):
        return (x[:, supports[0]].prod(-1) < 0).astype(int)


class Signs(Sound):
    def labels(self, x, supports):
        return x[:, supports[0]].prod(-1)


class WholeSigns(Sound):
    def labels(self, x, supports):
        return x[:, supports[0]].prod(-1).astype(int)


class ThreeClasses(Sound):
    def labels(self, x, supports):
        return (x[:, supports[0]].sum(-1) + 3).astype(int) // 2


class Truth(Sound):
    def labels(self, x, supports):
        return x[:, supports[0]].prod(-1) < 0


class FarSupport(Sound):
    def supports(self, key):
        return jnp.asarray([[1, 2, 8]])


class FarIndex(Sound):
    def labels(self, x, supports):
        return (x[:, jnp.asarray([1, 2, 9])].prod(-1) < 0).astype(int)


class Column(Sound):
    def labels(self, x, supports):
        return super().labels(x, supports)[:, None]


class Undecorated(Sound):
    step: int = 2


BAD = {
    Signs: "labels must give every row a class in 0..1, as whole numbers",
    WholeSigns: "got int32 .* in -1..1; of signs, ",
    ThreeClasses: "a class in 0..1",
    Truth: "got bool",
    FarSupport: "supports must be whole numbers in 0..d-1 = 0..7",
    FarIndex: "an index beyond the 8 coordinates",
    Column: r"of shape \(rows,\), got",
    Undecorated: "must be decorated with @dataclass.*; without, step are no fields",
}


@pytest.mark.usefixtures("no_shapes")
@pytest.mark.parametrize("target", BAD, ids=lambda t: t.__name__)
def test_what_is_no_target_is_refused(target):
    with pytest.raises(ConfigError, match=BAD[target]):
        check_target(target(d=8))


def test_a_sound_target_is_none_of_them():
    check_target(Sound(d=8))


@pytest.mark.usefixtures("no_shapes")
def test_training_and_studies_ask(tmp_path):
    spec = RunSpec(
        kind="teacher",
        task=Signs(d=8),
        model=MLP(d=8, hidden=(4,)),
        strategies=(Strategy(name="ce"),),
        stop=Stop(max_samples=128),
        eval_every=64,
    )
    with pytest.raises(ConfigError, match=r"Signs\.labels"):
        fit(spec, root=tmp_path)
    assert not list(tmp_path.iterdir())

    class Own(st.Study):
        setting: st.Setting = st.Setting(task=Signs(d=8), rule=st.ByGap(degrees=(1,)))

    with pytest.raises(ConfigError, match=r"Signs\.labels"):
        Own()


@pytest.mark.parametrize(("d", "k"), [(1, 1), (2, 2), (3, 3)])
def test_a_target_of_all_coordinates_is_probed(d, k):
    probe = FourierProbe(
        Parity(d=d, k=k), MLP(d=d, hidden=(2,)), degrees=(1,), points=8
    )
    assert set(probe.subsets(None)) == {"in_support/1"}


def test_the_target_to_copy_is_whole() -> None:
    """As it stands there it is a task, and the study beside it is one."""
    page = Path(__file__).parents[2] / "experiments" / "README.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    (text,) = (b for b in blocks if "class Staircase" in b)
    space: dict[str, Any] = {"__name__": __name__}
    exec(text, space)
    task = space["Staircase"](d=8, step=2)
    check_target(task)
    batch = task.sample(jax.random.key(0), 0, 64, split="eval")
    assert set(np.unique(batch.y)) == {0, 1}
    assert issubclass(space["Staircases"], st.Study)
