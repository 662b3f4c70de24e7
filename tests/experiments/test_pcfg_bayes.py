"""The study of the exact predictor end to end, and its benchmark."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.pcfg_bayes import GRAMMARS, Exact, PcfgBayes, load, parts
from sandbox.errors import ConfigError
from sandbox.study import Result
from sandbox.tasks.bayes_context import Ceiling
from tests.plotting.drawn import faults

pytestmark = pytest.mark.slow  # compiling takes minutes

ROOT = Path(__file__).parents[2]
STUDY = PcfgBayes(
    exact=Exact(cases=("cfg3b/13",), windows=(1, 3, 60), rates=(0.2, 0.8), strings=48)
)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return STUDY.run(root=tmp_path_factory.mktemp("runs"))


def test_what_is_known_of_cfg3b(result):
    """One masked token of a short string is determined, many are not."""
    found = {name.partition(" ")[2]: v for name, v in result.values.items()}
    alone = found["alone"]
    assert alone["accuracy"][0] == pytest.approx(1.0, abs=1e-12)
    for mode in ("visible", "hidden"):
        few, many = found[mode]["accuracy"]
        assert 1 > few > many > 0.5
        assert found[mode]["standard_error"][1] > 0
    robust, close = found["context"]["robust"], found["context"]["close"]
    nothing, three, everything = robust[:, 0]
    assert nothing < 1e-12 < three < 0.1 < everything
    nothing, three, everything = close[:, 0]
    assert everything < 1e-12 < 0.1 < three < nothing
    # A window of everything leaves what the position alone says, as one of 1 does.
    np.testing.assert_allclose(robust[2], close[0], atol=1e-12)
    # Every token is measured.
    assert found["context"]["tokens"] > 900 < alone["scored"][0]


def test_figure_and_result_file(result, capsys):
    report = STUDY.report(result)
    top, rates, robust, _ = report.figure.axes
    assert faults(report.figure) == []
    assert len(rates.get_lines()) == 2 and "tokens" in robust.get_xlabel()
    values = result.values["cfg3b/13 context"]["robust"]
    np.testing.assert_allclose(robust.get_lines()[0].get_ydata(), values[:, 0])
    assert [t.get_text() for t in top.get_xticklabels()] == ["cfg3b"]
    report.write()
    assert (report.folder / "figure.svg").is_file()
    data = json.loads((report.folder / "claims.json").read_text())
    assert data["claims"] == [] and data["wall_seconds"] > 0
    assert data["hardware"]["cores"] >= 1 and data["versions"]["jax"]
    assert data["measured"]["cfg3b/13 context"]["robust"] == values.tolist()
    assert len(data["measured"]["cfg3b/13 hidden"]["accuracy"]) == 2
    assert "ceiling 1.000 with one token masked" in capsys.readouterr().out


def test_it_is_opened_again(result, monkeypatch):
    monkeypatch.setattr("experiments.pcfg_bayes.accuracy_ceiling", None)
    again = STUDY.run(root=result.root)
    assert again.values.keys() == STUDY.exact.pieces().keys()
    assert again.seconds == result.seconds


def test_the_figure_of_many_cases():
    """Every level and several grammars, from numbers that are made up."""
    exact = replace(PcfgBayes.preset("cpu").exact, windows=(2, 3), rates=(0.1, 0.5))
    one, rng = np.asarray(Ceiling(0.9, 0.01, 10, 100)), np.random.default_rng(0)
    made = {}
    for name in exact.pieces():
        n = 1 if name.endswith(("alone", "masked")) else 2
        made[name] = dict(zip(Ceiling._fields, np.tile(one[:, None], n), strict=True))
        made[name] |= {k: rng.random((2, 4)) for k in ("robust", "close")}
    empty = {"parts": {}, "plain": {}, "measured": None, "root": ROOT, "progress": None}
    study = PcfgBayes(exact=exact)
    r = Result(
        study=study,
        teachers=[],
        students=[],
        names=(),
        preset="cpu",
        scale=None,
        values=made,
        **empty,
    )
    figure = study.draw(r)
    assert faults(figure) == []
    axes = figure.axes
    assert len(axes[0].get_xticks()) == 5 and len(axes[1].get_lines()) == 6
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert sum("other grammars" in text for text in labels) == 1 and len(labels) == 4
    assert len(study.summary(r)) == len(exact.cases) + 7


@pytest.mark.parametrize("preset", PcfgBayes.presets)
def test_presets_name_grammars_that_exist(preset):
    e = PcfgBayes.preset(preset).exact
    every = {*e.cases, *e.context_cases, *e.rate_cases}
    assert {parts(c)[0] for c in every} <= set(GRAMMARS)
    assert load(e.cases[0]).longest == 27


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cases": ("cfg3b",)}, "cases: 'cfg3b' is no case"),
        ({"context_cases": ("cfg3b/19",)}, "a level among 13, 16, 22"),
        ({"strings": 1}, "strings must be at least 2"),
        ({"windows": (0,)}, "windows must be at least 1"),
        ({"rates": (0.0,)}, r"must lie in \(0, 1\]"),
        ({"rate": 1.5}, r"must lie in \(0, 1\]"),
    ],
)
def test_impossible_configs_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        Exact(**change)


def test_a_quick_benchmark_writes_every_number(tmp_path):
    """Ours, NumPy's and nltk's probabilities agree, or it would have stopped."""
    out = tmp_path / "bench.json"
    done = subprocess.run(
        [sys.executable, "-m", "experiments.bench.bayes", "--quick", "--rounds", "1",
         "--out", str(out)],
        cwd=ROOT, env=dict(os.environ), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(out.read_text())["rows"]
    names = {"probability", "leave_one_out", "next_token"}
    assert set(row["rates"]) == names | {"numpy", "nltk"}
    assert all(r["cpu_per_s"] > 0 for r in row["rates"].values())
    assert set(row["temporary_bytes"]) == names
