"""Tree labels: the node probe against closed forms, and a tiny run end to end."""

import json
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments.parity_nodes import (
    NodeProbe,
    Nodes,
    groups_of,
    inside_outside,
    leaf_sides,
    levels,
)
from paper_repro.parity_hierarchy import (
    HierarchyReport,
    orders,
    ratios,
    root_down,
    root_first,
    student_claims,
)
from scipy import stats

from experiments import parity_hierarchy
from experiments.parity_hierarchy import Config, cpu, paper, smoke, strategies
from experiments.parity_setting import Setting
from experiments.parity_teachers import student_curves
from sandbox.errors import ConfigError
from sandbox.models.mlp import MLP
from sandbox.probes.fourier import FourierProbe, exact_spectrum
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.tasks.parity import Parity
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.progress import Silent
from sandbox.types import Outputs

TINY = Config(
    setting=Setting(
        task=Hierarchy(d=8, depth=2, feature_complexity=2),
        teacher_width=128,
        student_width=16,
        teacher_optimizer=SGD(lr=LearningRate(peak=0.02)),
        n_teachers=2,
        group=2,
        spacing=256,
        student_eval_every=256,
        teacher_limit=10_240,
        choice_points=2_048,
        degrees=(1,),
    )
)


@dataclass(frozen=True)
class Known:
    """Leaf probabilities (1 + a s x_0)/2 (1 + b t x_1)/2, s and t the leaf's sides."""

    a: float
    b: float
    n_classes: int = 4

    def apply(self, params, x, *, key=None, taps=()):
        del params, key, taps
        up = jnp.stack([1 + self.a * x[:, 0], 1 - self.a * x[:, 0]], 1) / 2
        down = jnp.stack([1 + self.b * x[:, 1], 1 - self.b * x[:, 1]], 1) / 2
        p = up[:, :, None] * down[:, None, :]
        return Outputs(jnp.log(p.reshape(-1, 4)), {})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def result(root):
    return parity_hierarchy.run(TINY, root=root, progress=Silent())


def test_sides_by_hand():
    np.testing.assert_array_equal(leaf_sides(1), [[0.5], [-0.5]])
    want = [[1, 1, 0], [1, -1, 0], [-1, 0, 1], [-1, 0, -1]]
    np.testing.assert_array_equal(2 * leaf_sides(2), want)
    assert levels(3) == [0, 1, 1, 2, 2, 2, 2]
    assert groups_of(2) == {"by_level": [[0], [1, 2]], "by_node": [[0], [1], [2]]}


def test_sides_follow_the_labels_of_every_input():
    task = Hierarchy(d=8, depth=3, feature_complexity=1)
    cube = task.enumerate()
    assert cube is not None
    x, side = np.asarray(cube.x), 2 * leaf_sides(3)[np.asarray(cube.y)]
    assert (np.abs(side).sum(1) == 3).all()  # a leaf has one node a level above it
    for v, (support,) in enumerate(np.asarray(task.supports(None)).tolist()):
        below = side[:, v] != 0
        np.testing.assert_array_equal(side[below, v], x[below, support])
        assert below.mean() == 2.0 ** -levels(3)[v]


def test_probe_of_a_known_classifier(key):
    task = Hierarchy(d=6, depth=2, feature_complexity=1)  # nodes: x_0, x_1, x_2
    a, b = 0.4, 0.3
    out = jax.jit(NodeProbe(task, Known(a, b), points=20_000).measure)({}, key)
    want = np.zeros((3, 6))
    want[0, 0] = a / 2
    want[1:, 1] = b / 4  # q = (1 + s a x_0)/2 . b x_1/2
    error, se = np.asarray(out["degree1"]) - want, np.asarray(out["degree1_se"])
    # q_0 x_0 = a/2 in every row: no sampling error but that of centring, a/2 mean(x)^2.
    assert se[0, 0] < 1e-5 and abs(error[0, 0]) < 4.5**2 * a / 2 / 20_000
    z = (error / np.maximum(se, 1e-9)).ravel()[1:]
    assert np.abs(z).max() < 4.5 and 0.5 < np.sqrt((z**2).mean()) < 1.6
    left, right, other = out["accuracy"]
    assert (left, right) == (1, 1)  # both read the coordinate of their own node
    assert other == pytest.approx(0.5, abs=4 / np.sqrt(4 * 10_000))


def test_depth_one_has_the_scale_of_plain_parity(key):
    task, model = Hierarchy(d=8, depth=1, feature_complexity=3), MLP(d=8, hidden=(20,))
    params = model.init(key)
    probe = FourierProbe(task, model, degrees=(1,), points=3000)
    ours = jax.jit(NodeProbe(task, model, points=3000).measure)(params, key)
    theirs = jax.jit(probe.measure)(params, key)
    want, se = theirs["degree1"][:, 1], theirs["degree1_se"][:, 1]
    np.testing.assert_allclose(np.abs(ours["degree1"][0]), np.abs(want), atol=1e-6)
    np.testing.assert_allclose(ours["degree1_se"][0], se, rtol=1e-3)


@pytest.mark.slow
def test_probe_against_the_exact_spectrum(key):
    task = Hierarchy(d=7, depth=2, feature_complexity=2)
    model = MLP(d=7, hidden=(12,), n_classes=4)
    params = jax.tree.map(lambda p: 2 * p, model.init(key))
    found = jax.jit(NodeProbe(task, model, points=8192).measure)(params, key)
    spectrum = np.asarray(exact_spectrum(task, model, params)) @ leaf_sides(2)
    exact = spectrum[2 ** np.arange(7)].T
    z = (np.asarray(found["degree1"]) - exact) / np.asarray(found["degree1_se"])
    assert np.abs(z).max() < 4.5 and 0.5 < np.sqrt((z**2).mean()) < 1.6


def test_inside_and_outside_by_hand():
    c = np.arange(12.0).reshape(1, 2, 6) * np.asarray([1, -1] * 3)
    inside, outside = inside_outside(c, np.asarray([[0, 1], [3, 4]]))
    np.testing.assert_allclose(inside, [[0.5, 9.5]])
    np.testing.assert_allclose(outside, [[3.5, 9.5]])  # of 2, 5 and of 8, 11
    whole = inside_outside(c, np.asarray([[0, 1, 2], [3, 4, 5]]))[1]
    np.testing.assert_array_equal(whole, np.zeros((1, 2)))


def made(accuracy, gap):
    """Nodes of one seed from curves `(R, 3)`, a record every 10 samples."""
    accuracy, gap = np.asarray(accuracy, float)[None], np.asarray(gap, float)[None]
    steps = 10 * np.arange(accuracy.shape[1])
    return Nodes(2, steps, accuracy, gap, np.zeros_like(gap), 0.0)


def test_middles_by_the_rule():
    accuracy = np.asarray(
        [[0.5, 0.5, 0.5], [0.6, 0.5, 0.5], [0.9, 0.7, 0.5], [1, 0.8, 0.5], [1, 1, 0.5]]
    )
    gap = np.asarray([[9, 9, 9], [2, 9, 1], [3, 1, 1], [9, 2, 1], [9, 9, 1]])
    nodes = made(accuracy, gap)
    alone = groups_of(2)["by_node"]
    assert nodes.middles(0, alone, 40) == [20, 30, None]  # .53 to .92 only
    assert nodes.middles(0, alone, 30) == [20, 20, None]  # strictly before final
    assert nodes.middles(0, alone, None) == [None] * 3
    # Together: mean accuracy .6, .65 and .75, mean gap 1, 1.5 and 5.
    assert nodes.middles(0, [[1, 2]], 50) == [40]


def test_nodes_are_ordered_within_their_level():
    ramp = np.linspace(0.5, 1, 6)
    flat = np.full(6, 0.5)
    late = np.concatenate([flat[:3], [0.75, 1, 1]])
    nodes = made(np.stack([late, flat, ramp], 1), np.zeros((6, 3)))
    np.testing.assert_allclose(nodes.times, [[30, np.inf, 25]])
    np.testing.assert_array_equal(nodes.in_order, [[0, 2, 1]])


def test_order_of_levels_is_scipys():
    times = np.asarray([[1, 2, 3], [2, 1, 3], [3, 2, 1], [1, 1, np.inf], [4, 5, 6.0]])
    each = [stats.spearmanr([0, 1, 1], stats.rankdata(t)).statistic for t in times]
    np.testing.assert_allclose(each[:3], [0.75**0.5, 0, -(0.75**0.5)], atol=1e-12)
    assert root_down(times).value == pytest.approx(np.median(each))
    assert root_first(times) == 2  # a tie with the root is not before it
    tied = root_down(np.full((3, 3), np.inf))
    assert tied.value == 0


@pytest.mark.slow
def test_every_schedule_is_there_and_teaches_in_order(result):
    assert result.names == [
        "ce", "one_shot", "progressive", "two_shot", "by_level", "by_node",
        "one_shot_hard",
    ]  # fmt: skip
    lanes = {s.name: s for s in result.students[0][0].spec.strategies}
    assert lanes["one_shot"].target.tau == 1
    hard = ("progressive", "two_shot", "by_level", "by_node", "one_shot_hard")
    assert all(lanes[n].target.tau == 0 for n in hard)
    (t,), (n,) = result.teachers, result.nodes
    for name, stages in (("by_level", 2), ("by_node", 3)):
        rows = zip(*[s.values for s in lanes[name].source.steps], strict=True)
        for s, row in enumerate(rows):
            found = n.middles(s, groups_of(2)[name], t.chosen[s].final)
            assert len(row) == stages
            assert list(row) == (
                sorted(found) if None not in found else [None] * stages
            )
            if None not in row:
                assert (
                    set(row) <= set(t.run.trajectory.steps) and max(row) < 3 * t.n90[s]
                )


@pytest.mark.slow
def test_teachers_learn_node_by_node(result):
    (t,), (n,) = result.teachers, result.nodes
    assert t.usable.all() and n.accuracy.shape == (2, len(t.steps), 3)
    final = n.accuracy[:, -1]
    np.testing.assert_allclose(n.accuracy[:, 0], 0.5, atol=0.15)
    # All three right is what the label asks for: errors add up at most.
    assert (final > 0.9).all()
    assert np.isfinite(n.times).all() and (n.times < t.n90[:, None] * 1.5).all()
    assert n.gap.shape == n.accuracy.shape


@pytest.mark.slow
def test_argmax_of_a_perfect_final_teacher_is_the_label(result):
    (t,), ((run,),) = result.teachers, result.students
    steps = [c.final for c in t.chosen]
    perfect = [t.accuracy[s, list(t.steps).index(f)] == 1 for s, f in enumerate(steps)]
    assert any(perfect)
    ce, hard = (student_curves(run, n)[:, 0] for n in ("ce", "one_shot_hard"))
    for s in np.flatnonzero(perfect):
        np.testing.assert_array_equal(ce[s], hard[s])


@pytest.mark.slow
def test_report_and_figure(result, tmp_path, capsys):
    figure = parity_hierarchy.draw(result)
    report = HierarchyReport(
        study="x", scale="tiny", config=TINY, figure=figure,
        claims=student_claims(result), teachers=result.teachers,
        students=result.students, probe_seconds=0.0, result=result,
    )  # fmt: skip
    report.publish(figures=tmp_path, results=tmp_path)
    data = json.loads((tmp_path / "x.tiny.json").read_text())
    claims = {c["id"]: c for c in data["claims"]}
    assert set(claims) == {"P8.progressive", "P8.ce", "P8.one_shot"}
    n90 = result.n90_teacher
    want = np.median(result.n_students("progressive")[:, 0] / n90)
    assert claims["P8.progressive"]["obtained"] == pytest.approx(want)
    extra = data["exploratory"]
    assert extra["n90_over_teacher"]["progressive"][0] == pytest.approx(want)
    assert set(extra["order_of_nodes"]) == {"learned", "leaks"}
    assert len(extra["nodes"]) == 2 * 3 and len(data["runs"]) == 2
    assert orders(result)["learned"].shape == (2, 3)
    assert set(ratios(result)) == set(result.names)
    assert "exploratory" in capsys.readouterr().out
    students, strips, nodes, leaks = figure.axes
    labels = {line.get_label() for line in students.get_lines()}
    assert {
        "teacher",
        "CE (labels)",
        "progressive, argmax",
        "one-shot, τ = 1",
    } <= labels
    assert [t.get_text() for t in strips.get_yticklabels()][4] == "2-shot"
    drawn = {line.get_label() for line in nodes.get_lines()}
    assert {"root", "level 1, first", "level 1, second"} <= drawn
    assert len(leaks.get_lines()) >= 3 + 3


@pytest.mark.slow
def test_second_run_trains_and_measures_nothing(root, result):
    before = {p: p.stat().st_mtime_ns for p in root.rglob("manifest.json")}
    assert len(before) == 4  # teachers, students and two measurements
    parity_hierarchy.run(TINY, root=root, progress=Silent())
    assert {p: p.stat().st_mtime_ns for p in root.rglob("manifest.json")} == before


@pytest.mark.slow
def test_teachers_that_never_learn_enter_nothing(result):
    stuck = [replace(t, n90=np.full(2, np.inf)) for t in result.teachers]
    lost = replace(result, teachers=stuck)
    assert [c.holds for c in student_claims(lost)] == [None] * 3
    assert (
        orders(lost)["leaks"].shape == (0, 3) and root_first(orders(lost)["leaks"]) == 0
    )
    assert "not at .90" in parity_hierarchy.draw(lost).get_supxlabel()


@pytest.mark.parametrize("preset", [smoke, cpu, paper])
def test_presets_run_on_the_blocked_engine(preset):
    config = preset()
    assert config.tau == 0 and config.one_shot_tau == 1
    specs = [*config.setting.teacher_specs()]
    specs.append(config.setting.example_students(strategies(config, {}, hold=640)))
    assert {s.engine_used for s in specs} == {"online_sgd"}


def test_cpu_and_paper_presets_have_their_numbers():
    s, p = cpu().setting, paper().setting
    assert (s.task.d, s.task.n_classes, s.task.feature_complexity) == (32, 4, 5)
    assert (s.teacher_width, s.student_width, s.student_cap) == (1000, 50, 6)
    assert s.n_teachers >= 10
    assert (p.task.d, p.task.n_classes, p.task.feature_complexity) == (100, 8, 5)
    assert (p.teacher_width, p.student_width, p.spacing) == (50_000, 1000, 100_000)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tau": -1.0}, "tau"),
        ({"one_shot_tau": -1.0}, "tau"),
        ({"setting": replace(TINY.setting, task=Parity(d=10, k=3))}, "setting.task"),
        ({"setting": replace(TINY.setting, progressive_cap=2.0)}, "progressive_cap"),
    ],
)
def test_bad_configs_are_refused_by_field(change, field):
    with pytest.raises(ConfigError, match=field):
        replace(TINY, **change)


def test_too_few_probe_points_are_refused():
    with pytest.raises(ConfigError, match=r"probe\.points"):
        NodeProbe(TINY.task, MLP(d=8, n_classes=4), points=1)
