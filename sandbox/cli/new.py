"""`sandbox new`: a study of one's own, from the template."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

import sandbox
from sandbox.errors import ConfigError, require


@dataclass(frozen=True)
class New:
    """Writes a study that runs as it is: a task, teachers, students, a figure, claims.

    Examples:
      sandbox new my_idea.py
      python my_idea.py smoke

    Exit code: 0 written, 2 the file exists or cannot be written.
    """

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """the file to write; one that exists is left alone"""

    def run(self) -> int:
        """Copies the template."""
        require(self.file.suffix == ".py", f"FILE must end in .py, got {self.file}.")
        package = Path(sandbox.__file__).parent
        places = (package / "template.py", package.parent / "experiments/template.py")
        source = next(p for p in places if p.is_file())  # a wheel's, a checkout's
        try:
            with self.file.open("x", encoding="utf-8") as f:
                f.write(source.read_text(encoding="utf-8"))
        except FileExistsError as e:
            raise ConfigError(f"{self.file} exists; name a new file.") from e
        print(
            f"{self.file} is a study; `python {self.file} --help` says how to run it."
        )
        return 0
