"""Executes experiments/tour.ipynb in an empty store.

    python -m tests.experiments.tour      # writes its outputs into the notebook

Left out of it is what another machine would write otherwise, or not at all: times,
versions, and what goes to standard error (progress).
"""

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
TOUR = ROOT / "experiments" / "tour.ipynb"
DROPPED = {"JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS"}
"""Variables of tests that move bits."""


def read() -> nbformat.NotebookNode:
    """The notebook as it is stored."""
    return nbformat.read(TOUR, as_version=4)


def executed(root: Path) -> nbformat.NotebookNode:
    """The notebook after all its cells ran, its runs stored in an empty folder.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed.
    """
    env = {k: v for k, v in os.environ.items() if k not in DROPPED}
    env |= {"SANDBOX_RUNS": str(root / "runs"), "PYTHONPATH": str(ROOT)}
    env |= {"IPYTHONDIR": str(root / "ipython"), "JAX_PLATFORMS": "cpu"}
    env.pop("MPLBACKEND", None)
    metadata = {"metadata": {"path": str(root)}}
    client = NotebookClient(read(), timeout=600, resources=metadata)
    return client.execute(env=env)


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without what is of one machine or moment."""
    kept = notebook.metadata["kernelspec"], {"name": "python"}
    notebook.metadata = dict(zip(("kernelspec", "language_info"), kept, strict=True))
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        done = clean(executed(Path(folder)))
    nbformat.write(done, TOUR)
