"""The study of the exact predictor end to end, and its benchmark."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments import pcfg_bayes
from experiments.pcfg_bayes import Config, Context, Result, load
from paper_repro import pcfg_bayes as report_of
from sandbox.errors import ConfigError
from sandbox.tasks.bayes_context import Ceiling

pytestmark = pytest.mark.slow  # compiling takes minutes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    config = Config(windows=(1, 3, 60), rates=(0.2, 0.8), strings=48)
    return pcfg_bayes.run(config, root=tmp_path_factory.mktemp("runs"))


def test_what_is_known_of_cfg3b(result):
    """One masked token of a short string is determined, many are not."""
    alone = result.ceilings["cfg3b/13"]
    assert alone.accuracy == pytest.approx(1.0, abs=1e-12)
    for mode in ("visible", "hidden"):
        few, many = result.rates["cfg3b/13", mode]
        assert 1 > few.accuracy > many.accuracy > 0.5
        assert many.standard_error > 0
    context = result.contexts["cfg3b/13"]
    nothing, three, everything = context.robust[:, 0]
    assert nothing < 1e-12 < three < 0.1 < everything
    nothing, three, everything = context.close[:, 0]
    assert everything < 1e-12 < 0.1 < three < nothing
    # A window of everything leaves what the position alone says, as one of 1 does.
    np.testing.assert_allclose(context.robust[2], context.close[0], atol=1e-12)
    assert context.tokens > 900 < alone.scored  # every token is measured


def test_figure_and_result_file(result, tmp_path, capsys):
    report = report_of.report(result, "tiny")
    top, rates, robust, _ = report.figure.axes
    assert len(rates.get_lines()) == 2 and "n (mean" in robust.get_xlabel()
    line = robust.get_lines()[0]
    np.testing.assert_allclose(
        line.get_ydata(), result.contexts["cfg3b/13"].robust[:, 0]
    )
    assert [t.get_text() for t in top.get_xticklabels()] == ["cfg3b"]
    report.publish(figures=tmp_path, results=tmp_path)
    assert (tmp_path / "tiny" / "pcfg_bayes.svg").is_file()
    data = json.loads((tmp_path / "pcfg_bayes.tiny.json").read_text())
    assert data["claims"] == [] and data["wall_seconds"] > 0
    assert data["hardware"]["cores"] >= 1 and data["versions"]["jax"]
    found = data["measured"]["context"]["cfg3b/13"]["m_robust"]
    assert [row["n"] for row in found] == [1, 3, 60]
    assert data["measured"]["by_rate"][0]["ceilings"][1]["rate"] == 0.8
    assert "ceiling 1.000 with one token masked" in capsys.readouterr().out


def test_the_figure_of_many_cases():
    """Every level and several grammars, from numbers that are made up."""
    config = replace(pcfg_bayes.cpu(), windows=(2, 3), rates=(0.1, 0.5))
    one, rng = Ceiling(0.9, 0.01, 10, 100), np.random.default_rng(0)
    some = Context(30, rng.random((2, 4)), rng.random((2, 4)))
    made = Result(
        config,
        dict.fromkeys(config.cases, one),
        dict.fromkeys(config.cases, one),
        {(c, m): [one, one] for c in config.rate_cases for m in pcfg_bayes.MODES},
        dict.fromkeys(config.context_cases, some),
        1.0,
    )
    figure = pcfg_bayes.draw(made)
    axes = figure.axes
    assert len(axes[0].get_xticks()) == 5 and len(axes[1].get_lines()) == 6
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert sum("other grammars" in text for text in labels) == 1 and len(labels) == 4
    assert len(report_of.summarize(made)) == len(config.cases) + 7


@pytest.mark.parametrize("preset", pcfg_bayes.PRESETS.values())
def test_presets_name_grammars_that_exist(preset):
    config = preset()
    every = {*config.cases, *config.context_cases, *config.rate_cases}
    assert {c.partition("/")[0] for c in every} <= set(pcfg_bayes.GRAMMARS)
    assert load(config.cases[0]).longest == 27


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
        Config(**change)


def test_a_quick_benchmark_writes_every_number(tmp_path):
    """Ours, NumPy's and nltk's probabilities agree, or it would have stopped."""
    out = tmp_path / "bench.json"
    done = subprocess.run(
        [sys.executable, "-m", "experiments.bench_bayes", "--quick", "--rounds", "1",
         "--out", str(out)],
        cwd=ROOT, env=dict(os.environ), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(out.read_text())["rows"]
    names = {"probability", "leave_one_out", "next_token"}
    assert set(row["rates"]) == names | {"numpy", "nltk"}
    assert all(r["cpu_per_s"] > 0 for r in row["rates"].values())
    assert set(row["temporary_bytes"]) == names
