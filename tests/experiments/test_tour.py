"""The notebook runs in an empty store and says what it is stored with."""

import re
from pathlib import Path

import pytest

from tests.experiments.tour import ROOT, TOUR, clean, executed, read

SHORT, LONG = 18, 700
"""Most lines of a cell of code, and characters of one of text."""


def medians(notebook) -> dict[tuple[int, str], float]:
    """Printed medians of n90 over the teacher's, by cell and lane."""
    return {
        (i, lane): float(value)
        for i, cell in enumerate(notebook.cells)
        for output in cell.get("outputs", ())
        for lane, value in re.findall(
            r"^(\w+) +median +(\S+)", output.get("text", ""), re.M
        )
    }


def test_it_is_stored_whole_and_of_no_machine() -> None:
    notebook, text = read(), TOUR.read_text()
    assert clean(read()) == notebook
    for cell in notebook.cells:
        code = cell.cell_type == "code"
        assert len(cell.source.splitlines() if code else cell.source) <= (
            SHORT if code else LONG
        )
    shown = [c for c in notebook.cells if c.get("outputs")]
    assert sum("image/png" in o.get("data", ()) for c in shown for o in c.outputs) == 4
    found = medians(notebook)
    assert [lane for _, lane in found] == [
        *("ce", "one_shot", "progressive", "two_shot"),
        *("progressive", "two_shot"),
    ]
    assert str(ROOT) not in text and "/home/" not in text and "/tmp/" not in text


@pytest.mark.long
@pytest.mark.timeout(900)  # compiles teachers and students in a process of its own
def test_its_cells_run_and_agree(tmp_path: Path) -> None:
    before = TOUR.read_bytes()
    done = executed(tmp_path)
    assert TOUR.read_bytes() == before
    found, stored = medians(done), medians(read())
    assert found.keys() == stored.keys()
    for name, value in stored.items():  # other processors round otherwise
        late = min(found[name], value) > 2
        assert late or found[name] == pytest.approx(value, abs=0.4), name
