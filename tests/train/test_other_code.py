"""What other code made is told, and used only where it would come out the same."""

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import sandbox
from sandbox.cli import main
from sandbox.distill.sources import NShot, Progressive, UntilSaturation
from sandbox.distill.strategy import Strategy, Target
from sandbox.errors import Interrupted
from sandbox.models.mlp import MLP
from sandbox.probes.alignment import AlignmentProbe
from sandbox.probes.offline import measure_trajectory
from sandbox.store import code
from sandbox.store.folders import RunFolder
from sandbox.study.teachers import train_students
from sandbox.tasks.parity import Parity
from sandbox.train.engine import Engine
from sandbox.train.loop import Training, fit
from sandbox.train.progress import Silent
from sandbox.train.run import Run, open_run
from sandbox.train.spec import RunSpec, Stop, TeacherRef

SPEC = RunSpec(
    kind="teacher",
    task=Parity(d=8, k=2),
    model=MLP(d=8, hidden=(4,)),
    strategies=(Strategy(name="teacher"),),
    stop=Stop(max_samples=256),
    eval_every=64,
    eval_points=64,
    checkpoint_every=64,
)
LOSSES = "distill/losses.py"


def students(*sources: NShot | Progressive | UntilSaturation) -> RunSpec:
    lanes = tuple(
        Strategy(name=str(i), source=s, target=Target(tau=0.0))
        for i, s in enumerate(sources)
    )
    return replace(
        SPEC,
        kind="student",
        strategies=(Strategy(name="ce"), *lanes),
        teacher=TeacherRef(spec=SPEC, final=256),
    )


def forget() -> None:
    for cached in (code._places, code._take_sources):
        cached.cache_clear()
    for known in (code._KNOWN, code._TAKEN):
        known.clear()


@pytest.fixture
def edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str, str], None]]:
    """Edits a copy of the library, which is then taken for its source."""
    copy = tmp_path / "sandbox"
    shutil.copytree(Path(sandbox.__file__).parent, copy)

    def replaced(name: str, old: str, new: str) -> None:
        text = (copy / name).read_text()
        assert text.count(old) == 1, old
        (copy / name).write_text(text.replace(old, new))
        monkeypatch.setattr(code, "_LIBRARY", copy)
        forget()

    yield replaced
    forget()


def fitted(spec: RunSpec, root: Path) -> Run:
    return fit(spec, root=root, progress=Silent())


def bits(run: Run) -> bytes:
    files = sorted((run.folder.path / "ckpt").iterdir())
    return b"".join(p.read_bytes() for p in files)


def test_comments_docstrings_and_other_files_are_no_code(
    tmp_path: Path,
    edit: Callable[[str, str, str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fitted(SPEC, tmp_path)
    text = (Path(sandbox.__file__).parent / LOSSES).read_text()
    edit(LOSSES, text, text.replace('"""', '"""Now: ', 1) + "\n\n# the end\n")
    edit("models/transformer.py", "\nclass Transformer", "\nX = 1\n\nclass Transformer")
    edit("tasks/boolean.py", "\nclass Expansion", "\nX = 1\n\nclass Expansion")
    capsys.readouterr()
    fitted(SPEC, tmp_path)
    assert main(["verify", "--root", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "otherwise" not in out


def test_another_spelling_of_the_same_programs_is_adopted(
    tmp_path: Path,
    edit: Callable[[str, str, str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = students(Progressive(every=64), NShot(steps=(128,), hold=64))
    runs = [fitted(SPEC, tmp_path), fitted(spec, tmp_path)]
    before = [bits(run) for run in runs]
    edit("distill/targets.py", "\ndef annealed", "\nlax = jax.lax\n\n\ndef annealed")
    edit(LOSSES, "\ndef supervise", "\n_UNUSED = 1\n\n\ndef supervise")
    forget()
    edit("distill/sources.py", "def of_seed(", "def of_seed(  # noqa\n    ")
    capsys.readouterr()
    fitted(spec, tmp_path)
    assert capsys.readouterr().err == ""  # nothing of it is referred to
    edit(LOSSES, "def supervise(\n", "def supervise(\n    *_: None,\n")
    assert main(["verify", "--root", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert told.count("was made by another sandbox/distill/losses.py") == 2
    assert "2 of the sound ones would be made otherwise now" in told
    open_run(runs[0].folder.path)
    assert "losses.py; it is used as it is" in capsys.readouterr().err
    for run in runs:
        fitted(run.spec, tmp_path)
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and str(run.folder.path) in told
        assert (
            "losses.py; it is used, as the compiled programs and the switches" in told
        )
        fitted(run.spec, tmp_path)
    assert main(["verify", "--root", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "otherwise" not in out
    assert [bits(run) for run in runs] == before


@pytest.mark.slow
def test_lanes_of_other_code_are_settled_before_they_are_used(
    tmp_path: Path,
    edit: Callable[[str, str, str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fitted(SPEC, tmp_path)
    few = replace(students(NShot(steps=(128,), hold=64)), padded=(1, 3))
    more = students(NShot(steps=(128,), hold=64), Progressive(every=64))
    old = fitted(few, tmp_path)
    edit(LOSSES, "def supervise(\n", "def supervise(\n    *_: None,\n")
    fitted(SPEC, tmp_path)
    capsys.readouterr()
    first, second = train_students(more, tmp_path, Silent())
    assert (first.folder.path, first.lanes) == (old.folder.path, ("ce", "0"))
    assert [s.name for s in second.spec.strategies] == ["1"]
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "losses.py; it is used, as the compiled" in told


def test_code_of_the_host_is_tried(
    tmp_path: Path,
    edit: Callable[[str, str, str], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = fitted(SPEC, tmp_path)
    before = bits(run)
    edit("train/loop.py", "CHUNK_SECONDS = 0.5", "CHUNK_SECONDS = 0.25")
    capsys.readouterr()
    fitted(SPEC, tmp_path)
    words = "loop.py; it is used, as the compiled programs and the switches of teachers"
    told = capsys.readouterr().err
    assert words in told and "and its first evaluations come out so" in told
    assert bits(run) == before and run.folder.problems() == []
    edit("train/engine.py", "KERNELS: dict", "X = 1\nKERNELS: dict")
    edit("train/engine.py", "return self._own(_p", "return (X,) and self._own(_p")
    right = Engine.read_loss

    def wrong(self: Engine, state: object) -> tuple[np.ndarray, object]:
        mean, state = right(self, state)
        return 2 * mean, state

    monkeypatch.setattr(Engine, "read_loss", wrong)
    again = fitted(SPEC, tmp_path)
    kept = run.folder.path.with_name(run.folder.path.name + ".before-1")
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"sandbox/train/engine.py; it is kept as {kept.name} and made" in told
    assert again.folder.path == run.folder.path and kept.is_dir()
    assert bits(again) == before == bits(Run(RunFolder(kept), SPEC))
    for name in (run.folder.path.name[:6], kept.name):
        assert main(["verify", "--root", str(tmp_path), name]) == 0


@pytest.mark.parametrize("what", ["begin", "end", "column"])
def test_what_programs_do_not_show_is_noticed(
    tmp_path: Path,
    edit: Callable[[str, str, str], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    """Other initial weights, another end, and a further column of the metrics."""
    run = fitted(SPEC, tmp_path)
    init, record, done = Engine.init, Training._record, Training._done

    def recorded(self: Training) -> None:
        record(self)
        self.state.columns.setdefault("more", []).append(np.zeros((1, 1)))

    def doubled(self: Engine) -> object:
        state = init(self)
        return jax.tree.map(lambda v: v + v if v.dtype == "float32" else v, state)

    name, owner, part, other = {
        "begin": ("mlp", Engine, "init", doubled),
        "end": ("loop", Training, "_done", lambda s: s.state.t >= 128 or done(s)),
        "column": ("loop", Training, "_record", recorded),
    }[what]
    monkeypatch.setattr(owner, part, other)
    if name == "loop":
        edit("train/loop.py", "CHUNK_SECONDS = 0.5", "CHUNK_SECONDS = 0.25")
    else:
        edit("models/mlp.py", "\nclass MLPModule", "\nX = 1\n\n\nclass MLPModule")
        edit(
            "models/mlp.py",
            "class MLPModule(nn.Module):",
            "class MLPModule(nn.Module):\n    z = X",
        )
    capsys.readouterr()
    again = fitted(SPEC, tmp_path)
    assert "it is kept as" in capsys.readouterr().err
    kept = run.folder.path.with_name(run.folder.path.name + ".before-1")
    same = again.metrics.steps[-1] == 256 and bits(again) == bits(
        Run(RunFolder(kept), SPEC)
    )
    assert same == (what == "column")


def test_a_number_that_is_free_is_found(tmp_path: Path) -> None:
    for _ in range(2):
        (tmp_path / "x").mkdir()
        RunFolder(tmp_path / "x").set_aside()
    (tmp_path / "x.before-1").rmdir()
    (tmp_path / "x").mkdir()
    assert RunFolder(tmp_path / "x").set_aside().name == "x.before-3"


def test_code_is_followed_through_stars_caches_and_jit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_star.py").write_text("from a_table import *\n")
    (tmp_path / "a_table.py").write_text("T = {}\ndef turn(y):\n    return y\n")
    text = "import jax, functools\nfrom a_star import turn\n\ndef f(x):\n"
    text += "    return turn(x)\n\ng, h = jax.jit(f), functools.lru_cache(f)\n"
    (tmp_path / "a_user.py").write_text(text)
    forget()
    user = importlib.import_module("a_user")
    for start in (user.f, user.g, user.h):
        found = code.Code.of(start)
        assert found.roots == ("a_user:f",)
        assert set(found.modules) == {"a_user", "a_star", "a_table"}
    assert code.Code.of(eval("lambda x: x", {"__name__": "__main__"})).roots == ()
    for name in ("a_user", "a_star", "a_table"):
        monkeypatch.delitem(sys.modules, name)


def test_a_helper_that_a_notebook_reloads_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one process: edited alone it is what it was, reloaded what it became."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "a_helper.py").write_text("def turn(y):\n    return y\n")
    text = USER.format(imported="a_helper", inside="pass", called="a_helper.turn")
    (tmp_path / "a_study.py").write_text(text)
    importlib.invalidate_caches()
    forget()
    spec = replace(SPEC, task=importlib.import_module("a_study").Mine(d=8, k=2))
    before = bits(fitted(spec, tmp_path / "runs"))
    (tmp_path / "a_helper.py").write_text("def turn(y):\n    return 1 - y\n")
    capsys.readouterr()
    assert bits(fitted(spec, tmp_path / "runs")) == before
    assert capsys.readouterr().err == ""
    importlib.reload(sys.modules["a_helper"])
    assert bits(fitted(spec, tmp_path / "runs")) != before
    assert "was made by another a_helper.py; it is kept as" in capsys.readouterr().err
    for name in ("a_helper", "a_study"):
        monkeypatch.delitem(sys.modules, name)
    forget()


@pytest.mark.slow
def test_where_scores_decide_all_is_trained_again(
    tmp_path: Path,
    edit: Callable[[str, str, str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fitted(SPEC, tmp_path)
    spec = students(UntilSaturation(every=64, limit=64))
    fitted(spec, tmp_path)
    edit(LOSSES, "def is_plain(", "def is_plain(\n    *_: None, ")
    capsys.readouterr()
    fitted(spec, tmp_path)
    assert "losses.py; it is kept as" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_goes_on_only_with_its_own_code(
    tmp_path: Path,
    edit: Callable[[str, str, str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Ending(Silent):
        def update(self, done: int, note: str) -> None:
            if done == 128:
                os.kill(os.getpid(), 10)

    for i, (name, old, new, words) in enumerate(
        (
            (
                LOSSES,
                "def is_plain(",
                "def is_plain(\n    *_: None, ",
                "it is used, as",
            ),
            (
                "train/loop.py",
                "CHUNK_SECONDS = 0.5",
                "CHUNK_SECONDS = 1",
                "it is kept as",
            ),
        )
    ):
        root = tmp_path / str(i)
        with pytest.raises(Interrupted):
            fit(SPEC, root=root, progress=Ending(), chunk_samples=64)
        edit(name, old, new)
        capsys.readouterr()
        run = fitted(SPEC, root)
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and words in told
        aside = run.folder.path.with_name(run.folder.path.name + ".before-1")
        assert aside.exists() == ("kept" in words)
        now = code.Code.of(Training, SPEC)
        assert now.why_other(run.folder.made_by()) == ""


@pytest.mark.slow
def test_what_is_made_from_another_teacher_is_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = students(NShot(steps=(128,), hold=64))
    teacher, run = fitted(SPEC, tmp_path), fitted(spec, tmp_path)
    probe = AlignmentProbe(task=SPEC.task)
    found = measure_trajectory(teacher, probe, root=tmp_path, progress=Silent())
    step = teacher.folder.path / "ckpt/step_000000000128.safetensors"
    about = {"kind": "teacher", "code": teacher.folder.made_by()}
    shutil.copy(step.with_name("step_000000000256.safetensors"), step)
    (teacher.folder.path / "manifest.json").unlink()
    teacher.folder.commit(about)
    capsys.readouterr()
    again = fitted(spec, tmp_path)
    words = f"was made from another {teacher.folder.path.name}; it is kept as"
    assert words in capsys.readouterr().err
    (kept,) = run.folder.path.parent.glob("*.before-1")
    assert bits(again) != bits(Run(RunFolder(kept), spec))
    measured = measure_trajectory(teacher, probe, root=tmp_path, progress=Silent())
    assert words in capsys.readouterr().err
    assert not np.array_equal(*(m.values["alignment"] for m in (found, measured)))


USER = """
from dataclasses import dataclass
import {imported}
from sandbox.tasks.parity import Parity
from sandbox.train.engine import Engine

@dataclass(frozen=True, kw_only=True)
class Mine(Parity):
    def labels(self, x, supports):
        {inside}
        return {called}(super().labels(x, supports))
"""


@pytest.mark.parametrize(
    ("imported", "inside", "called"),
    [
        ("a_package.deep as deep", "pass", "deep.turn"),
        ("os", "import a_helper", "a_helper.turn"),
        pytest.param("a_helper", "pass", "a_helper.turn", marks=pytest.mark.slow),
        pytest.param(
            "os", "from a_package.deep import turn", "turn", marks=pytest.mark.slow
        ),
    ],
)
def test_a_helper_in_another_file_is_code_of_the_class(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    imported: str,
    inside: str,
    called: str,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_package").mkdir()
    (tmp_path / "a_package/__init__.py").touch()
    (tmp_path / "a_package/deep.py").write_text("from .deeper import turn\n")
    (tmp_path / "a_study.py").write_text(
        USER.format(imported=imported, inside=inside, called=called)
    )

    def run(text: str) -> Run:
        for name in ("a_helper.py", "a_package/deeper.py"):
            (tmp_path / name).write_text(f"def turn(y):\n    return {text}\n")
        for name in [n for n in sys.modules if n.startswith("a_")]:
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
        sys.dont_write_bytecode = True
        forget()
        task = importlib.import_module("a_study").Mine(d=8, k=2)
        capsys.readouterr()
        return fitted(replace(SPEC, task=task), tmp_path / "runs")

    first = run("y")
    accuracy = bits(first)
    assert bits(run("y  # as it is")) == accuracy
    assert capsys.readouterr().err == ""
    again = run("1 - y")
    told = capsys.readouterr().err
    file = "a_helper.py" if "a_helper" in imported + inside else "a_package/deeper.py"
    assert f"was made by another {file}; it is kept as" in told
    assert again.folder.path == first.folder.path and bits(again) != accuracy
    forget()


@pytest.mark.long
def test_a_changed_loss_is_trained_anew(tmp_path: Path) -> None:
    """As a user does it: the library's file is edited between two commands."""
    tree = tmp_path / "tree"
    shutil.copytree(Path(sandbox.__file__).parent, tree / "sandbox")
    shutil.copytree(Path(__file__).parents[1], tree / "tests")
    file = tree / "sandbox" / LOSSES

    def run() -> tuple[str, np.ndarray]:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from tests.train.test_other_code import *\n"
                f"assert sandbox.__file__.startswith({str(tree)!r})\n"
                f"root = Path({str(tmp_path / 'runs')!r})\n"
                "run = fitted(replace(SPEC, engine='generic'), root)\n"
                "print(*run.metrics.curves('teacher', 'loss').ravel())",
            ],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr, np.array(done.stdout.split(), float)

    said, first = run()
    text = file.read_text()
    file.write_text(text + "\n# an idea\n")
    assert run()[0] == "" and said == ""
    assert text.count("\n    return ") > 2
    head, _, tail = text.partition("\ndef value(")
    body, _, rest = tail.partition("return ")
    file.write_text(f"{head}\ndef value({body}return 0.5 * {rest}")
    said, second = run()
    assert "sandbox/distill/losses.py; it is kept as" in said and said.count("\n") == 1
    assert not np.array_equal(first, second)
