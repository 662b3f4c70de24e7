"""What a run takes is known before it begins: estimates, refusals, and what is said."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import parity_mlp, pcfg_accuracy
from experiments.bench.gpu_programs import STUDIES
from sandbox.distill.sources import Final, NShot, Progressive, UntilSaturation
from sandbox.distill.strategy import Strategy
from sandbox.errors import ConfigError, StoreError
from sandbox.models.mlp import MLP
from sandbox.platforms import assumed
from sandbox.store.files import read_json
from sandbox.store.folders import RunFolder
from sandbox.study.estimate import parts
from sandbox.tasks.parity import Parity
from sandbox.train import engine, lanes, preflight
from sandbox.train.engine import Engine
from sandbox.train.loop import fit
from sandbox.train.optim import Adam
from sandbox.train.preflight import OVERHEAD, Memory, most_checkpoints, peak_memory
from sandbox.train.progress import Silent
from sandbox.train.run import folder_of
from sandbox.train.spec import RunSpec, Stop, TeacherRef
from sandbox.train.teaching import run_chunk
from tests.golden import make_golden as golden

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("step", "evaluation")
TASK = Parity(d=100, k=6)
WIDE = RunSpec(
    kind="teacher",
    task=TASK,
    model=MLP(d=100, hidden=(50_000,)),
    strategies=(Strategy(name="teacher"),),
    stop=Stop(max_samples=1536),
    eval_every=512,
    checkpoint_every=512,
)
TAUGHT = RunSpec(
    kind="student",
    task=TASK,
    model=MLP(d=100, hidden=(100,)),
    strategies=(
        Strategy(name="first", source=NShot(steps=(512,), hold=512)),
        Strategy(name="second", source=NShot(steps=(1024,), hold=512)),
        Strategy(name="final", source=Final()),
    ),
    stop=Stop(max_samples=512),
    eval_every=512,
    teacher=TeacherRef(spec=WIDE, final=1536),
)
SMALL = replace(
    WIDE, task=Parity(d=6, k=2), model=MLP(d=6, hidden=(8,)), eval_points=64, n_seeds=2
)


# ------------------------------------------------------------------- the estimate


MEASURE = """
import sys
from pathlib import Path
from sandbox.train.loop import fit
from sandbox.train.progress import Silent
from tests.train.test_preflight import TAUGHT, WIDE

def memory(name):
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split(name + ":")[1].split()[0])

spec, root = {"teacher": WIDE, "student": TAUGHT}[sys.argv[1]], Path(sys.argv[2])
before = memory("VmRSS")
run = fit(spec, root=root, progress=Silent())
run.metrics
print(memory("VmHWM") - before)
"""


@pytest.mark.slow
def test_the_estimate_is_near_what_a_process_grows_by(tmp_path: Path) -> None:
    """A teacher of width 50,000, and three lanes with a checkpoint of it each."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    for kind, spec in (("teacher", WIDE), ("student", TAUGHT)):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, kind, str(tmp_path)],
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        grown, estimate = int(done.stdout), peak_memory(spec).total
        assert grown / 1.25 < estimate < 2 * grown, (kind, grown, peak_memory(spec))


def compiled_chunk(spec: RunSpec, k: int) -> Any:
    """What XLA says of a chunk with k teachers a seed."""
    it = Engine(spec)
    state = jax.eval_shape(it.init)
    teacher = None
    if spec.teacher is not None:
        one = jax.eval_shape(spec.teacher.spec.model.init, jax.random.key(0))
        shape = (spec.n_seeds, k)
        teacher = jax.tree.map(
            lambda p: jax.ShapeDtypeStruct((*shape, *p.shape), p.dtype), one
        )
    index = np.zeros((spec.n_seeds, len(spec.strategies)), np.int32)
    at = (np.uint32(0), np.int32(1))
    run = run_chunk.lower(
        it.kernel, it.plan, state, it.keys, *at, teacher, index, it.lanes
    )
    return run.compile().memory_analysis()


def compiled_evaluation(spec: RunSpec) -> Any:
    """What XLA says of an evaluation."""
    it = Engine(spec)
    params = jax.eval_shape(it.params, jax.eval_shape(it.init))
    args = (spec.task, spec.model, spec.eval_points, params, it.keys)
    evaluate = engine._evaluate.lower(*args)
    return evaluate.compile().memory_analysis()


GENERIC = replace(
    WIDE,
    model=MLP(d=100, hidden=(700, 300)),
    optimizer=Adam(),
    batch_size=32,
    strategies=(Strategy(name="a"), Strategy(name="b")),
    n_seeds=2,
)


@pytest.mark.parametrize(
    ("spec", "k"), [(TAUGHT, 3), (GENERIC, 0)], ids=["taught", "generic"]
)
def test_the_estimate_is_near_what_xla_plans(spec: RunSpec, k: int) -> None:
    need, xla = peak_memory(spec), compiled_chunk(spec, k)
    arguments = need.state + need.taught
    assert arguments == pytest.approx(xla.argument_size_in_bytes, rel=0.01)
    planned = xla.temp_size_in_bytes
    assert planned / 2 < need.training < 2 * planned, (need, planned)


def test_the_estimate_of_an_evaluation_is_near_what_xla_plans() -> None:
    need, xla = peak_memory(GENERIC), compiled_evaluation(GENERIC)
    planned = xla.argument_size_in_bytes + xla.temp_size_in_bytes
    assert planned / 2 < need.evaluation < 2 * planned, (need, planned)


def test_the_estimate_is_near_what_xla_reserves_on_a_gpu() -> None:
    """As compiled for an H100: arguments and temporaries of the larger program."""
    stored = read_json(ROOT / "paper_repro/results/gpu_programs.json")["programs"]
    ratios = {}
    with assumed("gpu"):
        for name, study in STUDIES.items():
            for part in parts(study.preset("paper"), Path("none")):
                made = [stored[f"{name} {part.what}: {p}"] for p in PROGRAMS]
                most = max(p["temporary_gb"] + p["arguments_gb"] for p in made)
                ratios[part.what, name] = peak_memory(part.spec).device / most / 1e9
    assert len(ratios) == 10 and all(0.5 < r < 2 for r in ratios.values()), ratios


def test_the_paper_preset_passes_with_room() -> None:
    (teacher,) = parity_mlp.PAPER.teacher_specs()
    need = peak_memory(teacher)
    assert OVERHEAD < need.total < 2e9
    assert need.params == (100 * 50_000 + 50_000 + 2 * 50_000 + 2) * 4
    assert most_checkpoints(teacher) == 281
    preflight.preflight(teacher, RunFolder(Path("/nowhere/teacher/0")))


def test_every_part_grows_with_what_it_is_of() -> None:
    base = peak_memory(TAUGHT)

    def of(**changes: Any) -> Memory:
        return peak_memory(replace(TAUGHT, **changes))

    double = replace(WIDE, n_seeds=2)
    seeds = of(n_seeds=2, teacher=TeacherRef(spec=double, final=1536))
    assert seeds.state == 2 * base.state and seeds.taught == 2 * base.taught
    assert seeds.training == 2 * base.training and seeds.cached == 2 * base.cached
    fewer = of(strategies=TAUGHT.strategies[:1])
    assert fewer.state == base.state // 3 and fewer.taught == base.taught // 3
    assert of(eval_points=65_536).evaluation > 10 * base.evaluation
    labels = of(strategies=(Strategy(name="ce"),))
    assert labels.taught == labels.cached == 0
    following = (Strategy(name="p", source=Progressive(every=512)),)
    assert of(strategies=following).taught == base.taught // 3
    grown = of(model=MLP(d=100, hidden=(100_000,)))
    assert grown.training > base.training and grown.saving > 8 * base.saving
    saturating = Strategy(name="s", source=UntilSaturation(every=512, limit=512))
    assert of(strategies=(saturating,)).cached >= base.taught // 3


def test_as_many_checkpoints_are_counted_as_are_kept() -> None:
    long = replace(WIDE, stop=Stop(max_samples=512 * 40))
    follow = (Strategy(name="p", source=Progressive(every=512)),)
    spec = replace(
        TAUGHT, strategies=follow, teacher=TeacherRef(spec=long, final=512 * 40)
    )
    need, one = peak_memory(spec), peak_memory(WIDE).params
    assert need.cached == (lanes.CACHE + 2) * one


# ------------------------------------------------------------------- the refusals


def test_a_run_beyond_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = replace(SMALL, strategies=(Strategy(name="a"), Strategy(name="b")))
    most = peak_memory(two).total
    monkeypatch.setattr(
        preflight, "_limits", lambda: iter([(most - 1, "cgroup limit")])
    )
    message = (
        r"of seeds 0-1 with 2 strategies would take about 0\.3 GB of memory, and"
        r" 0\.3 GB are available \(cgroup limit\); use fewer seeds a group \(n_seeds\)"
        r" or fewer strategies or a smaller width \(model\)\.$"
    )
    with pytest.raises(ConfigError, match=message) as e:
        fit(two, root=tmp_path, progress=Silent())
    assert "\n" not in str(e.value) and list(tmp_path.iterdir()) == []
    wide_eval = replace(SMALL, eval_points=10**7)
    with pytest.raises(ConfigError, match="or fewer eval_points or a smaller width"):
        preflight.preflight(wide_eval, folder_of(wide_eval, tmp_path))
    with pytest.raises(ConfigError, match=r"fewer strategies or a narrower teacher"):
        wider = replace(WIDE, model=MLP(d=100, hidden=(500_000,)))
        taught = replace(TAUGHT, teacher=TeacherRef(spec=wider, final=1536))
        preflight.preflight(taught, folder_of(taught, tmp_path))
    monkeypatch.setattr(preflight, "_limits", lambda: iter([(most, "MemAvailable")]))
    preflight.preflight(two, folder_of(two, tmp_path))


def test_device_memory_counts_where_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = peak_memory(WIDE)
    assert need.device + OVERHEAD <= need.total + need.params
    monkeypatch.setattr(preflight, "_device_memory", lambda: need.device - 1)
    folder = folder_of(WIDE, tmp_path)
    with pytest.raises(ConfigError, match=r"are available \(device memory\)"):
        preflight.preflight(WIDE, folder)
    monkeypatch.setattr(preflight, "_device_memory", lambda: need.device)
    monkeypatch.setattr(preflight, "_limits", lambda: iter([(need.host, "RLIMIT_AS")]))
    preflight.preflight(WIDE, folder)


def test_the_cgroup_is_among_the_limits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preflight, "_cgroup", lambda: iter([(1, "cgroup limit")]))
    assert preflight.available_memory() == (1, "cgroup limit")


def test_what_is_left_is_read_from_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dict((why, amount) for amount, why in preflight._limits())
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < found["MemAvailable"] < total
    assert preflight.available_memory() is not None
    assert preflight._device_memory() is None  # a CPU's memory is the machine's
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    for place, most in ((inner, "max\n"), (inner.parent, "5000\n")):
        (place / "memory.max").write_text(most)
        (place / "memory.current").write_text("3000\n")
        (place / "memory.stat").write_text("anon 2000\ninactive_file 700\n")
    real = preflight._text

    def text(path: Path) -> str:
        return "0::/a/b\n" if str(path) == "/proc/self/cgroup" else real(path)

    monkeypatch.setattr(preflight, "_text", text)
    assert list(preflight._cgroup(tmp_path)) == [(2700, "cgroup limit")]
    monkeypatch.setattr(preflight, "_text", lambda path: "")  # as on macOS
    monkeypatch.setattr(
        preflight.resource,
        "getrlimit",
        lambda _: (preflight.resource.RLIM_INFINITY,) * 2,
    )
    assert preflight.available_memory() is None


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
sys.argv = ["parity_mlp", "smoke", "--setting.teacher.width", "20000000"]
from experiments.parity_mlp import ParityMLP
ParityMLP.main()
"""


@pytest.mark.long
def test_an_oversize_preset_ends_in_one_line(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT), "SANDBOX_RUNS": str(tmp_path / "runs")}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], env=env, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the teacher run of seeds 0-4 with 1 strategies")
    assert "are available (RLIMIT_AS); use fewer seeds a group" in line
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------- the checkpoints


def usage(free: int) -> Any:
    return lambda _: preflight.shutil._ntuple_diskusage(10**15, 10**15 - free, free)


def test_many_checkpoints_are_told_and_must_fit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (teacher,) = parity_mlp.PAPER.teacher_specs()
    folder = folder_of(teacher, tmp_path / "runs")
    total = 281 * peak_memory(teacher).params
    monkeypatch.setattr(preflight.shutil, "disk_usage", usage(total))
    preflight.preflight(teacher, folder)
    (line,) = capsys.readouterr().err.splitlines()
    assert "up to 281 checkpoints of 20.6 MB, 5.8 GB in" in line
    monkeypatch.setattr(preflight.shutil, "disk_usage", usage(total - 1))
    with pytest.raises(StoreError, match=r"5\.8 GB more .* 5\.8 GB are free") as e:
        fit(teacher, root=tmp_path / "runs", progress=Silent())
    assert "\n" not in str(e.value) and "checkpoint_every" in str(e.value)
    assert list(tmp_path.iterdir()) == []
    stored = folder.path / "ckpt" / "step_000000000000.safetensors"
    stored.parent.mkdir(parents=True)
    stored.write_bytes(b"1")  # what is stored already needs no room
    preflight.preflight(teacher, folder)


def test_small_runs_say_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And leave it to the writing to say that a disk is full."""
    monkeypatch.setattr(preflight.shutil, "disk_usage", usage(1))
    preflight.preflight(SMALL, folder_of(SMALL, tmp_path))
    assert capsys.readouterr().err == ""
    assert most_checkpoints(replace(SMALL, checkpoint_every=0)) == 1
    assert most_checkpoints(replace(SMALL, checkpoint_every=1024)) == 3


def test_what_is_complete_is_opened_whatever_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ROOT / "tests" / "golden" / "v1" / "store"
    root = shutil.copytree(store, tmp_path / "runs")
    monkeypatch.setattr(preflight, "_limits", lambda: iter([(0, "MemAvailable")]))
    run = fit(golden.TEACHER, root=root, progress=Silent())
    assert run.outcome["samples"] == 192
    with pytest.raises(ConfigError, match="MemAvailable"):
        fit(replace(golden.TEACHER, first_seed=4), root=root, progress=Silent())


def test_attention_that_is_computed_again_is_not_counted_as_kept() -> None:
    """The published BERT, 64 strings of 433 tokens at once: 3.6 GB, not 22.

    The process that trained it held 6.2 GB, having timed its students before.
    """
    memory = peak_memory(pcfg_accuracy.PAPER.teacher_specs()[0])
    assert 1.5e9 < memory.training < 6e9
