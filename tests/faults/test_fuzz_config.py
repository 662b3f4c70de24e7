"""Whatever a saved config holds: it loads to the record it says, or is refused."""

import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import ConfigError, StoreError
from sandbox.store.config import canonical, from_json, to_json
from sandbox.store.files import read_json
from sandbox.train.run import BUILT_IN
from sandbox.train.spec import RunSpec
from tests.faults.inputs import SPEC, STUDENT

SECONDS = 1.0
LONG = 1500
"""Characters that a refusal may take."""
VALID = {"teacher": to_json(SPEC), "student": to_json(STUDENT)}
FUZZ = settings(derandomize=True, max_examples=150, deadline=None)


@pytest.fixture(scope="module", autouse=True)
def as_it_is_used() -> Iterator[None]:
    """Without the types that only tests check, which take most of the time."""
    with pytest.MonkeyPatch.context() as m:
        m.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield


def loads_or_refuses(data: Any) -> bool:
    """Whether some data was loaded; anything but a proper refusal fails the test."""
    start = time.process_time()
    try:
        record = from_json(RunSpec, data, extra=BUILT_IN)
    except ConfigError as e:
        message = str(e)
        assert type(e) is ConfigError and message.startswith("$")
        assert len(message) <= LONG and message.isprintable() and message[-1] in ".?"
        return False
    finally:
        assert time.process_time() - start < SECONDS
    again = to_json(record)
    said(data, again)
    twice = from_json(RunSpec, json.loads(canonical(again)), extra=BUILT_IN)
    assert twice == record and hash(twice) == hash(record)
    assert canonical(to_json(twice)) == canonical(again)
    return True


def said(data: Any, again: Any) -> None:
    """Everything in `data` is in `again`, which may add what was left out."""
    if isinstance(data, dict):
        for name, value in data.items():
            if name in again:
                said(value, again[name])
            else:  # not written while it holds its default
                assert (name, value) == ("init", 0)
    elif isinstance(data, list):
        assert len(data) == len(again)
        for a, b in zip(data, again, strict=True):
            said(a, b)
    else:
        assert data == again and isinstance(data, bool) == isinstance(again, bool)


# ------------------------------------------------------------------------ any JSON data


def walk(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every node but the root."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    out = []
    for key, value in items:
        out.append((*path, key))
        if isinstance(value, dict | list):
            out += walk(value, (*path, key))
    return out


def at(data: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        data = data[key]
    return data


PATHS = {name: walk(data) for name, data in VALID.items()}
WORDS = sorted(
    {str(p[-1]) for p in PATHS["student"]} | {"", "a.b", "\n", "τ\u202e\x1b["}
)
TAGS = ["RunSpec", "Parity", "MLP", "SGD", "Labels", "NShot", "PerSeed", "Anneal", "os"]
SPECIAL = [0, -1, 1, 2, 2**31, 2**32, 2**62, -(2**63), 2**64]
FLOATS = [0.5, -0.0, 5e-324, 1e-9, 1e300, 1.8e308, float("nan"), float("-inf")]
scalars = (
    st.none()
    | st.booleans()
    | st.sampled_from([*SPECIAL, *FLOATS])
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([*WORDS, *TAGS])
    | st.integers(0, 4000).map(lambda n: 10**n)
    | st.integers(0, 5).map(lambda n: "x" * 10**n)
)
names = (
    st.sampled_from([*WORDS, "type"])
    | st.text(max_size=8)
    | st.integers(0, 5).map(lambda n: "k" * 10**n)
)
tagged = st.fixed_dictionaries({"type": st.sampled_from(TAGS) | scalars})
values = st.recursive(
    scalars | tagged,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4)
    ),
    max_leaves=8,
)


@FUZZ
@given(values)
def test_any_data(data: Any) -> None:
    loads_or_refuses(data)


# -------------------------------------------------------------- mutations of valid data


def mutate(draw: st.DrawFn, data: Any, paths: list[tuple[Any, ...]]) -> None:
    """Deletes, renames, inserts, replaces, moves or repeats a node in place."""
    path = draw(st.sampled_from(paths))
    try:
        parent, key = at(data, path[:-1]), path[-1]
        value = parent[key]
    except (KeyError, IndexError, TypeError):  # an earlier mutation removed it
        return
    what = draw(st.sampled_from("delete rename insert replace move repeat".split()))
    if what == "delete":
        del parent[key]
    elif what == "insert" and isinstance(parent, dict):
        parent[draw(names)] = draw(values)
    elif what == "rename" and isinstance(parent, dict):
        parent[draw(names)] = parent.pop(key)
    elif what == "repeat" and isinstance(parent, list):
        parent.extend([value] * draw(st.integers(1, 3)))
    elif what == "move":
        other = draw(st.sampled_from(paths))
        try:
            parent[key] = copy.deepcopy(at(data, other))
        except (KeyError, IndexError, TypeError):
            return
    else:
        parent[key] = draw(values)


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    name = draw(st.sampled_from(sorted(VALID)))
    data = copy.deepcopy(VALID[name])
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        mutate(draw, data, PATHS[name])
    return data


@settings(FUZZ, max_examples=300)
@given(mutated())
def test_any_mutation_of_a_valid_config(data: Any) -> None:
    loads_or_refuses(data)


@pytest.mark.parametrize("name", VALID)
def test_every_leaf_replaced(name: str) -> None:
    """Each node in turn gets each awkward value; what is unknown is always refused."""
    data = copy.deepcopy(VALID[name])
    for path in PATHS[name]:
        if path[:2] == ("teacher", "spec"):  # the teacher's turn
            continue
        parent, key = at(data, path[:-1]), path[-1]
        kept = parent[key]
        for value in (None, True, 2**64, float("nan"), "x", [], {}, {"type": []}):
            parent[key] = value
            loads_or_refuses(data)
        parent[key] = kept
        if isinstance(parent, dict):
            parent[f"{key}x"] = kept
            assert not loads_or_refuses(data)
            del parent[f"{key}x"]
    assert data == VALID[name]


@pytest.mark.parametrize("name", VALID)
def test_the_round_trip_is_the_identity(name: str) -> None:
    assert loads_or_refuses(VALID[name])
    assert to_json(from_json(RunSpec, VALID[name], extra=BUILT_IN)) == VALID[name]


# --------------------------------------------------------------------- depth and length


def deep(inner: Any, levels: int, wrap: Any) -> Any:
    for _ in range(levels):
        inner = wrap(inner)
    return inner


WRAPS = {
    "lists": lambda x: [x],
    "objects": lambda x: {"type": x},
    "records": lambda x: {
        **VALID["teacher"],
        "teacher": {"type": "TeacherRef", "spec": x},
    },
    "tasks": lambda x: {"type": "Parity", "support": x},
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("levels", [30, 1000, 10_000])
def test_depth_is_refused_by_its_path(wrap: str, levels: int) -> None:
    bomb = deep(1, levels, WRAPS[wrap])
    assert not loads_or_refuses(bomb)
    for path in (("teacher", "spec"), ("task", "support"), ("stop",), ("kind",)):
        data = copy.deepcopy(VALID["student"])
        at(data, path[:-1])[path[-1]] = bomb
        assert not loads_or_refuses(data)


def test_length_is_refused_at_once() -> None:
    many = {str(i): 0 for i in range(10**5)}
    for value in ("x" * 10**7, [0] * 10**6, many, 10**5000, [-(10**5000)]):
        for path in (("task",), ("task", "k"), ("kind",), ("task", "type"), ("extra",)):
            data = copy.deepcopy(VALID["teacher"])
            at(data, path[:-1])[path[-1]] = value
            assert not loads_or_refuses(data)
    for name in ("x" * 10**7, "\n" * 10**6, "kind" * 10**6):
        assert not loads_or_refuses({**VALID["teacher"], name: 0})


# --------------------------------------------------------------------------- as a file


@settings(FUZZ, max_examples=100)
@given(st.data())
def test_any_text_of_a_file(tmp_path_factory: Any, data: st.DataObject) -> None:
    """Cut, doubled, overwritten and repeated parts of a valid file, as bytes."""
    text = json.dumps(VALID["teacher"]).encode()
    a, b = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    new = data.draw(
        st.sampled_from(
            [b"", text[a:b] * 2, b'"kind":"student",', b"\xff\x00", b"1e999"]
        )
        | st.binary(max_size=8)
    )
    path: Path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_bytes(text[:a] + new + text[b:])
    try:
        read = read_json(path)
    except StoreError as e:
        assert str(path) in str(e)
    else:
        loads_or_refuses(read)
