"""A series of checkpoints that Hugging Face saved, as a run that teaches."""

import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sandbox.cli import main
from sandbox.distill.sources import NShot
from sandbox.distill.strategy import Strategy
from sandbox.errors import ConfigError, Interrupted, StoreError
from sandbox.models.imports import load_transformer
from sandbox.models.transformer import Transformer
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.masking import MaskedLM
from sandbox.train.imported import found, import_run
from sandbox.train.loop import fit
from sandbox.train.progress import Silent
from sandbox.train.run import Run, open_run
from sandbox.train.spec import RunSpec, Stop, TeacherRef

TASK = MaskedLM(grammar=load_grammar("cfg3b", start=("10", "11", "12")))
TOKENS = (5, 6, 7, 0, 1, 2, 3)
"""The reference model's own numbers of ours."""


@pytest.fixture
def series(tmp_path: Path, reference_dir: Path) -> Path:
    """Three steps as transformers' trainer leaves them, the last ones alike."""
    for step, scale in ((500, 0.5), (1000, 1.0), (1500, 1.0)):
        folder = tmp_path / "trained" / f"checkpoint-{step}"
        shutil.copytree(reference_dir / "hf_bert", folder)
        tensors = load_file(folder / "model.safetensors")
        save_file(
            {n: scale * t for n, t in tensors.items()}, folder / "model.safetensors"
        )
        (folder / "trainer_state.json").write_text("{}")
    (tmp_path / "trained" / "runs").mkdir()
    return tmp_path / "trained"


def imported(folder: Path, root: Path, **more: object) -> Run:
    args = {"tokens": TOKENS, "root": root, "progress": Silent()} | more
    return import_run(found(folder), TASK, **args)


@pytest.mark.slow
def test_its_parameters_are_those_that_were_saved(
    series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = imported(series, tmp_path, samples_per_step=8)
    assert "checkpoint-1000 and" in capsys.readouterr().err  # hold the same numbers
    assert run.trajectory.steps == (4000, 8000, 12000)
    assert run.folder.problems() == []
    assert np.isfinite(run.metrics.curves("teacher", "loss")).all()
    x = TASK.sample(jax.random.key(0), 0, 4, split="eval").x
    for step, name in ((4000, "checkpoint-500"), (8000, "checkpoint-1000")):
        model, params = load_transformer(series / name, tokens=TOKENS, n_classes=3)
        want = model.apply(params, x).logits
        stored = jax.tree.map(jnp.asarray, run.trajectory.read(step, seed=0))
        got = run.spec.model.apply(stored, x).logits
        np.testing.assert_array_equal(got, want)
    again = imported(series, tmp_path, samples_per_step=8)
    assert again.folder == run.folder and open_run(run.folder.path).spec == run.spec
    assert fit(run.spec, root=tmp_path, progress=Silent()) == run
    assert imported(series / "checkpoint-500", tmp_path).trajectory.steps == (500,)
    shutil.rmtree(run.folder.path)
    with pytest.raises(StoreError, match=r"nothing trains imported .*`sandbox import`"):
        fit(run.spec, root=tmp_path, progress=Silent())


@pytest.mark.slow
def test_it_is_probed_and_teaches(
    series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, where = tmp_path / "runs", tmp_path / "my.pcfg"
    where.write_text(str(TASK.grammar))
    root.mkdir()
    words = ["--grammar", "cfg3b", "--start", "10", "11", "12", "--root", str(root)]
    numbers = [str(t) for t in TOKENS]
    assert main(["import", str(series), *words, "--tokens", *numbers]) == 0
    out = capsys.readouterr().out
    assert "3 checkpoints of Transformer" in out
    (path,) = (root / "teacher").iterdir()
    assert main(["verify", "--root", str(root)]) == 0
    assert main(["runs", "--root", str(root)]) == 0
    assert main(["probe", path.name[:5], "-p", "ngram", "--root", str(root)]) == 0
    assert "1,500" in capsys.readouterr().out
    teacher = open_run(path).spec
    model = Transformer(
        vocab=8, n_classes=3, positions=16, layers=1, heads=1, head_dim=4
    )
    shots = NShot(steps=(500, 1000), hold=16)
    students = RunSpec(
        kind="student",
        task=TASK,
        model=model,
        strategies=(Strategy(name="ce"), Strategy(name="shots", source=shots)),
        teacher=TeacherRef(spec=teacher, final=1500),
        stop=Stop(max_samples=64),
        eval_every=32,
        eval_points=16,
        batch_size=8,
        block=8,
    )
    run = fit(students, root=root, progress=Silent())
    assert set(run.metrics.columns["teacher_step"][:, 1].ravel()) == {500, 1000, 1500}


@pytest.mark.slow
def test_an_interrupted_import_goes_on(series: Path, tmp_path: Path) -> None:
    class Ending(Silent):
        def update(self, done: int, note: str) -> None:
            if done == 2:
                os.kill(os.getpid(), 10)

    with pytest.raises(Interrupted, match="at checkpoint 2"):
        imported(series, tmp_path / "a", progress=Ending())
    whole, rest = imported(series, tmp_path / "b"), imported(series, tmp_path / "a")
    assert whole.folder.path.name == rest.folder.path.name
    for name, entry in whole.folder.manifest().items():
        if name != "provenance.json":
            assert rest.folder.manifest()[name] == entry


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["checkpoint-500", "checkpoint-2000"], [500, 2000]),
        (["step_000010", "step_9"], [9, 10]),
        (["seed_0-step_20k", "seed_0-step_2M"], [20_000, 2_000_000]),
        (["7", "30"], [7, 30]),
    ],
)
def test_steps_are_read_off_names(
    tmp_path: Path, names: list[str], steps: list[int]
) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "logs-4").mkdir()
    assert list(found(tmp_path)) == steps


def test_what_is_no_series_is_refused(
    series: Path, tmp_path: Path, reference_dir: Path
) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        found(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="holds no checkpoint: neither"):
        found(series / "runs")
    for file in (series / "checkpoint-500").iterdir():  # the last model beside them
        shutil.copy(file, series)
    (series / "logs-1").mkdir()
    assert list(found(series)) == [500, 1000, 1500]
    shutil.copytree(series / "checkpoint-500", series / "step-500")
    with pytest.raises(ConfigError, match="are both of step 500"):
        found(series)
    shutil.rmtree(series / "step-500")
    with pytest.raises(ConfigError, match=r"tokens must number the 3 term.*7 numbers"):
        imported(series, tmp_path, tokens=(0, 1))
    config = series / "checkpoint-1500" / "config.json"
    old = config.read_text()
    config.write_text(
        old.replace('"num_attention_heads": 3', '"num_attention_heads": 4')
    )
    with pytest.raises(ConfigError, match="checkpoint-1500 holds another model"):
        imported(series, tmp_path)
    config.write_text(old)
    small = json.loads(old) | {"vocab_size": 5}
    (series / "checkpoint-500" / "config.json").write_text(json.dumps(small))
    with pytest.raises(ConfigError, match=r"vocab_size in .* must be at least 7"):
        imported(series, tmp_path, tokens=None)
    weights = series / "checkpoint-500" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(ConfigError, match=r"is a pickle.*safe_serialization=True"):
        found(series)
