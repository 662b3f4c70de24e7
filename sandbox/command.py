"""Command lines: typed by the records they fill, one sentence for every mistake.

A command is a function or a frozen record whose fields are its options (`parse`); that
of a study is a preset and overrides of any of its fields (`parse_config`). Neither
imports jax. `guarded` is where every command ends.
"""

import inspect
import io
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import fields, is_dataclass, make_dataclass
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any, NoReturn, Optional, TypeVar

import tyro

from sandbox.errors import ConfigError, Interrupted, SandboxError, require
from sandbox.text import meant, printable, unknown
from sandbox.train.signals import stopped_by_signals

try:
    from tyro._errors import on_parse_error
except ImportError:  # not a public part of tyro; without it, its own box is shown
    on_parse_error = nullcontext

__all__ = ["Root", "choose", "guarded", "parse", "parse_config"]

T = TypeVar("T")
Options = TypeVar("Options")

Root = Annotated[
    Optional[Path],  # noqa: UP045 - of `Path | None` tyro asks a slow library
    tyro.conf.arg(
        help="where runs are stored",
        help_behavior_hint="(default: $SANDBOX_RUNS, else ./runs)",
        metavar="DIR",
    ),
]
"""The option --root of every command that reads or writes runs."""

_FLATTEN = tyro.conf.arg(name="")
_PLAIN = (tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff)
"""Of options that are no fields of a config: None is not given, nor `--no-FLAG`."""
_DESCRIPTION = "\0"
"""Stands in tyro's help for a description, whose lines it would join."""
_HELP = ("-h", "--help")
_PRESETS = """\
{description}

presets:
{presets}

The options of a preset override its fields, whose values are checked:
  {prog} {first} --help
  {prog} {first} --FIELD VALUE --GROUP.FIELD VALUE

--grid runs every combination of some values, and ends with a table and a figure
of all; `:` parts the items of a field that holds several:
  {prog} {first} --grid FIELD=1,2 GROUP.FIELD=3:4,5"""


def parse(
    f: Callable[..., T], argv: Sequence[str], *, prog: str, description: str = ""
) -> T:
    """Calls a function, or makes a record, with what the command line gives.

    The parameters of `f` are annotated and described as tyro reads them. `--help` shows
    the description, or the docstring of `f` where there is none.

    Raises:
      SystemExit: after `--help`, and with code 2 after a mistake was told.
    """
    names = [_option(name) for name in inspect.signature(f).parameters]
    return _parse(f, argv, prog, description or inspect.getdoc(f) or "", names, *_PLAIN)


def parse_config(
    presets: Mapping[str, tuple[str, Any]],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    options: Options,
) -> tuple[str, list[Any], Options]:
    """Reads `PRESET [--FIELD VALUE ...] [OPTIONS] [--grid FIELD=VALUE,VALUE ...]`.

    Args:
      presets: name -> (what it is, the record that its options override).
      argv: the words after the program's name.
      prog: the program's name.
      description: shown by `--help` as it is written.
      options: defaults of what else can be asked for, with a field `grid` of type
        `tuple[str, ...]`.

    Returns:
      The preset's name, a record for every point of the grid (its last field varies
      fastest), and the options.
    """
    asked = ("options", Annotated[type(options), _FLATTEN, *_PLAIN], options)
    if argv and argv[0] in _HELP:
        each = (f"  {name:<10}{what}" for name, (what, _) in presets.items())
        listed = "\n".join(fill(t, 80, subsequent_indent=" " * 12) for t in each)
        filled = {"description": description.strip(), "presets": listed, "prog": prog}
        text = _PRESETS.format(**filled, first=next(iter(presets)))
        _parse(make_dataclass("_", [asked]), argv[:1], f"{prog} PRESET", text, [])
    with _told():
        preset = choose(argv, presets, what="preset", prog=prog)
    what, record = presets[preset]
    config = ("config", Annotated[type(record), _FLATTEN], record)
    command = make_dataclass("_", [config, asked])
    overrides = list(_option_names(record))
    names = [*overrides, *_option_names(options)]

    def read(*more: str) -> Any:
        words = [*argv[1:], *more]
        return _parse(command, words, f"{prog} {preset}", what, names)

    found = read().options
    with _told():
        axes = [_axis(text, overrides) for text in found.grid]
    points = itertools.product(*axes)
    records = [read(*itertools.chain(*point)).config for point in points]
    return preset, records, found


def choose(argv: Sequence[str], known: Iterable[str], *, what: str, prog: str) -> str:
    """The first word of a command line, if it is a known one.

    Raises:
      ConfigError: there is no word, or it is not known.
    """
    known = list(known)
    if argv and argv[0] in known:
        return argv[0]
    message = f"a {what} comes first: one of {', '.join(known)}"
    if argv and not argv[0].startswith("-"):
        message = unknown(what, argv[0], known)
    raise ConfigError(f"{message} (see `{prog} --help`)")


def _parse(
    f: Callable[..., T],
    argv: Sequence[str],
    prog: str,
    description: str,
    names: Sequence[str],
    *markers: Any,
) -> T:
    """`parse`, with the names of all options for suggestions."""

    def refuse(event: Any) -> NoReturn:
        raise SandboxError(_mistake(event, names))

    printed = io.StringIO()
    try:
        with _told(), on_parse_error(refuse), redirect_stdout(printed):
            return tyro.cli(
                f,
                args=argv,
                prog=prog,
                description=_DESCRIPTION,
                config=(tyro.conf.AvoidSubcommands, *markers),
            )
    except SystemExit:
        text = printed.getvalue().replace(_DESCRIPTION, description.strip())
        print("\n\n".join(map(_filled, text.split("\n\n"))), end="")
        raise


def _filled(paragraph: str) -> str:
    """A paragraph of help within 80 columns; one with indented lines is left as it is.

    A docstring may be wider, and so may the line of usage.
    """
    lines = paragraph.split("\n")
    if max(map(len, lines)) <= 80 or any(line.startswith(" ") for line in lines):
        return paragraph
    indent = " " * 7 * paragraph.startswith("usage: ")
    return fill(paragraph, 80, subsequent_indent=indent, break_on_hyphens=False)


def _mistake(event: Any, names: Sequence[str]) -> str:
    """What is wrong with a command line, of which tyro says so, in one sentence."""
    kind = type(event).__name__
    words = getattr(event, "tokens", None) or getattr(event, "unrecognized_tokens", [])
    argument = getattr(event, "argument", None)
    if kind == "InstantiationFailure" and not argument:  # a record's own sentence
        return event.message
    named = f"{_shown(argument)}: " if argument else ""
    text = "these arguments do not fit together"
    if option := next((w for w in words if w.startswith("--")), None):
        text = _no_option(option.partition("=")[0].replace("_", "-"), names)
    elif words:
        text = f"unrecognized arguments: {' '.join(words)}"
    elif kind == "InstantiationFailure":
        text = named + str(event.message).partition("\n")[0]
    elif kind == "InvalidChoice":
        text = named + unknown("choice", event.value, sorted(event.choices))
    elif kind == "BadValue":
        n = event.argument.lowered.nargs
        text = f"{named}expected {'one argument' if n == 1 else f'{n} arguments'}"
    elif kind == "MissingArgs":
        missing = [_shown(a.arg) for a in event.missing_arguments]
        text = f"{' and '.join(missing)} must be given"
    return f"{printable(text, 600)} (see `{event.prog} --help`)"


def _shown(argument: Any) -> str:
    """An argument as the command line writes it."""
    if argument.is_positional():
        return str(argument.lowered.metavar)
    return "/".join(sorted(argument.lowered.name_or_flags))


def _no_option(name: str, names: Sequence[str]) -> str:
    names = [n for n in names if n != name]  # --no-x of a field without that form
    by_field = {n.rpartition(".")[2].removeprefix("--"): n for n in names}
    same = by_field.get(name.rpartition(".")[2].removeprefix("--"))
    hint = f"; did you mean {same}?" if same else meant(name, names)
    return f"there is no option {printable(name, 60)}{hint}"


def _option(name: str, group: str = "") -> str:
    return f"--{group}{name}".replace("_", "-")


def _option_names(record: Any, group: str = "") -> Iterator[str]:
    """The options that override the fields of a record: `--setting.n-teachers`."""
    for f in fields(record):
        value = getattr(record, f.name)
        if is_dataclass(value):
            yield from _option_names(value, f"{group}{f.name}.")
        else:
            yield _option(f.name, group)
        if isinstance(value, bool):
            yield _option(f"no-{f.name}", group)


def _axis(text: str, names: Sequence[str]) -> list[list[str]]:
    """The words that `FIELD=VALUE,VALUE` stands for, value by value."""
    field, _, values = text.partition("=")
    require(bool(values), f"--grid: expected FIELD=VALUE,VALUE, got {text[:60]!r}.")
    option = _option(field.removeprefix("--"))
    require(option in names, f"--grid: {_no_option(option, names)}")
    group, dot, name = option.removeprefix("--").rpartition(".")
    negated = f"--{group}{dot}no-{name}"
    flags = {"True": [option], "False": [negated]} if negated in names else {}
    return [flags.get(v, [option, *v.split(":")]) for v in values.split(",")]


@contextmanager
def _told() -> Iterator[None]:
    """Ends the process with one line and a code after an error meant for the user."""
    try:
        yield
    except SandboxError as e:
        print(f"error: {printable(str(e))}", file=sys.stderr)
        raise SystemExit(e.exit_code) from e


def guarded(action: Callable[[], T]) -> T | None:
    """What an action returns; every error meant for the user becomes one line, a code.

    SIGTERM and SIGUSR1 end it as Ctrl-C does, with code 75. A character that the
    terminal's encoding lacks is printed as its escape. A reader that has had enough,
    such as `head`, ends it quietly.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with stopped_by_signals(), _told():
            result = action()
            sys.stdout.flush()
            return result
    except KeyboardInterrupt as e:
        text = "interrupted; the same command goes on from what is stored"
        print(text, file=sys.stderr)
        raise SystemExit(Interrupted.exit_code) from e
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
