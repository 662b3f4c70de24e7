"""`sandbox export` and `sandbox plot`: what is stored, as other programs read it."""

import csv
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from sandbox.cli import main
from sandbox.cli.export import escaped, latex
from sandbox.distill.strategy import Strategy
from sandbox.models.imports import load_transformer
from sandbox.models.mlp import MLP
from sandbox.models.transformer import Transformer
from sandbox.store.config import digest
from sandbox.store.files import write_json
from sandbox.store.folders import RunFolder
from sandbox.store.trajectories import save_checkpoint, unflatten
from sandbox.study.claims import Statistic, at_least, at_most
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.masking import MaskedLM
from sandbox.tasks.parity import Parity
from sandbox.theory.sample_complexity import Estimate
from sandbox.train.loop import fit
from sandbox.train.progress import Silent
from sandbox.train.run import Run, checkpoint_shapes, identity
from sandbox.train.spec import RunSpec, Stop

SPEC = RunSpec(
    kind="teacher",
    task=Parity(d=10, k=2),
    model=MLP(d=10, hidden=(4,)),
    strategies=(Strategy(name="ce"), Strategy(name="other")),
    stop=Stop(max_samples=64),
    eval_every=64,
    checkpoint_every=64,
    n_seeds=2,
    first_seed=3,
    block=8,
    eval_points=64,
)
TASK = MaskedLM(grammar=load_grammar("cfg3b", start=("10", "11", "12")))
STRINGS = replace(SPEC, task=TASK, model=Transformer(positions=TASK.positions))
CLAIMS = [
    at_least(
        "P1", Statistic(Estimate(3.0, 2.0, np.inf, 7), "a_b & 50%", 7), 2, "it is"
    ),
    at_most(
        "P2_x", Statistic(Estimate(4e7, np.nan, np.nan, 3), "n90 #1", 3), 1, "is not"
    ),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit(SPEC, root=tmp_path_factory.mktemp("store") / "runs", progress=Silent())


@pytest.fixture
def root(run: Run, tmp_path: Path) -> Path:
    """A store with one run, and a study with two claims."""
    root = Path(shutil.copytree(run.root, tmp_path / "runs"))
    study = root / "studies" / "parity_mine.smoke"
    study.mkdir(parents=True)
    rows = "part,strategy,seed,init,quantity,value\n,ce,0,0,n90,1280.0\n,ce,1,0,n90,inf"
    (study / "summary.csv").write_text(f"{rows}\n,ce,2,0,n90,\n")
    claims = {"study": "parity_mine", "claims": [c.to_json() for c in CLAIMS]}
    write_json(study / "claims.json", claims)
    for suffix in ("png", "svg", "md"):
        (study / f"figure.{suffix}").write_text(suffix)
    return root


@pytest.fixture
def bert(root: Path) -> tuple[Path, dict[str, Any]]:
    """A run of a transformer that nobody trained, and its parameters (S, L, ...)."""
    folder = RunFolder(root / "teacher" / digest(identity(STRINGS)))
    folder.prepare()
    write_json(folder.path / "config.json", identity(STRINGS))
    write_json(folder.path / "outcome.json", {"failed": [], "absent": []})
    draw = np.random.default_rng(0).normal
    shapes = checkpoint_shapes(STRINGS)
    params = unflatten({n: np.float32(draw(size=s)) for n, s in shapes.items()})
    for step in (0, 64):
        save_checkpoint(folder.path, step, params)
    folder.commit({"kind": "teacher"})
    return folder.path, params


def ask(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_metrics_of_a_run(
    run: Run, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("export", run.folder.path.name[:6], "--root", root)
    table = run.table()
    code, text, _ = ask(capsys, *command, "--csv")
    names, *rows = csv.reader(io.StringIO(text))
    assert code == 0 and names == table.column_names and len(rows) == 8
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        stored = table.column(name).to_numpy(zero_copy_only=False)
        assert (
            np.array_equal(np.asarray(column).astype(stored.dtype), stored)
            or (
                name == "train_loss"  # there is none before training
                and column[:4] == ("nan",) * 4
            )
        )
    file = tmp_path / "new" / "metrics.json"
    code, text, _ = ask(capsys, *command, "--json", "--out", file)
    assert code == 0 and text == f"written to {file}\n"
    records = json.loads(file.read_text())
    assert [r["strategy"] for r in records] == ["ce", "other"] * 4
    assert records[0]["train_loss"] is None and records[7]["step"] == 64
    text = ask(capsys, *command, "--latex")[1]
    assert r"teacher\_step" in text and text.count(r"\\") == 5  # the last evaluation


def test_results_of_a_study(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("export", "parity_mine", "--root", root)
    folder = root / "studies" / "parity_mine.smoke"
    assert ask(capsys, *command, "--csv")[1] == (folder / "summary.csv").read_text()
    data = json.loads(ask(capsys, *command, "--json")[1])
    assert data["claims"] == [c.to_json() for c in CLAIMS]
    assert [r["value"] for r in data["summary"]] == [1280.0, "inf", None]
    assert data["summary"][1]["seed"] == 1
    lines = ask(capsys, "export", folder, "--latex")[1].splitlines()
    assert lines[1] == r"\begin{tabular}{lp{0.4\linewidth}rrrl}"
    assert lines[5:7] == [
        r"P1 & a\_b \& 50\% $\ge$ 2 & $3$ & $[2, \infty]$ & $7$ & held \\",
        r"P2\_x & n90 \#1 $\le$ 1 & $4 \times 10^{7}$ & -- & $3$ & failed \\",
    ]


HARD = "a\\b{c}$%#&_^~<=>|\"['`τ∞é文\x1b\n--"


def test_no_character_is_left_to_latex() -> None:
    plain = escaped(HARD)
    assert plain.isprintable() and "U+6587" in plain and "U+001B" in plain
    for command in ("textbackslash{}", "textasciicircum{}", "textasciitilde{}"):
        plain = plain.replace(f"\\{command}", "")
    for escape in (r"\{", r"\}", r"\$", r"\%", r"\#", r"\&", r"\_", "{[}"):
        assert escape in plain
        plain = plain.replace(escape, "")
    for math in (r"$\le$", "$>$", r"$\tau$", r"$\infty$", r"\textbar{}"):
        plain = plain.replace(math, "")
    assert not set(plain) & set("\\{}$%#&_^~<>|[")


@pytest.mark.long
def test_latex_compiles(tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex")
    table = latex([HARD, "n"], [[escaped(HARD), "$1$"], ["{[}x", "--"]], "lr")
    begin = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    (tmp_path / "a.tex").write_text(f"{begin}\n{table}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_model_that_is_read_back(
    bert: tuple[Path, dict[str, Any]],
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (path, params), folder = bert, tmp_path / "model"
    code, out, err = ask(
        *(capsys, "export", path.name, "--root", root, "--hf", folder),
        *("--lane", "other", "--seed", 4),
    )
    assert code == 0, err
    assert "strategy other, step 64" in out and "5 PAD, 6 MASK" in out
    got = load_transformer(folder, n_classes=TASK.n_classes)
    assert got.model == STRINGS.model
    jax.tree.map(lambda a, p: np.testing.assert_array_equal(a, p[1, 1]), got[1], params)
    config = json.loads((folder / "config.json").read_text())
    assert (config["pad_token_id"], config["mask_token_id"]) == (5, 6)
    assert (config["sandbox"]["seed"], config["sandbox"]["strategy"]) == (4, "other")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("export RUN", "give one of --csv, --latex, --json and --hf"),
        ("export RUN --csv --json", "give one of --csv, --latex, --json and --hf"),
        (
            "export RUN --csv --seed 3",
            "--seed, --step and --study are for --hf",
        ),
        ("export RUN --csv --out RUN/x.csv", "which must not change"),
        ("export RUN --hf new", "--lane: the run trains ce, other; choose one"),
        ("export RUN --hf new --lane othr", "did you mean other?"),
        ("export RUN --hf new --lane ce --step 5", "5 is not one of the 2 checkpoints"),
        ("export RUN --hf new --lane ce --seed 7", "seeds 3 to 4, got 7"),
        ("export RUN --hf new --lane ce", "only a Transformer can be written"),
        ("export parity_mine --hf new", "is a study; --hf writes one of its runs"),
        ("export parity_mnie.smoke --csv", "did you mean parity_mine.smoke?"),
        ("export ffff --csv", "is called 'ffff'"),
        ("plot RUN --out x.gif", "--out must end in .png"),
        ("plot parity_mine --out x.pdf", "--out must end in .png or .svg"),
    ],
)
def test_refused_in_one_sentence(
    words: str,
    message: str,
    run: Run,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(root)
    path = root / "teacher" / run.folder.path.name
    argv = words.replace("RUN", str(path)).split()
    code, out, err = ask(capsys, *argv, "--root", root)
    assert code == 2 and not out and not (root / "new").exists()
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_figures(
    run: Run,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(root.parent)
    code, out, err = ask(capsys, "plot", run.folder.path.name, "--root", root)
    assert code == 0, err
    png = Path(f"{run.folder.path.name[:8]}.png")
    assert out.splitlines()[0] == str(png) and png.read_bytes().startswith(b"\x89PNG")
    folder = root / "studies" / "parity_mine.smoke"
    out = ask(capsys, "plot", "parity_mine", "--root", root)[1]
    assert out.splitlines() == [f"{folder}/figure.png", f"{folder}/figure.svg"]
    ask(capsys, "plot", "parity_mine", "--root", root, "--out", "a/copy.svg")
    assert Path("a/copy.svg").read_text() == "svg"


def test_tables_need_no_jax(run: Run, root: Path) -> None:
    name = run.folder.path.name
    commands = [
        ["export", name, "--csv"],
        ["export", name, "--latex"],
        ["export", "parity_mine", "--json"],
        ["plot", "parity_mine"],
    ]
    code = (
        "import sys\nfrom sandbox.cli import main\n"
        f"codes = [main([*c, '--root', {str(root)!r}]) for c in {commands!r}]\n"
        "assert codes == [0] * 4, codes\n"
        "assert not {'jax', 'matplotlib'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
