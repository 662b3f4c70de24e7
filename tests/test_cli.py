"""The `sandbox` command, on a small store trained for the test."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from sandbox.cli import doctor, main
from sandbox.distill.strategy import Strategy
from sandbox.models.mlp import MLP
from sandbox.probes.fourier import FourierProbe
from sandbox.store.config import digest
from sandbox.store.files import exclusive, write_json
from sandbox.store.folders import RunFolder
from sandbox.store.trajectories import Trajectory
from sandbox.tasks.parity import Parity, RandomSupport
from sandbox.train.loop import fit
from sandbox.train.progress import Silent
from sandbox.train.run import Run, identity
from sandbox.train.spec import RunSpec, Stop
from sandbox.train.teaching import task_key

SPEC = RunSpec(
    kind="teacher",
    task=Parity(d=10, k=2, support=RandomSupport()),
    model=MLP(d=10, hidden=(16,)),
    strategies=(Strategy(name="ce"),),
    stop=Stop(max_samples=2048),
    eval_every=512,
    checkpoint_every=512,
    n_seeds=2,
    first_seed=3,
    eval_points=256,
    block=8,  # compiles faster
)
CUT = "step_000000001024.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("store") / "runs"
    return fit(SPEC, root=root, progress=Silent())


@pytest.fixture
def root(trained: Run, tmp_path: Path) -> Path:
    """A copy of the store that a test may damage."""
    source = trained.folder.path.parent.parent
    return Path(shutil.copytree(source, tmp_path / "runs"))


def ask(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


def only(root: Path) -> Path:
    (path,) = (root / "teacher").iterdir()
    return path


def test_light_commands_never_import_jax(root: Path) -> None:
    commands = [
        ["--help"],
        *([name, "--help"] for name in ("runs", "verify", "probe", "new", "doctor")),
        ["runs", "--root", str(root)],
        ["verify", "--root", str(root)],
        ["probe", "ffff", "--probes", "fourier", "--root", str(root)],
        ["probe", only(root).name, "--probes", "furier", "--root", str(root)],
        ["probe", str(only(root)), "--probes", "fourier", "--steps", "5"],
        ["verify", "--rot"],
    ]
    code = (
        "import sys\nfrom sandbox.cli import main\n"
        f"codes = [main(c) for c in {commands!r}]\n"
        "assert codes == [0] * 8 + [2] * 4, codes\n"
        "heavy = {'jax', 'flax', 'optax', 'nltk', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "examples:" in done.stdout


def unfinished(root: Path) -> Path:
    """A run of which the store has the record alone."""
    other = root / "student" / "0123456789abcdef"
    other.mkdir(parents=True)
    shutil.copy(only(root) / "config.json", other)
    return other


def test_runs_lists_finished_unfinished_and_held(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = unfinished(root)
    code, out, _ = ask(capsys, "runs", "--root", root)
    lines = out.splitlines()
    assert code == 0 and len(lines) == 3
    assert "unfinished" in lines[1] and "student" in lines[1]
    for word in ("Parity d=10", "MLP d=10 hidden=16", "ce", "3-4", "2,048", "finished"):
        assert word in lines[2]
    with exclusive(other):
        assert " held " in ask(capsys, "runs", "--root", root)[1]
    assert " held " not in ask(capsys, "runs", "--root", root)[1]


def test_runs_on_a_terminal(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under what they train, named so that the name is enough, within the width."""
    lanes = [dataclasses.replace(SPEC.strategies[0], name=f"ce{i}") for i in range(20)]
    spec = dataclasses.replace(SPEC, strategies=tuple(lanes), kind="student")
    name = only(root).name
    twin = root / "student" / (name[:7] + "0" * 9)
    twin.mkdir(parents=True)
    write_json(twin / "config.json", identity(spec))
    aside = f"{name}.before-1"
    shutil.copytree(only(root), root / "teacher" / aside)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = ask(capsys, "runs", "--root", root)
    lines = out.splitlines()
    assert code == 0 and max(map(len, lines)) == 80
    assert lines[0].split() == "run tau lr seeds samples state size date lanes".split()
    assert lines[2] == "student: Parity d=10 k=2 RandomSupport, MLP d=10 hidden=16"
    cells = [twin.name[:8], "-", "0.01", "3-4", "0", "unfinished"]
    assert lines[3].split()[:6] == cells and lines[3].endswith("...")
    assert lines[5].startswith("teacher: Parity") and f"{name[:8]}  " in lines[6]
    assert "before-1" in out and aside not in out
    monkeypatch.setenv("COLUMNS", "140")
    out = ask(capsys, "runs", "--root", root)[1]
    assert aside in out and twin.name in out and "seconds" in out.splitlines()[0]


def test_runs_are_chosen_and_exported(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = unfinished(root)

    def chosen(*words: str) -> list[str]:
        code, out, _ = ask(capsys, "runs", "--json", "--root", root, *words)
        assert code == 0
        return [r["hash"] for r in json.loads(out)]

    name = only(root).name
    assert chosen() == [other.name, name]
    assert chosen("parity", "D=10") == [other.name, name] and chosen("gaussian") == []
    assert chosen("--kind", "teacher") == chosen("--state", "finished") == [name]
    assert chosen("parity", "--state", "unfinished") == [other.name]
    code, _, err = ask(capsys, "runs", "--kind", "teachr", "--root", root)
    assert code == 2 and "did you mean teacher?" in err
    code, out, _ = ask(capsys, "runs", "gaussian", "--root", root)
    assert code == 0 and out == f"no runs under {root} match.\n"
    row = json.loads(ask(capsys, "runs", name, "--json", "--root", root)[1])[0]
    assert row["config"] == json.loads((only(root) / "config.json").read_text())
    found = [row[k] for k in ("lr", "samples", "lanes", "tau")]
    assert found == [0.01, 2048, ["ce"], []]


def test_runs_says_when_there_are_none(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SANDBOX_RUNS", str(tmp_path / "none"))
    code, out, _ = ask(capsys, "runs")
    assert code == 0 and "no runs under" in out
    code, _, err = ask(capsys, "runs", "--root", tmp_path / "none")
    assert code == 2 and err.startswith("error: --root") and err.count("\n") == 1
    (tmp_path / "none").touch()
    code, _, err = ask(capsys, "runs")
    assert code == 2 and err.startswith("error: the folder of runs: ")


def test_verify_passes_a_sound_store(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished = root / "teacher" / "0123456789abcdef"
    unfinished.mkdir()
    shutil.copy(only_finished(root) / "config.json", unfinished)
    code, out, _ = ask(capsys, "verify", "--root", root)
    assert code == 0
    assert "1 sound, 0 with problems, 1 unfinished" in out and "is unfinished" in out


def only_finished(root: Path) -> Path:
    (manifest,) = root.glob("*/*/manifest.json")
    return manifest.parent


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        (f"ckpt/{CUT}", lambda p: os.truncate(p, 100), "was cut or grown (100 bytes"),
        (f"ckpt/{CUT}", flip, "was altered"),
        ("metrics.parquet", Path.unlink, "is missing"),
        ("config.json", Path.unlink, "is missing"),
        ("manifest.json", lambda p: p.write_text("{"), "is not valid JSON"),
    ],
)
def test_verify_names_what_is_wrong(
    root: Path, capsys: pytest.CaptureFixture[str], name: str, damage, words: str
) -> None:
    path = only(root) / name
    damage(path)
    code, out, _ = ask(capsys, "verify", "--root", root)
    line = out.splitlines()[0]
    assert code == 1 and line.startswith(str(path)) and words in line
    assert "0 sound, 1 with problems" in out
    assert ask(capsys, "verify", only(root).name[:6], "--root", root)[0] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ffff"], "is called 'ffff'"),
        (["RUN", "--probes", "furier"], "did you mean fourier?"),
        (["RUN", "--steps", "1000"], "1000 is not one of the 5 checkpoints"),
        (["RUN", "--steps", "1000"], "the nearest is 1024, the last 2048"),
        (["RUN", "--steps", "soon"], "--steps must be all, a list"),
        (["RUN", "--steps", "every", "5000"], "is a multiple of 5000"),
        (["RUN", "--seed", "0"], "seeds 3 to 4, got 0"),
        (["RUN", "--strategy", "cee"], "did you mean ce?"),
        (["RUN", "--points", "1"], "--points must be at least 2"),
        (["RUN", "--study", "no_such_study"], "no_such_study cannot be imported"),
        (["RUN", "--out", "RUN/x.npz"], "which must not change"),
        (["RUN", "--probes", "fourier", "alignment", "--out", "x"], "names one file"),
    ],
)
def test_probe_refuses_in_one_sentence(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    filled = [a.replace("RUN", str(only(root))) for a in arguments]
    if "--probes" not in filled:
        filled += ["--probes", "fourier"]
    code, out, err = ask(capsys, "probe", *filled, "--root", root)
    assert code == 2 and not out
    assert err.startswith("error: ") and err.count("\n") == 1 and words in err


def test_an_ambiguous_hash_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = only(root).name[:6] + "0123456789"
    shutil.copytree(only(root), root / "student" / twin)
    name = only(root).name[:6]
    code, _, err = ask(capsys, "verify", name, "--root", root)
    assert code == 2 and f"student/{twin}" in err and "give more of it" in err
    assert ask(capsys, "verify", f"teacher/{name}", "--root", root)[0] == 0
    code, out, _ = ask(capsys, "verify", f"student/{name}", "--root", root)
    assert code == 1 and f"is that of run {only(root).name}" in out


def test_probe_refuses_an_altered_checkpoint(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(only(root) / "ckpt" / CUT)
    code, _, err = ask(
        capsys, "probe", only(root), "--probes", "alignment", "--steps", "1024"
    )
    assert code == 2 and CUT in err and "was altered" in err


def test_probe_end_to_end(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = only(root)
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    code, out, err = ask(
        *(capsys, "probe", run.name[:8], "--root", root),
        *("--probes", "fourier", "alignment"),
        *("--steps", "every", 1024, "--points", 500),
    )
    assert code == 0, err
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before
    assert len(list((root / "probe").iterdir())) == 2
    lines = out.splitlines()
    path = tmp_path / "fourier.npz"
    again = ask(
        *(capsys, "probe", run.name[:8], "--root", root, "--probes", "fourier"),
        *("--steps", "every", 1024, "--points", 500, "--out", path),
    )
    assert again[0] == 0 and again[1].splitlines()[:6] == lines[:6]
    assert not again[2]  # nothing was measured twice
    assert lines[2].split()[:5] == ["step", "in", "1", "off", "1"]
    assert [row.split()[0] for row in lines[3:6]] == ["0", "1,024", "2,048"]
    with np.load(path) as stored:
        assert stored["steps"].tolist() == [0, 1024, 2048]
        assert stored["seeds"].tolist() == [3, 4]
        assert stored["in_support/2"].shape == (2, 3, 1, 1, 2)  # seeds first
        assert "in_support/3" not in stored.files
        assert json.loads(str(stored["about"]))["probe"]["points"] == 500
        probe = FourierProbe(SPEC.task, SPEC.model, degrees=(1,), points=500)
        params = Trajectory(RunFolder(run)).read(2048, seed=1)
        direct = jax.jit(probe.measure)(params, task_key(4))
        c = np.asarray(direct["off_support/1"])
        np.testing.assert_allclose(stored["off_support/1"][1, 2], c, atol=1e-6)
        both = np.abs(stored["off_support/1"][:, 2][..., 1]).mean()
    assert lines[5].split()[2].startswith(f"{both:.5f}±")


def test_probe_of_one_seed_to_a_named_file(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a" / "one.npz"
    code, text, _ = ask(
        *(capsys, "probe", only(root), "--probes", "alignment"),
        *("--steps", "0,2048", "--seed", 4, "--out", out),
    )
    assert code == 0 and "seed 4" in text and str(out) in text
    with np.load(out) as stored:
        assert stored["seeds"].tolist() == [4]
        assert stored["alignment"].shape == (1, 2, 1, 16)


STUDY = """
from dataclasses import dataclass
from sandbox.tasks.parity import Parity

@dataclass(frozen=True, kw_only=True)
class MyParity(Parity):
    note: int = 1
"""


def test_a_class_of_ones_own_needs_its_study(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = tmp_path / "my_study.py"
    study.write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_study  # pyright: ignore[reportMissingImports]

    # The stored run, as if it had been trained on the new class.
    task = my_study.MyParity(d=10, k=2, support=RandomSupport())
    spec = dataclasses.replace(SPEC, task=task)
    write_json(only(root) / "config.json", identity(spec))
    RunFolder(only(root)).commit({"kind": "teacher"})
    command = ["probe", only(root), "--probes", "alignment"]
    code, _, err = ask(capsys, *command)
    assert code == 2 and "only through --study MODULE" in err
    code, _, err = ask(capsys, *command, "--study", "my_study")
    assert code == 0 and "warning" not in err
    data = identity(spec)
    assert set(data["foreign"]) == {"my_study:MyParity"}
    data["foreign"]["my_study:Base"] = "0"  # a parent that it has lost since
    write_json(only(root) / "config.json", data)
    RunFolder(only(root)).commit({"kind": "teacher"})
    code, _, err = ask(capsys, *command, "--study", "my_study")
    assert code == 0 and err.startswith("warning: my_study:Base was edited")
    write_json(only(root) / "config.json", identity(spec))
    RunFolder(only(root)).commit({"kind": "teacher"})
    study.write_text(STUDY + "    more: int = 2\n")
    monkeypatch.delitem(sys.modules, "my_study")
    code, _, err = ask(capsys, *command, "--study", "my_study")
    assert code == 0 and err.startswith("warning: my_study:MyParity was edited")
    sys.modules.pop("my_study")


def test_doctor_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ask(capsys, "doctor", "--root", tmp_path / "runs")
    assert code == 0
    for word in ("python", "cores", "memory", "jax", "cpu:0", "is writable"):
        assert word in out
    (tmp_path / "file").write_text("")
    code, out, _ = ask(capsys, "doctor", "--root", tmp_path / "file")
    assert code == 1 and "cannot be written" in out


@pytest.mark.parametrize(
    ("driver", "extra"),
    [
        ("580.65.06", "[cuda13]"),
        ("579.99", "[cuda12]"),
        ("525.60.13", "[cuda12]"),
        ("470.82", "update the driver"),
        ("unknown", "not understood"),
    ],
)
def test_the_extra_follows_the_driver(driver: str, extra: str) -> None:
    assert extra in doctor.advice(driver)


def test_the_driver_is_read_from_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '580.65.06, NVIDIA H200, 143771 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert doctor.nvidia() == ("580.65.06", "NVIDIA H200, 143771 MiB")


@pytest.mark.parametrize(("before", "after"), [(None, "false"), ("true", "true")])
def test_no_command_takes_a_whole_gpu(
    before: str | None, after: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What jax reads when it starts a GPU; only the user sets it otherwise."""
    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    monkeypatch.setenv(name, before or "")
    if before is None:
        monkeypatch.delenv(name)
    assert main(["runs", "--root", str(root)]) == 0
    assert os.environ[name] == after


def test_an_interrupted_run_asks_to_be_tried_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sandbox.cli import list_runs
    from sandbox.errors import Interrupted

    def stop(_: object) -> None:
        raise Interrupted("stopped at sample 5 by signal SIGTERM.")

    monkeypatch.setattr(list_runs, "root_of", stop)
    code, _, err = ask(capsys, "runs")
    assert code == 75 and err == "error: stopped at sample 5 by signal SIGTERM.\n"


def test_a_computation_is_listed_and_verified(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"schema": 1, "what": {"type": "Ceiling", "points": 8}, "foreign": {}}
    folder = RunFolder(root / "computed" / digest(config))
    folder.path.mkdir(parents=True)
    write_json(folder.path / "config.json", config)
    (folder.path / "values.safetensors").write_bytes(b"numbers")
    write_json(folder.path / "provenance.json", {"wall_seconds": 12.0})
    folder.commit({"kind": "computed"})
    code, out, _ = ask(capsys, "runs", "--root", root)
    line = out.splitlines()[1]
    assert code == 0 and line.split()[0] == "computed" and "Ceiling points=8" in line
    assert "finished" in line and line.split()[-2] == "12"
    code, out, _ = ask(capsys, "verify", "--root", root)
    assert code == 0 and "2 sound, 0 with problems" in out
    flip(folder.path / "values.safetensors")
    assert ask(capsys, "verify", folder.path.name, "--root", root)[0] == 1


def test_new_writes_the_template_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my_idea.py"
    code, out, _ = ask(capsys, "new", file)
    assert code == 0 and str(file) in out
    template = Path(__file__).parents[1] / "experiments" / "template.py"
    assert file.read_text() == template.read_text()
    file.write_text("mine")
    code, _, err = ask(capsys, "new", file)
    assert code == 2 and "exists" in err and file.read_text() == "mine"
    code, _, err = ask(capsys, "new", tmp_path / "none" / "a.py")
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert "must end in .py" in ask(capsys, "new", tmp_path)[2]
