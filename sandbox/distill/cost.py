"""What a strategy costs, in passes of networks through one sample."""

from typing import NamedTuple


class Cost(NamedTuple):
    """Passes a sample; parts of a strategy add up.

    A pass forward and one backward through the student are counted for the loss on the
    sample itself, and one forward through each teacher that answers it.
    """

    student_forward: int = 0
    student_backward: int = 0
    teacher_forward: int = 0
    teacher_backward: int = 0

    def plus(self, other: "Cost") -> "Cost":
        """The sum of two."""
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))
