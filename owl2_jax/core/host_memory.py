"""How the process keeps memory on a CPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import jax

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
# Advice of madvise(2), Linux 6.1 and later: make huge pages of these, now.
_MADV_COLLAPSE: Final = 25
_HUGE_PAGE: Final = 2**21
# Arrays that lie no further apart share their pages.
_NEAR: Final = 2**16


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory for the next allocation; True where it agreed.

    A compiled step on a CPU allocates its temporary buffers, hundreds of
    megabytes, new ones each time. By default they go back to the kernel, and
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


def give_back_free_memory() -> bool:
    """Gives pages that nothing uses back to the kernel; True where there were some.

    What `keep_freed_memory` keeps is torn up in time: something small and
    lasting lands in the gap of a step's buffers, which then take a new one. Call
    it now and then, as after a save: the next step fills its pages once more.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    return trim is not None and trim(ctypes.c_size_t(0)) == 1


def collapse_into_huge_pages(arrays: Iterable[jax.Array]) -> int:
    """Moves arrays on the CPU into pages of 2 MB, where the kernel can; returns the bytes moved.

    Reading all weights for every token is limited by the memory, and with pages
    of 4 kB a tenth of that time goes into looking up where they are. For arrays
    that stay: parameters, not temporaries.
    """
    if not sys.platform.startswith("linux"):
        return 0
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    moved = 0
    for start, end in _stretches(array.block_until_ready() for array in arrays):
        # One by one: the kernel gives up at the first page that it cannot move.
        for page in range(-(-start // _HUGE_PAGE) * _HUGE_PAGE, end - _HUGE_PAGE + 1, _HUGE_PAGE):
            if madvise(ctypes.c_void_p(page), ctypes.c_size_t(_HUGE_PAGE), _MADV_COLLAPSE) == 0:
                moved += _HUGE_PAGE
    return moved


def _stretches(arrays: Iterable[jax.Array]) -> list[tuple[int, int]]:
    """Addresses that arrays fill, [start, end), with neighbours joined."""
    stretches: list[tuple[int, int]] = []
    on_cpu = (array for array in arrays if [device.platform for device in array.devices()] == ["cpu"])
    for start, size in sorted((array.unsafe_buffer_pointer(), array.nbytes) for array in on_cpu):
        near = stretches and start - stretches[-1][1] <= _NEAR
        stretches.append((stretches.pop()[0] if near else start, start + size))
    return stretches
