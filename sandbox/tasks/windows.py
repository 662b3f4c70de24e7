"""Windows of n tokens around a position, as n-gram probes mask them.

    2-gram  i-1 .. i      4-gram  i-2 .. i+1
    3-gram  i-1 .. i+1    5-gram  i-2 .. i+2

and in general n // 2 tokens to the left of i and (n - 1) // 2 to its right (the windows
of the code of arXiv 2410.05464), cut off at the ends of the sequence.

Example:
    >>> from sandbox.tasks.windows import window_mask
    >>> window_mask(2, 4, 6).tolist()
    [True, True, True, True, False, False]
"""

from typing import Any

import numpy as np

from sandbox.errors import require


def window_mask(position: Any, n: int, length: int) -> Any:
    """Whether each of `length` positions lies in the n-gram window around a position.

    Args:
      position: a number, or an array of them of any shape; NumPy's or jax's, traced or
        not.
      n: tokens of the window, the position itself included.
      length: N, positions of the sequence.

    Returns:
      Bool, `(*position.shape, N)`.

    Raises:
      ConfigError: n is below 1.
    """
    require(n >= 1, f"an n-gram window has at least 1 token, got n={n}.")
    at = position if hasattr(position, "ndim") else np.asarray(position)
    places = np.arange(length).reshape((1,) * at.ndim + (length,))
    offset = places - at[..., None]
    return (offset >= -(n // 2)) & (offset <= (n - 1) // 2)
