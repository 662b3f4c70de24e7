"""`sandbox plot`: the curves of a run, or the figure of a study, as files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sandbox.cli.asked import (
    Module,
    RunOrStudy,
    check_out,
    study_classes,
    study_or_run,
)
from sandbox.cli.stored import root_of
from sandbox.command import Root
from sandbox.errors import StoreError, require
from sandbox.store.files import make_folder, write_atomic


@dataclass(frozen=True)
class Plot:
    """Draws the accuracy of a run's strategies, or says where a study's figure is.

    Examples:
      sandbox plot 3f9a
      sandbox plot 3f9a --out curves.png
      sandbox plot parity_mlp.cpu --out figure.svg

    Lines are medians over seeds, bands quartiles (ranges below ten). The figure of a
    study was drawn when it was run; --out copies it.
    """

    name: RunOrStudy
    """a run folder or the beginning of its hash; a study such as parity_mlp.cpu"""
    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: HASH.png, here)"),
    ] = None
    """.png of a run, beside which other formats are written; of a study also these"""
    study: Module = None
    """module that defines the run's own classes"""
    root: Root = None

    def run(self) -> int:
        """Draws, copies or names the figure."""
        found = study_or_run(self.name, root_of(self.root))
        if isinstance(found, Path):
            self._copy(found)
            return 0
        out = self.out or Path(f"{found.path.name[:8]}.png")
        require(out.suffix == ".png", f"--out must end in .png, got {out}.")
        check_out(out, found.path)
        classes = study_classes(self.study) if self.study else ()
        # lazily: they import jax, which no mistake should wait for.
        from sandbox.plotting.style import save
        from sandbox.train.run import open_run

        figure = open_run(found.path, extra=classes).plot()
        print(*save(figure, out.with_suffix("")), sep="\n")
        return 0

    def _copy(self, folder: Path) -> None:
        """The figure of a study, or where it is."""
        files = sorted(p for p in folder.glob("figure.*") if p.suffix != ".md")
        if not files:
            raise StoreError(f"{folder} holds no figure; run the study again.")
        if self.out is None:
            print(*files, sep="\n")
            return
        named = {p.suffix: p for p in files}
        require(
            self.out.suffix in named,
            f"--out must end in {' or '.join(named)}, got {self.out}.",
        )
        check_out(self.out, folder)
        make_folder(self.out.parent)
        write_atomic(self.out, named[self.out.suffix].read_bytes())
        print(self.out)
