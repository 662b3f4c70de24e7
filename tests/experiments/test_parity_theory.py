"""The study of the analysed setting: its steps against autodiff, and end to end."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import parity_theory
from experiments import parity_theory_measure as measuring
from experiments import parity_two_stage as two_stage
from experiments.parity_theory import Config
from experiments.parity_two_stage import make_students, sweep
from paper_repro import parity_theory as report_of
from sandbox.errors import ConfigError
from sandbox.tasks.parity import Parity
from sandbox.theory import parity_bounds as bounds

TINY = Config(
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


def students(d, k, *, teachers, seeds=2):
    pairs = 8 if teachers else 0
    return make_students(Parity(d=d, k=k), range(seeds), pairs=5, teacher_pairs=pairs)


def collect(made, sizes):
    seen = {}

    def visit(size, gradient):
        seen[size] = gradient
        return np.ones(len(gradient), bool)

    sweep(made, sizes, visit)
    return seen


@pytest.mark.parametrize("teachers", [False, True])
def test_batch_gradients_are_those_of_the_hinge_loss(teachers):
    """Autodiff of max(0, 1 - target f) of the explicit mirrored network at f = 0."""
    made = students(9, 4, teachers=teachers)
    sizes = [48, 8192]
    seen = collect(made, sizes)
    assert list(seen) == sizes
    sample = jax.jit(lambda k: made.task.sample(k, 0, sizes[-1], split="distill"))
    for s in range(2):
        rows = sample(made.keys[s])
        x, y = np.asarray(rows.x), 1.0 - 2.0 * np.asarray(rows.y)
        target = made.teachers[s](x) if teachers else y
        w, bias = made.w[s], made.bias[s][None]

        def loss(up, size, x=x, target=target, w=w, bias=bias):
            """The first neuron of every pair has second-layer weight +1."""
            up = jax.nn.relu(x[:size] @ up.T + bias)
            down = jax.nn.relu(x[:size] @ w.T + bias)
            f = (up - down).sum(1)
            return jnp.maximum(0, 1 - target[:size] * f).mean()

        step = jax.jit(jax.grad(loss), static_argnums=1)
        for size in sizes:
            wanted = -step(jnp.asarray(w, jnp.float32), size)
            np.testing.assert_allclose(seen[size][s], wanted, atol=2e-6)


def test_seeds_that_are_done_stand_still():
    made = students(7, 2, teachers=False)
    seen = []

    def visit(size, gradient):
        seen.append(gradient * size)
        return np.asarray([size < 8192, True])

    sweep(made, [4096, 8192, 12288], visit)
    np.testing.assert_array_equal(seen[1][0], seen[2][0])
    assert np.abs(seen[2][1] - seen[1][1]).max() > 0


def test_who_teaches_moves_neither_student_nor_stream():
    a, b = (students(9, 2, teachers=t) for t in (False, True))
    np.testing.assert_array_equal(a.w, b.w)
    np.testing.assert_array_equal(a.bias, b.bias)
    assert (jax.random.key_data(a.keys) == jax.random.key_data(b.keys)).all()
    fresh = jax.random.key_data(a.afresh().keys)
    assert (fresh != jax.random.key_data(a.keys)).any(1).all()


def test_the_second_stage_reads_the_support_and_nothing_else():
    made = make_students(Parity(d=33, k=2), range(2), pairs=32, teacher_pairs=0)
    exact, _ = measuring.population(made)
    assert two_stage.second_stage(made, 0, exact[0]) > 0.99
    wrong = np.roll(exact[0], 7, axis=1)
    assert abs(two_stage.second_stage(made, 0, wrong) - 0.5) < 0.05


def test_batch_sizes_grow_by_about_sqrt_two():
    sizes = two_stage.batch_sizes(300_000)
    assert sizes[0] == 16 and sizes[-1] <= 300_000
    assert all(s % (16 if s < 4096 else 4096) == 0 for s in sizes)
    ratios = np.diff(np.log2([s for s in sizes if s >= 32]))
    assert ratios.max() <= 1.001 and abs(np.mean(ratios) - 0.5) < 0.05


def test_a_batch_counts_if_every_later_one_agrees(monkeypatch):
    """Criteria that flicker: luck at the start is taken back, the last size is not."""
    holds = [[1, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 1, 1]]

    def fake(_, sizes, visit):
        alive = np.ones(3, bool)
        for size, row in zip(sizes, holds, strict=True):
            on = np.asarray(row, float)[:, None, None]
            on = np.where(alive[:, None, None], on, 0)
            g = np.where(np.arange(4) < 2, on, 1 - on) * np.ones((3, 1, 4))
            alive = visit(size, g)

    monkeypatch.setattr(measuring, "sweep", fake)
    made = students(4, 2, teachers=False, seeds=3)
    can, criteria = np.asarray([True, True, False]), ("support", "aligned")
    sizes = [16, 32, 48, 64, 96]
    batch, share = measuring.needed_batches(made, sizes, criteria, can)
    assert batch["aligned"].tolist() == [16, 48, np.inf]
    assert batch["support"][:2].tolist() == [16, 48] and np.isnan(batch["support"][2])
    assert share[1, :4].tolist() == [0, 0, 1, 1] and np.isnan(share[1, 4])
    # The same luck with another criterion open: it is taken back.
    holds[0], holds[1] = [1, 0, 0], [0, 0, 1]
    batch, _ = measuring.needed_batches(made, sizes, criteria, can)
    assert batch["aligned"].tolist() == [64, 48, np.inf]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return parity_theory.run(TINY, root=tmp_path_factory.mktemp("runs"))


@pytest.mark.slow  # compiles for every dimension
def test_measured_gradients_are_the_closed_form(result):
    for n in result.needed:
        assert n.check.deviation.mean() == pytest.approx(1, abs=0.6)
        assert n.check.measured.shape == (len(n.share), n.d)


@pytest.mark.slow  # compiles for every dimension
def test_every_problem_is_measured(result):
    found = [(n.k, n.d, n.supervision) for n in result.needed]
    assert found == [
        (2, 7, "labels"), (2, 13, "labels"),
        (2, 7, "checkpoint"), (2, 13, "checkpoint"), (2, 17, "checkpoint"),
        (4, 11, "labels"), (4, 11, "checkpoint"), (4, 17, "checkpoint"),
    ]  # fmt: skip
    labels, teachers = result.along(2, "labels")[1], result.along(2, "checkpoint")[1]
    assert np.isfinite(labels.batch["aligned"]).all() and labels.separable == 1
    assert np.median(teachers.batch["aligned"]) < np.median(labels.batch["aligned"])
    assert labels.share[:, 0].mean() < 0.5  # a batch of 16 says little
    assert np.isnan(teachers.batch["support"]).mean() == 1 - teachers.separable
    odd, even = result.controls
    assert np.isinf(odd.predicted) and np.isfinite(even.predicted)
    w, bias = np.ones((1, even.d)), np.full(1, 0.3)
    g = bounds.label_gradient(w, range(3), bias)
    noise = bounds.label_noise(g, bias)
    expected = bounds.expected_share(g[0], noise[0], range(3), even.batch)
    assert odd.share.mean() < 0.4  # 1/3 by chance
    assert even.share.mean() == pytest.approx(expected, abs=0.12)


@pytest.mark.slow  # compiles for every dimension
def test_figure_and_result_file(result, tmp_path, capsys):
    report = report_of.report(result, "tiny")
    assert len(report.figure.axes) == 6
    shares = report.figure.axes[2].get_lines()[1]
    (n,) = (n for n in result.along(4, "labels") if n.d == 11)
    np.testing.assert_allclose(np.asarray(shares.get_ydata()), n.predicted_share)
    report.publish(figures=tmp_path, results=tmp_path)
    assert (tmp_path / "tiny" / "parity_theory.svg").is_file()
    data = json.loads((tmp_path / "parity_theory.tiny.json").read_text())
    ids = {c["id"] for c in data["claims"]}
    assert {"P9.gradient.labels", "P9.aligned.k2", "P9.accuracy.k2", "P9.odd"} <= ids
    assert len(data["measured"]["problems"]) == len(result.needed)
    assert data["measured"]["controls"][0]["closed_form_batch"] == "inf"
    assert "k=2, labels: exponent" in capsys.readouterr().out


@pytest.mark.slow  # compiles for every dimension
def test_a_wrong_closed_form_fails_its_claim(result):
    """Doubled deviations are refused by the same rule."""
    needed = []
    for n in result.needed:
        check = replace(n.check, deviation=2 + 0 * n.check.deviation)
        needed.append(replace(n, check=check))
    made = {c.id: c for c in report_of.claims(replace(result, needed=tuple(needed)))}
    assert made["P9.gradient.labels"].holds is False
    assert made["P9.gradient.checkpoint"].holds is False


@pytest.mark.parametrize("preset", parity_theory.PRESETS.values())
def test_presets_have_comparable_dimensions(preset):
    config = preset()
    for k, dims in config.cases.items():
        assert set(dims) <= set(config.dimensions(k, "checkpoint"))
        assert config.dimensions(k, "labels") == dims


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_k2": (16,)}, "d_k2 must hold odd dimensions above 2 k = 4"),
        ({"d_k4": (7,)}, "d_k4 must hold odd dimensions above 2 k = 8"),
        ({"d_k4": (17, 11)}, "d_k4 must increase"),
        ({"checkpoint_d": (64,)}, "checkpoint_d must hold odd"),
        ({"accuracy_k": (6,)}, "accuracy_k must name k that have dimensions"),
        ({"label_seeds": 1}, "label_seeds must be at least 2"),
        ({"student_pairs": 0}, "student_pairs must be at least 1"),
        ({"checkpoint_cap": 16}, "checkpoint_cap must be at least 64"),
        ({"control_k": 4}, "control_k and control_d must be odd"),
    ],
)
def test_impossible_configs_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        Config(**change)
