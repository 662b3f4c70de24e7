"""The code of one's own classes is part of their identity."""

import importlib.util
import linecache
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sandbox.distill.strategy import Strategy
from sandbox.errors import ConfigError
from sandbox.models.mlp import MLP
from sandbox.store.code import class_tag, foreign_sources
from sandbox.store.config import (
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


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Runs a cell as IPython does: no file, its source in `linecache`."""
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(linecache, "cache", dict(linecache.cache))

    def run(cell: str) -> dict[str, Any]:
        name = f"/tmp/ipykernel_1/{hash(cell)}.py"  # the same cell, the same name
        lines = cell.splitlines(keepends=True)
        linecache.cache[name] = (len(cell), None, lines, name)
        exec(compile(cell, name, "exec"), vars(main))
        return vars(main)

    return run


CELLS = [
    """import math
import numpy as np
from dataclasses import dataclass
from typing import Literal
from sandbox.tasks.parity import Parity as Base""",
    "SCALE = 3\nTABLE = {}\nUNUSED = 4",
    'TABLE["a"] = 1',
    "@dataclass(frozen=True)\nclass Part:\n    size: int = 1",
    "def helper(x):\n    return math.floor(deeper(x)) * SCALE",
    "def deeper(x):\n    return x",
    """@dataclass(frozen=True, kw_only=True)
class Parity(Base):
    part: Part = Part()
    kind: Literal["a", "b"] = "a"

    def labels(self, x, supports):
        return helper(super().labels(x, supports)) + TABLE["a"]""",
]


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("return math.floor(deeper(x)) *", "return math.floor(deeper(x)) +", True),
        ("math.floor", "math.ceil", True),
        ("    return x", "    return -x", True),
        ("SCALE = 3", "SCALE = 4", True),
        ('TABLE["a"] = 1', 'TABLE["a"] = 2', True),
        ("return helper", "return 1 + helper", True),
        ("size: int = 1", "size: int = 2", True),
        ("import Parity as Base", "import NoisyParity as Base", True),
        ("UNUSED = 4", "UNUSED = 5", False),
        ("    return x", "    # as it is\n    return x", False),
    ],
)
def test_a_class_of_a_notebook_is_its_cells(
    notebook: Callable[[str], dict[str, Any]], old: str, new: str, counts: bool
) -> None:
    """Also after cells were changed, run anew, and changed back."""

    def code(old: str = "", new: str = "") -> dict[str, str]:
        for cell in CELLS:
            notebook(cell.replace(old, new) if old else cell)
        made = notebook("made = Parity(d=10, k=2)")["made"]
        assert to_json(made)["type"] == "__main__:Parity"
        return foreign_sources(made)

    before = code()
    assert before.keys() == {"__main__:Parity", "__main__:Part"}
    assert (code(old, new) != before) == counts
    assert code() == before


@pytest.mark.parametrize("data", ["np.arange(3)", "object()"])
def test_a_notebook_class_refers_to_plain_data_only(
    notebook: Callable[[str], dict[str, Any]], data: str
) -> None:
    for cell in [*CELLS, f"SCALE = {data}"]:
        notebook(cell)
    with pytest.raises(ConfigError, match="Parity must be defined in a file"):
        foreign_sources(notebook("made = Parity(d=10, k=2)")["made"])


def test_a_class_without_a_file_has_no_identity() -> None:
    space: dict[str, Any] = {"__name__": "nowhere"}
    exec(STUDY, space)
    with pytest.raises(ConfigError, match="Parity must be defined in a file"):
        foreign_sources(space["Parity"](d=10, k=2))
