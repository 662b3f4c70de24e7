"""Frozen records to JSON and back, strictly, and their content hash.

A record becomes `{"type": class name, field: value, ...}`. Reading checks every tag
against the classes that the field declares, every value against its annotation, and
refuses unknown or missing keys with their path (`$.task.kk`). A user's own class is
accepted only if it is passed in `extra`: a name found in a file is never imported.
"""

import difflib
import hashlib
import inspect
import json
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sandbox.errors import ConfigError


def to_json(value: Any) -> Any:
    """Plain JSON data of a record: tuples as lists, dataclasses tagged by name."""
    if is_dataclass(value) and not isinstance(value, type):
        out: dict[str, Any] = {"type": type(value).__name__}
        hints = get_type_hints(type(value))
        for f in fields(value):
            out[f.name] = to_json(_as_declared(hints[f.name], getattr(value, f.name)))
        return out
    if isinstance(value, tuple | list):
        return [to_json(v) for v in value]
    if value is None or isinstance(value, bool | int | str):
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


def foreign_sources(value: Any) -> dict[str, str]:
    """sha256 of the source of every part whose class is defined outside `sandbox`."""
    found: dict[str, str] = {}

    def walk(v: Any) -> None:
        if is_dataclass(v) and not isinstance(v, type):
            for cls in type(v).__mro__[:-1]:
                if not cls.__module__.startswith("sandbox."):
                    found[cls.__qualname__] = _source_hash(cls)
            for f in fields(v):
                walk(getattr(v, f.name))
        elif isinstance(v, tuple | list):
            for item in v:
                walk(item)

    walk(value)
    return found


def _source_hash(cls: type) -> str:
    try:
        text = inspect.getsource(cls)
    except (OSError, TypeError) as e:
        raise ConfigError(
            f"{cls.__qualname__} must be defined in a file, because its source is part"
            " of the run's identity."
        ) from e
    return hashlib.sha256(text.encode()).hexdigest()


def from_json(
    cls: type, data: Any, *, extra: Iterable[type] = (), path: str = "$"
) -> Any:
    """Rebuilds a record of class `cls` (or of a declared subclass) from JSON data.

    Args:
      cls: the declared class.
      data: what `to_json` made.
      extra: classes that protocol-typed fields may hold (tasks, models), by name.
      path: where in the file `data` stands, for messages.

    Raises:
      ConfigError: anything that does not fit, with its path.
    """
    return _read(cls, data, {c.__name__: c for c in extra}, path)


def _read(annotation: Any, data: Any, extra: Mapping[str, type], path: str) -> Any:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _read_union(get_args(annotation), data, extra, path)
    if origin is tuple:
        if not isinstance(data, list):
            raise ConfigError(f"{path}: expected a list, got {_kind(data)}.")
        item = get_args(annotation)[0]
        return tuple(_read(item, v, extra, f"{path}[{i}]") for i, v in enumerate(data))
    if origin is Literal:
        options = get_args(annotation)
        if data not in options or isinstance(data, bool):
            raise ConfigError(f"{path}: expected one of {options}, got {data!r}.")
        return data
    if isinstance(annotation, type) and is_dataclass(annotation):
        return _read_record({annotation.__name__: annotation}, data, extra, path)
    if isinstance(annotation, type) and getattr(annotation, "_is_protocol", False):
        return _read_record(extra, data, extra, path)
    return _read_scalar(annotation, data, path)


def _read_scalar(annotation: Any, data: Any, path: str) -> Any:
    if annotation is type(None) and data is None:
        return None
    if annotation is float and isinstance(data, int | float):
        if not isinstance(data, bool) and math.isfinite(data):
            return float(data)
    elif (
        annotation in (int, str, bool) and type(data) is annotation  # bool is not int
    ):
        return data
    name = getattr(annotation, "__name__", str(annotation))
    raise ConfigError(f"{path}: expected {name}, got {_kind(data)}.")


def _read_union(
    options: tuple[Any, ...], data: Any, extra: Mapping[str, type], path: str
) -> Any:
    if isinstance(data, dict):
        records: dict[str, type] = {
            o.__name__: o for o in options if isinstance(o, type) and is_dataclass(o)
        }
        return _read_record(records, data, extra, path)
    errors = []
    for option in options:
        if isinstance(option, type) and is_dataclass(option):
            continue
        try:
            return _read(option, data, extra, path)
        except ConfigError as e:
            errors.append(str(e))
    raise ConfigError(errors[0] if errors else f"{path}: got {_kind(data)}.")


def _read_record(
    allowed: Mapping[str, type], data: Any, extra: Mapping[str, type], path: str
) -> Any:
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected an object, got {_kind(data)}.")
    tag = data.get("type")
    if not isinstance(tag, str) or tag not in allowed:
        raise ConfigError(
            f"{path}.type: expected {_one_of(allowed)}, got {tag!r};"
            " a class of your own is found only through --study MODULE."
        )
    cls = allowed[tag]
    hints = get_type_hints(cls)
    declared = {f.name: f for f in fields(cls)}
    for name in data:
        if name != "type" and name not in declared:
            close = difflib.get_close_matches(str(name), declared, n=1)
            hint = (
                f" did you mean {close[0]}?" if close else f" has {_one_of(declared)}."
            )
            raise ConfigError(f"{path}.{name}: unknown field of {tag};{hint}")
    values = {}
    for name, f in declared.items():
        if name in data:
            values[name] = _read(hints[name], data[name], extra, f"{path}.{name}")
        elif f.default is MISSING and f.default_factory is MISSING:
            raise ConfigError(f"{path}.{name}: missing field of {tag}.")
    try:
        return cls(**values)
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from e


def _one_of(names: Iterable[str]) -> str:
    return "one of " + ", ".join(sorted(names))


def _kind(data: Any) -> str:
    text = repr(data)
    return text if len(text) <= 60 else text[:57] + "..."
