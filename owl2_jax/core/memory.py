"""How the process keeps memory on a CPU."""

from __future__ import annotations

import ctypes
import sys

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory for the next allocation; True where it agreed.

    A compiled step on a CPU allocates its temporary buffers, hundreds of
    megabytes, anew each time. By default they go back to the kernel, and
    filling their pages again takes a third of a small model's step. Call it
    before JAX starts, in programs that run the same step again and again.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    settings = ((_TRIM_THRESHOLD, 2**31 - 1), (_MMAP_MAX, 0), (_ARENA_MAX, 1))
    agreed = [mallopt(name, value) == 1 for name, value in settings]  # all are asked, also after a no
    return all(agreed)
