"""The list of protections cannot rot: every text occurs once, every test exists."""

import ast
import os
from pathlib import Path

import pytest

from tests.faults.remove_protections import (
    ROOT,
    copy_project,
    protections,
    replace_section,
)

ENTRIES = protections()


@pytest.mark.parametrize("p", ENTRIES, ids=lambda p: f"{p.promise} {p.what}")
def test_every_entry_names_a_place_and_a_test(p) -> None:
    assert p.removed(ROOT) != (ROOT / p.file).read_text(encoding="utf-8")
    file, _, name = p.test.partition("::")
    functions = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    names = {f.name for f in functions if isinstance(f, ast.FunctionDef)}
    assert name.partition("[")[0] in names, p.test
    if p.file.endswith(".py"):
        ast.parse(p.removed(ROOT))


def test_processes_has_an_entry_for_every_promise() -> None:
    assert {"S1", "S2", "S3", "S4", "S5", "S7", "S8", "S14"} <= {
        p.promise for p in ENTRIES
    }


def test_a_copy_is_whole_and_leaves_runs_behind(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    copy_project(tmp_path)
    assert (tmp_path / "sandbox" / "train" / "loop.py").is_file()
    assert (tmp_path / "tests" / "faults" / Path(__file__).name).is_file()
    assert not {".git", "runs", ".venv"} & set(os.listdir(tmp_path))


def test_sections_are_replaced_by_title(tmp_path: Path) -> None:
    path = tmp_path / "OUTCOME.md"
    for title, text in (("a", "1"), ("b", "2\n\n| x |"), ("a", "3")):
        replace_section(path, title, text)
    assert path.read_text().endswith("## `b`\n\n2\n\n| x |\n\n## `a`\n\n3\n")
    assert path.read_text().count("## ") == 2
