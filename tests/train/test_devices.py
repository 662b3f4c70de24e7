"""Seeds spread over several devices give what one device gives."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from sandbox.train.devices import n_sharing, seed_mesh

MAKE = """
import sys
from pathlib import Path

import jax
import numpy as np

from sandbox.distill.sources import Final, NShot
from sandbox.distill.strategy import Strategy
from sandbox.errors import Interrupted
from sandbox.models.mlp import MLP
from sandbox.tasks.parity import Parity, RandomSupport
from sandbox.train.loop import fit
from sandbox.train.optim import Adam
from sandbox.train.progress import Silent
from sandbox.train.run import Run
from sandbox.train.spec import RunSpec, Stop, TeacherRef

teacher = RunSpec(
    kind="teacher", task=Parity(d=8, k=2, support=RandomSupport()),
    model=MLP(d=8, hidden=(16,)), strategies=(Strategy(name="teacher"),),
    stop=Stop(max_samples=512), eval_every=128, checkpoint_every=128, n_seeds=6,
    first_seed=3, eval_points=64,
)
lanes = (
    Strategy(name="ce"),
    Strategy(name="one", source=Final()),
    Strategy(name="two", source=NShot(steps=(256,), hold=128)),
)
taught = dict(
    kind="student", task=teacher.task, strategies=lanes, stop=Stop(max_samples=512),
    eval_every=128, n_seeds=6, first_seed=3, eval_points=64, checkpoint_every=512,
    teacher=TeacherRef(spec=teacher, final=512),
)
blocked = RunSpec(model=MLP(d=8, hidden=(8,)), padded=(8, 4), **taught)
generic = RunSpec(
    model=MLP(d=8, hidden=(8, 8)), optimizer=Adam(), batch_size=16, **taught
)
assert (blocked.engine_used, generic.engine_used) == ("online_sgd", "generic")


class Stops(Silent):
    'Ends the process once a run is half done.'

    def update(self, at, note):
        if at >= 256:
            import os, signal
            os.kill(os.getpid(), signal.SIGTERM)


def columns(root, name, halfway):
    out = {"devices": np.asarray(jax.local_device_count())}
    fit(teacher, root=root, progress=Silent())
    spec = {"blocked": blocked, "generic": generic}[name]
    if halfway:
        try:
            fit(spec, root=root, progress=Stops())
        except Interrupted:
            out["stopped"] = np.asarray(1)
    run = fit(spec, root=root, progress=Silent())
    out |= {k: np.asarray(v) for k, v in run.metrics.columns.items()}
    for i, leaf in enumerate(jax.tree.leaves(run.trajectory.read(512))):
        out[f"params/{i}"] = np.asarray(leaf)
    return out


if __name__ == "__main__":
    out, root, name, way = sys.argv[1:]
    np.savez(out, **columns(Path(root), name, halfway=way == "stop"))
"""


def compute(
    folder: Path, engine: str, devices: int, *, stop: bool = False
) -> dict[str, np.ndarray]:
    """Everything a run of students records, on so many forced host devices."""
    script, out = folder / "make.py", folder / f"on{devices}{stop}.npz"
    script.write_text(MAKE)
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count="
    env = os.environ | {"XLA_FLAGS": f"{flags}{devices}", "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-W", "error", str(script), str(out)]
    words = [str(folder / f"runs{devices}"), engine, "stop" if stop else "go"]
    done = subprocess.run([*command, *words], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(out) as found:
        return dict(found)


def agree(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    names = [n for n in a if n != "devices"]
    assert {"accuracy", "params/0", "teacher_step"} <= set(names)
    for name in names:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.long
@pytest.mark.parametrize(
    "engine", ["blocked", pytest.param("generic", marks=pytest.mark.slow)]
)
def test_eight_devices_share_six_seeds_and_go_on_after_a_stop(tmp_path, engine):
    one = compute(tmp_path, engine, 1)
    many = compute(tmp_path, engine, 8, stop=True)
    assert (one["devices"], many["devices"]) == (1, 8)
    assert many["stopped"] == 1
    agree(one, many)


def test_the_most_devices_that_divide_the_seeds():
    sharing = [n_sharing(n, 8) for n in (1, 2, 6, 7, 8, 12, 11)]
    assert sharing == [1, 2, 6, 7, 8, 6, 1]
    assert seed_mesh(4) is None or jax.local_device_count() > 1
