"""Stores made to harm: nothing outside is read, nothing hangs, each is one message."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

from sandbox.store.files import write_json
from sandbox.store.folders import RunFolder
from sandbox.store.metrics import FILE
from sandbox.store.trajectories import Trajectory, checkpoint_name
from tests.faults.inputs import (
    STEPS,
    ask,
    make_store,
    probe_refuses,
    recommit,
    safetensors,
)

CUT = checkpoint_name(512)
SECONDS = 30
"""Seconds after which an answer has hung: only a pipe that is read could take them."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_store(tmp_path_factory.mktemp("made") / "runs")


@pytest.fixture
def run(made: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of a store that a test may damage."""
    shutil.copytree(made.path.parent.parent, tmp_path / "runs")
    return RunFolder(tmp_path / "runs" / made.path.parent.name / made.path.name)


# --------------------------------------------------------------------------- manifests


def edit_manifest(run: RunFolder, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads((run.path / "manifest.json").read_text())
    change(data)
    data.pop("sha256", None)  # of a manifest that a forger writes, it is left out
    data.pop("run", None)
    write_json(run.path / "manifest.json", data)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Every file that this process opens."""
    out: list[str] = []
    listening = True

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if listening and event == "open" and isinstance(args[0], str | bytes | Path):
            out.append(os.fsdecode(args[0]))

    sys.addaudithook(hook)  # there is no way to remove one
    yield out
    listening = False


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../../../secret", "ckpt/../../../../secret", "out/secret", "link"],
)
def test_a_manifest_cannot_point_outside(
    run: RunFolder,
    tmp_path: Path,
    name: str,
    opened: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "elsewhere").mkdir()
    for place in (tmp_path, tmp_path / "elsewhere"):
        (place / "secret").write_text("a secret")
    (run.path / "out").symlink_to(tmp_path / "elsewhere")
    (run.path / "link").symlink_to(tmp_path / "secret")
    edit_manifest(run, lambda m: m["files"].update({name: {"sha256": "0", "size": 8}}))
    opened.clear()
    code, out, _ = ask(capsys, "verify", run.path)
    assert code == 1 and name in out and len(out.splitlines()) == 3
    assert "manifest.json" in probe_refuses(capsys, run)
    ask(capsys, "runs", "--root", tmp_path / "runs")
    assert opened and not [p for p in opened if "secret" in p or p == "/etc/passwd"]


@pytest.mark.parametrize("what", ["ckpt", "file"])
def test_links_instead_of_checkpoints(
    run: RunFolder, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder or a file that was moved away, with a link in its place."""
    part = run.path / ("ckpt" if what == "ckpt" else CUT)
    part.rename(tmp_path / "moved")
    part.symlink_to(tmp_path / "moved")
    code, out, _ = ask(capsys, "verify", run.path)
    assert code == 1 and str(run.path) in out
    assert str(run.path) in probe_refuses(capsys, run, "--steps", 512)


@pytest.mark.parametrize("step", ["x", "5", "9" * 5000, "-00000000512", "\u0660" * 12])
def test_checkpoints_of_other_names_are_none(run: RunFolder, step: str) -> None:
    name = f"ckpt/step_{step}.safetensors"
    edit_manifest(run, lambda m: m["files"].update({name: {"sha256": "0", "size": 8}}))
    assert Trajectory(run).steps == STEPS


# ------------------------------------------------------ what is no file, or no JSON


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def outside(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def text(data: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(data)


SHAPES = [
    "null",
    "7",
    '"x"',
    "[]",
    "[[[]]]",
    '{"spec": 7}',
    '{"spec": []}',
]
DAMAGE: dict[str, Callable[[Path], Any]] = {
    "pipe": fifo,
    "folder": folder,
    "link": outside,
    "empty": text(""),
    "bytes": lambda path: path.write_bytes(bytes(range(256))),
    "deep": text("[" * 10**5),
    "deep and sound": text("[" * 10**5 + "]" * 10**5),
    "a long number": text("1" + "0" * 10**5),
    "huge": lambda path: os.truncate(path, 2**40),
    **{s: text(s) for s in SHAPES},
}


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_no_config(
    run: RunFolder, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sandbox runs` reads configs without a manifest; `probe` never does."""
    DAMAGE[damage](run.path / "config.json")
    code, out, err = ask(capsys, "runs", "--root", run.path.parent.parent)
    assert code == 1 and not err and " damaged " in out and "root:" not in out
    assert len(out.splitlines()) == 3
    assert "config.json" in probe_refuses(capsys, run)


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize(
    "data",
    [
        {"task": 7, "model": [], "strategies": {}, "n_seeds": "x", "first_seed": None},
        {"task": {"type": [[7]]}, "model": {"hidden": [{}]}, "strategies": [7, {}, []]},
        {"task": {"d": 10**400}, "strategies": [{"name": "\x1b[2J\n" * 10**4}]},
        {"task": {str(i): i for i in range(10**4)}, "strategies": [{}] * 10**4},
    ],
)
def test_a_config_of_strange_data_is_one_line(
    run: RunFolder,
    data: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_json(run.path / "config.json", {"spec": data})
    write_json(run.path / "outcome.json", {"failed": 7, "samples": "x", "lanes": []})
    write_json(run.path / "provenance.json", {"wall_seconds": [1]})
    code, out, err = ask(capsys, "runs", "--root", run.path.parent.parent)
    assert code == 0 and not err and len(out.splitlines()) == 2
    assert max(map(len, out.splitlines())) < 400 and "\x1b" not in out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = ask(capsys, "runs", "--root", run.path.parent.parent)
    assert code == 0 and not err and len(out.splitlines()) == 4
    assert max(map(len, out.splitlines())) <= 80 and "\x1b" not in out


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize(
    "data",
    [
        {"failed": 7, "absent": []},
        {"failed": []},
        {"failed": [7], "absent": []},
        {"failed": [], "absent": [{"seed": 3}]},
        [],
    ],
)
def test_an_outcome_of_strange_data(
    run: RunFolder,
    data: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    write_json(run.path / "outcome.json", data)
    recommit(run)
    assert "outcome.json does not list" in probe_refuses(capsys, run)


RESUME = {
    "pipe": lambda p: os.mkfifo(p),
    "folder": lambda p: p.mkdir(),
    "link": lambda p: p.symlink_to("/etc/passwd"),
    "empty": lambda p: p.write_bytes(b""),
    "a header of 1 TB": lambda p: p.write_bytes(safetensors({}, length=10**12)),
    "a list": lambda p: p.write_bytes(safetensors([])),
    "deep": lambda p: p.write_bytes(safetensors(b"[" * 10**5)),
    "no meta": lambda p: p.write_bytes(safetensors({"__metadata__": 7})),
    "meta that is no object": lambda p: p.write_bytes(
        safetensors({"__metadata__": {"meta": "[1]"}})
    ),
    "strange meta": lambda p: p.write_bytes(
        safetensors({"__metadata__": {"meta": '{"t": "x", "wall": {}}'}})
    ),
}


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("what", RESUME)
def test_a_forged_saved_state_is_not_believed(
    run: RunFolder, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.path / "manifest.json").unlink()
    RESUME[what](run.path / "resume-000000000512-0123456789abcdef.safetensors")
    code, out, err = ask(capsys, "runs", "--root", run.path.parent.parent)
    assert code == 0 and not err and " unfinished " in out and "root:" not in out
    assert len(out.splitlines()) == 2


def test_a_table_of_garbage_is_not_opened_by_the_commands(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.path / FILE).write_bytes(b"PAR1" + bytes(range(256)) + b"PAR1")
    code, out, _ = ask(capsys, "verify", run.path)
    assert code == 1 and FILE in out.splitlines()[0]
    assert ask(capsys, "runs", "--root", run.path.parent.parent)[0] == 0
