"""What every figure shares."""

import warnings
from pathlib import Path

from matplotlib.figure import Figure

from sandbox.plotting.style import save


def test_what_the_font_has_no_glyph_for_is_numbered(tmp_path: Path) -> None:
    fig = Figure()
    ax = fig.subplots()
    ax.set_title("文 κ\n=½")
    ax.plot([0, 1], [0, 1], label="犬猫")
    ax.legend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(fig, tmp_path / "x")
    assert ax.get_title() == "U+6587  κ\n=½"
    assert ax.get_legend().get_texts()[0].get_text() == "U+72AC U+732B "
