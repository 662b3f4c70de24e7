"""Finding runs: every folder under a root, and the one that a name means."""

from pathlib import Path

from sandbox.errors import StoreError
from sandbox.store.folders import MANIFEST, RunFolder


def folders(root: Path, *also: str) -> list[RunFolder]:
    """Every run under `root`: what holds a config, a manifest, or a file of `also`."""
    names = ("config.json", MANIFEST, *also)
    files = (p.relative_to(root) for name in names for p in root.glob(f"*/*/{name}"))
    return [RunFolder(root.joinpath(*p)) for p in sorted({f.parts[:2] for f in files})]


def resolve(name: str, root: Path) -> RunFolder:
    """The run that `name` means.

    That is a folder, the beginning of one run's hash, or `kind/` before that.

    Raises:
      StoreError: no run, or more than one, is meant.
    """
    path = Path(name)
    try:
        if any((path / f).is_file() for f in ("config.json", MANIFEST)):
            return RunFolder(path)
    except (OSError, ValueError) as e:  # no file can have such a name
        raise StoreError(f"{name[:60]!r} cannot be the name of a run ({e}).") from e
    kind, _, start = name.rpartition("/")
    of_kind = [r for r in folders(root) if kind in ("", r.path.parent.name)]
    match = [r for r in of_kind if start and r.path.name.startswith(start)]
    # What was kept aside has to be named whole.
    match = [r for r in match if "." not in r.path.name[len(start) :]] or match
    if not match:
        raise StoreError(
            f"no run folder and no run under {root} is called {name[:60]!r};"
            " `sandbox runs` lists what there is."
        )
    if len(match) > 1:
        names = ", ".join(f"{r.path.parent.name}/{r.path.name}" for r in match[:4])
        more = f" and {len(match) - 4} more" if len(match) > 4 else ""
        raise StoreError(f"{name!r} begins {names}{more}; give more of it.")
    return match[0]
