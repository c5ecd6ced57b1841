"""Memory that a process gives back and takes again costs more than the arithmetic on it; here it stays."""

import ctypes
import functools
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h
_KEPT = (1 << 31) - 1


@functools.cache
def keep_freed_memory() -> bool:
    """From now on this process keeps what tensors free, up to 2 GiB, for the tensors that follow. True where that works.

    glibc's malloc maps each block of some megabytes anew and unmaps it when it is freed, so that every layer of a codec
    on a picture first pays a page fault for each 4 KiB: on a virtual machine several times what the layer's arithmetic
    takes. No result changes by a bit. Only glibc has the knobs; elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
