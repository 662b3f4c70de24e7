"""Frozen records to JSON and back, strictly, and their content hash.

A record becomes `{"type": tag, field: value, ...}`. The tag of a class of the library
is its name; that of a user's own class is `<file stem>:<class name>`, the same whether
the file is run or imported. Reading checks every tag against the classes that the field
declares, every value against its annotation, and refuses unknown or missing keys with
their path (`$.task.kk`). A user's own class is accepted only if it is passed in
`extra`: a name found in a file is never imported.
"""

import difflib
import hashlib
import inspect
import json
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sandbox.errors import ConfigError
from sandbox.store.bounds import LONGEST, cut, shown
from sandbox.store.code import class_tag

_LARGEST = 2**63
"""Whole numbers of a record are smaller in size: they fit any reader's integers."""
_DEEPEST = 40
"""Fields of fields: a run with its teacher's record, and that one's, ten times over."""


def later(default: Any) -> Any:
    """A field that a record gained after stores of it were written.

    It is left out of the JSON while it holds its default, so that the records of
    before keep their hash and their runs.
    """
    return field(default=default, metadata={"omit_default": True})


def to_json(value: Any) -> Any:
    """Plain JSON data of a record: tuples as lists, dataclasses with their tag."""
    if is_dataclass(value) and not isinstance(value, type):
        out: dict[str, Any] = {"type": class_tag(type(value))}
        hints = get_type_hints(type(value))
        for f in fields(value):
            v = getattr(value, f.name)
            if f.metadata.get("omit_default") and v == f.default:
                continue
            out[f.name] = to_json(_as_declared(hints[f.name], v))
        return out
    if isinstance(value, tuple | list):
        return [to_json(v) for v in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        if abs(value) >= _LARGEST:
            raise ConfigError("records hold whole numbers below 2^63.")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"records hold finite numbers only, got {value}.")
        return value
    raise ConfigError(f"records hold plain data only, got {type(value).__name__}.")


def _as_declared(annotation: Any, value: Any) -> Any:
    """An int in a field of floats as a float, so that equal records have one hash."""
    if type(value) is int and float in (annotation, *get_args(annotation)):
        return float(value)
    return value


def canonical(data: Any) -> str:
    """The one JSON text of some data: sorted keys, no spaces, repr floats."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(data: Any) -> str:
    """First 16 hex digits of the sha256 of the canonical text."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()[:16]


def from_json(
    cls: type, data: Any, *, extra: Iterable[type] = (), path: str = "$"
) -> Any:
    """Rebuilds a record of class `cls` (or of a declared subclass) from JSON data.

    Args:
      cls: the declared class.
      data: what `to_json` made.
      extra: classes that protocol-typed fields (task, model, source) may hold.
      path: where in the file `data` stands, for messages.

    Raises:
      ConfigError: anything that does not fit, with its path.
    """
    known: dict[str, type] = {}
    for c in extra:
        if known.setdefault(class_tag(c), c) is not c:
            raise ConfigError(f"two different classes are {class_tag(c)}; rename one.")
    return _read(cls, data, known, path)


def _read(annotation: Any, data: Any, extra: Mapping[str, type], path: str) -> Any:
    if path.count(".") > _DEEPEST:
        raise ConfigError(f"{path}: records are nested too deeply.")
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _read_union(get_args(annotation), data, extra, path)
    if origin is tuple:
        if not isinstance(data, list):
            raise ConfigError(f"{path}: expected a list, got {shown(data)}.")
        item = get_args(annotation)[0]
        return tuple(_read(item, v, extra, f"{path}[{i}]") for i, v in enumerate(data))
    if origin is Literal:
        options = get_args(annotation)
        if data not in options or isinstance(data, bool):
            raise ConfigError(
                f"{path}: expected one of {options}, got {shown(data)}"
                f"{_meant(data, options)}"
            )
        return data
    if isinstance(annotation, type) and is_dataclass(annotation):
        return _read_record({class_tag(annotation): annotation}, data, extra, path)
    if _is_protocol(annotation):
        return _read_record(_fitting(annotation, extra, data, path), data, extra, path)
    return _read_scalar(annotation, data, path)


def _read_scalar(annotation: Any, data: Any, path: str) -> Any:
    if annotation is type(None) and data is None:
        return None
    small = not isinstance(data, int) or abs(data) < _LARGEST
    if annotation is float and type(data) in (int, float) and small:  # no bool
        if math.isfinite(data):
            return float(data)
    elif annotation in (int, str, bool) and type(data) is annotation and small:
        return data
    name = getattr(annotation, "__name__", str(annotation))
    if not small:
        name = "a whole number below 2^63"
    raise ConfigError(f"{path}: expected {name}, got {shown(data)}.")


def _read_union(
    options: tuple[Any, ...], data: Any, extra: Mapping[str, type], path: str
) -> Any:
    if isinstance(data, dict):
        records: dict[str, type] = {
            class_tag(o): o for o in options if isinstance(o, type) and is_dataclass(o)
        }
        if _tag(data) not in records:
            for o in filter(_is_protocol, options):
                records |= _fitting(o, extra, data, path)
        return _read_record(records, data, extra, path)
    errors = []
    for option in options:
        if isinstance(option, type) and is_dataclass(option):
            continue
        try:
            return _read(option, data, extra, path)
        except ConfigError as e:
            errors.append(str(e))
    raise ConfigError(errors[0] if errors else f"{path}: got {shown(data)}.")


def _is_protocol(annotation: Any) -> bool:
    return isinstance(annotation, type) and getattr(annotation, "_is_protocol", False)


def _fitting(
    protocol: type, extra: Mapping[str, type], data: Any, path: str
) -> dict[str, type]:
    """The handed-in classes that define what a protocol asks for.

    Raises:
      ConfigError: `data` is of a class that was handed in and does not.
    """
    lacks = {tag: _lacking(cls, protocol) for tag, cls in extra.items()}
    tag = _tag(data)
    if lacks.get(tag):
        raise ConfigError(
            f"{path}.type: {tag} is no {protocol.__name__}, because it does not define"
            f" {', '.join(lacks[tag])}."
        )
    return {tag: cls for tag, cls in extra.items() if not lacks[tag]}


def _lacking(cls: type, protocol: type) -> list[str]:
    bases = [
        b for b in protocol.__mro__ if _is_protocol(b) and b.__name__ != "Protocol"
    ]
    asked = {n for b in bases for n in (*vars(b), *inspect.get_annotations(b))}
    has = {f.name for f in fields(cls)} if is_dataclass(cls) else set()
    return sorted(
        n for n in asked if n[0] != "_" and n not in has and not hasattr(cls, n)
    )


def _read_record(
    allowed: Mapping[str, type], data: Any, extra: Mapping[str, type], path: str
) -> Any:
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected an object, got {shown(data)}.")
    tag = _tag(data)
    if tag not in allowed:
        raise ConfigError(
            f"{path}.type: expected {_one_of(allowed)}, got"
            f" {shown(data.get('type'))}{_meant(tag, allowed)} A class of"
            " your own is found only through --study MODULE."
        )
    cls = allowed[tag]
    hints = get_type_hints(cls)
    declared = {f.name: f for f in fields(cls)}
    for name in data:
        if name != "type" and name not in declared:
            where = f".{name}" if name.isidentifier() else f"[{shown(name)}]"
            hint = _meant(name, declared, otherwise=f"; has {_one_of(declared)}.")
            raise ConfigError(f"{path}{cut(where)}: unknown field of {tag}{hint}")
    values = {}
    for name, f in declared.items():
        if name in data:
            values[name] = _read(hints[name], data[name], extra, f"{path}.{name}")
        elif f.default is MISSING and f.default_factory is MISSING:
            raise ConfigError(f"{path}.{name}: missing field of {tag}.")
    try:
        return cls(**values)
    except ConfigError as e:
        raise ConfigError(f"{path}: {cut(str(e), 10 * LONGEST)}") from e


def _tag(data: Any) -> str:
    """The type tag of some data; empty where it has none."""
    tag = data.get("type") if isinstance(data, dict) else None
    return tag if isinstance(tag, str) else ""


def _meant(word: Any, known: Iterable[str], *, otherwise: str = ".") -> str:
    """The end of a message: the known name nearest to a word, if any is near."""
    short = isinstance(word, str) and len(word) <= LONGEST
    close = difflib.get_close_matches(word, list(known), n=1) if short else []
    return f"; did you mean {close[0]}?" if close else otherwise


def _one_of(names: Iterable[str]) -> str:
    return "one of " + ", ".join(sorted(names))
