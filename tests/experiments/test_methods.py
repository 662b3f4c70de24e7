"""Studies of methods: every lane is named, and costs are those of its parts."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import sandbox.study as st
from experiments import (
    final_teacher_only,
    methods,
    multi_view,
    which_knowledge,
    who_moves,
)
from experiments.final_teacher_only import NAMES, FinalTeacherOnly, _in_and_off
from experiments.methods import Methods
from experiments.multi_view import MultipleViews
from experiments.which_knowledge import WhichKnowledge
from experiments.which_teacher import WhichTeacher
from experiments.who_moves import WhoMoves
from sandbox.distill.methods import (
    METHODS,
    DroppedHeads,
    Embedding,
    Inherited,
)
from sandbox.distill.strategy import Strategy
from sandbox.models.transformer import Transformer
from sandbox.tasks import bayes
from sandbox.tasks.data import Fresh, Phased
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.multi_view import MultiView, TwoViews
from sandbox.tasks.next_token import NextToken
from tests.distill.test_signals import parts


def strategies(study: st.Study, part: str) -> dict[str, Strategy]:
    lanes = study.lanes(st.Teachers.made_up(study.settings[part]))
    plain = [v.strategy if isinstance(v, st.Capped) else v for v in lanes]
    assert len({s.name for s in plain}) == len(plain)
    return {s.name: s for s in plain}


def test_every_lane_has_a_name_and_its_passes() -> None:
    study = FinalTeacherOnly.preset("cpu")
    found = strategies(study, "main")
    assert set(found) == set(NAMES)
    assert set(strategies(study, "d=48, k=5")) == set(final_teacher_only.GROWING)
    assert set(strategies(study, "strings")) <= set(NAMES)
    cost = {name: tuple(s.cost) for name, s in found.items()}
    assert cost["ce"] == (1, 1, 0, 0) and cost["units_30"] == (1, 1, 1, 0)
    assert cost["flips"] == cost["flips_signed"] == (5, 5, 5, 0)
    needs = {name for name, s in found.items() if s.needs()}
    more = {"flips", "flips_absolute", "flips_signed", "extraction", "components"}
    assert needs == more | {"features", "untrained", "other_support"}


def test_biased_inputs_come_first_with_both_supervisions() -> None:
    study = FinalTeacherOnly()
    lanes = study.lanes(st.Teachers.made_up(study.setting))
    data = {v.strategy.name: v.data for v in lanes if isinstance(v, st.Capped)}
    task = dataclasses.replace(study.setting.made_task, p=study.bias)
    assert data == dict.fromkeys(
        ("biased", "biased_labels"), Phased(first=task, until=study.setting.hold)
    )
    assert all(not isinstance(v, Strategy) or v.name not in data for v in lanes)
    assert st.Capped(st.ce()).data == Fresh()


def test_parts_of_two_classes_are_left_out() -> None:
    study = WhichKnowledge.preset("cpu")
    binary, trees = (set(strategies(study, part)) for part in ("parity", "trees"))
    assert trees - binary == {"own", "top2"} and binary < trees
    assert strategies(study, "strings").keys() == trees - {"top2"}
    for name in trees:
        assert which_knowledge.name_of(name) and which_knowledge.color_of(name)
    hinton = strategies(study, "parity")["T4"]
    assert hinton.target.tau == hinton.loss.tau_student == 4.0  # pyright: ignore
    assert hinton.loss.scale == 16.0  # pyright: ignore


def test_every_method_is_run_by_a_study() -> None:
    """But for those of other networks than these studies have."""
    used = set()
    for study in (Methods, WhoMoves, FinalTeacherOnly, WhichKnowledge, WhichTeacher):
        made = study.preset("cpu")
        for part in made.settings:
            for s in strategies(made, part).values():
                used |= {type(part) for part in parts(s)}
    for spec in MultipleViews.preset("cpu").plain_runs.values():
        used |= {type(part) for s in spec.strategies for part in parts(s)}
    assert set(METHODS) - used == {DroppedHeads, Embedding, Inherited}


def test_an_ensemble_and_its_students_see_the_same_rows() -> None:
    study = MultipleViews.preset("cpu")
    runs = study.plain_runs
    for (name, what), spec in ((k.split("/"), s) for k, s in runs.items()):
        first = runs[f"{name}/singles"]
        assert (spec.kind, spec.task, spec.data) == ("teacher", first.task, first.data)
        assert (spec.stop, spec.batch_size) == (first.stop, first.batch_size)
        wide = what in ("together", "slowly")
        inits = {s.init for s in spec.strategies}
        if what != "singles":
            assert inits == ({0} if wide else {study.n, study.n + 1})
        own = spec.model.init(jax.random.key(0))
        one = first.model.init(jax.random.key(0))
        times = study.n if wide else 1
        units = [sum(v.size for v in jax.tree.leaves(p)) for p in (own, one)]
        assert units[0] == pytest.approx(times * units[1], rel=1e-3)
    each = [key.split("/") for key in runs]
    assert {what for name, what in each if name == study.claimed} == {
        *("singles", "students", "truncated", "together", "slowly"),
    }


def test_accuracy_on_rows_of_one_view() -> None:
    task = MultiView(n_classes=3, dims=6, mu=0.5)
    batch = task.sample(jax.random.key(0), 0, 200, split="probe")
    single = np.asarray(batch.aux["view"]) >= 0
    right = np.eye(3)[np.asarray(batch.y)]
    half = np.where(single[:, None], right[:, [1, 2, 0]], right)  # wrong on one view
    found = multi_view._accuracy([right, half], batch)
    np.testing.assert_allclose(found, [0.5, 1 - single.mean() / 2])
    assert np.isnan(multi_view._accuracy([right * np.nan], batch)).all()
    bits = TwoViews(d=6, k=2, mu=0.5).sample(jax.random.key(0), 0, 200, split="probe")
    lost = (np.asarray(bits.x) == 0).any(1)
    z = np.eye(2)[np.asarray(bits.y) ^ lost]
    np.testing.assert_allclose(multi_view._accuracy([z], bits), [0, 1 - lost.mean()])


def test_what_networks_know_of_views() -> None:
    task = MultiView(n_classes=3, dims=6, mu=1.0)
    batch = task.sample(jax.random.key(0), 0, 600, split="probe")
    y, view = np.asarray(batch.y), np.asarray(batch.aux["view"])
    # Network i of three knows view i of class 0, both of class 1 and none of class 2.
    nets = []
    for i in (0, 1, 1):
        right = (y == 1) | ((y == 0) & (view == i))
        nets.append(np.eye(3)[np.where(right, y, (y + 1) % 3)])
    found = multi_view._by_view(nets, batch)
    assert found.shape == (3, 3, 2)
    np.testing.assert_array_equal(found[:, 0], [[1, 0], [0, 1], [0, 1]])
    assert (found[:, 1] == 1).all() and (found[:, 2] == 0).all()
    made = MultipleViews(n=3, n_seeds=1)
    result = SimpleNamespace(measured={"0.1": {"views": found[None]}})
    known = made.known(result, "0.1")  # pyright: ignore[reportArgumentType]
    assert known["one"] == pytest.approx(1 / 3)
    assert known["some"] == pytest.approx(2 / 3)
    assert known["differ"] == pytest.approx(2 / 3)  # two of three pairs


def test_every_arm_is_drawn() -> None:
    for study, names in ((Methods, methods.ORDER), (WhoMoves, who_moves.ARMS)):
        made = study.preset("cpu")
        for part in made.settings:
            assert set(strategies(made, part)) <= set(names)
    assert set(methods.ORDER) - set(methods.WORDS) == {"progressive"}
    moves = strategies(WhoMoves.preset("cpu"), "parity")
    assert tuple(moves["online"].cost) == (1, 1, 1, 1)
    assert tuple(moves["adapter"].cost) == (2, 1, 2, 1)


def test_laws_of_strings() -> None:
    """A network that knows nothing, of whose strings of two the grammar makes some."""
    task = NextToken(grammar=load_grammar("cfg3b", start=("7", "8", "9")))
    sizes = {"positions": task.positions, "vocab": task.vocabulary.size}
    model = Transformer(kind="gpt2", n_classes=3, heads=1, layers=1, **sizes)
    zero = jax.tree.map(np.zeros_like, model.init(jax.random.key(0)))
    found = who_moves.law(task, model, zero, 0)
    every: dict[int, list[np.ndarray]] = {}
    for n in range(1, task.positions):
        rows = np.stack(np.meshgrid(*[range(3)] * n, indexing="ij"), -1).reshape(-1, n)
        log_p = bayes.log_probability(task.arrays, rows, np.full(len(rows), n))
        every[n] = np.exp(np.asarray(log_p, float))
    of = np.asarray(task.arrays.level_length_distribution[0])
    share = sum(of[n] * (p > 0).mean() for n, p in every.items())
    assert abs(found.share - share) < 5 * (share * (1 - share) / 1024) ** 0.5
    # the uniform law over strings of a length that the grammar makes, from its own
    gaps = [
        (of[n] * (p > 0).mean() / share)
        * (-np.log(len(p)) - np.log(p[p > 0] / of[n])).mean()
        for n, p in every.items()
        if of[n] > 0
    ]
    assert found.gap == pytest.approx(sum(gaps) - np.log(share), abs=0.1)


def test_means_in_and_off_a_support() -> None:
    c = np.asarray([1.0, 2.0, 3.0, 6.0])
    np.testing.assert_array_equal(_in_and_off(c, np.asarray([0, 3])), [3.5, 2.5])
