"""Odd surroundings change no bit: locale, paths, home, clock, network, umask."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.store.folders import default_root
from tests.faults.conftest import PATIENCE, Study

JUMPING_CLOCK = """
import itertools, time
_real, _steps = (time.time, time.monotonic), itertools.cycle((0.0, -7200.0, 40.0))
time.time = lambda: _real[0]() + next(_steps)
time.monotonic = lambda: _real[1]() + next(_steps)
"""
BARE = {
    name: None
    for name in (*os.environ, "HOME", "LANG", "TERM")
    if name in ("HOME", "USER", "LANG", "TERM", "DISPLAY", "SHELL", "PWD")
    or name.startswith(("LC_", "XDG_", "MPL", "PYTHONIO"))
}


def offline() -> list[str]:
    """A command under which there is no network, where that is permitted."""
    able = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False)
    return [] if able.returncode else ["unshare", "-n"]


def place(study: Study, name: str) -> Study:
    return Study(study.folder.parent / name, study.program, study.env)


@pytest.mark.slow
def test_no_locale_no_home_no_network(study: Study, reference: Study) -> None:
    """ASCII only, in a folder whose name is anything but."""
    odd = place(study, "-x a b/héé ☃ 'q' \"$HOME\"\nline\ttwo %s {}")
    env = {**BARE, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    odd.run(
        env={**env, "TZ": "Pacific/Kiritimati"},
        under=offline(),
        stdin=subprocess.DEVNULL,
        umask=0o077,
    )
    assert odd.contents() == reference.contents()
    made = odd.root / "teacher"
    assert not made.stat().st_mode & 0o077


@pytest.mark.slow
def test_variables_that_a_notebook_sets(study: Study, reference: Study) -> None:
    """Its backend, which this environment may not have; and jax without jit."""
    backend = "module://no_such_package.backend_inline"
    study.run(env={"MPLBACKEND": backend, "JAX_DISABLE_JIT": "1"})
    assert study.contents() == reference.contents()


@pytest.mark.long
def test_a_platform_that_is_not_there(study: Study) -> None:
    said = study.run(code=2, env={"JAX_PLATFORMS": "cuda"})
    assert "error: jax has no device (JAX_PLATFORMS='cuda'): unset" in said
    assert not study.root.exists()


def test_where_runs_are_stored(monkeypatch):
    monkeypatch.setenv("SANDBOX_RUNS", "~/mine")
    assert default_root() == Path.home() / "mine"


@pytest.mark.slow
def test_relative_paths_from_two_folders(study: Study, reference: Study) -> None:
    """The first sitting is stopped in the teachers; HOME points nowhere."""
    study.folder.mkdir()
    env = {**BARE, "HOME": "/nowhere", "LC_ALL": "tr_TR.UTF-8", "TZ": "EST5EDT"}
    study.run(
        code=75,
        env=env,
        at=("runs", "."),
        cwd=study.folder,
        faults="open step 6 SIGTERM 0",
    )
    name = study.folder.name
    err = study.run(env=env, at=(f"{name}/runs", f"./{name}"), cwd=study.folder.parent)
    assert "resumed at 1,280" in err
    assert study.contents() == reference.contents()


@pytest.mark.slow
def test_a_jumping_clock_and_a_long_path(study: Study, reference: Study) -> None:
    """Hours back and forth at every look; the working folder cannot be written."""
    long = place(study, "/".join(["n" * 200] * 12))
    assert len(str(long.folder)) > 2400
    env = {**BARE, "STUDY_FIRST": JUMPING_CLOCK, "STUDY_SAVE_SECONDS": "5"}
    long.run(env=env, cwd="/proc/self" if Path("/proc/self").exists() else "/")
    assert long.contents() == reference.contents()


def test_what_an_encoding_lacks_is_escaped() -> None:
    program = (
        "from sandbox.command import guarded\n"
        "guarded(lambda: print('cap \\u221e at \\udce9'))\n"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | ascii_only | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cap \\u221e at \\udce9\n"


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_the_matrix(
    reference: Study, tmp_path: Path, injected: Callable[..., None]
) -> None:
    """One condition at a time, each in a study of its own."""
    changes: list[dict[str, str | None]] = [
        {**BARE, "LC_ALL": "C", "PYTHONUTF8": "0"},
        {**BARE, "LC_ALL": "C", "PYTHONUTF8": "1"},
        {**BARE, "LC_ALL": "POSIX"},
        {**BARE, "LC_ALL": "tr_TR.UTF-8"},
        {**BARE, "LC_ALL": "C.UTF-8"},
        {**BARE, "PYTHONIOENCODING": "latin-1"},
        {"HOME": None},
        {"HOME": "/nowhere"},
        {"HOME": "/proc"},
        {"TMPDIR": "/nowhere"},
        {"TZ": "Asia/Kathmandu"},
        {"TZ": "nonsense"},
        {"TERM": "dumb", "NO_COLOR": "1"},
        {"COLUMNS": "20"},
        {"COLUMNS": "400"},
        {"PYTHONHASHSEED": "1"},
        {"PYTHONHASHSEED": "2"},
        {"PYTHONOPTIMIZE": "2"},
        {"STUDY_FIRST": JUMPING_CLOCK},
    ]
    names = ["a b", "é ☃", "a\nb", "-rf", "'\"", "%s{}$X", "*?[a]", "~", "x" * 255]
    for i, env in enumerate(changes):
        study = Study(tmp_path / str(i), reference.program, reference.env)
        study.run(env=env)
        assert study.contents() == reference.contents(), env
    for name in names:
        study = Study(tmp_path / name, reference.program, reference.env)
        study.run()
        assert study.contents() == reference.contents(), name
    n = len(changes) + len(names)
    injected("S14", "odd environments and paths", n, "the same bits in each")
