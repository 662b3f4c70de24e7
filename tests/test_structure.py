"""How the code is put together: no import circle, imports at the top, one file a study.

Counted on the source itself, whatever is imported when.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sandbox", "experiments", "paper_repro")
FILES = {
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
    for name in PACKAGES
    for p in sorted((ROOT / name).rglob("*.py"))
}


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, list[str]]]:
    """Every import of a file with the modules or names that it may mean."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield node, [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield node, [module, *(f"{module}.{a.name}" for a in node.names)]


def _for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def graph() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports anywhere, itself left out."""
    out: dict[str, set[str]] = {}
    for name, path in FILES.items():
        found: set[str] = set()
        tree = ast.parse(path.read_text())
        tree.body = [n for n in tree.body if not _for_types(n)]
        for _, names in imports(tree):
            exact = [n for n in names[1:] if n in FILES]
            found |= set(exact or [n for n in names[:1] if n in FILES])
        out[name] = found - {name}
    return out


def test_no_import_circle():
    edges = graph()
    # A package's __init__ that collects its modules' names is no module of theirs.
    waiting = dict(edges)
    while True:
        free = [n for n, uses in waiting.items() if not uses & waiting.keys()]
        if not free:
            break
        for n in free:
            del waiting[n]
    assert not waiting, f"circles among {sorted(waiting)}"


@pytest.mark.parametrize("name", PACKAGES)
def test_an_import_inside_a_function_says_why(name):
    silent = []
    for module, path in FILES.items():
        if module.partition(".")[0] != name:
            continue
        text = path.read_text()
        lines = text.splitlines()
        for fn in ast.walk(ast.parse(text)):
            if not isinstance(fn, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            body = [
                n for n in ast.walk(fn) if isinstance(n, ast.Import | ast.ImportFrom)
            ]
            for node in body:
                # A comment on the line, or above the run of imports it belongs to.
                first = node.lineno - 1
                while first and re.match(r"\s*(import|from)\s|\s*$", lines[first - 1]):
                    first -= 1
                said = "#" in lines[node.lineno - 1] or (
                    lines[first - 1].lstrip().startswith("#")
                )
                if not said:
                    silent.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not silent, f"without a reason: {sorted(set(silent))}"


def test_nothing_is_imported_for_annotations_alone():
    found = {m for m, p in FILES.items() if "TYPE_CHECKING" in p.read_text()}
    assert found <= {"sandbox.types", "sandbox"}  # which must not import jax


def test_a_study_states_its_figure_and_its_claims_in_one_file():
    studies = re.findall(r'^    "(\w+)": "', FILES["paper_repro"].read_text(), re.M)
    assert len(studies) == 20
    for name in studies:
        classes = [
            node
            for node in ast.parse(FILES[f"experiments.{name}"].read_text()).body
            if isinstance(node, ast.ClassDef)
            and any("Study" in ast.unparse(base) or base for base in node.bases)
        ]
        own = {
            f.name for c in classes for f in c.body if isinstance(f, ast.FunctionDef)
        }
        inherits = any("st.Study" not in map(ast.unparse, c.bases) for c in classes)
        assert "figure" in own or inherits, name
        assert {"claims", "facts"} & own or inherits, name
    # and nothing else has to know it: one line in paper_repro, none elsewhere
    every = graph()
    for name in studies:
        users = [m for m, uses in every.items() if f"experiments.{name}" in uses]
        assert all(m.startswith("experiments.") for m in users), (name, users)
