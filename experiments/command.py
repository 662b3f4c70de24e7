"""The command line of a study: a preset, then typed overrides of any field.

`--help` and errors in a config are answered without importing jax.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox.errors import ConfigError, Interrupted, SandboxError


def parse(
    name: str, presets: dict[str, Callable[[], Any]], description: str | None
) -> tuple[str, Any]:
    """Reads the preset and the overrides from `sys.argv`."""
    import tyro

    options = {
        key: ((make.__doc__ or "").strip().splitlines()[0], make())
        for key, make in presets.items()
    }
    try:
        config = tyro.extras.overridable_config_cli(
            options,
            prog=f"python -m experiments.{name}",
            description=description,
            config=(tyro.conf.AvoidSubcommands,),
        )
    except ConfigError as e:
        raise SystemExit(_report(e)) from e
    preset = next((a for a in sys.argv[1:] if a in presets), "custom")
    return preset, config


def _report(error: SandboxError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def guarded(action: Callable[[], None]) -> None:
    """Runs an action; every error meant for the user becomes one line and a code."""
    try:
        action()
    except KeyboardInterrupt as e:
        print(
            "interrupted; the same command goes on from what is stored", file=sys.stderr
        )
        raise SystemExit(Interrupted.exit_code) from e
    except SandboxError as e:
        raise SystemExit(_report(e)) from e


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
        from sandbox.store.runs import default_root

        root = default_root()
        drawn = draw(run(config, root=root))
        figures = drawn if isinstance(drawn, dict) else {"": drawn}
        for part, figure in figures.items():
            parts = [name, part, preset, digest(to_json(config))]
            stem = ".".join(p for p in parts if p)
            png, _ = save(figure, root / "figures" / stem)
            print(f"figure: {png}")

    guarded(action)
