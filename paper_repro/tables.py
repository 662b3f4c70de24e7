"""What of the Markdown files is made from result files and figures.

    python -m paper_repro.tables           rewrites it
    python -m paper_repro.tables --check   exit 1 where it is not what it would be

It stands between two comments. Claims are those of result files, each followed by its
claims where not all of them are shown (those of a file of a GPU are marked so), with
fewer columns in `brief`; a figure comes with its caption; the gallery has every study,
the index also what it took:

    <!-- claims parity_mlp.cpu P1 P2 parity_width.cpu -->     <!-- brief ... -->
    <!-- /claims -->
    <!-- figure cpu/parity_mlp -->                            <!-- gallery -->
    <!-- /figure -->                                          <!-- index -->
"""

import argparse
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from paper_repro import SCALES, STUDIES
from paper_repro.report import seconds
from sandbox.study.claims import Claim, show

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    *(ROOT / "README.md", ROOT / "paper_repro" / "README.md"),
    *(ROOT / "figures" / "README.md", ROOT / "experiments" / "README.md"),
)
RESULTS = ROOT / "paper_repro" / "results"
FIGURES = ROOT / "figures"
HEAD = (
    *("claim", "rule", "paper", "obtained", "n", "point rule", "whole interval"),
    "first evaluated",
)
_BRIEF = ("claim", "rule", "obtained", "n", "verdict")
_MADE = re.compile(
    r"(<!-- (claims|brief|figure|gallery|index) ?([^>]*?) ?-->\n)"
    r"(?:(?!<!-- \2).)*?(<!-- /\2 -->)",
    re.DOTALL,
)
_WORDS = {True: "yes", False: "**no**", None: "-"}


def claims_of(name: str) -> dict[str, Claim]:
    """The claims of a result file by id."""
    rows = json.loads((RESULTS / f"{name}.json").read_text())["claims"]
    return {row["id"]: Claim.from_json(row) for row in rows}


def table(*words: str, brief: bool = False) -> str:
    """A Markdown table of claims.

    Args:
      *words: names of result files, e.g. `parity_mlp.cpu`, each followed by the ids of
        its claims; all of them by default.
      brief: whether what was claimed stands in place of dates and published values.

    Raises:
      KeyError: a file has no such claim.
    """
    wanted: dict[str, list[str]] = {}
    for word in words:
        if (RESULTS / f"{word}.json").is_file():
            wanted.setdefault(word, [])
        elif wanted:
            wanted[list(wanted)[-1]].append(word)
        else:
            raise KeyError(word)
    chosen: list[tuple[str, Claim]] = []
    for name, ids in wanted.items():
        every, device = claims_of(name), name.split(".")[2:]
        chosen += [(" ".join([i, *device]), every[i]) for i in ids or every]
    if brief:
        rows = [
            (f"{c.statement} ({label})", c.rule, show(c), str(c.teachers), c.verdict)
            for label, c in chosen
        ]
        return _markdown(_BRIEF, rows)
    more = any(c.sensitivity for _, c in chosen)
    rows = []
    for label, c in chosen:
        answers = _WORDS[c.point], _WORDS[c.whole]
        row = (label, c.rule, c.paper, show(c), str(c.teachers), *answers, c.since)
        rows.append((*row, *[c.sensitivity or "-"] * more))
    return _markdown((*HEAD, *["at other bounds"] * more), rows)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ("---",) * len(head)]
    lines += [[cell.replace("|", r"\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figure(name: str, page: Path) -> str:
    """A figure, e.g. `cpu/parity_mlp`, and its caption where there is one."""
    stem = FIGURES / name
    file, text = stem.with_suffix(".png"), stem.with_suffix(".md")
    if not file.is_file():
        raise KeyError(name)
    caption = " ".join(text.read_text().split()) if text.is_file() else ""
    link = Path(os.path.relpath(file, page.parent)).as_posix()
    return f"![{stem.name}, {stem.parent.name} scale]({link})\n" + (
        f"\n*{caption}*\n" if caption else ""
    )


def gallery(page: Path) -> str:
    """Every study's figure, of the cpu scale where there is one, with its caption."""
    out = []
    for name, what in (*STUDIES.items(), ("template", "The study to copy.")):
        stems = [p.with_suffix("") for p in sorted(FIGURES.glob(f"*/{name}.png"))]
        scales = {p.parent.name: p for p in stems}
        if not scales:
            continue
        first = "cpu" if "cpu" in scales else next(iter(scales))
        kinds = [
            f"[{kind}]({first}/{name}.{kind})"
            for kind in ("svg", "pdf")
            if scales[first].with_suffix(f".{kind}").is_file()
        ]
        others = [f"[{s}]({s}/{name}.png)" for s in scales if s != first]
        also = f"Also: {', '.join([*others, *kinds])}.\n"
        out.append(f"## {name}\n\n{what}\n\n{figure(f'{first}/{name}', page)}\n{also}")
    return "\n".join(out)


def index() -> str:
    """Every study, the question that it answers, and what it took."""
    rows = []
    for name, what in STUDIES.items():
        took = [_took(RESULTS / f"{name}.{scale}.json") for scale in SCALES]
        rows.append((f"[`{name}`]({name}.py)", what.rstrip("."), *took))
    return _markdown(("study", "what it shows", *SCALES), rows)


def _took(path: Path) -> str:
    if not path.is_file():
        return "not run"
    return seconds(json.loads(path.read_text())["wall_seconds"])


def rewritten(text: str, page: Path) -> str:
    """A page's text with what is made in it as it should be."""

    def made(m: re.Match[str]) -> str:
        words = m[3].split()
        if m[2] == "figure":
            text = "".join(figure(name, page) for name in words)
        elif m[2] == "gallery":
            text = gallery(page)
        elif m[2] == "index":
            text = index()
        else:
            text = table(*words, brief=m[2] == "brief")
        return m[1] + text + m[4]

    return _MADE.sub(made, text)


def rewrite(*, check: bool = False) -> list[Path]:
    """Rewrites every page, or only says which one is not what it would be."""
    texts = {page: page.read_text() for page in PAGES}
    fresh = {page: rewritten(text, page) for page, text in texts.items()}
    stale = [page for page in PAGES if fresh[page] != texts[page]]
    for page in [] if check else stale:
        page.write_text(fresh[page])
    return stale


def main() -> int:
    """Rewrites or checks every page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    for page in (stale := rewrite(check=check)):
        print(f"{page}: {'not what its sources say' if check else 'written'}")
    return bool(check and stale)


if __name__ == "__main__":
    raise SystemExit(main())
