"""Files, manifests, resume files and locks: whatever can go wrong is seen and named."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from sandbox.errors import StoreError
from sandbox.store import files, folders, provenance
from sandbox.store.files import exclusive, read_json, write_atomic, write_json
from sandbox.store.folders import MANIFEST, RunFolder, default_root
from sandbox.store.metrics import FILE, Metrics, read_metrics


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished folder of three files."""
    folder = RunFolder(tmp_path / "teacher" / "0123")
    folder.prepare()
    write_json(folder.path / "config.json", {"a": 1})
    write_atomic(folder.path / "ckpt" / "step_1.bin", bytes(range(200)))
    write_atomic(folder.path / "data.bin", b"some numbers")
    folder.commit({"kind": "teacher"})
    return folder


# ------------------------------------------------------------------ atomic writes


def test_a_write_replaces_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")
    for name in ("fsync", "replace"):

        def fail(*args: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as m:
            m.setattr(files.os, name, fail)
            with pytest.raises(
                StoreError, match=r"cannot write .*a\.bin: No space left"
            ):
                write_atomic(path, b"new content")
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["a.bin"]
    write_atomic(path, b"new content")
    assert path.read_bytes() == b"new content" and os.listdir(tmp_path) == ["a.bin"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot write"):
        write_atomic(tmp_path / "no" / "a.bin", b"x")


def test_json_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(StoreError, match=r"cannot read .*a\.json"):
        read_json(path)
    path.write_text('{"a": ')
    with pytest.raises(StoreError, match=r"a\.json is not valid JSON"):
        read_json(path)
    write_json(path, {"b": [1, 2.5, None]})
    assert read_json(path) == {"b": [1, 2.5, None]}


# ----------------------------------------------------------------------- manifest


def test_a_sound_run(run: RunFolder) -> None:
    assert run.complete and run.problems() == []
    assert set(run.manifest()) == {"config.json", "ckpt/step_1.bin", "data.bin"}
    run.check("data.bin")


DAMAGE = {
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:-1]), "was cut or grown"),
    "grown": (lambda p: p.write_bytes(p.read_bytes() + b"x"), "was cut or grown"),
    "flipped": (
        lambda p: p.write_bytes(bytes([p.read_bytes()[0] ^ 1]) + p.read_bytes()[1:]),
        "was altered",
    ),
    "gone": (lambda p: p.unlink(), "is missing"),
    "linked": (
        lambda p: (p.rename(str(p) + "2"), p.symlink_to(str(p) + "2")),
        "missing",
    ),
}


@pytest.mark.parametrize("name", ["ckpt/step_1.bin", "data.bin", "config.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_named(run: RunFolder, name: str, damage: str) -> None:
    hurt, message = DAMAGE[damage]
    hurt(run.path / name)
    with pytest.raises(StoreError, match=message) as e:
        run.check(name)
    assert name in str(e.value)
    (line,) = run.problems()
    assert name in line and message in line


def test_a_manifest_is_read_once_until_it_changes(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def counted(path: Path) -> Any:
        asked.append(path)
        return read_json(path)

    monkeypatch.setattr(folders, "read_json", counted)
    for name in run.manifest():
        run.check(name)
    assert len(asked) == 1
    run.adopt({})
    run.check("data.bin")
    assert len(asked) == 2


@pytest.mark.parametrize("name", ["../outside.bin", "/etc/hostname", "ckpt/../../x"])
def test_entries_outside_the_folder_are_refused(run: RunFolder, name: str) -> None:
    path = run.path / MANIFEST
    data = json.loads(path.read_text())
    data["files"][name] = {"sha256": "0" * 64, "size": 1}
    path.write_text(json.dumps(data))
    with pytest.raises(StoreError, match="bad entry"):
        run.check("data.bin")
    assert len(run.problems()) == 1


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"files": 3}', '{"files": {"data.bin": 3}}', ""]
)
def test_broken_manifests_are_named(run: RunFolder, text: str) -> None:
    (run.path / MANIFEST).write_text(text)
    with pytest.raises(StoreError, match=MANIFEST):
        run.manifest()
    assert len(run.problems()) == 1


def test_unlisted_and_unfinished(run: RunFolder) -> None:
    (run.path / "new.bin").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"new\.bin is not listed"):
        run.check("new.bin")
    (run.path / MANIFEST).unlink()
    assert not run.complete
    with pytest.raises(StoreError, match="not a finished run"):
        run.check("data.bin")


def test_leftovers_are_swept_and_never_listed(run: RunFolder) -> None:
    (run.path / ".data.bin.77.tmp").write_bytes(b"half")
    (run.path / "ckpt" / ".step_2.bin.77.tmp").write_bytes(b"half")
    run.commit({})
    assert set(run.manifest()) == {"config.json", "ckpt/step_1.bin", "data.bin"}
    run.prepare()
    assert not list(run.path.rglob("*.tmp")) and run.problems() == []


def test_where_runs_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SANDBOX_RUNS", raising=False)
    assert default_root() == Path("runs")
    monkeypatch.setenv("SANDBOX_RUNS", "/elsewhere")
    assert default_root() == Path("/elsewhere")


# ------------------------------------------------------------------- resume files


def test_resume_files_check_themselves(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.load_resume() is None
    for step in (64, 128):
        state = {"a": np.arange(5.0) + step, "b": np.asarray(step, np.uint32)}
        run.save_resume(step, state, {"t": step, "columns": ["x"]})
    (path,) = tmp_path.glob("resume-*")  # the older one has gone
    tensors, meta = run.load_resume()
    np.testing.assert_array_equal(tensors["a"], np.arange(5.0) + 128)
    assert tensors["b"] == 128 and tensors["b"].dtype == np.uint32
    assert meta == {"t": 128, "columns": ["x"]}
    data = path.read_bytes()
    for at in (0, 8, len(data) // 2, len(data) - 1):
        broken = bytearray(data)
        broken[at] ^= 4
        path.write_bytes(broken)
        assert run.load_resume() is None
    path.write_bytes(data[:-1])
    assert run.load_resume() is None
    path.write_bytes(data)
    assert run.load_resume() is not None


def test_an_older_resume_file_serves_if_the_newest_is_broken(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.save_resume(64, {"a": np.ones(2)}, {"t": 64})
    (old,) = tmp_path.glob("resume-*")
    kept = old.read_bytes()
    run.save_resume(128, {"a": np.ones(2)}, {"t": 128})
    (new,) = tmp_path.glob("resume-*")
    old.write_bytes(kept)
    new.write_bytes(new.read_bytes()[:-3])
    found = run.load_resume()
    assert found is not None and found[1] == {"t": 64}


# -------------------------------------------------------------------------- locks

HOLD = """
import pathlib, sys
from sandbox.store.files import exclusive
with exclusive(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_writer_and_the_dead_do_not_block(tmp_path: Path) -> None:
    here = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=here,
    )
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        message = f"being written by process {holder.pid}; wait"
        with pytest.raises(StoreError, match=message), exclusive(tmp_path):
            pass
        holder.kill()
    with exclusive(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
        message = f"process {os.getpid()}"
        with pytest.raises(StoreError, match=message), exclusive(tmp_path):
            pass
    with exclusive(tmp_path):
        pass


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot use"), exclusive(tmp_path / "file"):
        pass


# ------------------------------------------------------------------------ metrics


def test_metrics_round_trip(tmp_path: Path) -> None:
    """Order of strategies is kept; NaN, integers and floats come back as they were."""
    rng = np.random.default_rng(0)
    accuracy = rng.random((3, 2, 4)).astype(np.float32)
    accuracy[1, 0, 2] = np.nan
    columns = {
        "accuracy": accuracy,
        "loss": rng.random((3, 2, 4)),
        "teacher_step": rng.integers(-2, 10**10, (3, 2, 4)),
    }
    steps = np.array([0, 64, 128, 3 * 10**9])
    metrics = Metrics(steps, (4, 5, 6), ("z last", "a first"), columns)
    run = RunFolder(tmp_path)
    run.prepare()
    write_atomic(tmp_path / FILE, metrics.to_parquet())
    run.commit({})
    again = read_metrics(run)
    np.testing.assert_array_equal(again.steps, steps)
    assert again.seeds == (4, 5, 6) and again.strategies == ("z last", "a first")
    for name, values in columns.items():
        np.testing.assert_array_equal(again.columns[name], values)
        assert again.columns[name].dtype == values.dtype
    np.testing.assert_array_equal(again.curves("a first"), accuracy[:, 1])
    assert metrics.to_parquet() == again.to_parquet()
    data = bytearray((tmp_path / FILE).read_bytes())
    data[50] ^= 1
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(StoreError, match=FILE):
        read_metrics(run)


THREADS = """
import os, sys
from pathlib import Path
from sandbox.store.folders import RunFolder
from sandbox.store.metrics import read_metrics
count = lambda: len(os.listdir("/proc/self/task"))
before = count()
read_metrics(RunFolder(Path(sys.argv[1])))
print(count() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads")
def test_reading_the_table_starts_no_thread(tmp_path: Path) -> None:
    """One that ends after Python does aborts a command that had succeeded."""
    columns = {n: np.ones((50, 2, 2)) for n in "abcdefgh"}
    run = RunFolder(tmp_path)
    run.prepare()
    table = Metrics(np.arange(50), (0, 1), ("x", "y"), columns).to_parquet()
    write_atomic(tmp_path / FILE, table)
    run.commit({})
    command = [sys.executable, "-c", THREADS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_the_table_in_rows(tmp_path: Path) -> None:
    """What another tool sees: one row a step, seed and strategy."""
    import io

    import pyarrow.parquet as pq

    columns = {"v": np.moveaxis(np.arange(8.0).reshape(2, 2, 2), 0, -1)}
    metrics = Metrics(np.array([0, 9]), (1, 2), ("x", "y"), columns)
    table = pq.read_table(io.BytesIO(metrics.to_parquet())).to_pydict()
    assert table == {
        "step": [0, 0, 0, 0, 9, 9, 9, 9],
        "seed": [1, 1, 2, 2, 1, 1, 2, 2],
        "strategy": ["x", "y"] * 4,
        "v": list(range(8)),
    }


# --------------------------------------------------------------------- provenance


def test_macos_is_asked_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    linux = provenance.provenance(wall_seconds=1.0)
    monkeypatch.delattr(provenance.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(provenance.os, "cpu_count", lambda: 7)

    def untold(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(provenance.os, "sysconf", untold)
    there = provenance.hardware()
    assert there["cores"] == 7 and there["memory_gb"] is None
    monkeypatch.setattr(provenance.sys, "platform", "darwin")
    peak = provenance.provenance(wall_seconds=1.0)["peak_memory_mb"]
    assert peak <= linux["peak_memory_mb"] // 512  # the same number read as bytes


def test_a_gpu_tells_its_software_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        platform = "gpu"
        client = SimpleNamespace(platform_version="PJRT C API\ncuda 13000")

        def __init__(self, kind: str, peak: int) -> None:
            self.device_kind, self.peak = kind, peak * 2**20

        def memory_stats(self) -> dict[str, int]:
            return {"peak_bytes_in_use": self.peak}

    here = provenance.provenance(wall_seconds=1.0)
    new = {"runtime", "driver", "cuda", "cudnn"}
    assert not new & here["hardware"].keys() and "peak_device_memory_mb" not in here
    monkeypatch.setattr(provenance, "nvidia", lambda: ("580.65.06", "NVIDIA H200"))
    for name in ("devices", "local_devices"):
        monkeypatch.setattr(jax, name, lambda: [Device("a", 3), Device("b", 5)])
    monkeypatch.setattr(jax._src.lib, "cuda_versions", None)  # as with TPUs
    there = provenance.provenance(wall_seconds=1.0)
    assert there["peak_device_memory_mb"] == 5
    assert there["hardware"]["devices"] == ["gpu:a", "gpu:b"]
    assert there["hardware"]["driver"] == "580.65.06"
    assert there["hardware"]["runtime"].endswith("cuda 13000")
    assert "cudnn" not in there["hardware"]
    versions = SimpleNamespace(
        cuda_runtime_get_version=lambda: 13000, cudnn_get_version=lambda: 91200
    )
    monkeypatch.setattr(jax._src.lib, "cuda_versions", versions)
    monkeypatch.setattr(jax, "devices", lambda: [Device("a", 3)])
    found = provenance.hardware()
    assert (found["cuda"], found["cudnn"]) == (13000, 91200)


def test_git_is_asked_about_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "checkout"
    monkeypatch.setattr(provenance, "_CHECKOUT", root)
    assert provenance.git_state() == {}  # no such folder
    root.mkdir()

    def git(*args: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *args], cwd=root, check=True, capture_output=True)

    git("init")
    assert provenance.git_state() == {}  # no commit
    git("commit", "--allow-empty", "-m", "first")
    state = provenance.git_state()
    assert len(state["commit"]) == 40 and state["dirty"] is False
    (root / "new").write_text("")
    assert provenance.git_state() == state | {"dirty": True}
    for error in (FileNotFoundError("git"), subprocess.TimeoutExpired("git", 10)):

        def fail(*args: object, error: Exception = error, **kw: object) -> None:
            raise error

        with monkeypatch.context() as m:
            m.setattr(provenance.subprocess, "run", fail)
            assert provenance.git_state() == {}
