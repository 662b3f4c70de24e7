"""One rule of a grammar, and how symbols are written.

A symbol in quotes is a terminal, in rules as in files: `"13"` is a nonterminal and
`"'3'"` the terminal 3.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sandbox.errors import require
from sandbox.store.bounds import is_number

MAX_RIGHT = 1000
"""Longest right side of a rule."""
_LONGEST = 40
"""Characters of a name that a message repeats."""


def is_terminal(symbol: str) -> bool:
    """Whether a symbol of a rule is a terminal: they are in quotes."""
    return symbol[:1] in ("'", '"')


def quoted(text: str) -> str:
    """A terminal as rules write it: `'text'`, or `"text"` around a single quote."""
    return f'"{text}"' if "'" in text else f"'{text}'"


def shown(text: str) -> str:
    """A name or a text as a message repeats it: printable and short."""
    text = "".join(c if c.isprintable() else "?" for c in text[: _LONGEST + 1])
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def listed(names: Iterable[str]) -> str:
    """Up to eight names, separated by commas."""
    names = list(names)
    more = ", ..." if len(names) > 8 else ""
    return ", ".join(shown(n) for n in names[:8]) + more


@dataclass(frozen=True)
class Rule:
    """`left -> right [probability]`.

    Attributes:
      left: a nonterminal.
      right: symbols, at least one; in a `Grammar` all of them terminals, or none.
      probability: of this rule among those of `left`, in (0, 1].
    """

    left: str
    right: tuple[str, ...]
    probability: float

    def __post_init__(self) -> None:
        """Refuses what is no rule."""
        require(
            isinstance(self.left, str)
            and self.left != ""
            and not is_terminal(self.left),
            f"rule.left must be a nonterminal, got {self.left!r}.",
        )
        right = self.right
        require(
            isinstance(right, tuple)
            and 1 <= len(right) <= MAX_RIGHT
            and all(isinstance(s, str) and s for s in right),
            f"the rule of {shown(self.left)} needs 1 to {MAX_RIGHT} symbols on its"
            " right side.",
        )
        p = self.probability
        require(
            is_number(p) and 0 < p <= 1,
            f"a rule of {shown(self.left)} has probability {p!r}; it must lie in"
            " (0, 1].",
        )
