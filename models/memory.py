"""Memory that a process gives back and takes again costs more than the arithmetic on it; here it stays."""

import ctypes
import functools
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of malloc.h
_LARGEST = (1 << 31) - 1


@functools.cache
def keep_freed_memory() -> bool:
    """From now on this process keeps what tensors on the CPU free for those that follow: at worst its peak stays with it.
    True where that works.

    glibc's malloc maps each block of some megabytes anew and unmaps it when it is freed, so that every layer of a codec
    on a picture first pays a page fault for each 4 KiB, under a lock that all threads share: on a virtual machine several
    times what the layer's arithmetic takes. Threads share one arena from here on, since the others map whatever is larger
    than 64 MiB. No result changes by a bit. Only glibc has the knobs; elsewhere nothing happens. Call it before threads
    start, where tensors are computed on the CPU.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(bool(mallopt(*knob)) for knob in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST)))
