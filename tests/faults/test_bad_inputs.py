"""Bad inputs: one sentence that names the field and a way out, and exit code 2."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paper_repro.__main__ import main as paper_main
from sandbox.distill.sources import Final, NShot, PerSeed, Progressive, UntilSaturation
from sandbox.distill.strategy import Anneal, Loss, Strategy
from sandbox.errors import ConfigError
from sandbox.models.mlp import MLP
from sandbox.probes.fourier import FourierProbe
from sandbox.probes.spectrum import SpectrumProbe
from sandbox.store.config import from_json, to_json
from sandbox.store.files import read_json, write_json
from sandbox.store.folders import RunFolder
from sandbox.study.study import study_in
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.tasks.parity import ExplicitSupport, NoisyParity, Parity
from sandbox.train.optim import SGD, Adam, LearningRate
from sandbox.train.run import BUILT_IN
from sandbox.train.spec import RunSpec, Stop, TeacherRef
from tests.faults.inputs import (
    SPEC,
    STUDENT,
    answered,
    ask,
    check_answer,
    contents,
    make_store,
    recommit,
)

ROOT = Path(__file__).resolve().parents[2]
NAN, INF = float("nan"), float("inf")
# ---------------------------------------------------------------------------- studies

STUDY = [
    ("parity_mlp", "", "a preset comes first: one of smoke, cpu, paper"),
    ("parity_mlp", "smok", "no preset 'smok'; did you mean smoke?"),
    ("parity_mlp", "huge", "no preset 'huge'; it is one of smoke, cpu, paper"),
    ("parity_mlp", "--tau 0", "a preset comes first"),
    ("parity_mlp", "smoke extra", "unrecognized arguments: extra"),
    ("parity_mlp", "smoke --tua 1", "no option --tua; did you mean --tau?"),
    ("parity_mlp", "smoke --setting.task.kk 3", "did you mean --setting.task.k?"),
    ("parity_mlp", "smoke --n-teachers 3", "did you mean --setting.n-teachers?"),
    ("parity_mlp", "smoke --setting.rule.scal cpu", "mean --setting.rule.scale?"),
    ("parity_mlp", "smoke --setting.teacher-width 3", "mean --setting.teacher.width?"),
    ("parity_mlp", "smoke --setting.rule foo", "there is no option --setting.rule; "),
    ("parity_mlp", "smoke --" + "x" * 5000, "no option --xxx"),
    ("parity_mlp", "smoke --tau x", "--tau: could not convert string to float: 'x'"),
    ("parity_mlp", "smoke --tau", "--tau: expected one argument"),
    ("parity_mlp", "smoke --tau -1", "target.tau must be at least 0"),
    ("parity_mlp", "smoke --tau nan", "tau must be a finite number, got nan"),
    ("parity_mlp", "smoke --no-argmax-control 1", "unrecognized arguments: 1"),
    (
        "parity_mlp",
        "smoke --setting.rule.scale foo",
        "--setting.rule.scale: there is no choice 'foo'; it is one of cpu, paper",
    ),
    ("parity_mlp", "smoke --setting.n-teachers 1.5", "--setting.n-teachers: invalid"),
    ("parity_mlp", "smoke --setting.n-teachers 0", "setting.n_teachers must be at"),
    (
        "parity_mlp",
        "smoke --setting.task.k 30",
        "error: task.k must lie in 1..d = 1..24, got 30.\n",
    ),
    ("parity_mlp", "smoke --setting.task.d " + "9" * 30, "task.d must be at most 2147"),
    ("parity_mlp", "smoke --setting.rule.degrees", "rule.degrees must lie in 1..d"),
    ("parity_mlp", "smoke --setting.rule.degrees 2", "rule.degrees must hold 1"),
    ("parity_mlp", "smoke --setting.rule.degrees 1 x", "--setting.rule.degrees: "),
    ("parity_mlp", "smoke --setting.rule.points 1", "rule.points must be at least 2"),
    ("parity_mlp", "smoke --setting.spacing 100", "setting.spacing = 100 must be a"),
    ("parity_mlp", "smoke --setting.student-every 7", "setting.student_every = 7"),
    ("parity_mlp", "smoke --setting.budget.factor 2", "budget.factor must be at least"),
    ("parity_mlp", "smoke --setting.budget.cap nan", "budget.cap must be positive and"),
    ("parity_mlp", "smoke --setting.budget.least -1", "budget.least must be at least"),
    ("parity_mlp", "smoke --setting.budget.limit 9", "budget.limit = 9 must be a mult"),
    ("parity_mlp", "smoke --setting.budget.limit 1e6", "--setting.budget.limit: inv"),
    ("parity_mlp", "smoke --setting.budget.limit 4294967296000", "stop.max_samples"),
    ("parity_mlp", "smoke --setting.hold 7", "hold of 'two_shot' = 7 must be a mult"),
    ("parity_mlp", "smoke --setting.inits 0", "setting.inits must be at least 1"),
    ("parity_mlp", "smoke --setting.teacher.width 0", "network.width must be at least"),
    ("parity_mlp", "smoke --progressive-cap 7", "progressive_cap must lie in 0..budge"),
    ("parity_mlp", "smoke --grid tua=1,2", "no option --tua; did you mean --tau?"),
    ("parity_mlp", "smoke --grid tau", "--grid: "),
    ("parity_mlp", "smoke --grid tau=1,x", "--tau: could not convert string to float"),
    ("parity_mlp", "smoke --grid setting.task.k=3,30", "task.k must lie in 1..d = 1.."),
    (
        "parity_mlp",
        "smoke --setting.teacher-optimizer.lr.peak 0",
        "lr.peak must be positive and finite, got 0.0",
    ),
    (
        "parity_mlp",
        "cpu --setting.student-optimizer.lr.decay cosine",
        "lr.total must exceed lr.warmup = 0",
    ),
    (
        "parity_mlp",
        "paper --setting.student-optimizer.momentum 1",
        "optimizer.momentum must lie in [0, 1), got 1.0",
    ),
    (
        "parity_curriculum",
        "smoke --candidates midle",
        "candidates must be among before",
    ),
    ("parity_curriculum", "smoke --candidates", "candidates must be among before"),
    (
        "parity_curriculum",
        "cpu --student-samples -1",
        "student_samples must be at least",
    ),
    ("template", "smoke --setting.task.k 30", "task.k must lie in 1..d, got 30"),
    ("template", "paper", "no preset 'paper'; it is one of smoke, cpu"),
]


@pytest.mark.parametrize(
    ("name", "line", "words"), STUDY, ids=[f"{n} {a:.40}" for n, a, _ in STUDY]
)
@pytest.mark.usefixtures("no_shapes")
def test_a_study_refuses(
    name: str,
    line: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = study_in(importlib.import_module(f"experiments.{name}"))
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    monkeypatch.setattr("sandbox.study.study.run_all", None)  # refused before
    code, err = answered(lambda: study.main(line.split()), capsys)
    assert code == 2 and words in err


PAPER = [
    ("parity_mpl", "there is no study 'parity_mpl'; did you mean parity_mlp?"),
    ("zebra", "no study 'zebra'; it is one of parity_mlp, parity_curriculum"),
    ("parity_mlp parity_curiculum", "did you mean parity_curriculum?"),
    ("x" * 5000, "there is no study 'xxx"),
    ("parity_mlp --scale big", "--scale: there is no scale 'big'; it is one of smoke"),
    (
        "parity_mlp --scale smok",
        "--scale: there is no scale 'smok'; did you mean smoke",
    ),
    ("parity_mlp --scale", "--scale: expected one argument"),
    ("parity_mlp --root README.md", "--root: README.md is not a folder"),
    ("parity_mlp --estimat", "no option --estimat; did you mean --estimate?"),
    ("parity_mlp --x", "there is no option --x"),
]


@pytest.mark.parametrize(("line", "words"), PAPER, ids=[p[0][:40] for p in PAPER])
def test_paper_repro_refuses(
    line: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    code, err = answered(lambda: paper_main(line.split()), capsys)
    assert code == 2 and words in err


# ---------------------------------------------------------------------------- records

TASK = Parity(d=10, k=2)
TAUGHT = Strategy(name="a", source=Final())


RECORDS: list[tuple[Callable[[], Any], str]] = [
    (lambda: Parity(d="10"), "task.d must be a whole number, got '10'"),
    (lambda: Parity(d=True), "task.d must be a whole number"),
    (lambda: Parity(d=2**40), "task.d must be at most 2147483647, got"),
    (lambda: Parity(d=10, k=2.5), "task.k must be a whole number"),
    (lambda: Parity(d=10, support="first"), "task.support must be FirstSupport()"),
    (
        lambda: Parity(d=10, k=1, support=ExplicitSupport(indices=1)),
        "indices must be a",
    ),
    (
        lambda: Parity(d=10, k=1, support=ExplicitSupport(indices=(1.0,))),
        "indices must",
    ),
    (lambda: NoisyParity(d=10, k=2, eps="0.1"), "task.eps must lie in [0, 0.5), got '"),
    (lambda: NoisyParity(d=10, k=2, eps=NAN), "task.eps must lie in"),
    (lambda: Hierarchy(depth="3"), "task.depth must be a whole number"),
    (lambda: Hierarchy(feature_complexity=0), "task.feature_complexity must lie in"),
    (lambda: Hierarchy(d=20), "needs d >= 35, got d = 20"),
    (lambda: Hierarchy(layout="disjont"), "task.layout must be disjoint, shared or"),
    (lambda: MLP(hidden=16), "model.hidden must be a tuple of whole numbers"),
    (lambda: MLP(hidden=[16]), "model.hidden must be a tuple of whole numbers"),
    (lambda: MLP(hidden=(16.0,)), "model.hidden must be a tuple of whole numbers"),
    (lambda: MLP(d="10"), "model.d must be a whole number"),
    (lambda: LearningRate(peak="0.1"), "lr.peak must be positive and finite, got '"),
    (lambda: LearningRate(peak=True), "lr.peak must be positive and finite, got Tr"),
    (lambda: LearningRate(warmup="5"), "lr.warmup must be a whole number, got '5'"),
    (lambda: LearningRate(decay="cosin"), "lr.decay must be constant or cosine"),
    (lambda: SGD(lr=0.1), "optimizer.lr must be LearningRate() or Sched"),
    (lambda: SGD(momentum="0.9"), "optimizer.momentum must lie in [0, 1), got '0.9'"),
    (lambda: Adam(b1=1), "optimizer.b1 must lie in [0, 1), got 1"),
    (lambda: Adam(b2=None), "optimizer.b2 must lie in [0, 1), got None"),
    (lambda: Adam(eps=INF), "optimizer.eps must be positive and finite"),
    (lambda: PerSeed([1]), "per-seed values must be"),
    (lambda: PerSeed((1.5,)), "per-seed values must be whole numbers"),
    (lambda: Progressive(every="64"), "source.every must be a whole number, got"),
    (lambda: Progressive(every=64, speed="2"), "source.speed must be at least"),
    (lambda: Progressive(every=64, speed=1e-9), "source.speed must be at least"),
    (lambda: Progressive(every=64, speed=3.0), "must be a whole number of samples"),
    (lambda: NShot(steps=5, hold=8), "source.steps must be a tuple"),
    (lambda: NShot(steps=("x",), hold=8), "source.steps must be a tuple"),
    (
        lambda: NShot(steps=(5,), hold="8"),
        "source.hold must be a whole number, got '8'",
    ),
    (lambda: UntilSaturation(every=8, limit=8, min_gain=INF), "source.min_gain must"),
    (
        lambda: Anneal(start=1.0, end=0.0, over="9"),
        "anneal.over must be a whole",
    ),
    (lambda: Loss(direction="revers"), "loss.direction must be forward or reverse"),
    (lambda: Stop(max_samples=2**32), "stop.max_samples must lie in 1..4294967295"),
    (lambda: Stop(max_samples=64, factor=NAN), "stop.factor must be at least 1"),
    (lambda: Stop(max_samples=64, give_up=8), "give_up = 8 needs stop.accuracy"),
    (lambda: replace(SPEC, kind="pupil"), "kind must be teacher or student"),
    (lambda: replace(SPEC, n_seeds=2.0), "n_seeds must be a whole number, got 2.0"),
    (lambda: replace(SPEC, engine="fast"), "engine must be auto, online_sgd, onl"),
    (lambda: replace(SPEC, model=MLP(d=9)), "model.d = 9 must equal task.d = 10"),
    (
        lambda: replace(SPEC, strategies=SPEC.strategies * 2),
        "strategy names must differ",
    ),
    (lambda: replace(SPEC, strategies=(TAUGHT,)), "needs a teacher; set teacher="),
    (
        lambda: replace(SPEC, eval_every=100),
        "eval_every = 100 must be a multiple of 32",
    ),
    (lambda: TeacherRef(spec=3, final=8), "teacher.spec must be a RunSpec, got 3"),
    (lambda: replace(STUDENT, first_seed=4), "teacher.spec must cover the same seeds"),
    (
        lambda: replace(
            STUDENT,
            strategies=(replace(TAUGHT, source=Progressive(every=1)),),
            teacher=TeacherRef(spec=SPEC, final=2**22),
        ),
        "source.every = 1 asks for more than 100,000 checkpoints",
    ),
    (
        lambda: FourierProbe(TASK, MLP(d=10), degrees=(0, 1)),
        "probe.degrees must lie in",
    ),
    (
        lambda: FourierProbe(TASK, MLP(d=10), points=1),
        "probe.points must be at least 2",
    ),
    (lambda: SpectrumProbe(Parity(d=24), MLP(d=24)), "probe.task.d must be at most 20"),
]


@pytest.mark.parametrize(
    ("build", "words"), RECORDS, ids=[f"{i} {r[1]}" for i, r in enumerate(RECORDS)]
)
@pytest.mark.usefixtures("no_shapes")
def test_a_record_refuses(build: Callable[[], Any], words: str) -> None:
    with pytest.raises(ConfigError) as e:
        build()
    assert words in str(e.value) and str(e.value).endswith(".")
    check_answer(f"error: {e.value}\n")


# ---------------------------------------------------------------------- saved configs

CONFIGS = [
    ('"kind": "teacher"', '"kid": "teacher"', "$.kid: unknown field of RunSpec; did"),
    ('"kind": "teacher"', '"kind": "techer"', "$.kind: expected one of ('teacher', 's"),
    ('"kind": "teacher"', '"kind": "techer"', "'techer'; did you mean teacher?"),
    ('"n_seeds": 2', '"n_seeds": 2e0', "$.n_seeds: expected int, got 2.0"),
    ('"n_seeds": 2', '"n_seeds": 18446744073709551616', "$.n_seeds: expected a whole"),
    ('"n_seeds": 2', '"n_seeds": null', "$.n_seeds: expected int, got None"),
    ('"eps": 0.125', '"eps": NaN', "$.task.eps: expected float, got nan"),
    ('"eps": 0.125', '"eps": 1e999', "$.task.eps: expected float, got inf"),
    ('"eps": 0.125', '"eps": 0.125, "a b": 1', "$.task['a b']: unknown field of Noisy"),
    ('"eps": 0.125', '"eps": 1' + "0" * 400, "$.task.eps: expected a whole number bel"),
    ('"NoisyParity"', '"NoisyParty"', "$.task.type: expected one of "),
    ('"NoisyParity"', '"NoisyParty"', "got 'NoisyParty'; did you mean NoisyParity?"),
    ('"NoisyParity"', '["NoisyParity"]', "$.task.type: expected one of Expansion, "),
    ('"NoisyParity"', '"RunSpec"', "$.task.type: expected one of Expansion, Hier"),
    ('"ExplicitSupport"', '"subprocess.Popen"', "$.task.support.type: expected one"),
    ('[3, 1]', '{"0": 3}', "$.task.support.indices: expected a list"),
    ('[3, 1]', "[3, [1]]", "$.task.support.indices[1]: expected int, got [1]"),
    ('[3, 1]', "[3, 3]", "$.task: task.support.indices must be distinct"),
    ('"momentum": 0.0', '"momentum": 2.0', "$.optimizer: optimizer.momentum must lie"),
    ('"strategies": [{', '"strategies": [7, {', "$.strategies[0]: expected an object"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "words"), CONFIGS, ids=[c[2] for c in CONFIGS])
def test_a_saved_config_is_refused_with_its_path(
    old: str, new: str, words: str
) -> None:
    text = json.dumps(to_json(SPEC))
    assert text.count(old) == 1
    with pytest.raises(ConfigError) as e:
        from_json(RunSpec, json.loads(text.replace(old, new)), extra=BUILT_IN)
    assert str(e.value).startswith("$.") and words in str(e.value)
    check_answer(f"error: {e.value}\n")


# ---------------------------------------------------------------- the sandbox command

SANDBOX = [
    ("verifi", "there is no command 'verifi'; did you mean verify?"),
    ("doctor extra", "unrecognized arguments: extra"),
    ("runs --rot x", "there is no option --rot; did you mean --root?"),
    ("runs --root NOWHERE", "--root: NOWHERE is not a folder"),
    ("runs --root RUN/config.json", "config.json is not a folder"),
    ("verify 0000 --root ROOT", "is called '0000'; `sandbox runs` lists"),
    (f"verify {'x' * 5000} --root ROOT", "cannot be the name of a run"),
    ("doctor --root", "--root: expected one argument"),
    ("probe", " and --probes/-p must be given"),
    ("probe RUN --probes", "--probes: name one or more of fourier, alignment"),
    ("probe RUN -p spectrm", "no probe 'spectrm'; did you mean spectrum?"),
    ("probe RUN -p zebra", "no probe 'zebra'; it is one of fourier, alignment"),
    (
        "probe RUN -p fourier --points 1e5",
        "--points: invalid literal for int() with base 10: '1e5'",
    ),
    ("probe RUN -p fourier --points " + "9" * 5000, "--points: "),
    ("new", " must be given (see `sandbox new"),
    ("new FILE", " must end in .py, got"),
    ("grammar cfg3b --sample 3", "no option --sample; did you mean --samples?"),
    ("probe RUN -p fourier --points 4294967296", "--points must be less than 2^32"),
    ("probe RUN -p fourier --steps ,", "--steps must name at least one checkpoint"),
    ("probe RUN -p fourier --steps every", "--steps must be all, a list"),
    ("probe RUN -p fourier --steps every 0", "--steps every N needs N >= 1, got 0"),
    ("probe RUN -p fourier --steps -5", "-5 is not one of the 3 checkpoints"),
    ("probe RUN -p fourier --seed 9", "--seed: the run has seeds 3 to 4, got 9"),
    (
        "probe RUN -p fourier --strategy c",
        "--strategy: there is no strategy 'c'; did",
    ),
    ("probe RUN -p fourier --study a..b", "--study: a..b cannot be imported"),
    ("probe RUN -p fourier --out ROOT", "is a folder; name a file"),
    ("probe RUN -p fourier --out FILE/x.npz", "--out: FILE is not a folder"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_store(tmp_path_factory.mktemp("inputs") / "runs")


@pytest.mark.parametrize(("line", "words"), SANDBOX, ids=[s[0][:40] for s in SANDBOX])
def test_the_sandbox_command_refuses(
    line: str,
    words: str,
    store: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = store.path.parent.parent
    (tmp_path / "file").write_text("")
    places = {"ROOT": root, "RUN": store.path, "FILE": tmp_path / "file"}
    for name, path in places.items():
        line, words = (t.replace(name, str(path)) for t in (line, words))
    before = contents(root)
    code, out, err = ask(capsys, *line.split())
    assert code == 2 and not out and words in err
    check_answer(err)
    assert contents(root) == before


def test_an_edited_config_is_refused_by_the_probe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_store(tmp_path / "runs")
    data = read_json(run.path / "config.json")
    data["spec"]["task"]["kk"] = data["spec"]["task"].pop("k")
    write_json(run.path / "config.json", data)
    recommit(run)
    before = contents(tmp_path)
    code, out, err = ask(capsys, "probe", run.path, "-p", "fourier")
    assert code == 2 and not out and contents(tmp_path) == before
    check_answer(err)
    assert "$.spec.task.kk: unknown field of NoisyParity; did you mean k?" in err


# ------------------------------------------------------------------- as a user runs it

PROCESSES = [
    ["-m", "experiments.parity_mlp", "smoke", "--setting.task.k", "30"],
    ["-m", "experiments.parity_curriculum", "cpu", "--candidates", "midle"],
    ["-m", "paper_repro", "parity_mlp", "--scale", "papr"],
    ["-m", "sandbox", "probe", "0000", "--probes", "fourier"],
]


@pytest.mark.long
@pytest.mark.parametrize("argv", PROCESSES, ids=[p[1] for p in PROCESSES])
def test_in_a_process_of_its_own(argv: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *argv],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "SANDBOX_RUNS": str(tmp_path / "r")},
        timeout=100,
    )
    assert done.returncode == 2 and not done.stdout
    check_answer(done.stderr)
    assert not list(tmp_path.iterdir())


def test_the_table_is_long_and_has_no_doubles() -> None:
    inputs = [(t[0], t[1]) for t in STUDY] + [("paper_repro", t[0]) for t in PAPER]
    inputs += [("sandbox", t[0]) for t in SANDBOX] + [t[:2] for t in CONFIGS]
    assert len(set(inputs)) + len({words for _, words in RECORDS}) >= 60
