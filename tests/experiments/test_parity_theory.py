"""The study of the analysed setting, end to end."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.parity_theory import ParityTheory
from sandbox.theory import parity_bounds as bounds
from sandbox.theory.two_stage import TwoStage
from sandbox.train.progress import Silent
from tests.plotting.drawn import faults

TINY = ParityTheory(
    theory=TwoStage(
        d_k2=(7, 13),
        d_k4=(11,),
        checkpoint_d=(17,),
        label_seeds=3,
        checkpoint_seeds=4,
        teacher_pairs=8,
        student_pairs=6,
        checkpoint_cap=1024,
        check_blocks=2,
        control_d=9,
    )
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def result(root):
    return TINY.run(root=root, progress=Silent())


@pytest.mark.slow  # compiles for every dimension
def test_measured_gradients_are_the_closed_form(result):
    for p in TINY.theory.problems:
        v = result.values[str(p)]
        assert v["deviation"].mean() == pytest.approx(1, abs=0.6)
        assert v["measured"].shape == (len(v["share"]), p.d)


@pytest.mark.slow  # compiles for every dimension
def test_every_problem_is_measured(result):
    assert list(result.values) == [
        "k=2, d=7, labels", "k=2, d=13, labels",
        "k=2, d=7, checkpoint", "k=2, d=13, checkpoint", "k=2, d=17, checkpoint",
        "k=4, d=11, labels", "k=4, d=11, checkpoint", "k=4, d=17, checkpoint",
        "odd", "even",
    ]  # fmt: skip
    labels, taught = (TINY.along(result, 2, s)[13] for s in ("labels", "checkpoint"))
    assert np.isfinite(labels["aligned"]).all() and labels["can"].all()
    assert np.median(taught["aligned"]) < np.median(labels["aligned"])
    assert labels["share"][:, 0].mean() < 0.5  # a batch of 16 says little
    np.testing.assert_array_equal(np.isnan(taught["support"]), ~taught["can"])
    odd, even, d = result.values["odd"], result.values["even"], 10
    assert np.isinf(odd["predicted"]) and np.isfinite(even["predicted"])
    w, bias = np.ones((1, d)), np.full(1, 0.3)
    g = bounds.label_gradient(w, range(3), bias)
    noise = bounds.label_noise(g, bias)
    batch = int(even["batch"])
    expected = bounds.expected_share(g[0], noise[0], range(3), batch)
    assert odd["share"].mean() < 0.4  # 1/3 by chance
    assert even["share"].mean() == pytest.approx(expected, abs=0.12)


@pytest.mark.slow  # compiles for every dimension
def test_figure_and_result_file_and_a_second_run(root, result, capsys):
    again = TINY.run(root=root, progress=Silent())
    for piece, arrays in result.values.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(again.values[piece][name], array)
    assert len(list((root / "computed").iterdir())) == 1
    report = TINY.report(again)
    assert len(report.figure.axes) == 6
    assert faults(report.figure) == []
    shares = report.figure.axes[2].get_lines()[1]
    want = TINY.along(result, 4, "labels")[11]["predicted_share"]
    np.testing.assert_allclose(np.asarray(shares.get_ydata()), want)
    report.write()
    data = json.loads((report.folder / "claims.json").read_text())
    ids = {c["id"] for c in data["claims"]}
    assert {"P9.gradient.labels", "P9.aligned.k2", "P9.accuracy.k2", "P9.odd"} <= ids
    assert len(data["measured"]["problems"]) == len(TINY.theory.problems)
    assert data["measured"]["controls"][0]["closed_form_batch"] == "inf"
    assert "k=2, labels, aligned: exponent" in capsys.readouterr().out


@pytest.mark.slow  # compiles for every dimension
def test_a_wrong_closed_form_fails_its_claim(result):
    """Doubled deviations are refused by the same rule."""
    double = {
        name: v | ({"deviation": 2 + 0 * v["deviation"]} if "deviation" in v else {})
        for name, v in result.values.items()
    }
    made = {c.id: c for c in TINY.claims(replace(result, values=double))}
    assert made["P9.gradient.labels"].point is False
    assert made["P9.gradient.checkpoint"].point is False


@pytest.mark.parametrize("name", ParityTheory.presets)
def test_presets_have_comparable_dimensions(name):
    theory = ParityTheory.preset(name).theory
    for k, dims in theory.cases.items():
        assert set(dims) <= set(theory.dimensions(k, "checkpoint"))
        assert theory.dimensions(k, "labels") == dims
