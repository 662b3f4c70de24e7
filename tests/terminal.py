"""What a process shows on a terminal."""

import os
from contextlib import suppress


def read_all(handle: int) -> str:
    """All that is written to the other end of a terminal; closes this one."""
    shown = bytearray()
    with suppress(OSError):  # the other end is closed
        while piece := os.read(handle, 4096):
            shown += piece
    os.close(handle)
    return shown.decode(errors="replace")
