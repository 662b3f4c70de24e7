"""What comes with a study: folders, tables, grids, publishing, cells of a notebook."""

import csv
import json
import linecache
import sys
import types
from dataclasses import replace

import jax
import numpy as np
import pytest

import sandbox.study as st
from sandbox.errors import ConfigError
from sandbox.platforms import suffix
from sandbox.study.study import Options, run_all
from sandbox.tasks.parity import Parity
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.progress import Silent

TINY = st.Setting(
    task=Parity(d=8, k=2),
    teacher=st.TwoLayer(64),
    student=st.TwoLayer(16),
    teacher_optimizer=SGD(lr=LearningRate(peak=0.02)),
    budget=st.UntilLearned(limit=5_120),
    rule=st.ByGap(points=1_024, degrees=(1,)),
    n_teachers=2,
    group=2,
    spacing=256,
    student_every=256,
)
CELL = '''
import sandbox.study as st


class OwnIdea(st.Study):
    """A study of one's own."""

    setting: st.Setting = TINY
    tau: float = 1.0
    presets = {"smoke": st.preset("tiny"), "half": st.preset("tiny", tau=0.5)}

    def lanes(self, t):
        return [st.ce(), st.progressive(t.spacing, self.tau)]

    def figure(self, r):
        """Accuracy, and samples to .90."""
        fig, (a, b) = st.panels(1, 2)
        st.accuracy(a, r)
        st.strips(b, r)
        return fig

    def claims(self, r):
        yield st.at_most("X", r.n90["progressive"] / r.n90.teacher, 5, "keeps pace")

    def facts(self, r):
        return {"strategies": list(r.strategies)}
'''


@pytest.fixture(scope="module")
def own():
    """A study from a notebook's cell: its module has no file, linecache its source."""
    name = "<ipython-input-1-0123456789ab>"
    linecache.cache[name] = (len(CELL), None, CELL.splitlines(True), name)
    cell = types.ModuleType("cell_of_a_notebook")
    cell.__dict__["TINY"] = TINY
    sys.modules[cell.__name__] = cell
    exec(compile(CELL, name, "exec"), cell.__dict__)
    yield cell.OwnIdea
    del sys.modules[cell.__name__]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def result(own, root):
    return own().run(root=root, progress=Silent(), preset="smoke")


def test_seeds_start_where_the_setting_says():
    specs = replace(TINY, seed=4, n_teachers=4).teacher_specs()
    assert [s.seeds for s in specs] == [(4, 5), (6, 7)]


def test_a_study_in_a_notebook_runs_like_ours(own, result):
    assert own.name() == "own_idea"
    assert result.scale == "smoke" and list(result.parts) == [""]
    assert list(result.strategies) == ["ce", "progressive"]
    assert result.n90["progressive"].values.shape == (2, 1)
    ((steps, y),) = result.curves("progressive")
    assert y.shape == (2, 1, len(steps))  # seeds, initialisations, evaluations


def test_a_result_shows_draws_and_tabulates_itself(result, root):
    text = repr(result)
    assert text.startswith("<OwnIdea smoke\n  2 of 2 teachers learned; n90 / n90 of")
    ratio = result.n90["progressive"] / result.n90.teacher
    assert f"progressive {np.median(ratio.values):.3g}" in text
    assert result.plot().axes[0].get_xlabel() == result.abscissa_text
    rows = result.table().to_pylist()
    for who in ("teacher", "ce"):
        own = [r["accuracy"] for r in rows if (r["strategy"], r["seed"]) == (who, 1)]
        np.testing.assert_array_equal(own, np.ravel(result.curves(who)[0][1][1]))
    assert {r["part"] for r in rows} == {""}
    lost = replace(result, parts={"": replace(result.parts[""], students=[])})
    assert repr(lost)  # whatever is missing


def test_a_note_counts_the_runs_of_each_part(own, result):
    (part,) = result.parts.values()
    five = {"teachers": part.teachers * 5, "students": part.students * 5}
    more = replace(part, **five)
    for parts, said in (
        ({"a": part}, "n = 2 teachers; lines: medians, bands: ranges"),
        ({"a": part, "b": part}, ": n = 2; lines: medians, bands: ranges"),
        ({"a": part, "b": more}, ": n = 2, 10; lines: medians, bands: ranges or quart"),
    ):
        note = own().draw(replace(result, parts=parts)).get_supxlabel()
        assert said in " ".join(note.split())


def test_a_study_without_a_figure_of_its_own_has_one(own, result):
    class Plain(st.Study):
        setting: st.Setting = TINY

    figure = Plain().draw(result)
    assert len(figure.axes) == 2
    with pytest.raises(ConfigError, match="Plain draws no figure; define `figure`"):
        Plain().figure(replace(result, parts={}))


def test_a_run_leaves_a_figure_claims_and_a_tidy_table(own, result, root, capsys):
    report = own().report(result)
    report.write()
    folder = root / "studies" / "own_idea.smoke"
    assert {p.name for p in folder.iterdir()} >= {
        "figure.png", "figure.svg", "figure.pdf", "figure.md", "claims.json",
        "summary.csv",
    }  # fmt: skip
    said = json.loads((folder / "claims.json").read_text())
    (claim,) = said["claims"]
    assert claim["id"] == "X" and claim["scale"] == "any"
    assert said["scale"] == "smoke" and said["strategies"] == ["ce", "progressive"]
    assert said["teachers"]["trained"] == 2 and len(said["runs"]) == 2
    rows = list(csv.DictReader((folder / "summary.csv").read_text().splitlines()))
    n90 = {
        (r["strategy"], int(r["seed"])): float(r["value"])
        for r in rows
        if r["quantity"] == "n90"
    }
    assert n90["teacher", 1] == result.n90.teacher.values[1, 0]
    assert n90["progressive", 0] == result.n90["progressive"].values[0, 0]
    out, err = capsys.readouterr()
    assert "X" in out and "no room" not in err
    assert (folder / "figure.md").read_text() == "Accuracy, and samples to .90.\n"
    report.figure.axes[1].set_title("far more than fits beside it " * 5)
    report.write(quiet=True)
    assert "figure.png: no room for 'far more than" in capsys.readouterr().err


def test_a_claim_says_for_which_scale_and_since_when(own, result):
    class Two(own):
        """Rules of its own at the paper scale."""

        def paper_claims(self, r):
            return self.claims(r)

    def of(study, preset="smoke"):
        (row,) = study().report(replace(result, preset=preset)).claims
        return row.scale, row.since

    assert of(own) == ("any", "")
    Two.since = {"smoke, cpu": "2026-11-22 f606d70", "paper": "2026-11-22 d60bb50"}
    assert of(Two) == ("smoke, cpu", "2026-11-22 f606d70")
    assert of(Two, "paper") == ("paper", "2026-11-22 d60bb50")
    Two.since["X"] = "2026-12-01 1234567"
    assert of(Two, "paper") == ("paper", "2026-12-01 1234567")


def test_an_overridden_preset_has_no_scale_and_is_not_published(own, root, result):
    del result  # its teachers are shared
    changed = own(tau=2.0)
    with pytest.raises(ConfigError, match="no overrides"):
        run_all("smoke", [changed], Options(root=root, publish=True))
    again = changed.run(root=root, progress=Silent(), preset="smoke")
    assert again.scale is None and again.preset == "smoke"
    folder = changed.report(again).folder.name
    assert folder.startswith("own_idea.smoke.") and len(folder) > len("own_idea.smoke.")


def test_only_publishing_touches_a_checkout(own, root, result, tmp_path, monkeypatch):
    del result
    (tmp_path / "paper_repro" / "results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    run_all("smoke", [own()], Options(root=root))
    assert not (tmp_path / "figures").exists()
    run_all("smoke", [own()], Options(root=root, publish=True))
    assert (tmp_path / "figures" / "smoke" / "own_idea.png").is_file()
    assert (tmp_path / "paper_repro" / "results" / "own_idea.smoke.json").is_file()


def test_results_of_another_kind_of_device_stand_beside(
    own, root, result, tmp_path, monkeypatch
):
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda name=backend: name)
        report = own().report(result)
        report.write(quiet=True)
        report.publish(tmp_path / "figures", tmp_path)
        assert report.folder == root / "studies" / f"own_idea.smoke{suffix()}"
    assert own(tau=2.0).report(replace(result, scale=None)).folder.suffix == ".gpu"
    names = {p.name for p in tmp_path.glob("*.json")}
    assert names == {"own_idea.smoke.json", "own_idea.smoke.gpu.json"}
    drawn = {p.name for p in (tmp_path / "figures" / "smoke").iterdir()}
    ends = [f"{s}.{e}" for s in ("", ".gpu") for e in ("png", "svg", "md")]
    assert drawn == {f"own_idea{end}" for end in ends}


def test_a_grid_ends_with_one_table_and_one_figure(own, root, result, capsys):
    del result
    run_all("smoke", [own(tau=1.0), own(tau=2.0)], Options(root=root))
    printed = capsys.readouterr().out
    rows = printed[printed.index("samples to accuracy .90: medians") :].splitlines()
    assert [row.split()[0] for row in rows[1:4]] == ["tau", "1", "2"]
    (folder,) = (root / "studies").glob("own_idea.smoke.grid.*")
    rows = list(csv.DictReader((folder / "summary.csv").read_text().splitlines()))
    assert {r["tau"] for r in rows} == {"1.0", "2.0"}
    assert (folder / "figure.png").stat().st_size > 5_000
    assert len(list((root / "teacher").iterdir())) == 1  # shared by all points


def test_a_field_cannot_take_the_name_of_an_option():
    with pytest.raises(ConfigError, match="option grid of its own"):
        type("Clash", (st.Study,), {"__annotations__": {"grid": int}, "grid": 1})


def test_lanes_are_checked_when_a_study_is_built(own):
    with pytest.raises(ConfigError, match=r"target\.tau"):
        own(tau=-1.0)
    with pytest.raises(ConfigError, match=r"setting\.spacing"):
        own(setting=st.Setting(task=Parity(d=8, k=2), spacing=100, student_every=256))


def test_strategies_of_another_structure_or_cap_are_runs_of_their_own():
    made_up = st.Teachers.made_up(TINY)

    pace = st.progressive(256)
    other = replace(pace, name="reverse", loss=replace(pace.loss, direction="reverse"))
    lanes = [st.ce(), pace, other, st.Capped(st.one_shot(), 2.0), st.one_shot(2.0, "b")]
    names = [[s.name for s in run.strategies] for run in made_up.students(lanes)]
    assert names == [["ce", "progressive", "b"], ["reverse"], ["one_shot"]]
