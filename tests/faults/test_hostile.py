"""Checkpoints made to harm: nothing in them runs, and memory stays small.

Manifests are written anew as a forger would, so that checksums do not save us.
"""

import ast
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tracemalloc
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sandbox.errors import StoreError
from sandbox.store.folders import RunFolder
from sandbox.store.metrics import FILE
from sandbox.store.trajectories import Trajectory, checkpoint_name, read_header
from tests.faults.inputs import (
    ask,
    check_answer,
    make_store,
    probe_refuses,
    recommit,
    safetensors,
)

ROOT = Path(__file__).resolve().parents[2]
CUT = checkpoint_name(512)
SECONDS = 60
"""Seconds after which an answer has hung: only a pipe that is read could take them."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_store(tmp_path_factory.mktemp("made") / "runs")


@pytest.fixture
def run(made: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of a store that a test may damage."""
    shutil.copytree(made.path.parent.parent, tmp_path / "runs")
    return RunFolder(tmp_path / "runs" / made.path.parent.name / made.path.name)


# ------------------------------------------------------------------------- checkpoints


class Payload:
    """What runs when it is unpickled: it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def entry(shape: list[Any], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def one(shape: list[Any], n: int = 8, dtype: str = "F32") -> bytes:
    """A file of one tensor with n bytes of data."""
    return safetensors({"a": entry(shape, 0, n, dtype)}, bytes(n))


SHAPES = {
    "layer_0/bias": (2, 1, 16),
    "layer_0/kernel": (2, 1, 10, 16),
    "layer_1/bias": (2, 1, 2),
    "layer_1/kernel": (2, 1, 16, 2),
}


def model(*, more: int = 0, **offsets: tuple[int, int]) -> bytes:
    """A checkpoint of the right shapes, with some offsets and its length changed."""
    at, header = 0, {}
    for name, shape in SHAPES.items():
        end = at + 4 * prod(shape)
        own = offsets.get(name.replace("/", "_"), (at, end))
        header[name] = entry(list(shape), *own)
        at = end
    return safetensors(header, bytes(at + more))


ONE = entry([2, 1, 1], 0, 8)
TWICE = b'{"a":%b,"a":%b}' % ((json.dumps(ONE).encode(),) * 2)
FORGED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no checkpoint"),
    "a few bytes": (b"abc", "no checkpoint"),
    "a header of 1 TB": (safetensors({}, length=10**12), "claims 1000000000000 bytes"),
    "a header beyond 64 bits": (b"\xff" * 8 + b"{}", "claims 18446744073709551615 byt"),
    "a header longer than it is": (safetensors({}, length=9), "no checkpoint"),
    "a header cut short": (safetensors({"a": ONE})[:30], "claims"),
    "no JSON": (safetensors(b"not JSON"), "no checkpoint"),
    "no text": (safetensors(b"\xff\xfe{}"), "no checkpoint"),
    "a list": (safetensors([1]), "its header is not an object"),
    "no tensor": (safetensors({}), "no checkpoint"),
    "deep": (safetensors(b"[" * 10**5 + b"]" * 10**5), "no checkpoint"),
    "a long number": (safetensors(b'{"a":1' + b"0" * 9**5 + b"}"), "no checkpoint"),
    "a name twice": (safetensors(TWICE, bytes(8)), "names something twice"),
    "overlapping": (model(layer_0_kernel=(0, 1280)), "no checkpoint"),
    "a gap": (model(layer_1_kernel=(1440, 1696)), "no checkpoint"),
    "too little data": (model(more=-4), "no checkpoint"),
    "too much data": (model(more=4), "no checkpoint"),
    "offsets the other way": (model(layer_0_bias=(128, 0)), "no checkpoint"),
    "1 TB": (one([2, 1, 2**37]), "'a' claims more than the file holds"),
    "a size beyond 64 bits": (one([2**40] * 4), "'a' claims more than the file"),
    "an empty axis": (one([2, 1, 0], 0), "not of shape (seeds, lanes, ...)"),
    "an empty axis and a huge one": (one([2**62, 0, 2], 0), "not of shape"),
    "a negative axis": (one([-2, 1]), "not of shape"),
    "a fraction": (one([2.0, 1]), "not of shape"),
    "one axis": (one([2]), "not of shape"),
    "a thousand axes": (one([1] * 1000, 4), "not of shape"),
    "whole numbers": (one([1, 2], 8, "I32"), "not of float32 or float64"),
    "bfloat16": (one([2, 2], 8, "BF16"), "not of float32 or float64"),
    "no such dtype": (one([2, 1], 8, "PKL"), "not of float32 or float64"),
    "a dtype that is a list": (
        safetensors({"a": ONE | {"dtype": [0]}}),
        "not of float",
    ),
    "a tensor that is a number": (safetensors({"a": 7}), "not of float32"),
    "groups and tensors of one name": (
        safetensors({"a": ONE, "a/b": entry([2, 1, 1], 8, 16)}, bytes(16)),
        "named like a group",
    ),
    "other seeds": (
        safetensors({"a": ONE, "b": entry([1, 2, 1], 8, 16)}, bytes(16)),
        "do not share the axes",
    ),
    "another model": (one([2, 1, 9], 72), "'a' is (2, 1, 9), expected None"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_checkpoint(
    run: RunFolder, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data, words = FORGED[name]
    (run.path / CUT).write_bytes(data)
    recommit(run)
    tracemalloc.start()
    try:
        err = probe_refuses(capsys, run, "--steps", 512)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(run.path / CUT) in err and words in err
    assert peak < 64 * 2**20
    assert ask(capsys, "runs", "--root", run.path.parent.parent)[0] == 0


def test_a_checkpoint_is_never_unpickled(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = tmp_path / "ran"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (run.path / CUT).write_bytes(pickle.dumps(Payload(ran), protocol))
        recommit(run)
        assert CUT in probe_refuses(capsys, run, "--steps", 512)
    for name in ("config.json", "outcome.json", FILE, "provenance.json"):
        (run.path / name).write_bytes(pickle.dumps(Payload(ran)))
    recommit(run)
    assert "config.json" in probe_refuses(capsys, run)
    assert ask(capsys, "runs", "--root", tmp_path / "runs")[0] == 1
    assert not ran.exists()
    pickle.loads(pickle.dumps(Payload(ran)))
    assert ran.exists()  # the payload is a real one


LIMITED = """
import resource, sys
from pathlib import Path
from sandbox.errors import StoreError
from sandbox.store.trajectories import read_header
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, now + 2**28))
try:
    read_header(Path(sys.argv[1]))
except StoreError as e:
    sys.exit(f"error: {e}")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_huge_header_that_is_there_is_not_read(tmp_path: Path) -> None:
    """Here the file is as long as it says (a sparse one): 1 TB, none of it data."""
    path = tmp_path / "huge.safetensors"
    path.write_bytes(safetensors({}, length=2**40 - 8))
    os.truncate(path, 2**40)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=SECONDS,
    )
    assert done.returncode == 1 and "claims" in done.stderr
    check_answer(done.stderr)


def test_a_sound_checkpoint_is_still_read(run: RunFolder) -> None:
    shapes = read_header(run.path / CUT)
    assert shapes == SHAPES and len(model()) < (run.path / CUT).stat().st_size + 200
    trajectory = Trajectory(run)
    trajectory.expect(shapes)
    assert trajectory.read(512)["layer_0"]["kernel"].shape == (2, 1, 10, 16)
    with pytest.raises(
        StoreError, match=r"layer_1/bias' is \(2, 1, 2\), expected \(2,\)"
    ):
        trajectory.expect(shapes | {"layer_1/bias": (2,)})
        trajectory.read(512)


# ------------------------------------------------------------------------ the grep gate

FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "yaml"}
CALLS = {"eval", "exec", "compile", "__import__"}


def dangers(code: str) -> list[str]:
    """What in some source text could run a file's content."""
    out = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            out += [a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN]
        elif isinstance(node, ast.ImportFrom):
            root = (node.module or "").split(".")[0]
            named = [a.name for a in node.names if a.name in FORBIDDEN]
            out += [root] if root in FORBIDDEN else named
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in CALLS:
                out.append(node.func.id)
            if isinstance(node.func, ast.Attribute):
                out += {"read_pickle", "loads_pickle"} & {node.func.attr}
            out += [k.arg for k in node.keywords if k.arg in ("allow_pickle", "shell")]
    return out


def test_nothing_that_is_read_can_run() -> None:
    folders = ("sandbox", "experiments", "paper_repro")
    files = [p for d in folders for p in ROOT.glob(f"{d}/**/*.py")]
    assert len(files) > 50
    found = {str(p): d for p in files if (d := dangers(p.read_text(encoding="utf-8")))}
    assert not found
    words = re.compile(
        r"\b(torch\.load|np\.load|numpy\.load|importlib\.import_module)\("
    )
    uses = [p for p in files if words.search(p.read_text(encoding="utf-8"))]
    assert {str(p.relative_to(ROOT)) for p in uses} <= {
        "sandbox/__init__.py",  # what it offers, of a fixed table
        "sandbox/cli/__init__.py",  # a command, of a fixed table
        "sandbox/cli/launch.py",  # a study named on the command line
        "sandbox/cli/asked.py",  # a module named on the command line
        "paper_repro/__main__.py",  # a study, of a fixed table
    }


@pytest.mark.parametrize(
    "code",
    [
        *(
            "import pickle",
            "import pickle as p",
            "from pickle import loads",
            "eval('1')",
        ),
        *("exec(x)", "from os import yaml", "np.load(f, allow_pickle=True)"),
        *("def f():\n    import dill.source", "run(x, shell=True)", "__import__('os')"),
    ],
)
def test_the_gate_sees(code: str) -> None:
    assert dangers(code) and not dangers("jax.eval_shape(f); re.compile('x')")


def test_exports_hold_no_objects(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.npz"
    code, _, _ = ask(capsys, "probe", run.path, "-p", "alignment", "--out", out)
    assert code == 0
    with np.load(out, allow_pickle=False) as stored:
        assert all(stored[n].dtype != object for n in stored.files)
