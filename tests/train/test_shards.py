"""One model shared by several devices and processes is the model of one device."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MAKE = """
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np

from sandbox.distill.strategy import Strategy
from sandbox.errors import Interrupted
from sandbox.models.mlp import MLP
from sandbox.models.transformer import Transformer
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.masking import MaskedLM
from sandbox.tasks.parity import Parity
from sandbox.train import devices, engine, loop
from sandbox.train.arithmetic import pinned
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.progress import Silent
from sandbox.train.spec import RunSpec, Stop

devices.UNITS, devices.ROWS = 8, 2
task = MaskedLM(grammar=load_grammar("cfg3b", start=("10", "11", "12")))
bert = Transformer(
    positions=task.positions, layers=1, heads=2, head_dim=8, mlp_ratio=1, dropout=0.1,
)
same = dict(
    kind="teacher", strategies=(Strategy(name="teacher"),), dtype="float64",
    eval_points=64,
)
bits = same | dict(task=Parity(d=8, k=2), model=MLP(d=8, hidden=(64,)))
specs = {
    "blocked": RunSpec(
        **bits, stop=Stop(max_samples=640), eval_every=64, checkpoint_every=320,
    ),
    "generic": RunSpec(
        **bits, optimizer=SGD(lr=LearningRate(peak=0.1), momentum=0.9), batch_size=32,
        stop=Stop(max_samples=3200), eval_every=320, checkpoint_every=1600,
    ),
    "bert": RunSpec(
        **same, task=task, model=bert, batch_size=32, micro=16,
        # Adam makes a step of the gradient of a key's bias, which is 0 and rounding.
        optimizer=SGD(lr=LearningRate(peak=0.01)),
        stop=Stop(max_samples=3200), eval_every=320, checkpoint_every=1600,
    ),
}
out, root, name, way, process, n, address = sys.argv[1:]
if int(n) > 1:
    devices.join(address, int(process), int(n), heartbeat=5)
    assert jax.process_count() == int(n)
    assert jax.process_index() == int(process)
spec = specs[name]
made = engine.Engine(spec)
state = made.init()
total = jax.device_count()
assert (made.shards is None) == (total == 1)
if total > 1:
    assert made.shards.mesh.size == total
    parts = {"blocked": state[:3], "generic": state[:4], "bert": ()}[name]
    wide = [a for a in jax.tree.leaves(parts) if 64 in a.shape]
    assert wide or name == "bert"
    state = made.run(state, 0, 1, None, np.zeros((1, 1), np.int32))
    again = {"blocked": state[:3], "generic": state[:4], "bert": ()}[name]
    for a in (*wide, *jax.tree.leaves(again)):
        if 64 not in a.shape or a.is_deleted():
            continue
        sizes = {s.data.size for s in a.addressable_shards}
        assert sizes == {a.size // total}, (a.shape, sizes)


class Tells(Silent):
    'A signal, or a word, once the run is half done.'

    def update(self, at, note):
        if 2 * at < spec.stop.largest:
            return
        if way == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
        if way == "wait":  # for another to be killed
            Path(out).touch()


if way == "again":  # on other devices than those that saved it
    folder = loop.folder_of(spec, Path(root))
    with pinned(x64=True):
        work = loop.Training(spec, folder, Path(root), None)
        found = folder.load_resume()
        assert work.restore(*found)
        assert 2 * work.at >= spec.stop.largest
        for key, value in work.saved()[0].items():
            np.testing.assert_array_equal(value, found[0][key], key)
slow = 32 if way == "wait" else None
try:
    run = loop.fit(spec, root=Path(root), progress=Tells(), chunk_samples=slow)
except Interrupted:
    sys.exit(75)
if int(process) == 0:
    found = {k: np.asarray(v) for k, v in run.metrics.columns.items()}
    for step in run.trajectory.steps:
        for i, leaf in enumerate(jax.tree.leaves(run.trajectory.read(step))):
            found[f"{step}/{i}"] = np.asarray(leaf)
    np.savez(out, **found)
"""


def start(
    folder: Path, name: str, devices: int, processes: int = 1, way: str = "go"
) -> list["subprocess.Popen[bytes]"]:
    """Processes that train a run together, each on some host devices."""
    script = folder / "make.py"
    script.write_text(MAKE)
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count="
    env = os.environ | {"XLA_FLAGS": f"{flags}{devices}", "PYTHONPATH": os.getcwd()}
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    out = folder / f"{devices}x{processes}.npz"
    command = [sys.executable, "-W", "error", str(script), str(out)]
    command += [str(folder / f"runs{'' if way != 'go' else out.stem}"), name, way]
    return [
        subprocess.Popen([*command, f"{i}", f"{processes}", address], env=env)
        for i in range(processes)
    ]


def compute(*args: Any) -> list[int]:
    """Exit codes of such processes."""
    return [process.wait() for process in start(*args)]


def results(folder: Path, devices: int, processes: int = 1) -> dict[str, np.ndarray]:
    """What `compute` left."""
    with np.load(folder / f"{devices}x{processes}.npz") as found:
        return dict(found)


def agree(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    """To rounding, after 100 steps and more."""
    assert a.keys() == b.keys() and {"accuracy", "0/0"} <= a.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=1e-11, err_msg=name)


@pytest.mark.long
@pytest.mark.parametrize("name", ["blocked", "generic", "bert"])
def test_two_and_eight_devices_share_one_model(tmp_path, name):
    for devices in (1, 2, 8):
        assert compute(tmp_path, name, devices) == [0]
    agree(results(tmp_path, 1), results(tmp_path, 2))
    agree(results(tmp_path, 1), results(tmp_path, 8))


@pytest.mark.long
def test_two_processes_share_one_model_and_go_on_as_one(tmp_path):
    assert compute(tmp_path, "blocked", 1) == [0]
    assert compute(tmp_path, "blocked", 1, 2) == [0, 0]
    agree(results(tmp_path, 1), results(tmp_path, 1, 2))
    # Stopped half way, and taken up by another number of devices.
    assert compute(tmp_path, "blocked", 1, 2, "stop") == [75, 75]
    assert compute(tmp_path, "blocked", 4, 1, "again") == [0]
    agree(results(tmp_path, 1), results(tmp_path, 4))


@pytest.mark.long
def test_without_its_peer_a_process_ends_and_both_go_on_later(tmp_path):
    first, second = start(tmp_path, "blocked", 1, 2, "wait")
    while not (tmp_path / "1x2.npz").exists():
        assert first.poll() is None and second.poll() is None
        time.sleep(0.01)
    second.kill()
    killed = time.monotonic()
    assert second.wait() == -9 and first.wait() != 0
    assert time.monotonic() - killed < 2 * 5  # the heartbeat of 5 seconds, twice
    assert compute(tmp_path, "blocked", 1, 2, "wait") == [0, 0]
    assert compute(tmp_path, "blocked", 1) == [0]
    agree(results(tmp_path, 1), results(tmp_path, 1, 2))
