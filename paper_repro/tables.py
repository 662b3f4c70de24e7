"""Claim tables of the Markdown files, made from the result files.

    python -m paper_repro.tables           rewrites them
    python -m paper_repro.tables --check   exit 1 where one is not what it would be

A table stands between two comments, the first of which names result files, each
followed by its claims where not all of them are shown (those of a file of a GPU are
marked so):

    <!-- claims parity_mlp.cpu P1 P2 parity_width.cpu -->
    <!-- /claims -->
"""

import argparse
import json
import re
from pathlib import Path

from sandbox.study.claims import Claim, show

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "paper_repro" / "README.md")
RESULTS = ROOT / "paper_repro" / "results"
HEAD = (
    *("claim", "rule", "paper", "obtained", "n", "point rule", "whole interval"),
    "first evaluated",
)
_TABLE = re.compile(
    r"(<!-- claims ([^>]*?) -->\n)(?:(?!<!-- claims).)*?(<!-- /claims -->)", re.DOTALL
)
_WORDS = {True: "yes", False: "**no**", None: "-"}


def claims_of(name: str) -> dict[str, Claim]:
    """The claims of a result file by id."""
    rows = json.loads((RESULTS / f"{name}.json").read_text())["claims"]
    return {row["id"]: Claim.from_json(row) for row in rows}


def table(*words: str) -> str:
    """A Markdown table of claims.

    Args:
      *words: names of result files, e.g. `parity_mlp.cpu`, each followed by the ids of
        its claims; all of them by default.

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
    more = any(c.sensitivity for _, c in chosen)
    head = (*HEAD, *["at other bounds"] * more)
    lines = [head, ("---",) * len(head)]
    for label, c in chosen:
        answers = _WORDS[c.point], _WORDS[c.whole]
        line = (label, c.rule, c.paper, show(c), str(c.teachers), *answers, c.since)
        line = (*line, *[c.sensitivity or "-"] * more)
        lines.append(tuple(cell.replace("|", r"\|") for cell in line))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rewritten(text: str) -> str:
    """A Markdown text with its tables as they should be."""
    return _TABLE.sub(lambda m: m[1] + table(*m[2].split()) + m[3], text)


def rewrite(*, check: bool = False) -> list[Path]:
    """Rewrites every page, or only says which one is not what it would be."""
    texts = {page: page.read_text() for page in PAGES}
    stale = [page for page, text in texts.items() if rewritten(text) != text]
    for page in [] if check else stale:
        page.write_text(rewritten(texts[page]))
    return stale


def main() -> int:
    """Rewrites or checks every page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    for page in (stale := rewrite(check=check)):
        print(
            f"{page}: {'a table is not that of its result file' * check or 'written'}"
        )
    return bool(check and stale)


if __name__ == "__main__":
    raise SystemExit(main())
