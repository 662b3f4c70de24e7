"""The command line of a study: a preset, then typed overrides of any field.

`--help` and errors in a config are answered without importing jax. A mistake is one
`error:` line that names the preset, option or field, and exit code 2.
"""

import contextlib
import difflib
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from sandbox.errors import ConfigError, Interrupted, SandboxError

_LONGEST = 600
"""Characters of a message; more is cut."""
_LONG_NAME = 60
"""Characters of a name that a message repeats."""


def parse(
    name: str, presets: dict[str, Callable[[], Any]], description: str | None
) -> tuple[str, Any]:
    """Reads the preset and the overrides from `sys.argv`."""
    import tyro

    prog = f"python -m experiments.{name}"
    if not _asks_for_help(sys.argv[1:]):
        with_code(lambda: _check_preset(sys.argv[1:], list(presets), prog))
    options = {
        key: ((make.__doc__ or "").strip().splitlines()[0], make())
        for key, make in presets.items()
    }
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            config = tyro.extras.overridable_config_cli(
                options,
                prog=prog,
                description=description,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except ConfigError as e:
        raise SystemExit(_report(e)) from e
    except SystemExit as e:
        if e.code:
            _, preset = options[sys.argv[1]]
            message = _mistake(e, said.getvalue(), list(_option_names(preset)))
            e.code = _report(ConfigError(message))
        raise
    preset = next((a for a in sys.argv[1:] if a in presets), "custom")
    return preset, config


def _asks_for_help(argv: list[str]) -> bool:
    return any(a in ("-h", "--help") or a.startswith("--tyro-") for a in argv)


def _check_preset(argv: list[str], presets: list[str], prog: str) -> None:
    """Refuses a command that does not begin with a preset's name."""
    if argv and argv[0] in presets:
        return
    one_of = f"one of {', '.join(presets)}"
    if not argv or argv[0].startswith("-"):
        message = f"a preset comes first: {one_of}"
    else:
        hint = meant(argv[0], presets, otherwise=f"; it is {one_of}")
        message = f"there is no preset {argv[0][:_LONG_NAME]!r}{hint}"
    raise ConfigError(f"{message} (see `{prog} --help`)")


def meant(word: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """`; did you mean NAME?` with the known name nearest to a word, if one is near."""
    short = word[:_LONG_NAME]
    close = difflib.get_close_matches(short, list(known), n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else otherwise


def _option_names(record: Any, group: str = "") -> Iterator[str]:
    """The options that override the fields of a record: `--setting.n-teachers`."""
    for f in fields(record):
        name, value = f.name.replace("_", "-"), getattr(record, f.name)
        if is_dataclass(value):
            yield from _option_names(value, f"{group}{name}.")
            continue
        yield f"--{group}{name}"
        if isinstance(value, bool):
            yield f"--{group}no-{name}"


def _mistake(error: BaseException, said: str, options: list[str]) -> str:
    """What was wrong with the overrides, in one line.

    Args:
      error: what the parser ended with.
      said: the box that it printed.
      options: every option there is.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigError):  # a record was refused: its own sentence
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    text = _first_section(said)
    if text.startswith("Unrecognized"):
        unknown = (_unknown_option(a, options) for a in sys.argv[2:])
        text = next(filter(None, unknown), text[0].lower() + text[1:])
    return text.removeprefix("Error parsing ") or "the options cannot be read"


def _first_section(box: str) -> str:
    """The text of a printed box between its title and its first rule."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()
    words: list[str] = []
    for line in lines[1:]:
        text = line.strip(" │|")
        if text and not text.strip("─-╰╯"):
            if words:
                break
        elif text:
            words.append(text)
    return " ".join(words)


def _unknown_option(word: str, options: list[str]) -> str:
    """What to say of a word that is no option but looks like one; else nothing."""
    name = word.partition("=")[0].replace("_", "-")
    if not name.startswith("--") or name in options:
        return ""
    by_field = {o.rpartition(".")[2].removeprefix("--"): o for o in options}
    field = name.rpartition(".")[2].removeprefix("--")
    hint = f"; did you mean {by_field[field]}?" if field in by_field else ""
    name = name if len(name) <= _LONG_NAME else f"{name[:_LONG_NAME]}..."
    return f"there is no option {name}{hint or meant(name, options)}"


def with_code(action: Callable[[], None]) -> None:
    """Runs an action; an error meant for the user becomes one line and a code."""
    try:
        action()
    except SandboxError as e:
        raise SystemExit(_report(e)) from e


def _report(error: SandboxError) -> int:
    text = str(error)
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."
    print(f"error: {text}", file=sys.stderr)
    return error.exit_code


def guarded(action: Callable[[], None]) -> None:
    """Runs an action; every error meant for the user becomes one line and a code.

    SIGTERM and SIGUSR1 end it as Ctrl-C does, with code 75. A character that the
    terminal's encoding lacks is printed as its escape.
    """
    from sandbox.train.signals import stopped_by_signals

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with stopped_by_signals():
            with_code(action)
    except KeyboardInterrupt as e:
        print(
            "interrupted; the same command goes on from what is stored", file=sys.stderr
        )
        raise SystemExit(Interrupted.exit_code) from e


def study_main(
    name: str,
    presets: dict[str, Callable[[], Any]],
    run: Callable[..., Any],
    draw: Callable[[Any], Any],
    description: str | None,
) -> None:
    """Trains what is missing, draws into `<runs>/figures`, says where.

    Args:
      name: of the study's module; the script's own name wins, so that copies work.
      presets: name -> function that makes a config, its docstring shown by `--help`.
      run: `(config, root=) -> result`.
      draw: result -> figure, or a dict of figures by name.
      description: shown by `--help`.
    """
    name = Path(sys.argv[0]).stem or name
    preset, config = parse(name, presets, description)

    def action() -> None:
        from sandbox.plotting.style import save
        from sandbox.store.config import digest, to_json
        from sandbox.store.folders import default_root

        root = default_root()
        drawn = draw(run(config, root=root))
        figures = drawn if isinstance(drawn, dict) else {"": drawn}
        for part, figure in figures.items():
            parts = [name, part, preset, digest(to_json(config))]
            stem = ".".join(p for p in parts if p)
            png, _ = save(figure, root / "figures" / stem)
            print(f"figure: {png}")

    guarded(action)
