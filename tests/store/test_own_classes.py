"""The code of one's own classes is part of their identity."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sandbox.distill.strategy import Strategy
from sandbox.errors import ConfigError
from sandbox.models.mlp import MLP
from sandbox.store.config import (
    class_tag,
    foreign_sources,
    from_json,
    to_json,
)
from sandbox.tasks.parity import Parity
from sandbox.train.run import BUILT_IN
from sandbox.train.spec import RunSpec, Stop

TEACHER = RunSpec(
    kind="teacher",
    task=Parity(d=10, k=2),
    model=MLP(d=10, hidden=(4,)),
    strategies=(Strategy(name="teacher"),),
    stop=Stop(max_samples=1024),
    eval_every=512,
)
STUDY = """
import numpy as np
from dataclasses import dataclass, field
from sandbox.tasks.parity import Parity as Base

SCALE = 3
TABLE = {}
TABLE["a"] = 1
UNUSED = 4

@dataclass(frozen=True, kw_only=True)
class Part:
    size: int = 1

def helper(x):
    return deeper(x) * SCALE

def deeper(x):
    return x

@dataclass(frozen=True, kw_only=True)
class Parity(Base):
    part: Part = field(default_factory=Part)

    def labels(self, x, supports):
        return helper(super().labels(x, supports)) + TABLE["a"]

if __name__ == "__main__":
    SCALE = 3
    made = Parity(d=10, k=2)
"""


def load(folder: Path, text: str, name: str = "a_study") -> ModuleType:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(text)
    sys.modules.pop(name, None)
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def sources(folder: Path, text: str) -> dict[str, str]:
    try:
        return foreign_sources(load(folder, text).Parity(d=10, k=2))
    finally:
        sys.modules.pop("a_study", None)


@pytest.mark.parametrize(
    "old, new",
    [
        ("UNUSED = 4", "UNUSED = 5"),
        ("SCALE = 3\nTABLE", "SCALE  =  (3)  # three\nTABLE"),
        ("def deeper(x):\n", "def deeper(x):\n    # as it is\n\n"),
        ("    made =", "    more ="),
    ],
)
def test_what_is_not_code_of_a_class(tmp_path: Path, old: str, new: str) -> None:
    assert STUDY.count(old) == 1
    before = sources(tmp_path / "1", STUDY)
    assert set(before) == {"a_study:Parity", "a_study:Part"}
    assert sources(tmp_path / "2", STUDY.replace(old, new)) == before


@pytest.mark.parametrize(
    "old, new",
    [
        ("SCALE = 3\nTABLE", "SCALE = 4\nTABLE"),
        ('TABLE["a"] = 1\n', 'TABLE["a"] = 2\n'),
        ("return deeper(x) *", "return deeper(x) +"),
        ("    return x\n", "    return -x\n"),
        ("size: int = 1", "size: int = 2"),
        ("import Parity as Base", "import NoisyParity as Base"),
    ],
)
def test_whatever_a_class_uses_is_its_code(tmp_path: Path, old: str, new: str) -> None:
    assert STUDY.count(old) == 1
    before = sources(tmp_path / "1", STUDY)["a_study:Parity"]
    assert sources(tmp_path / "2", STUDY.replace(old, new))["a_study:Parity"] != before


def test_a_study_is_the_same_run_or_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = sources(tmp_path, STUDY)
    main = load(tmp_path, STUDY + "FOUND = None\n", "a_study")
    monkeypatch.setitem(sys.modules, "__main__", main)
    for cls in (main.Parity, main.Part):
        cls.__module__ = "__main__"
    assert foreign_sources(main.Parity(d=10, k=2)) == imported
    assert class_tag(main.Parity) == "a_study:Parity"
    sys.modules.pop("a_study")


def test_ones_own_parity_is_never_the_built_in(tmp_path: Path) -> None:
    mine = load(tmp_path, STUDY).Parity
    spec = replace(TEACHER, task=mine(d=10, k=2))
    data = to_json(spec)
    assert data["task"]["type"] == "a_study:Parity"
    with pytest.raises(ConfigError, match="only through --study MODULE"):
        from_json(RunSpec, data, extra=BUILT_IN)
    assert from_json(RunSpec, data, extra=(*BUILT_IN, mine)) == spec
    plain = to_json(TEACHER)
    assert type(from_json(RunSpec, plain, extra=(*BUILT_IN, mine)).task) is Parity
    other = load(tmp_path / "other", STUDY).Parity
    with pytest.raises(ConfigError, match="two different classes are a_study:Parity"):
        from_json(RunSpec, data, extra=(mine, other))
    sys.modules.pop("a_study")


def test_a_class_without_a_file_has_no_identity() -> None:
    space: dict[str, Any] = {"__name__": "nowhere"}
    exec(STUDY, space)
    with pytest.raises(ConfigError, match="Parity must be defined in a file"):
        foreign_sources(space["Parity"](d=10, k=2))
