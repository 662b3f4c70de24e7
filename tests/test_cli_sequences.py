"""`sandbox probe` on a run of a grammar task: its probes, and those that do not fit."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sandbox.cli import main, measure
from sandbox.distill.strategy import Strategy
from sandbox.models.mlp import MLP
from sandbox.models.transformer import Transformer
from sandbox.probes.ngram import NgramProbe
from sandbox.probes.nonterminals import NonterminalProbe
from sandbox.store.files import write_json
from sandbox.store.folders import RunFolder
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.masking import MaskedLM
from sandbox.tasks.next_token import NextToken
from sandbox.tasks.parity import Parity
from sandbox.train.loop import fit
from sandbox.train.optim import Adam, LearningRate
from sandbox.train.progress import Silent
from sandbox.train.run import identity
from sandbox.train.spec import RunSpec, Stop

TASK = MaskedLM(grammar=load_grammar("cfg3b", start=("10", "11", "12")))
SPEC = RunSpec(
    kind="teacher",
    task=TASK,
    model=Transformer(
        positions=TASK.positions, layers=1, heads=1, head_dim=4, mlp_ratio=1
    ),
    strategies=(Strategy(name="ce"),),
    stop=Stop(max_samples=64),
    eval_every=64,
    checkpoint_every=64,
    first_seed=3,
    batch_size=8,
    block=8,
    eval_points=64,
    optimizer=Adam(lr=LearningRate(peak=0.02)),
)
NEXT = replace(
    SPEC, task=NextToken(grammar=TASK.grammar), model=replace(SPEC.model, kind="gpt2")
)
CUBE = replace(
    SPEC, task=Parity(d=10, k=2), model=MLP(d=10, hidden=(4,)), optimizer=Adam()
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store") / "runs"
    fit(SPEC, root=root, progress=Silent())
    return root


def stored_as(spec: RunSpec, root: Path, to: Path) -> Path:
    """The stored run, as if it had been trained on another record."""
    (path,) = (root / "teacher").iterdir()
    shutil.copytree(path, to / "teacher" / path.name)
    folder = to / "teacher" / path.name
    write_json(folder / "config.json", identity(spec))
    RunFolder(folder).commit({"kind": "teacher", "code": RunFolder(path).made_by()})
    return folder


@pytest.mark.parametrize(
    ("spec", "probes", "words"),
    [
        (SPEC, ["fourier"], "fourier measures tasks on vectors, and the task"),
        (SPEC, ["nonterminals", "alignment"], "alignment measures tasks on vectors"),
        (SPEC, ["spectrum"], "is MaskedLM; it can be measured with nonterminals and n"),
        (NEXT, ["ngram"], "ngram measures masked-token prediction, and the task"),
        (NEXT, ["ngram"], "is NextToken; it can be measured with nonterminals."),
        (CUBE, ["nonterminals"], "nonterminals measures tasks on strings of a grammar"),
        (CUBE, ["fourier", "ngram"], "is Parity; it can be measured with fourier and"),
        (SPEC, ["nonterminal"], "did you mean nonterminals?"),
    ],
)
def test_probes_that_do_not_fit_are_refused(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spec: RunSpec,
    probes: list[str],
    words: str,
) -> None:
    run = stored_as(spec, root, tmp_path)
    code = main(["probe", str(run), "--probes", *probes, "--root", str(tmp_path)])
    out, err = capsys.readouterr()
    assert code == 2 and not out
    assert err.startswith("error: --probes: ") and err.count("\n") == 1 and words in err


@pytest.mark.slow
def test_nonterminals_end_to_end(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A table, a measurement that is kept, and its export; on a small sample."""
    few = partial(NonterminalProbe, train=64, test=64, epochs=1)
    monkeypatch.setattr(measure, "NonterminalProbe", few)
    (path,) = (root / "teacher").iterdir()
    command = ["probe", path.name[:8], "--root", str(root), "--probes", "nonterminals"]
    assert main(command) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].startswith(f"nonterminals: teacher {path.name}")
    assert lines[0].endswith("seed 3")
    assert lines[1].split()[:4] == ["step", "level", "nonterminal", "attention"]
    assert [row.split()[0] for row in lines[2:]] == ["0", "1", "64", "1"]
    out = tmp_path / "nonterminals.npz"
    assert main([*command, "--steps", "0,64", "--out", str(out)]) == 0
    again = capsys.readouterr()
    assert again.out.strip().splitlines()[:6] == lines and not again.err
    with np.load(out) as stored:
        assert stored["steps"].tolist() == [0, 64] and stored["seeds"].tolist() == [3]
        found, error = (stored[f"attention/nonterminal{s}"] for s in ("", "_se"))
        assert found.shape == error.shape == (1, 2, 2)
        about = json.loads(str(stored["about"]))["probe"]
        assert about["name"] == "nonterminals" and about["train"] == 64
    assert lines[4].split()[2] == f"{found[0, 1, 0]:.3f}±{error[0, 1, 0]:.3f}"


def test_the_table_of_ngrams() -> None:
    """Two seeds; arrays come back in no order, columns in that of n."""
    names = ["kl/all", "m_close/10/median", "m_robust/10/median", "exact/accuracy"]
    names += ["kl/10", "m_robust/2/median", "kl/2", "m_close/2/median", "accuracy"]
    value = np.array([[0.1, 0.5], [0.3, 0.7]])  # (seeds, steps)
    arrays = {name: value + i for i, name in enumerate(names)}
    arrays["accuracy_se"] = np.array([[0.3, 0.0], [0.4, 0.0]])
    shown = measure._table((0, 6400), measure._ngram(arrays))
    header, first, last = shown.splitlines()
    words = "step accuracy exact robust 2 robust 10 close 2 close 10 KL 2 KL 10 KL all"
    assert header.split() == words.split()
    assert first.split()[:3] == ["0", "8.200±0.250", "3.2000"]
    numbers = [float(v) for v in last.split()[3:]]
    assert last.split()[0] == "6,400"
    np.testing.assert_allclose(numbers, 0.6 + np.array([5, 2, 7, 1, 6, 4, 0]))


def test_the_ngram_probe_is_that_of_the_run() -> None:
    found = measure._PROBES["ngram"][0](SPEC, 2)
    assert found == NgramProbe(task=TASK, model=SPEC.model)
