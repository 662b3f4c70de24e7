"""What a launcher's workers train apart is what the study looks for."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.study import study as module
from sandbox.study.setting import Setting
from sandbox.study.teachers import Teachers
from sandbox.train.loop import folder_of
from sandbox.train.progress import Silent
from sandbox.train.run import Run
from sandbox.train.spec import RunSpec
from tests.experiments.test_studies import MLP, TINY
from tests.study.test_estimate import RESULTS, study

STUDIES = {p.name.split(".")[0]: "cpu" for p in RESULTS.glob("*.cpu.json")}
STUDIES["parity_regions"] = "smoke"  # its 18 cpu settings are alike, and take 12 s


@pytest.mark.parametrize(("name", "scale"), STUDIES.items())
def test_groups_train_all_that_a_study_does_once(
    name: str, scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of teachers and students, each after what it learns from."""
    trained: list[RunSpec] = []

    def teach(setting: Setting, *_: Any, seeds: Any = None) -> list[Teachers]:
        specs = [s for s in setting.teacher_specs() if seeds in (None, s.seeds)]
        trained.extend(specs)
        return [Teachers.made_up(setting, s) for s in specs]

    def learn(specs: Iterable[RunSpec], *_: Any) -> tuple[Run, ...]:
        trained.extend(specs)
        return ()

    def fit(spec: RunSpec, root: Path, *_: Any) -> Run:
        needs = {r.spec for r in (spec.teacher, spec.start) if r is not None}
        assert needs <= set(trained)
        trained.append(spec)
        return Run(folder_of(spec, root), spec)

    monkeypatch.setattr(module, "train_teachers", teach)
    monkeypatch.setattr(module, "train_group", learn)
    monkeypatch.setattr(module, "_fit", fit)
    monkeypatch.setattr(module, "compute", lambda *_, **__: None)
    made = study(name, scale)
    for setting in made.settings.values():
        module._taught(made, setting, tmp_path, None)
    module._fit_all(made.plain_runs, tmp_path, None)
    whole, apart = Counter(trained), Counter()
    for train in made.groups().values():
        trained.clear()
        train(tmp_path)
        apart += Counter(trained)
    assert apart == whole and (whole or made.computed is not None)


def test_a_study_trains_nothing_that_its_groups_trained(tmp_path: Path) -> None:
    made = replace(MLP, setting=replace(TINY, group=1))
    groups = made.groups()
    assert list(groups) == ["0-0", "1-1"]
    for train in groups.values():
        train(tmp_path)
    before = sorted(tmp_path.rglob("manifest.json"))
    made.run(root=tmp_path, progress=Silent())
    assert sorted(tmp_path.rglob("manifest.json")) == before
