"""Measurements along a trajectory: interrupted, resumed, held, to the same bits."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.distill.strategy import Strategy
from sandbox.errors import Interrupted, StoreError
from sandbox.models.mlp import MLP
from sandbox.probes import offline
from sandbox.probes.offline import Measured, measure_trajectory
from sandbox.store.files import exclusive
from sandbox.store.folders import RunFolder
from sandbox.tasks.parity import Parity
from sandbox.train import resumable
from sandbox.train.loop import fit
from sandbox.train.progress import Silent
from sandbox.train.run import Run
from sandbox.train.spec import RunSpec, Stop


@dataclass(frozen=True)
class Norms:
    """Something of every rank."""

    def measure(self, params: Any, key: Any) -> dict[str, Any]:
        kernel = params["layer_0"]["kernel"]
        noise = jax.random.normal(key, kernel.shape)
        return {
            "total": jnp.sum(kernel * noise),
            "rows": jnp.sum(kernel**2, 0),
            "whole": kernel,
        }


class Ending(Silent):
    """Sends a signal at one checkpoint, and remembers what it was told."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.begun, self.seen, self.ends = at, [], [], []

    def start(self, title: str, total: int, done: int, unit: str = "samples") -> None:
        self.begun.append((total, done))

    def update(self, done: int, note: str) -> None:
        self.seen.append(done)
        if done == self.at:
            os.kill(os.getpid(), signal.SIGINT)

    def close(self, note: str, *, finished: bool = True) -> None:
        self.ends.append((note, finished))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    spec = RunSpec(
        kind="teacher",
        task=Parity(d=6, k=2),
        model=MLP(d=6, hidden=(4,)),
        strategies=(Strategy(name="teacher"),),
        stop=Stop(max_samples=320),
        n_seeds=2,
        eval_every=64,
        eval_points=64,
        checkpoint_every=64,
        block=16,
    )
    root = tmp_path_factory.mktemp("runs")
    return fit(spec, root=root, progress=Silent())


def same(a: Measured, b: Measured) -> None:
    np.testing.assert_array_equal(a.steps, b.steps)
    assert a.values.keys() == b.values.keys()
    for name, v in a.values.items():
        assert v.dtype == b.values[name].dtype
        np.testing.assert_array_equal(v, b.values[name])


def folder_in(root: Path) -> RunFolder:
    (path,) = (root / "probe").iterdir()
    return RunFolder(path)


def test_interrupted_measurements_go_on_to_the_same_bits(
    run: Run, tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGINT)
    whole = measure_trajectory(run, Norms(), root=tmp_path / "whole", progress=Silent())
    assert whole.values["whole"].shape == (2, 6, 6, 4)
    root = tmp_path / "hurt"
    for begun, at in ((0, 2), (2, 3), (3, 6)):
        ending = Ending(at)
        with pytest.raises(Interrupted, match=f"at checkpoint {at} by signal SIGINT"):
            measure_trajectory(run, Norms(), root=root, progress=ending)
        assert ending.begun == [(6, begun)]
        assert ending.ends == [(f"at checkpoint {at}", False)]
        assert len(list(folder_in(root).path.glob("resume-*"))) == 1
        assert signal.getsignal(signal.SIGINT) == before
    ending = Ending()
    same(measure_trajectory(run, Norms(), root=root, progress=ending), whole)
    assert ending.seen == [] and ending.ends == [("", True)]
    folder = folder_in(root)
    assert folder.problems() == [] and not list(folder.path.glob("resume-*"))
    files = folder_in(tmp_path / "whole").manifest()
    for name, entry in folder.manifest().items():
        assert name == "provenance.json" or entry == files[name]


def test_errors_close_the_progress_and_keep_what_was_saved(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "SAVE_SECONDS", 0)
    whole = measure_trajectory(run, Norms(), root=tmp_path / "whole", progress=Silent())
    real, calls = offline._measure_seeds, []

    def fail(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 5:
            raise ValueError("no memory")
        return real(*args)

    root = tmp_path / "hurt"
    monkeypatch.setattr(offline, "_measure_seeds", fail)
    ending = Ending()
    with pytest.raises(ValueError, match="no memory"):
        measure_trajectory(run, Norms(), root=root, progress=ending)
    assert ending.ends == [("at checkpoint 4", False)]
    same(measure_trajectory(run, Norms(), root=root, progress=ending), whole)
    assert ending.begun == [(6, 0), (6, 4)] and len(calls) == 7


def test_a_strange_saved_state_is_not_resumed(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Interrupted):
        measure_trajectory(run, Norms(), root=tmp_path, progress=Ending(2))
    folder = folder_in(tmp_path)
    found = folder.load_resume()
    assert found is not None
    del found[0]["checkpoint%2064/rows"]
    folder.save_resume(2, *found)
    ending = Ending()
    measure_trajectory(run, Norms(), root=tmp_path, progress=ending)
    assert ending.begun == [(6, 0)]
    (line,) = capsys.readouterr().err.splitlines()
    assert "starting over" in line


def test_a_held_measurement_names_its_holder(run: Run, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        measure_trajectory(run, Norms(), root=tmp_path, progress=Ending(1))
    holder = f"by process {os.getpid()};"
    with exclusive(folder_in(tmp_path).path), pytest.raises(StoreError, match=holder):
        measure_trajectory(run, Norms(), root=tmp_path, progress=Silent())


def test_the_command_line_knows_an_interrupted_measurement() -> None:
    assert Interrupted("stopped.").exit_code == 75
