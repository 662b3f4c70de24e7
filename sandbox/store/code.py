"""Code as part of what a result is: whose classes made it, and as they were then.

The source of a user's own class belongs to a run's identity (`foreign_sources`). All
other code that decides numbers is hashed beside the run (`Code`): what its classes
refer to by name, through the modules of the library and of the user, so that a stored
run which other code made is noticed.
"""

import ast
import hashlib
import importlib.util
import inspect
import linecache
import re
import sys
import types
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from sandbox.errors import ConfigError

RANDOM = {"generator": "threefry2x32", "partitionable": True}
"""Behind every key of `sandbox.train.arithmetic`."""
_LIBRARY = Path(__file__).resolve().parents[1]
_INSTALLED = {"site-packages", "dist-packages"}
"""Folders of packages that have versions, which are stored beside a result."""
_NO_NUMBERS = re.compile(
    r"sandbox\.(store|errors|text|types|train\.(preflight|progress|resumable|run|signals))"
    r"(\.|$)"
)
"""Modules that store, tell and refuse, and decide no number."""


def class_tag(cls: type) -> str:
    """What a class is called in a record: `Parity`, or `my_study:Parity` if foreign."""
    if not is_foreign(cls):
        return cls.__name__
    file = _file_of(cls)
    if file is None:
        stem = cls.__module__.rpartition(".")[2]
    else:
        stem = file.parent.name if file.stem == "__init__" else file.stem
    return f"{stem}:{cls.__qualname__}"


def classes(value: Any) -> tuple[type, ...]:
    """The classes of all records in a record, its own first."""
    if is_dataclass(value) and not isinstance(value, type):
        inner = classes([getattr(value, f.name) for f in fields(value)])
        return tuple(dict.fromkeys((type(value), *inner)))
    if isinstance(value, tuple | list):
        return tuple(dict.fromkeys(c for item in value for c in classes(item)))
    return ()


def is_foreign(cls: type) -> bool:
    """Whether a class belongs neither to the library nor to Python's own."""
    package = cls.__module__.partition(".")[0]
    return package != "sandbox" and package not in sys.stdlib_module_names


def _file_of(cls: type | types.FunctionType) -> Path | None:
    name = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return None if name is None else Path(name)


def foreign_sources(value: Any) -> dict[str, str]:
    """Tag -> sha256 of the code of every class in a record that is a user's own.

    The code of a class is its source and that of every function, class, constant and
    import at the top of the same file that it refers to by name, directly or through
    another. Comments, layout and the order of definitions do not count, nor does what
    stands under `if __name__ == "__main__"` or in another file. In a notebook,
    functions and classes count as the cells that made them say, and data by its value.

    Raises:
      ConfigError: a class is not defined in a file or a cell, one of a cell refers to
        data that is not plain, or two share a tag.
    """
    found: dict[str, str] = {}
    for cls in (c for own in classes(value) for c in own.__mro__ if is_foreign(c)):
        tag, code = class_tag(cls), _code_hash(cls)
        if found.setdefault(tag, code) != code:
            raise ConfigError(f"two different classes are {tag}; rename one.")
    return found


def _code_hash(cls: type) -> str:
    try:
        code = _code_of_cells(cls) if _file_of(cls) is None else _code_of_file(cls)
    except (OSError, SyntaxError, ValueError, KeyError) as e:
        raise ConfigError(
            f"{cls.__qualname__} must be defined in a file, because its source is part"
            " of the run's identity."
        ) from e
    return hashlib.sha256("\n".join(code).encode()).hexdigest()


@cache  # a class stays what it was when it was imported, whatever its file becomes
def _code_of_file(cls: type) -> list[str]:
    file, first = _file_of(cls), cls.__qualname__.partition(".")[0]
    top = _top_level(ast.parse(file.read_bytes())) if file else {}
    todo, seen = [first], set()
    while todo:
        name = todo.pop()
        if name in seen or name not in top:
            continue
        seen.add(name)
        todo += _names(top[name])
    return [ast.unparse(node) for name in sorted(seen | {first}) for node in top[name]]


def _code_of_cells(cls: type) -> list[str]:
    """Name and code of a notebook's class and of all it refers to, as they are now."""
    return [f"{name}: {code}" for name, code in sorted(_cells(cls)[0].items())]


def _cells(cls: type) -> tuple[dict[str, str], list[str]]:
    """The code of a notebook's class by name, and the roots it has in files."""
    space = vars(sys.modules[cls.__module__]) | {cls.__qualname__: cls}
    todo, seen = [cls.__qualname__.partition(".")[0]], dict[str, str]()
    roots = []
    space[todo[0]]  # or it has no identity
    while todo:
        name = todo.pop()
        if name in seen or name not in space:
            continue
        value = inspect.unwrap(space[name])
        home, own = (getattr(value, f"__{a}__", "") for a in ("module", "qualname"))
        if isinstance(value, types.ModuleType):
            seen[name] = value.__name__
            roots.append(f"{value.__name__}:*")
        elif own and home != cls.__module__:
            seen[name] = f"{home}.{own}"
            roots.append(f"{home}:{own.partition('.')[0]}")
        elif nodes := _cell_of(value):
            seen[name] = "\n".join(map(ast.unparse, nodes))
            todo += _names(nodes)
        elif isinstance(value, type):  # of data alone, which cells do not tell apart
            data = {k: v for k, v in vars(value).items() if k[:2] != "__"}
            made = fields(value) if is_dataclass(value) else ()
            factories = [f for f in made if f.default_factory is not MISSING]
            seen[name] = _plain([[f.name for f in made], data, factories])
        else:
            seen[name] = _plain(value)
    return seen, roots


def _plain(value: Any) -> str:
    if ast.literal_eval(repr(value)) != value:
        raise ValueError("no plain data")
    return repr(value)


def _cell_of(value: Any) -> list[ast.stmt]:
    """The statements of a cell that made a function, or a class with functions."""
    for member in vars(value).values() if isinstance(value, type) else [value]:
        inner = getattr(member, "fget", None) or getattr(member, "__func__", member)
        code = getattr(inspect.unwrap(inner), "__code__", None)
        if code and code.co_filename in linecache.cache:  # not what a dataclass adds
            cell = "".join(linecache.getlines(code.co_filename))
            top = _top_level(ast.parse(cell))
            return top.get(value.__qualname__.partition(".")[0], [])
    return []


def _names(nodes: Iterable[ast.stmt]) -> list[str]:
    return [n.id for s in nodes for n in ast.walk(s) if isinstance(n, ast.Name)]


def _top_level(module: ast.Module) -> dict[str, list[ast.stmt]]:
    """Name -> the statements of a module that bind or alter it, in order."""
    out: dict[str, list[ast.stmt]] = {}
    for statement in module.body:
        if isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test):
            continue
        for name, node in _bindings(statement):
            nodes = out.setdefault(name, [])
            if node not in nodes:
                nodes.append(node)
    return out


def _bindings(statement: ast.stmt) -> Iterator[tuple[str, ast.stmt]]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name, statement
        return
    if isinstance(statement, ast.Import):
        for a in statement.names:
            yield a.asname or a.name.partition(".")[0], ast.Import([a])
        return
    if isinstance(statement, ast.ImportFrom):
        for a in statement.names:
            one = ast.ImportFrom(statement.module, [a], statement.level)
            yield a.asname or a.name, one
        return
    call = statement.value if isinstance(statement, ast.Expr) else None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
        yield _root(call.func), statement  # TABLE.update(...)
    for node in ast.walk(statement):
        if isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
            if not isinstance(node.ctx, ast.Load):
                yield _root(node), statement
        elif isinstance(node, ast.stmt) and node is not statement:  # in an if or try
            if not isinstance(node, ast.Expr):
                yield from ((name, statement) for name, _ in _bindings(node))


def _root(node: ast.expr) -> str:
    """`a` of `a.b[c].d`."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


@dataclass(frozen=True)
class Code:
    """The code that decides some numbers, and what else they are made from.

    Attributes:
      roots: `module:name` of the classes and functions it starts from.
      modules: module -> hash of all in it that they refer to, without comments,
        docstrings and layout.
      inputs: name -> hash of stored results that the numbers are made from.
    """

    roots: tuple[str, ...]
    modules: dict[str, str]
    inputs: Mapping[str, str]

    @classmethod
    def of(cls, *starts: Any, inputs: Mapping[str, str] | None = None) -> "Code":
        """That of classes, functions and the classes of records."""
        found = {root for start in starts for root in _roots(start)}
        files = (r for r in found if _file_named(r.partition(":")[0]) is not None)
        roots = tuple(sorted(files))
        _take_sources()
        return cls(roots, _hashes(roots), dict(inputs or {}))

    def record(self, programs: str) -> dict[str, Any]:
        """What is stored beside the numbers.

        Args:
          programs: hash of the compiled programs.
        """
        return {
            "roots": list(self.roots),
            "modules": self.modules,
            "inputs": dict(self.inputs),
            "random": RANDOM,
            "programs": programs,
        }

    def changed(self, then: Mapping[str, Any]) -> set[str]:
        """Modules that are not what they were when `then` was the record."""
        before = then["modules"]
        names = {*self.modules, *before}
        return {n for n in names if self.modules.get(n) != before.get(n)}

    def same_inputs(self, then: Mapping[str, Any]) -> bool:
        """Whether random numbers and inputs are those of a record."""
        before = then["inputs"]
        same = all(before.get(n, h) == h for n, h in self.inputs.items())
        return then["random"] == RANDOM and same

    def why_other(self, then: Mapping[str, Any]) -> str:
        """How what was stored with a record was made otherwise; empty if it was not."""
        if not then:
            return "was made before the code behind a result was stored with it"
        if then["random"] != RANDOM:
            return f"was made with other random numbers ({then['random']})"
        if not self.same_inputs(then):
            return f"was made from another {' and '.join(self.inputs)}"
        files = [f"{n.replace('.', '/')}.py" for n in sorted(self.changed(then))]
        return f"was made by another {' and '.join(files)}" if files else ""


def why_other_now(then: Mapping[str, Any]) -> str:
    """Like `Code.why_other` where the record alone says what the numbers are made by.

    Empty as well where the file of a user's own class is not found.
    """
    if not then:
        return Code((), {}, {}).why_other(then)
    if any(_file_named(root.partition(":")[0]) is None for root in then["roots"]):
        return ""
    roots = tuple(then["roots"])
    return Code(roots, _hashes(roots), {}).why_other(then)


def check_record(then: Any) -> dict[str, Any]:
    """Returns what `Code.record` made, or nothing.

    Raises:
      ValueError: it is anything else.
    """

    def texts(v: Any) -> bool:
        return isinstance(v, dict) and all(isinstance(s, str) for s in v.values())

    sound = isinstance(then, dict) and not then
    if isinstance(then, dict) and isinstance(then.get("roots"), list):
        sound = (
            all(isinstance(r, str) and r.count(":") == 1 for r in then["roots"])
            and texts(then.get("modules"))
            and texts(then.get("inputs"))
            and isinstance(then.get("random"), dict)
            and isinstance(then.get("programs"), str)
        )
    if not sound:
        raise ValueError("its record of code is none")
    return then


def _roots(start: Any) -> Iterator[str]:
    if isinstance(start, tuple | list):
        for item in start:
            yield from _roots(item)
    elif isinstance(start, partial):
        yield from _roots([start.func, *start.args, *start.keywords.values()])
    elif isinstance(start, types.MethodType):
        yield from _roots([type(start.__self__), start.__self__])
    elif is_dataclass(start) and not isinstance(start, type):
        yield from _roots(classes(start))
    elif isinstance(start, type) and is_foreign(start) and _file_of(start) is None:
        yield from _cells(start)[1]
    elif isinstance(start, type | types.FunctionType):
        if _file_of(start) is not None:
            name = start.__qualname__.partition(".")[0]
            yield f"{_importable(start.__module__)}:{name}"
    elif callable(start):  # of jit or a cache, or an object with __call__
        inner = inspect.unwrap(start)
        yield from _roots(
            inner if isinstance(inner, types.FunctionType) else type(start)
        )


def _importable(module: str) -> str:
    """The name by which the file that was run could be imported."""
    if module != "__main__":
        return module
    main = sys.modules[module]
    spec = getattr(main, "__spec__", None)
    return spec.name if spec else Path(getattr(main, "__file__", "") or "").stem


_KNOWN: dict[tuple[str, ...], tuple[dict[str, bytes], dict[str, str]]] = {}
"""Roots -> sources of what they reach, and their hashes."""


def _hashes(roots: tuple[str, ...]) -> dict[str, str]:
    sources, found = _KNOWN.get(roots, ({}, {}))
    if not found or any(_source(name) is not s for name, s in sources.items()):
        reached = _reached(roots)
        found = {name: _hash_of(name, reached[name]) for name in sorted(reached)}
        _KNOWN[roots] = {name: _source(name) for name in found}, found
    return found


def _reached(roots: Iterable[str]) -> dict[str, set[str]]:
    """Module -> names that some of `roots` refer to, through others or directly."""
    todo = [tuple(root.split(":")) for root in roots]
    seen = defaultdict[str, set[str]](set)
    while todo:
        module, name = todo.pop()
        top = _definitions(module)
        if name == "*":
            todo += [(module, n) for n in top if n != "*"]
            name = "*" if "*" in top else ""  # of modules whose names are all imported
        elif name not in top and "*" in top:
            todo.append((module, "*"))
        if name in top and name not in seen[module]:
            seen[module].add(name)
            for statement in top[name]:
                todo += _references(module, statement)
    return {module: names for module, names in seen.items() if names}


def _references(module: str, statement: ast.stmt) -> Iterator[tuple[str, str]]:
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            yield module, node.id
        elif isinstance(node, ast.Import):
            yield from ((a.name, "*") for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = _imported_from(module, node)
            # Of the library, what is named; a user's file may fill a table in passing.
            whole = home.partition(".")[0] != "sandbox"
            for a in node.names:
                yield home, "*" if whole else a.name
                yield f"{home}.{a.name}", "*"


def _imported_from(module: str, node: ast.ImportFrom) -> str:
    file = _file_named(module)
    package = file is not None and file.stem == "__init__"
    near = module if package else module.rpartition(".")[0]
    name = "." * node.level + (node.module or "")
    return importlib.util.resolve_name(name, near) if near or not node.level else ""


_TAKEN: dict[str, tuple[Any, bytes]] = {}
"""Module -> the import that it is of, and its source then."""


def _source(module: str) -> bytes:
    """A module's file as it was when it was imported, or first looked at.

    Empty of what is neither the library's nor the user's. What jax compiled of a module
    that was reloaded since, as notebooks do, is forgotten.
    """
    loaded = getattr(sys.modules.get(module), "__spec__", None)
    before = _TAKEN.get(module)
    if before is None or before[0] is not loaded:
        file = _file_named(module)
        source = file.read_bytes() if file is not None else b""
        if before is not None and before[1] != source and "jax" in sys.modules:
            sys.modules["jax"].clear_caches()
        _TAKEN[module] = loaded, source
    return _TAKEN[module][1]


@cache
def _take_sources() -> None:
    """Looks at every imported file at once: what is edited later is not what runs."""
    for name in list(sys.modules):
        _source(name)


def _definitions(module: str) -> dict[str, list[ast.stmt]]:
    """Name -> what defines it in a module of the library or of the user; else none."""
    return {} if _NO_NUMBERS.match(module) else _defined(_source(module))


@cache
def _defined(source: bytes) -> dict[str, list[ast.stmt]]:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.body = [s for s in node.body if not _is_text(s)] or [ast.Pass()]
    return _top_level(tree)


def _is_text(statement: ast.AST) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _file_named(module: str) -> Path | None:
    """The file of a module of the library or of the user; None for installed ones."""
    first, *rest = module.split(".")
    if not first or first in sys.stdlib_module_names:
        return None
    places = [_LIBRARY] if first == "sandbox" else _places(first)
    loaded = getattr(sys.modules.get(module), "__file__", None)
    files = [Path(loaded)] if loaded and first != "sandbox" else []
    for place in places:
        path = place.joinpath(*rest)
        files += [path.with_suffix(".py"), path / "__init__.py"]
    found = (p for p in files if p.suffix == ".py" and p.is_file())
    ours = (p for p in found if first == "sandbox" or not _INSTALLED & {*p.parts})
    return next(ours, None)


@cache
def _places(name: str) -> list[Path]:
    """Where modules of a user's package are, or a user's file without `.py`."""
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(name)  # imports nothing: it is not dotted
        origin = Path(spec.origin or "") if spec else Path()
        if origin.suffix == ".py" and origin.stem != "__init__":
            return [origin.with_suffix("")]
        return [Path(p) for p in spec.submodule_search_locations or ()] if spec else []
    return []


def _hash_of(module: str, names: set[str]) -> str:
    top = _definitions(module)
    text = "\n".join(ast.unparse(s) for name in sorted(names) for s in top[name])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
