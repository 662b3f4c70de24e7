"""What `import sandbox as sb` offers, and that it costs nothing."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import sandbox as sb

FREE = """
import sys
import sandbox
known = set(sys.modules)
assert "fit" in dir(sandbox) and "fit" not in vars(sandbox)
sys.exit(" ".join({m.partition(".")[0] for m in known} & {"jax", "numpy", "rich"}) or 0)
"""


def test_the_import_is_free() -> None:
    done = subprocess.run([sys.executable, "-c", FREE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_name_is_what_its_module_defines() -> None:
    for name, (module, attribute) in sb._HOMES.items():
        home = import_module(module)
        assert getattr(sb, name) is (getattr(home, attribute) if attribute else home)
    parts = {p.stem for p in Path(sb.__file__).parent.iterdir()}
    assert not parts & sb._HOMES.keys()  # none hides a part of the library
    assert sb._HOMES.keys() <= {*dir(sb)}


def test_a_type_checker_is_told_the_same_names() -> None:
    tree = ast.parse(Path(sb.__file__).read_text())
    told = {}
    for block in tree.body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for node in ast.walk(block):
                if isinstance(node, ast.ImportFrom):
                    for a in node.names:
                        told[a.asname or a.name] = node.module, a.name
    told["methods"] = ("sandbox.distill.methods", "")  # a module
    assert told == sb._HOMES


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        sb.fitt  # noqa: B018
    assert not hasattr(sb, "__wrapped__")
