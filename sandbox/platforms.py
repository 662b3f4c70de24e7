"""What suits each kind of device: sizes of pieces, and which kernels there are.

A CPU works fastest in pieces that stay in a core's cache; on an accelerator every piece
is one more launch, so it takes all at once, as far as its memory goes. Numbers differ
by rounding alone. `unrolled` was chosen from programs compiled for a GPU
(`experiments.bench.gpu_programs`), the other values of accelerators are guesses; none
was measured on a device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import jax


class Platform(NamedTuple):
    """Sizes that do not change what is computed.

    Attributes:
      tile_from: positions from which attention runs one sentence and head at a time.
      hidden: hidden units of a wide two-layer network at a time.
      bit_rows: rows of a transformer on bits at a time, where nothing is trained.
      cells: numbers that charts of strings predicted together may hold.
      unrolled: samples of a block that are trained without a loop; 0 for a loop.
      embedded: largest vocabulary that is embedded by a product, whose gradient has
        the same bits every time.
      triton: whether kernels in Triton can run.
    """

    tile_from: int = 2**31
    hidden: int = 2**16
    bit_rows: int = 1024
    cells: int = 2**25
    unrolled: int = 8
    embedded: int = 1024
    triton: bool = False


PLATFORMS = {
    "cpu": Platform(
        tile_from=96,
        hidden=500,
        bit_rows=64,
        cells=60_000,
        unrolled=0,
        embedded=0,
    ),
    "gpu": Platform(triton=True),
}
"""By jax's name of the backend; any other is as the defaults."""
_ASSUMED: ContextVar[str] = ContextVar("platform", default="")


def platform() -> Platform:
    """That of the devices in use, read while a program is traced."""
    return PLATFORMS.get(_ASSUMED.get() or jax.default_backend(), Platform())


def suffix() -> str:
    """Ends the names of results, so that no device overwrites another kind's."""
    name = jax.default_backend()
    return "" if name == "cpu" else f".{name}"


@contextmanager
def assumed(name: str) -> Iterator[None]:
    """Programs traced inside are another platform's; compiled ones are forgotten.

    Args:
      name: cpu, gpu or tpu.
    """
    token = _ASSUMED.set(name)
    jax.clear_caches()
    try:
        yield
    finally:
        _ASSUMED.reset(token)
        jax.clear_caches()
